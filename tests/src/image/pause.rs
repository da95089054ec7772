//! The image that the lab's sandboxes run: one static busybox that waits.

use std::fs::{self, File};
use std::path::PathBuf;

use flate2::Compression;
use serde_json::json;

use super::layout::{Check, LayoutWriter, append_file};
use crate::testkit::containerd::PAUSE_IMAGE;
use crate::testkit::error::{Context, Result};
use crate::testkit::programs::Programs;

/// Raised when what is written here changes.
const VERSION: u32 = 1;

/// An OCI archive that `ctr images import` takes, from the cache. Blocks.
pub fn archive(programs: &Programs) -> Result<PathBuf> {
    let busybox = programs.busybox()?;
    let key = format!("pause-{VERSION}");
    let entry = programs.cache().entry("images", &key, |half| {
        let layout = half.join("layout");
        let writer = LayoutWriter::new(&layout)?;
        let layer = writer.layer("busybox", Compression::fast(), |out| {
            let mut tar = tar::Builder::new(out);
            let file = File::open(&busybox).during(|| busybox.display().to_string())?;
            let size = file.metadata().during(|| busybox.display().to_string())?.len();
            append_file(&mut tar, "busybox", 0o755, size, file)?;
            tar.finish().during(|| "a layer".to_owned())
        })?;
        let command = ["/busybox", "sleep", "2147483647"].map(str::to_owned).to_vec();
        let check = Check { command: command.clone(), prints: String::new() };
        writer.entrypoint(command).finish(&[layer], &check)?;
        name_for_import(&layout)?;
        pack(&layout, &half.join("pause.tar"))
    })?;
    Ok(entry.join("pause.tar"))
}

/// containerd's import takes the image's name from this annotation.
fn name_for_import(layout: &std::path::Path) -> Result<()> {
    let path = layout.join("index.json");
    let text = fs::read(&path).during(|| path.display().to_string())?;
    let mut index: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    index["manifests"][0]["annotations"] = json!({ "io.containerd.image.name": PAUSE_IMAGE });
    fs::write(&path, index.to_string()).during(|| path.display().to_string())
}

fn pack(layout: &std::path::Path, archive: &std::path::Path) -> Result<()> {
    let file = File::create(archive).during(|| archive.display().to_string())?;
    let mut tar = tar::Builder::new(file);
    tar.append_dir_all(".", layout).during(|| layout.display().to_string())?;
    tar.finish().during(|| archive.display().to_string())
}
