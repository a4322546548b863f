//! How the harness fails: one error type, one exit code each, always with what to do next.
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | the run finished and every request succeeded |
//! | 1 | the run failed in a way that is none of the below |
//! | 2 | the command line or a configuration file is wrong; nothing was opened |
//! | 3 | a device is missing, not accessible or unfit |
//! | 4 | a device is busy, or writing to it was refused |
//! | 5 | requests failed during the run; the report was still printed |

use std::process::ExitCode;

use thiserror::Error;

use crate::units::UnitError;

/// The exit code of a wrong command line, also of one that never became a plan.
pub const USAGE_CODE: u8 = 2;

/// Why the harness did not do what it was asked, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// Something of the run itself went wrong.
    #[error("{message}")]
    Runtime {
        /// What happened, with the values involved.
        message: String,
        /// What to do.
        help: String,
    },
    /// An option or a configuration field is wrong.
    #[error("{message}")]
    Usage {
        /// Field, value, and what is accepted.
        message: String,
        /// What to write instead.
        help: String,
    },
    /// A device is missing, not accessible, or cannot do what was asked.
    #[error("{message}")]
    Device {
        /// What is wrong with which device, the path as the user wrote it.
        message: String,
        /// What to do.
        help: String,
    },
    /// A device is in use, or carries data that the harness will not overwrite.
    #[error("{message}")]
    Refused {
        /// Which device, and who holds it or what was found on it.
        message: String,
        /// What to do.
        help: String,
    },
    /// Requests failed during the run.
    #[error("{failed} of {total} requests failed; first: {first}")]
    Io {
        /// Failed requests.
        failed: u64,
        /// All requests.
        total: u64,
        /// The first failure, with disk, offset and cause.
        first: String,
    },
}

impl Failure {
    /// A wrong option: `field=value` and the reason.
    #[must_use]
    pub fn usage(field: &str, value: &str, reason: &str, help: &str) -> Self {
        let message = if value.is_empty() {
            format!("--{field}: {reason}")
        } else {
            format!("--{field}={value}: {reason}")
        };
        Self::Usage { message, help: help.into() }
    }

    /// What to do next, for the line that starts with `help:`.
    #[must_use]
    pub fn help(&self) -> &str {
        match self {
            Self::Runtime { help, .. }
            | Self::Usage { help, .. }
            | Self::Device { help, .. }
            | Self::Refused { help, .. } => help,
            Self::Io { .. } => "the report lists the errors by kind; see also `dmesg`",
        }
    }

    /// The number of the process's exit code, as documented above.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Runtime { .. } => 1,
            Self::Usage { .. } => USAGE_CODE,
            Self::Device { .. } => 3,
            Self::Refused { .. } => 4,
            Self::Io { .. } => 5,
        }
    }

    /// [`code`](Self::code) as the process returns it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

impl From<UnitError> for Failure {
    fn from(error: UnitError) -> Self {
        let reason = format!("expected {}", error.accepted);
        Self::usage(&error.field, &error.value, &reason, "see `dynamicfs-bench --help`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_code_and_a_help() {
        let text = String::from;
        let (message, help) = (text("m"), text("h"));
        let failures = [
            Failure::Runtime { message: message.clone(), help: help.clone() },
            Failure::usage("bs", "4x", "no size", "write 4k"),
            Failure::Device { message: message.clone(), help: help.clone() },
            Failure::Refused { message, help },
            Failure::Io { failed: 1, total: 2, first: text("EIO") },
        ];
        for (failure, code) in failures.iter().zip(1..) {
            assert_eq!(failure.code(), code);
            assert!(!failure.help().is_empty());
        }
        assert_eq!(failures[1].to_string(), "--bs=4x: no size");
    }
}
