//! `mmhfs stat`

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use serde::Serialize;

use super::exit::{Exit, Failure, Outcome};
use super::facts::{FileStorage, Text};
use super::mounts;
use super::request::{Answer, Request, mismatch, text_of};
use super::target::{Need, ask};
use super::ui::{Ui, count, size};

/// Show how files of a mount are stored: size, bytes on disk, extents, chunks, codecs.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    /// Files in a mount
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Facts {
    path: Text,
    #[serde(flatten)]
    storage: FileStorage,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    for file in &args.files {
        let meta = std::fs::symlink_metadata(file).map_err(|e| Failure::path("stat", file, &e))?;
        // A symlink is asked about itself, so only its parent is resolved.
        let parent = std::path::absolute(file)
            .map_err(|e| Failure::path("resolve", file, &e))?
            .parent()
            .map(PathBuf::from)
            .unwrap_or_default();
        let place = if meta.is_dir() { file } else { &parent };
        let table = mounts::table()?;
        let mount = mounts::containing(&table, &mounts::absolute(place)?);
        if mount.is_none_or(|m| m.kind != mounts::TYPE) {
            return Err(Failure::new(
                Exit::NotFound,
                format!("{} is not in an mmhfs mount", file.display()),
            ));
        }
        let storage = match ask(ui, place, Need::Read, &Request::File { ino: meta.ino() })? {
            Answer::File(storage) => storage,
            other => return Err(mismatch(&other)),
        };
        let facts = Facts {
            path: text_of(file),
            storage,
        };
        ui.show(&facts, human)?;
    }
    Ok(())
}

fn human(facts: &Facts) -> String {
    let storage = &facts.storage;
    format!(
        "{}: {}, {} stored, {}, {}, {}",
        facts.path.shown(),
        size(storage.size),
        size(storage.stored),
        count(storage.extents, "extent", "extents"),
        count(storage.chunks, "chunk", "chunks"),
        storage.codecs.join("+"),
    )
}
