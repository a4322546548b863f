//! How this program fails: one line that says what happened and what to do, and exit code 1.

use std::fmt::Display;

use thiserror::Error;

/// Why there is no table, or not all of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}; {help}")]
pub(crate) struct Failure {
    message: String,
    help: String,
}

impl Failure {
    /// What happened, and what to do about it.
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }

    /// A wrong value of an option.
    pub(crate) fn option(name: &str, value: impl Display, reason: &str) -> Self {
        Self::new(format!("--{name} {value}: {reason}"), "see --help")
    }

    /// A contestant's own error while it was `doing` something.
    pub(crate) fn store(doing: &str, error: impl Display) -> Self {
        let help = "see `dmesg` and the free space, or leave it out by --only";
        Self::new(format!("{doing}: {error}"), help)
    }

    /// The same, with whose it is.
    #[must_use]
    pub(crate) fn of(self, contestant: &str) -> Self {
        Self { message: format!("{contestant}: {}", self.message), ..self }
    }

    /// In one line, whatever a foreign error has in it.
    pub(crate) fn line(&self) -> String {
        self.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::store("a write", "Io error:\n  disk full").of("redb");
        let help = "see `dmesg` and the free space, or leave it out by --only";
        assert_eq!(failure.line(), format!("redb: a write: Io error: disk full; {help}"));
        let option = Failure::option("block", "3k", "is no multiple of 4k");
        assert_eq!(option.line(), "--block 3k: is no multiple of 4k; see --help");
    }
}
