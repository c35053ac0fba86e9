//! The section `[dht]` of the conventional VoidPhone INI file (`-c FILE`). Reads one file once; never writes any.
//!
//! Parsed by hand: for three keys of one section that takes less code than calling a parser, which would add 20 KB to a
//! bare build.

use std::fs::File;
use std::io::Read;

use super::{Stop, exit};
use crate::limits::CONFIG_BYTES;

/// The settings of the file; empty where it has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    pub listen: Option<String>,
    pub api: Option<String>,
    pub bootstraps: Vec<String>,
}

/// Reads `path`.
pub(super) fn read(path: &str) -> Result<Config, Stop> {
    let failed = |e: &dyn std::fmt::Display| Stop::new(exit::CONFIG, format!("can't read {path}: {e}"));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|e| failed(&e))?;
    file.take(CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if bytes.len() as u64 > CONFIG_BYTES {
        return Err(failed(&format_args!("more than {CONFIG_BYTES} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed(&"not UTF-8"))?;
    parse(&text).map_err(|why| Stop::new(exit::CONFIG, format!("{path}: {why}")))
}

/// Keys before any section and in other sections are ignored; unknown keys of `[dht]` are logged as warnings; of two lines
/// with the same key the later wins. `;` begins a comment anywhere, `#` only at the beginning of a line.
fn parse(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    let mut older_listen = None;
    let (mut is_dht, mut has_dht) = (false, false);
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.split(';').next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[') {
            let name = section.strip_suffix(']').ok_or_else(|| format!("line {}: no ']'", number + 1))?;
            is_dht = name.trim().eq_ignore_ascii_case("dht");
            has_dht |= is_dht;
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| format!("line {}: no '='", number + 1))?;
        let value = value.trim();
        let given = (!value.is_empty()).then(|| value.to_string());
        match name.trim() {
            _ if !is_dht => {}
            "p2p_address" => config.listen = given,
            "listen_address" => older_listen = given,
            "api_address" => config.api = given,
            "bootstrap" => {
                config.bootstraps =
                    value.split(',').map(str::trim).filter(|b| !b.is_empty()).map(String::from).collect();
            }
            other => log::warn!("config_key_unknown line={} key={other}", number + 1),
        }
    }
    if !has_dht {
        return Err("no section [dht]".into());
    }
    config.listen = config.listen.or(older_listen);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_section_dht_of_a_voidphone_file() {
        let text = "hostkey = /hostkey.pem ; before any section\n\n; a comment\n[gossip]\napi_address = 1.1.1.1:1\n\
                    [dht]\napi_address = 127.0.0.1:7401 ; ours\np2p_address=[::1]:6500\nbootstrap = a.example:1, 10.0.0.1:2\n";
        let config = parse(text).unwrap();
        assert_eq!(config.api.as_deref(), Some("127.0.0.1:7401"));
        assert_eq!(config.listen.as_deref(), Some("[::1]:6500"));
        assert_eq!(config.bootstraps, ["a.example:1", "10.0.0.1:2"]);
    }

    #[test]
    fn knows_the_older_name_and_wants_the_section() {
        assert_eq!(parse("[DHT]\nlisten_address = 1.2.3.4:5\n").unwrap().listen.as_deref(), Some("1.2.3.4:5"));
        assert_eq!(parse("[dht]\n"), Ok(Config::default()));
        assert!(parse("p2p_address = 1.2.3.4:5\n").is_err());
        assert_eq!(parse("[dht]\nnonsense"), Err("line 2: no '='".into()));
        assert_eq!(parse("[dht\n"), Err("line 1: no ']'".into()));
    }
}
