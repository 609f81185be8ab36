//! `mmhfs ls`

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::exit::Outcome;
use super::facts::{EntryFacts, Text};
use super::request::{Event, Request};
use super::target::{Need, ask_with, show_progress};
use super::ui::{Ui, time};

/// List a directory of a snapshot, without mounting it. With --json one object per line.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs ls ~/store v1
  mmhfs ls -lR ~/store mmh1… models")]
pub(super) struct Args {
    /// The store, or the mount point (or any path in it)
    store: PathBuf,
    /// The snapshot: name, seed or content digest [default: the live tree]
    seed: Option<String>,
    /// The directory or file in it [default: the root]
    path: Option<PathBuf>,
    /// Show mode, links, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// List directories within directories
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let path = args.path.clone().unwrap_or_default();
    let request = Request::List {
        text: args.seed.clone(),
        path: Text::new(path.as_os_str().as_bytes()),
        recursive: args.recursive,
    };
    ask_with(
        ui,
        &args.store,
        Need::Read,
        &request,
        &|event| match event {
            Event::Entry(entry) => ui.show(&entry, |entry| line(entry, args.long)),
            other => show_progress(ui, other),
        },
    )
    .map(|_| ())
}

fn line(entry: &EntryFacts, long: bool) -> String {
    let path = entry.path.shown();
    if !long {
        return path;
    }
    let target = entry.target.as_ref().map(Text::shown);
    format!(
        "{}{} {:>3} {:>5} {:>5} {:>12} {} {path}{}",
        letter(&entry.kind),
        permissions(entry.mode),
        entry.nlink,
        entry.uid,
        entry.gid,
        entry.size,
        time(entry.mtime_secs),
        target.map(|t| format!(" -> {t}")).unwrap_or_default(),
    )
}

fn letter(kind: &str) -> char {
    match kind {
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "char" => 'c',
        "block" => 'b',
        _ => '-',
    }
}

/// `rwxr-xr-x` with `s`, `S`, `t` and `T`, as ls(1) shows them.
fn permissions(mode: u16) -> String {
    let mut text = String::with_capacity(9);
    for (shift, special, set, unset) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => set,
            (true, false) => unset,
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_look_like_those_of_ls() {
        assert_eq!(permissions(0o755), "rwxr-xr-x");
        assert_eq!(permissions(0o4750), "rwsr-x---");
        assert_eq!(permissions(0o3660), "rw-rwS--T");
    }
}
