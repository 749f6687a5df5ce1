//! Completions and the manual pages.

use std::path::PathBuf;
use std::{fs, io};

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;

/// Arguments of `hanas completions`.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `hanas man`.
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write the page of every command into this folder: hanas.1, hanas-profile.1 ...
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Prints the shell's completion script.
pub(super) fn completions(args: &CompletionsArgs, command: &mut Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "hanas", &mut script);
    super::output::text(&String::from_utf8_lossy(&script))
}

/// Prints the manual page in roff, or writes those of all commands.
pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        return clap_mangen::generate_to(command, folder)
            .with_context(|| format!("cannot write into {}", folder.display()));
    }
    clap_mangen::Man::new(command).render(&mut io::stdout())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("man1");
        man(&ManArgs { out: Some(out.clone()) }, Cli::command()).unwrap();
        for page in ["hanas.1", "hanas-profile.1", "hanas-space-build.1"] {
            assert!(out.join(page).is_file(), "{page}");
        }
    }
}
