//! A recipe's text, to say where in it something is wrong.

use super::error::{Located, RecipeError};
use std::ops::Range;
use std::sync::Arc;

/// Longer lines are cut when they are shown.
const LINE: usize = 160;

/// The text with the name of its file.
#[derive(Debug, Clone)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

impl Source {
    /// A text under the name that errors call it by.
    pub fn new(name: &str, text: &str) -> Source {
        Source { name: name.into(), text: text.into() }
    }

    /// An error that points at bytes of the text.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>) -> RecipeError {
        self.error_with(span, message, None)
    }

    /// As [`Source::error`], with what is allowed or what to do.
    pub fn error_with(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> RecipeError {
        let start = floor(&self.text, span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let rest = &self.text[line_start..];
        let line_text = rest.split('\n').next().unwrap_or("").trim_end_matches('\r');
        let column = self.text[line_start..start].chars().count() + 1;
        // a span over several lines is shown by its part in the first
        let end = floor(&self.text, span.end).clamp(start, (line_start + line_text.len()).max(start));
        RecipeError::At(Box::new(Located {
            file: self.name.to_string(),
            line: self.text[..start].matches('\n').count() + 1,
            column,
            width: self.text[start..end].chars().count().max(1),
            line_text: line_text.chars().take(LINE).collect(),
            message: message.into(),
            help,
        }))
    }
}

/// The nearest character boundary at or before a byte.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(text: &str, span: Range<usize>) -> Located {
        match Source::new("r.toml", text).error(span, "wrong") {
            RecipeError::At(located) => *located,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let text = "a = 1\n\u{e4}\u{e4} = 2\r\nc = 3";
        let at = located(text, 6..10);
        assert_eq!((at.line, at.column, at.width, at.line_text.as_str()), (2, 1, 2, "\u{e4}\u{e4} = 2"));
        let at = located(text, 17..30);
        assert_eq!((at.line, at.column, at.line_text.as_str()), (3, 2, "c = 3"));
        assert_eq!(at.to_string(), "r.toml:3:2: wrong\n  3 | c = 3\n    |  ^^^^");
    }

    #[test]
    fn spans_beyond_the_text_or_within_a_character_point_near() {
        let at = located("x", 40..50);
        assert_eq!((at.line, at.column, at.width), (1, 2, 1));
        assert_eq!(located("\u{e4}", 1..1).column, 1);
        assert_eq!(located("a\nbb\ncc", 2..7).width, 2);
    }
}
