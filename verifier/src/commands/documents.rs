//! `pgproof-verifier documents`: manual pages and shell completions, made from the command line itself.

use std::fs::create_dir_all;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;

/// A page for the program and each of its commands in `man1`, and a file for each shell under the name it looks for.
pub(crate) fn run(folder: &Path) -> anyhow::Result<ExitCode> {
    let write = |command: Command| {
        let name = command.get_name().to_owned();
        let pages = folder.join("man1");
        create_dir_all(&pages)?;
        clap_mangen::generate_to(command.clone(), &pages)?;
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let place = folder.join(shell.to_string());
            create_dir_all(&place)?;
            clap_complete::generate_to(shell, &mut command.clone(), &name, &place)?;
        }
        std::io::Result::Ok(())
    };
    write(Cli::command()).with_context(|| format!("{} cannot be written into", folder.display()))?;
    Ok(ExitCode::SUCCESS)
}
