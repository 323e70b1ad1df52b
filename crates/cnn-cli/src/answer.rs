//! What a command answers, as text and as data.

use crate::session::{Session, Voice};
use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Display;

/// A command's result and its exit code.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// For people.
    pub text: String,
    /// For programs.
    pub data: Value,
    /// Exit code.
    pub code: u8,
}

impl Answer {
    /// From a report.
    ///
    /// # Errors
    /// If the report cannot be written as JSON.
    pub fn of(report: &(impl Serialize + Display)) -> Result<Answer> {
        Ok(Answer { text: report.to_string(), data: serde_json::to_value(report)?, code: 0 })
    }

    /// What goes to standard output: the text, or one JSON object with the session's messages in it.
    pub fn output(&self, session: &Session) -> String {
        match session.voice() {
            Voice::Json => with_messages(self.data.clone(), session),
            Voice::Human | Voice::Quiet => self.text.clone(),
        }
    }
}

/// An error with its causes, each said once: some errors say their cause themselves.
pub fn error_text(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| {
        let cause = cause.to_string();
        match text.is_empty() {
            true => cause,
            false if text.ends_with(&cause) => text,
            false => format!("{text}: {cause}"),
        }
    })
}

/// An error as one JSON object.
pub fn error_output(error: &anyhow::Error, session: &Session) -> String {
    with_messages(json!({ "error": error_text(error) }), session)
}

fn with_messages(mut data: Value, session: &Session) -> String {
    if let Some(object) = data.as_object_mut() {
        object.insert("messages".to_string(), json!(session.messages.all()));
    }
    format!("{data:#}")
}

#[cfg(test)]
mod tests {
    use super::error_text;
    use anyhow::{Context, anyhow};

    #[test]
    fn each_cause_is_said_once() {
        let cause = std::io::Error::other("the disk is full");
        let said = cnn_core::Error::io(std::path::Path::new("a.cnn"))(cause);
        let error = Err::<(), _>(said).context("writing").unwrap_err();
        assert_eq!(error_text(&error), "writing: a.cnn: the disk is full");
        assert_eq!(error_text(&anyhow!("b").context("a")), "a: b");
    }
}
