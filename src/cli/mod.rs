//! The command line: one file per command, which parses, makes one call of the engine and prints.
//!
//! Only this module touches the process: its arguments, environment, outputs, signals and exit code.

mod beside;
mod cat;
mod check;
mod clean;
mod control;
mod daemon;
mod delete_snapshot;
mod diff;
pub mod exit;
mod facts;
mod forget;
#[cfg(fuzzing)]
pub mod fuzzing;
mod generated;
mod helper;
mod init;
mod logging;
mod ls;
mod mount;
mod mounts;
mod options;
mod protect;
mod rebuild_index;
mod report;
mod request;
mod restore;
mod rollback;
mod salvage;
mod scrub;
mod seed;
mod snapshot;
mod snapshots;
mod stat;
mod stats;
mod sync;
mod target;
mod tree;
mod ui;
mod umount;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use exit::{Exit, Outcome};
use helper::{Role, Task};
use ui::Ui;

/// A read-write compressed, deduplicating filesystem whose whole tree is named by one verifiable seed.
#[derive(Parser, Debug)]
#[command(
    name = "mmhfs",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "\
Examples:
  mmhfs init ~/store
  mmhfs mount ~/store ~/data
  mmhfs snapshot ~/data v1               prints the seed of the whole tree
  mmhfs mount ~/store ~/old --seed v1    the tree as it was, read-only
  mmhfs umount ~/data

STORE may nearly everywhere be a path in the mount as well. MMHFS_LOG=debug logs more.
Exit codes and JSON fields: docs/cli.md; exit codes are in the manual pages, too.")]
struct Cli {
    /// Print facts and failures as JSON
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no notes on stderr
    #[arg(short, long, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Init(init::Args),
    Mount(mount::Args),
    #[command(visible_alias = "unmount")]
    Umount(umount::Args),
    Sync(sync::Args),
    Snapshot(snapshot::Args),
    Snapshots(snapshots::Args),
    DeleteSnapshot(delete_snapshot::Args),
    Forget(forget::Args),
    Clean(clean::Args),
    Protect(protect::Args),
    Diff(diff::Args),
    Rollback(rollback::Args),
    Restore(restore::Args),
    Seed(seed::Args),
    Verify(verify::Args),
    Check(check::Args),
    Scrub(scrub::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Stats(stats::Args),
    Stat(stat::Args),
    RebuildIndex(rebuild_index::Args),
    Completions(generated::CompletionsArgs),
    Man(generated::ManArgs),
}

/// Runs the program with the arguments of the process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let role = arguments.first().and_then(|program| helper::role(program));
    match role {
        Some(role) => as_helper(role, &arguments),
        None => ExitCode::from(run(&arguments).code()),
    }
}

fn as_helper(role: Role, arguments: &[OsString]) -> ExitCode {
    let ui = Ui::new(false, true);
    let exit = match helper::translate(role, arguments) {
        Ok(Task::Run(arguments)) => run(&arguments),
        Ok(Task::Nothing) => Exit::Success,
        Ok(Task::Remount(arguments)) => ended(&ui, helper::remount(&arguments)),
        Err(failure) => ended(&ui, Err(failure)),
    };
    ExitCode::from(helper::code(exit))
}

/// Parses and carries out one command line.
fn run(arguments: &[OsString]) -> Exit {
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are "errors" that go to stdout and succeed.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Success
            };
        }
    };
    let ui = Ui::new(cli.json, cli.quiet);
    let outcome = dispatch(&ui, cli.command, arguments);
    ui.progress_done();
    ended(&ui, outcome)
}

fn dispatch(ui: &Ui, command: Command, arguments: &[OsString]) -> Outcome<()> {
    if !matches!(command, Command::Mount(_)) {
        logging::to_stderr();
    }
    match command {
        Command::Init(args) => init::run(ui, &args),
        Command::Mount(args) => mount::run(ui, args, arguments),
        Command::Umount(args) => umount::run(ui, &args),
        Command::Sync(args) => sync::run(ui, &args),
        Command::Snapshot(args) => snapshot::run(ui, &args),
        Command::Snapshots(args) => snapshots::run(ui, &args),
        Command::DeleteSnapshot(args) => delete_snapshot::run(ui, &args),
        Command::Forget(args) => forget::run(ui, &args),
        Command::Clean(args) => clean::run(ui, &args),
        Command::Protect(args) => protect::run(ui, &args),
        Command::Diff(args) => diff::run(ui, &args),
        Command::Rollback(args) => rollback::run(ui, &args),
        Command::Restore(args) => restore::run(ui, &args),
        Command::Seed(args) => seed::run(ui, &args),
        Command::Verify(args) => verify::run(ui, &args),
        Command::Check(args) => check::run(ui, &args),
        Command::Scrub(args) => scrub::run(ui, &args),
        Command::Ls(args) => ls::run(ui, &args),
        Command::Cat(args) => cat::run(ui, &args),
        Command::Stats(args) => stats::run(ui, &args),
        Command::Stat(args) => stat::run(ui, &args),
        Command::RebuildIndex(args) => rebuild_index::run(ui, &args),
        Command::Completions(args) => generated::completions(ui, &args, Cli::command()),
        Command::Man(args) => generated::man(&args, Cli::command()),
    }
}

/// Shows a failure, and gives the exit.
fn ended(ui: &Ui, outcome: Outcome<()>) -> Exit {
    match outcome {
        Ok(()) => Exit::Success,
        Err(failure) => {
            // Neither a closed pipe nor a difference that was asked for is news, nor what was told elsewhere.
            let is_news = !matches!(failure.exit, Exit::Success | Exit::Differences);
            if is_news && !failure.message.is_empty() {
                ui.failure(&failure);
            }
            failure.exit
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_sentence_of_help() {
        for command in Cli::command().get_subcommands() {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
        }
    }
}
