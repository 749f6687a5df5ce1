//! Completions and the manual page.

use std::io;

use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `hanas completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the shell's completion script.
pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "hanas", &mut script);
    super::output::text(&String::from_utf8_lossy(&script))
}

/// Prints the manual page in roff.
pub(super) fn man(command: &Command) -> anyhow::Result<()> {
    clap_mangen::Man::new(command.clone()).render(&mut io::stdout())?;
    Ok(())
}
