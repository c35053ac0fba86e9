//! Plots as SVG: lines over one axis, with a legend. Knows nothing of what is plotted.

use plotters::prelude::*;

use super::super::{Stop, exit};

/// A curve with its name.
pub(super) struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// What a plot says beside its curves.
pub(super) struct Axes {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
    /// The x axis is logarithmic (base 10).
    pub log_x: bool,
    /// Where the y axis ends; from 0.
    pub y_max: f64,
    /// The curves rise, so the legend stands above them.
    pub grows: bool,
}

const SIZE: (u32, u32) = (640, 400);
/// Told apart also by who doesn't tell all colours apart (Okabe and Ito's).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Draws the curves into an SVG document.
pub(super) fn svg(axes: &Axes, series: &[Series]) -> Result<String, Stop> {
    let mut text = String::new();
    draw(&mut text, axes, series)
        .map_err(|e| Stop::new(exit::INTERNAL, format!("can't plot '{}': {e}", axes.title)))?;
    Ok(text)
}

fn draw(text: &mut String, axes: &Axes, series: &[Series]) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(text, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let xs = series.iter().flat_map(|s| s.points.iter().map(|(x, _)| at(axes, *x)));
    let (low, high) = xs.fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let mut chart = ChartBuilder::on(&area)
        .caption(axes.title, ("sans-serif", 18))
        .margin(12)
        .margin_right(32)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d(low..high.max(low + 1.0), 0.0..axes.y_max)?;
    let x_label = |x: &f64| if axes.log_x { format!("{:.0}", 10f64.powf(*x)) } else { format!("{x:.0}") };
    chart
        .configure_mesh()
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_labels(if axes.log_x { 4 } else { 8 })
        .x_label_formatter(&x_label)
        .light_line_style(WHITE)
        .draw()?;
    for (one, colour) in series.iter().zip(COLOURS.iter().cycle()) {
        let points = one.points.iter().map(|(x, y)| (at(axes, *x), y.min(axes.y_max)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(one.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(if axes.grows { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerLeft })
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

fn at(axes: &Axes, x: f64) -> f64 {
    if axes.log_x { x.log10() } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_its_words_and_its_curves() {
        let axes = Axes { title: "Found", x: "liars", y: "percent", log_x: true, y_max: 100.0, grows: false };
        let curve = Series { name: "eight paths".into(), points: vec![(10.0, 99.0), (1_000.0, 42.0)] };
        let svg = svg(&axes, &[curve]).unwrap();
        for word in ["<svg", "Found", "liars", "percent", "eight paths", "polyline"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
