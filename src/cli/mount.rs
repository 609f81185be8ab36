//! `mmhfs mount`

use std::ffi::OsString;
use std::path::PathBuf;

use super::beside::BesideSpec;
use super::control::Client;
use super::daemon::{self, Plan};
use super::exit::{Exit, Failure, Outcome};
use super::options::{self, parse_size};
use super::request::{Request, text_of};
use super::ui::Ui;
use super::{logging, mounts};
use crate::base::limits;
use crate::engine::{AtimePolicy, Config};
use crate::fuse::MountOptions;

/// Mount a store as an ordinary read-write directory, or one of its snapshots read-only.
///
/// Returns when the mount can be used; a process in the background serves it until it is unmounted.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(after_help = "\
Examples:
  mmhfs mount ~/store ~/data
  mmhfs mount ~/store ~/old --seed mmh1…     a snapshot, read-only; its name works too
  mmhfs mount -o ro,noatime ~/store ~/data
  mount -t mmhfs /srv/store /data            by root, with mount-helpers installed
  /srv/store /data mmhfs noatime,nofail 0 0  in /etc/fstab

Without fsync, at most the last 5 seconds of what the process has received are lost in a crash.")]
pub(super) struct Args {
    /// The store
    pub(super) store: PathBuf,
    /// An existing directory to mount it on
    #[arg(value_name = "MNT")]
    pub(super) mount_point: PathBuf,
    /// Mount options as in fstab, separated by commas
    #[arg(short, long, value_name = "OPTS")]
    pub(super) options: Vec<String>,
    /// Mount this snapshot, read-only: its name, seed or content digest
    #[arg(long, value_name = "SEED")]
    pub(super) seed: Option<String>,
    /// Stay in the foreground and log to stderr
    #[arg(short, long)]
    pub(super) foreground: bool,
    /// Memory budget, at least 128M [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) memory: Option<u64>,
    /// zstd level of what is written, -7 to 19 [default: 1]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(super) level: Option<i32>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub(super) threads: Option<usize>,
    /// Let other users in; file modes decide what they may do [default when root mounts]
    #[arg(long, conflicts_with = "only_me")]
    pub(super) allow_other: bool,
    /// Let nobody else in, also when root mounts
    #[arg(long)]
    pub(super) only_me: bool,
    /// Mount read-only
    #[arg(long = "read-only", visible_alias = "ro")]
    pub(super) read_only: bool,
    /// Never update access times
    #[arg(long, conflicts_with = "strictatime")]
    pub(super) noatime: bool,
    /// Update access times at every read
    #[arg(long)]
    pub(super) strictatime: bool,
    /// Ignore set-user-ID and set-group-ID bits
    #[arg(long)]
    pub(super) nosuid: bool,
    /// Do not open device files
    #[arg(long)]
    pub(super) nodev: bool,
    /// Do not execute programs
    #[arg(long)]
    pub(super) noexec: bool,
    /// Do not decode what was just encoded to compare it before it is committed
    #[arg(long)]
    pub(super) no_verify_writes: bool,
    /// Let the store take no more than this; what exceeds it is "no space left" [default: the disk]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(super) size_limit: Option<u64>,
    /// Give the space of what was deleted back by itself, as `mmhfs clean` does [default: only by command]
    #[arg(long)]
    pub(super) auto_clean: bool,
    #[arg(long = "background-child", hide = true)]
    background_child: bool,
}

pub(super) fn run(ui: &Ui, mut args: Args, arguments: &[OsString]) -> Outcome<()> {
    for list in std::mem::take(&mut args.options) {
        options::apply(&mut args, &list)?;
    }
    let plan = plan(&args)?;
    if args.background_child {
        return daemon::child(&plan);
    }
    daemon::require_directory(&plan.store, Exit::NotAStore)?;
    daemon::require_directory(&plan.mount.mountpoint, Exit::NotFound)?;
    if !args.foreground && beside(&args, &plan)? {
        return Ok(());
    }
    if args.foreground {
        ui.note(format_args!(
            "mounting on {}; interrupt to unmount",
            plan.mount.mountpoint.display()
        ));
        return daemon::foreground(&plan);
    }
    logging::to_stderr();
    daemon::start(arguments)
}

/// Lets the process that has the store mounted, if there is one, mount the snapshot that is asked for.
fn beside(args: &Args, plan: &Plan) -> Outcome<bool> {
    let Some(text) = &args.seed else {
        return Ok(false);
    };
    let Some(client) = Client::connect(&plan.store)? else {
        return Ok(false);
    };
    // One that is closing the store is waited for as by any other mount.
    if !client.status().is_ok_and(|status| status.mounted) {
        return Ok(false);
    }
    let spec = BesideSpec {
        text: text.clone(),
        mount_point: text_of(&plan.mount.mountpoint),
        source: plan.mount.source.clone(),
        allow_other: match (args.allow_other, args.only_me) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        nosuid: plan.mount.nosuid,
        nodev: plan.mount.nodev,
        noexec: plan.mount.noexec,
        threads: plan.mount.threads,
    };
    client
        .call(&Request::Mount(spec), &|_| Ok(()))
        .map(|_| true)
}

fn plan(args: &Args) -> Outcome<Plan> {
    let store = mounts::absolute(&args.store)?;
    let mount_point = mounts::absolute(&args.mount_point)?;
    if mount_point.starts_with(&store) || (store.starts_with(&mount_point) && store != mount_point)
    {
        // The daemon would wait for itself as soon as it touched its own store.
        return Err(Failure::usage(format!(
            "{} and {} lie in one another",
            store.display(),
            mount_point.display()
        )));
    }
    let memory = args.memory.unwrap_or(limits::MEMORY_DEFAULT);
    if memory < limits::MEMORY_MIN {
        return Err(Failure::usage(format!(
            "the memory budget must be at least {} MiB",
            limits::MEMORY_MIN >> 20
        )));
    }
    let defaults = Config::default();
    let level = args.level.unwrap_or(defaults.level);
    if !(-7..=19).contains(&level) {
        return Err(Failure::usage("the level must be between -7 and 19"));
    }
    let read_only = args.read_only || args.seed.is_some();
    let config = Config {
        read_only,
        memory,
        level,
        verify_writes: !args.no_verify_writes,
        threads: args.threads.unwrap_or(0),
        atime: match (args.noatime, args.strictatime) {
            (true, _) => AtimePolicy::Noatime,
            (_, true) => AtimePolicy::Strict,
            _ => AtimePolicy::Relatime,
        },
        seed: args.seed.clone(),
        size_limit: args.size_limit,
        auto_clean: args.auto_clean,
        ..defaults
    };
    // The mount table shows the source as it was given, as other filesystems do.
    let source = std::path::absolute(&args.store).unwrap_or_else(|_| store.clone());
    let source = source
        .to_str()
        .ok_or_else(|| Failure::usage("the path of a store must be UTF-8"))?;
    let mut mount = MountOptions::new(mount_point, source);
    mount.read_only = read_only;
    // With the kernel checking permissions, letting everybody in is what every other filesystem of root's does.
    mount.allow_other = args.allow_other || (nix::unistd::geteuid().is_root() && !args.only_me);
    mount.nosuid = args.nosuid;
    mount.nodev = args.nodev;
    mount.noexec = args.noexec;
    mount.noatime = args.noatime;
    mount.threads = args.threads.unwrap_or(0);
    Ok(Plan {
        store,
        config,
        mount,
        foreground: args.foreground,
    })
}
