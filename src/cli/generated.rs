//! `mmhfs completions` and `mmhfs man`: made of the command line's own definition.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use super::exit::{Failure, Outcome, TABLE};
use super::ui::Ui;

/// Print the completions for a shell.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  mmhfs completions bash > ~/.local/share/bash-completion/completions/mmhfs
  mmhfs completions zsh  > ~/.zfunc/_mmhfs
  mmhfs completions fish > ~/.config/fish/completions/mmhfs.fish")]
pub(super) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Write the manual pages, one per command.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ManArgs {
    /// The directory for them
    dir: PathBuf,
}

pub(super) fn completions(ui: &Ui, args: &CompletionsArgs, mut command: Command) -> Outcome<()> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, "mmhfs", &mut text);
    ui.bytes(&text)
}

pub(super) fn man(args: &ManArgs, mut command: Command) -> Outcome<()> {
    fs::create_dir_all(&args.dir).map_err(|e| Failure::path("make", &args.dir, &e))?;
    // Builds the names of subcommands as the manual shows them: mmhfs-mount(1).
    command.build();
    page(args, "mmhfs", &command)?;
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        page(args, &format!("mmhfs-{}", sub.get_name()), sub)?;
    }
    Ok(())
}

fn page(args: &ManArgs, name: &str, command: &Command) -> Outcome<()> {
    let path = args.dir.join(format!("{name}.1"));
    let render = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone().disable_help_subcommand(true))
            .title(name)
            .source(concat!("mmhfs ", env!("CARGO_PKG_VERSION")))
            .manual("mmhfs manual")
            .render(&mut text)?;
        text.extend_from_slice(exit_section().as_bytes());
        Ok(text)
    };
    let text = render().map_err(|e| Failure::path("write", &path, &e))?;
    fs::write(&path, text).map_err(|e| Failure::path("write", &path, &e))
}

fn exit_section() -> String {
    let rows = TABLE
        .iter()
        .map(|(_, code, sentence)| format!(".TP\n{code}\n{}\n", sentence.replace('-', "\\-")));
    format!(".SH \"EXIT STATUS\"\n{}", rows.collect::<String>())
}
