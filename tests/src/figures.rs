//! Figures for machines: what a benchmark or the demo measured, as a file of JSON.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::testkit::Result;
use crate::testkit::error::Context as _;

/// Writes `figures`, and makes the directory where it is missing.
///
/// # Errors
/// When the directory or the file cannot be written.
pub fn write(figures: &impl Serialize, path: &Path) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).during(|| directory.display().to_string())?;
    }
    let mut text = serde_json::to_string_pretty(figures).expect("figures are numbers and texts");
    text.push('\n');
    fs::write(path, text).during(|| path.display().to_string())
}
