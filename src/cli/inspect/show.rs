//! Facts as text or JSON.

use serde_json::{Map, Value};

use super::super::table::table;
use super::super::{Failure, Report, json};

/// Names and values, in the order in which they are shown.
pub(super) type Facts = Vec<(&'static str, Value)>;

/// What is shown: facts of one thing, then lists of its parts.
#[derive(Default)]
pub(super) struct Shown {
    pub(super) facts: Facts,
    pub(super) lists: Vec<(&'static str, Vec<Facts>)>,
}

impl Shown {
    /// A list alone.
    pub(super) fn list(name: &'static str, rows: Vec<Facts>) -> Shown {
        Shown { facts: Vec::new(), lists: vec![(name, rows)] }
    }

    pub(super) fn report(&self, as_json: bool) -> Result<Report, Failure> {
        if as_json {
            return json(&self.value()).map(Report::from);
        }
        let width = self.facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut parts = Vec::new();
        let lines = self.facts.iter();
        let lines: String =
            lines.map(|(name, value)| format!("{name:<width$}  {}\n", cell(value))).collect();
        if !lines.is_empty() {
            parts.push(lines);
        }
        for (name, rows) in self.lists.iter().filter(|(_, rows)| !rows.is_empty()) {
            let heading: Vec<&str> = rows[0].iter().map(|(name, _)| *name).collect();
            let cells = rows.iter().map(|row| row.iter().map(|(_, value)| cell(value)).collect());
            let rows: Vec<Vec<String>> = cells.collect();
            parts.push(format!("{name}:\n{}", table(&heading, &rows)));
        }
        Ok(parts.join("\n").into())
    }

    fn value(&self) -> Value {
        let mut all = object(&self.facts);
        for (name, rows) in &self.lists {
            let rows = rows.iter().map(|row| Value::Object(object(row)));
            all.insert((*name).to_owned(), Value::Array(rows.collect()));
        }
        Value::Object(all)
    }
}

fn object(facts: &Facts) -> Map<String, Value> {
    facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
