//! Cases as rows of a Markdown table, or one JSON object a line. Each is printed when it is
//! measured, so that a long run shows where it is.
//!
//! A reader that goes away is no failure; see [`crate::output`].

use std::fmt::Write;

use serde::Serialize;

use super::rounds::{Row, measured_by};
use super::{Case, Figure, Options, Side, Subject};
use crate::failure::Failure;
use crate::output::deliver;

/// Width of the columns that hold names.
const NAME_WIDTH: usize = 36;

/// A table whose cases measure the same figures.
pub struct Table<'a> {
    options: &'a Options,
    figures: &'a [Figure],
    /// Gone once it is printed.
    title: Option<String>,
}

#[derive(Serialize)]
struct Printed<'a> {
    case: &'a Case,
    rows: &'a [Row],
}

impl<'a> Table<'a> {
    /// A table under `title`. Nothing is printed before it has a row.
    #[must_use]
    pub fn new(title: &str, figures: &'a [Figure], options: &'a Options) -> Table<'a> {
        Table { options, figures, title: Some(title.to_owned()) }
    }

    /// Measures a case and prints its rows, unless it was not asked for.
    ///
    /// # Errors
    /// [`Failure::Runtime`] when standard output cannot be written.
    pub fn case(&mut self, name: String, subjects: &mut [Subject<'_>]) -> Result<(), Failure> {
        if !self.options.wants(&name) {
            return Ok(());
        }
        let case = Case::new(name, self.figures);
        let rows = case.measure(subjects, self.options);
        if self.options.json {
            let line =
                serde_json::to_string(&Printed { case: &case, rows: &rows }).map_err(|error| {
                    Failure::Runtime {
                        message: format!("{}: {error}", case.name),
                        help: "the result does not read as JSON: report this".to_owned(),
                    }
                })?;
            return deliver(&format!("{line}\n"), None);
        }
        let measured_by = measured_by(subjects);
        let title = self.title.take();
        let text = title.map(|title| heading(&title, self.figures, measured_by));
        deliver(&(text.unwrap_or_default() + &lines(&case, &rows, measured_by)), None)
    }
}

fn heading(title: &str, figures: &[Figure], measured_by: Side) -> String {
    let ratio = if measured_by == Side::Rival { "times best rival" } else { "times best" };
    let mut text =
        format!("\n## {title}\n\n| {:NAME_WIDTH$} | {:NAME_WIDTH$} |", "case", "subject");
    let mut rule = format!("\n| {:-<NAME_WIDTH$} | {:-<NAME_WIDTH$} |", "", "");
    for name in figures.iter().map(|figure| figure.name).chain([ratio, "min..max"]) {
        let width = width_of(name);
        // Writing to a string cannot fail.
        let _ = write!(text, " {name:>width$} |");
        let _ = write!(rule, " {:->width$}: |", "", width = width - 1);
    }
    text + &rule + "\n"
}

fn width_of(name: &str) -> usize {
    name.chars().count().max(11)
}

fn lines(case: &Case, rows: &[Row], measured_by: Side) -> String {
    let ratio_width = if measured_by == Side::Rival { 16 } else { 11 };
    let mut text = String::new();
    for row in rows {
        // Ours stands out where there is something to stand out from.
        let name = match (row.side, measured_by) {
            (Side::Ours, Side::Rival) => format!("**{}**", row.subject),
            _ => row.subject.to_owned(),
        };
        let _ = write!(text, "| {:NAME_WIDTH$} | {name:NAME_WIDTH$} |", case.name);
        for (figure, value) in case.figures.iter().zip(&row.medians) {
            let shown = number(*value, figure.digits);
            let _ = write!(text, " {shown:>width$} |", width = width_of(figure.name));
        }
        let ratio = number(row.ratio.median, 2);
        let spread = format!("{:.2}..{:.2}", row.ratio.min, row.ratio.max);
        let _ = writeln!(text, " {ratio:>ratio_width$} | {spread:>11} |");
    }
    text
}

fn number(value: f64, digits: usize) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.digits$}") }
}
