//! `mmhfs umount`

use std::path::{Path, PathBuf};

use super::control::Client;
use super::exit::{Exit, Failure, Outcome};
use super::mounts::{self, Mount};
use super::request::path_of;
use super::ui::Ui;

/// Unmount, and return when everything is on disk and the store is free again.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs umount ~/data
  mmhfs umount --lazy ~/data    when something still uses it: detach now, end with the last user

umount(8) and `fusermount3 -u` work as well; with mount-helpers installed umount(8) waits, too.")]
pub(super) struct Args {
    /// The mount point, or the store
    #[arg(value_name = "MNT")]
    path: PathBuf,
    /// Detach a mount that is in use; it ends, and this command returns, when its last user has gone
    #[arg(short, long)]
    lazy: bool,
}

pub(super) fn run(ui: &Ui, args: &Args) -> Outcome<()> {
    let ended = mounts::end_stuck()?;
    let full = mounts::absolute(&args.path)?;
    if let Some(mount) = ended
        .iter()
        .find(|mount| mount.point == full || mount.source == full)
    {
        had_died(ui, mount);
        return Ok(());
    }
    let mount = find(&full)?;
    let client = Client::connect(&mount.source).unwrap_or(None);
    let Some(client) = client else {
        return abandoned(ui, &mount, args.lazy);
    };
    let status = client.status()?;
    let main = path_of(&status.mount_point);
    if status.mounted && main != mount.point {
        // A snapshot beside the main mount: there is nothing to commit.
        return mounts::unmount(&mount.point, args.lazy);
    }
    client.start_waiting()?;
    for point in &status.beside {
        // In use, it keeps its main mount.
        mounts::unmount(&path_of(point), args.lazy)?;
    }
    mounts::unmount(&mount.point, args.lazy)?;
    client.end()
}

/// The mmhfs mount at `path`, or the one that shows the store at `path`.
fn find(path: &Path) -> Outcome<Mount> {
    let table = mounts::table()?;
    if let Some(mount) = mounts::at(&table, path) {
        return Ok(mount);
    }
    let served = match Client::connect(path) {
        Ok(Some(client)) => client.status().ok(),
        _ => None,
    };
    served
        .and_then(|status| mounts::at(&table, &path_of(&status.mount_point)))
        .ok_or_else(|| {
            Failure::new(
                Exit::NotFound,
                format!("no mmhfs is mounted on {}", path.display()),
            )
        })
}

/// No process serves the mount (or it has no socket, its store being on a read-only medium).
fn abandoned(ui: &Ui, mount: &Mount, lazy: bool) -> Outcome<()> {
    let dead = mounts::is_dead(&mount.point);
    mounts::unmount(&mount.point, lazy || dead)?;
    if dead {
        had_died(ui, mount);
    }
    Ok(())
}

fn had_died(ui: &Ui, mount: &Mount) {
    ui.note(format_args!(
        "the process that served {} had died; the store recovers at the next mount",
        mount.point.display()
    ));
}
