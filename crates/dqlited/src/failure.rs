//! What the user is told when something cannot be done, and the exit code that goes with it.

use std::fmt;
use std::process::ExitCode;

/// Whose fault it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The work failed: exit code 1.
    Failed,
    /// The program was called or configured wrongly: exit code 2.
    WrongCall,
}

/// One fault, in words for the person at the keyboard: `error: ...` and perhaps `hint: ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it is.
    pub kind: Kind,
    /// What is wrong: the thing, the fault, what is allowed.
    pub text: String,
    /// What may help.
    pub hint: Option<String>,
}

impl Failure {
    /// The work failed.
    pub fn failed(text: impl Into<String>) -> Self {
        Failure { kind: Kind::Failed, text: text.into(), hint: None }
    }

    /// A wrong flag, variable or file.
    pub fn wrong_call(text: impl Into<String>) -> Self {
        Failure { kind: Kind::WrongCall, text: text.into(), hint: None }
    }

    /// Adds what may help.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The process's answer to its caller.
    pub fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Failed => ExitCode::from(1),
            Kind::WrongCall => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
