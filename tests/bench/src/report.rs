//! Tables, JSON and plots of what was measured: medians, and the lowest and highest of the rounds.

use std::fmt::Write;
use std::io;

use plotters::prelude::*;
use serde_json::{Value, json};

use crate::Options;
use crate::parts::{Cell, Found, Samples};
use crate::servers::Kind;

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

pub fn median(values: &[f64]) -> f64 {
    sorted(values).get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `median (lowest-highest)`.
fn spread(values: &[f64]) -> String {
    let values = sorted(values);
    match (values.first(), values.last()) {
        (Some(low), Some(high)) => format!("{} ({}-{})", short(median(&values)), short(*low), short(*high)),
        _ => "-".into(),
    }
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1_000.0 => format!("{v:.0}"),
        v if v >= 100.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The ratio of two servers, round by round: what one costs over what another does.
fn ratio(over: &[f64], under: &[f64]) -> Vec<f64> {
    over.iter().zip(under).map(|(a, b)| a / b).collect()
}

pub fn write(options: &Options, found: &Found) -> io::Result<()> {
    std::fs::create_dir_all(&options.out)?;
    let text = markdown(found);
    print!("{text}");
    std::fs::write(format!("{}/servers.md", options.out), text)?;
    std::fs::write(format!("{}/servers.json", options.out), format!("{}\n", as_json(found)))?;
    plots(&options.out, found)
}

/// Draws the plots anew from the figures in `servers.json`.
pub fn redraw(out: &str) -> io::Result<()> {
    let json: Value = serde_json::from_str(&std::fs::read_to_string(format!("{out}/servers.json"))?)?;
    let mut found = Found::default();
    for cell in json["cells"].as_array().into_iter().flatten() {
        let number = |name: &str| cell[name].as_u64().unwrap_or(0) as usize;
        let what = WHATS.into_iter().find(|what| cell["request"] == *what).unwrap_or("ping");
        let kind = Kind::ALL.into_iter().find(|kind| cell["server"] == kind.name());
        let key =
            Cell { what, size: number("bytes"), connections: number("connections"), pipeline: number("pipeline") };
        let cpu_us = cell["cpu_us"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        if let Some(kind) = kind {
            found.cells.entry(key).or_default().insert(kind, Samples { cpu_us, ..Samples::default() });
        }
    }
    plots(out, &found)
}

/// The requests of the matrix.
const WHATS: [&str; 3] = ["ping", "get", "set"];

fn plots(out: &str, found: &Found) -> io::Result<()> {
    for what in WHATS {
        for pipeline in [1, 16] {
            let size = if what == "ping" { 0 } else { 64 };
            plot(out, found, what, size, pipeline).map_err(|e| io::Error::other(e.to_string()))?;
        }
    }
    Ok(())
}

fn markdown(found: &Found) -> String {
    let mut text = String::from(
        "# dayfly beside other servers\n\nWritten by `make bench`. Medians of interleaved rounds (lowest-highest); CPU is the server process's own time per\n\
         request in microseconds, from the kernel's accounts; the ratio is the other's CPU over dayfly's, round by round.\n",
    );
    for kind in &found.absent {
        let _ = writeln!(text, "\n{} is not installed here and was left out.", kind.name());
    }
    if !found.cells.is_empty() {
        text += "\n| request | bytes | connections | pipelined | server | requests/s | CPU us | p99 us | CPU over dayfly's |\n|---|---|---|---|---|---|---|---|---|\n";
    }
    for (cell, servers) in &found.cells {
        let ours = servers.get(&Kind::Dayfly).cloned().unwrap_or_default();
        for (kind, samples) in servers {
            let _ = writeln!(text, "{}", row(cell, *kind, samples, &ours));
        }
    }
    for cell in &found.skipped {
        let _ = writeln!(text, "\nNot run: {}, which would hold more than 512 MiB in flight.", cell.name());
    }
    if !found.memory.is_empty() {
        text += "\n| resident bytes per | server | bytes |\n|---|---|---|\n";
    }
    for ((what, kind), bytes) in &found.memory {
        let _ = writeln!(text, "| {what} | {} | {} |", kind.name(), spread(bytes));
    }
    if !found.hash_bytes_per_s.is_empty() {
        let _ = writeln!(text, "\nSHA-256 alone: {} MB per CPU second.", spread(&mb(&found.hash_bytes_per_s)));
        for (cell, servers) in found.cells.iter().filter(|(cell, _)| cell.what == "get" && cell.size > 10_000) {
            let rates: Vec<f64> = servers[&Kind::Dayfly].cpu_us.iter().map(|us| cell.size as f64 / us * 1e6).collect();
            let share = ratio(&rates, &found.hash_bytes_per_s);
            let _ = writeln!(
                text,
                "FIND_VALUE of 60 KiB, {} connections, pipelined {}: {} MB per CPU second, {} of that.",
                cell.connections,
                cell.pipeline,
                spread(&mb(&rates)),
                spread(&share)
            );
        }
    }
    if !found.bulk.is_empty() {
        let (quiet, busy): (Vec<f64>, Vec<f64>) = found.bulk.iter().copied().unzip();
        let _ = writeln!(
            text,
            "\np99 of PING at half the maximum rate: quiet {} us, beside a reader of 60 KiB values {} us, ratio {}.",
            spread(&quiet),
            spread(&busy),
            spread(&ratio(&busy, &quiet))
        );
    }
    text
}

fn mb(bytes: &[f64]) -> Vec<f64> {
    bytes.iter().map(|b| b / 1e6).collect()
}

fn row(cell: &Cell, kind: Kind, samples: &Samples, ours: &Samples) -> String {
    format!(
        "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        cell.what,
        cell.size,
        cell.connections,
        cell.pipeline,
        kind.name(),
        spread(&samples.per_second),
        spread(&samples.cpu_us),
        spread(&samples.p99_us),
        spread(&ratio(&samples.cpu_us, &ours.cpu_us)),
    )
}

fn as_json(found: &Found) -> serde_json::Value {
    let cells: Vec<_> = found
        .cells
        .iter()
        .flat_map(|(cell, servers)| {
            servers.iter().map(move |(kind, s)| {
                json!({"request": cell.what, "bytes": cell.size, "connections": cell.connections, "pipeline": cell.pipeline,
                    "server": kind.name(), "requests_per_s": s.per_second, "cpu_us": s.cpu_us, "p99_us": s.p99_us})
            })
        })
        .collect();
    let memory: Vec<_> = found
        .memory
        .iter()
        .map(|((what, kind), bytes)| json!({"per": what, "server": kind.name(), "bytes": bytes}))
        .collect();
    json!({"cells": cells, "memory": memory, "hash_bytes_per_s": found.hash_bytes_per_s, "ping_p99_quiet_and_beside_bulk_us": found.bulk})
}

/// CPU per request over the number of connections, a line per server. A single connection is left out: waking up for each
/// request costs so much that nothing else could be told apart.
fn plot(out: &str, found: &Found, what: &str, size: usize, pipeline: usize) -> Result<(), Box<dyn std::error::Error>> {
    let of_kind = |kind: Kind| -> Vec<(f64, f64)> {
        let cells = found
            .cells
            .iter()
            .filter(|(c, _)| (c.what, c.size, c.pipeline) == (what, size, pipeline) && c.connections > 1);
        let mut points: Vec<(f64, f64)> =
            cells.filter_map(|(c, s)| Some((c.connections as f64, median(&s.get(&kind)?.cpu_us)))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let lines: Vec<(Kind, Vec<(f64, f64)>)> =
        Kind::ALL.into_iter().map(|kind| (kind, of_kind(kind))).filter(|(_, points)| points.len() > 1).collect();
    let highest = lines.iter().flat_map(|(_, points)| points).map(|p| p.1).fold(0.0, f64::max);
    if lines.is_empty() {
        return Ok(());
    }
    let path = format!("{out}/{what}-{pipeline}.svg");
    let area = SVGBackend::new(&path, (640, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("{what}, pipelined {pipeline}: CPU per request, us");
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(44)
        .build_cartesian_2d((40f64..13_000f64).log_scale(), 0f64..highest * 1.1)?;
    chart.configure_mesh().x_desc("connections").x_label_formatter(&|x| format!("{x:.0}")).draw()?;
    let colours = [RED, BLACK, RGBColor(150, 150, 150), BLUE, CYAN, RGBColor(0, 140, 60)];
    for (kind, points) in lines {
        let colour = colours[kind as usize];
        let style = colour.stroke_width(if kind == Kind::Dayfly { 3 } else { 1 });
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))?
            .label(kind.name())
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
    }
    let labels = &mut chart.configure_series_labels();
    labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}
