//! The preprocessing of the images, in the metadata of a file: ONNX itself has no place for it.

use crate::{Error, Result};
use cnn_core::Preprocess;

/// Key of the entry.
pub(crate) const KEY: &str = "cnn.preprocess";

pub(crate) fn write(preprocess: &Preprocess) -> Result<String> {
    serde_json::to_string(preprocess)
        .map_err(|e| Error::Model(format!("the preprocessing cannot be written: {e}")))
}

/// Reads what [`write`] wrote, for images of so many channels.
pub(crate) fn read(text: &str, channels: usize) -> Result<Preprocess> {
    let bad = |why: String| {
        Error::Model(format!("the entry `{KEY}` of the metadata: {why}; remove it or write it again"))
    };
    let preprocess: Preprocess = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
    let Preprocess { mean, std } = &preprocess;
    if mean.len() != std.len() || ![1, channels].contains(&mean.len()) {
        return Err(bad(format!(
            "{} means and {} deviations for {channels} channels",
            mean.len(),
            std.len()
        )));
    }
    if mean.iter().chain(std).any(|v| !v.is_finite()) || std.iter().any(|&v| v <= 0.0) {
        return Err(bad("means are finite, deviations positive".to_string()));
    }
    Ok(preprocess)
}
