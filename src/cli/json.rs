//! Writing JSON, one flat object at a time. Never reads any.

use std::fmt::Write;

/// A JSON object under construction.
#[derive(Default)]
pub(super) struct Object(String);

impl Object {
    /// Adds a member whose value is JSON already.
    pub fn raw(mut self, name: &str, json: &str) -> Object {
        let comma = if self.0.is_empty() { "" } else { "," };
        self.0 += comma;
        self.0 += &quote(name);
        self.0 += ":";
        self.0 += json;
        self
    }

    /// Adds a string.
    pub fn text(self, name: &str, value: &str) -> Object {
        let quoted = quote(value);
        self.raw(name, &quoted)
    }

    /// The object.
    pub fn finish(self) -> String {
        format!("{{{}}}", self.0)
    }
}

/// An array of values that are JSON already.
pub(super) fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(","))
}

/// A JSON string.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Writing to a String can't fail.
            c if c < ' ' => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let nasty = "a\"b\\c\n\u{1}\u{1f600}/";
        let json =
            Object::default().text(nasty, nasty).raw("n", "7").raw("a", &array(["1".into()].into_iter())).finish();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&value[nasty], &value["n"], &value["a"][0]), (&nasty.into(), &7.into(), &1.into()));
    }
}
