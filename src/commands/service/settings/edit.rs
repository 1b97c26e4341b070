//! `edit`.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use crate::commands::output;
use crate::commands::service::batch::cancel_on_signals;
use crate::commands::service::{Name, PROGRAM};
use crate::error::{Error, Result};
use crate::service::Sandboxes;
use crate::sys::process::command;

/// Edit the configuration of a sandbox in an editor
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The editor is $VISUAL, $EDITOR, or an installed one. The edited text is checked as a whole before it is saved."
)]
pub struct Args {
    #[command(flatten)]
    name: Name,
}

/// Default editors, as in systemctl(1).
const USUAL: [&str; 4] = ["editor", "nano", "vim", "vi"];

pub fn run(args: &Args, sandboxes: &Sandboxes) -> Result<()> {
    let name = &args.name.name;
    let before = sandboxes.configuration(name)?;
    // Ctrl+C belongs to the editor.
    let _interrupted = cancel_on_signals()?;
    let dir = tempfile::Builder::new()
        .prefix("virt-sandbox-")
        .tempdir()
        .map_err(Error::step("making a copy to edit"))?;
    let file = dir.path().join(format!("{name}.toml"));
    fs::write(&file, &before).map_err(Error::io("writing", &file))?;
    loop {
        edit(&file)?;
        let text = fs::read_to_string(&file).map_err(|error| {
            Error::refused(format!(
                "the editor left no text ({error}); nothing was changed"
            ))
        })?;
        if text == before {
            log::info!("nothing was changed");
            return Ok(());
        }
        match sandboxes.edit(name, &before, &text) {
            Ok(true) => {
                log::info!(
                    "'{name}' runs; for the change to take effect: {PROGRAM} restart {name}"
                );
                return Ok(());
            }
            Ok(false) => {
                log::info!("the change takes effect when '{name}' is started");
                return Ok(());
            }
            Err(error) => {
                let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
                if !is_terminal {
                    return Err(Error::step("nothing was changed")(error));
                }
                let _ = output::fail(PROGRAM, &error);
                if !again()? {
                    return Err(Error::refused("nothing was changed"));
                }
            }
        }
    }
}

/// Runs the editor on a file. Its command may have arguments and is interpreted by the shell, as in git-var(1).
fn edit(file: &Path) -> Result<()> {
    let chosen = ["VISUAL", "EDITOR"]
        .into_iter()
        .filter_map(|variable| std::env::var(variable).ok())
        .find(|editor| !editor.trim().is_empty());
    let editor = chosen
        .or_else(|| {
            let there = |program: &&&str| command::is_installed(program);
            USUAL
                .iter()
                .find(there)
                .map(|program| (*program).to_owned())
        })
        .ok_or_else(|| Error::unsupported("there is no editor; name one in $VISUAL or $EDITOR"))?;
    let script = format!("{editor} \"$@\"");
    let path = file.display().to_string();
    let status = command::interact("sh", ["-c", &script, &editor, &path])
        .map_err(Error::step(format!("running the editor '{editor}'")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "the editor '{editor}' failed ({status}); nothing was changed"
    )))
}

/// Asks whether to edit again.
fn again() -> Result<bool> {
    let asking = || Error::step("asking whether to edit again");
    let mut stderr = io::stderr();
    write!(stderr, "Edit again? [Y/n] ")
        .and_then(|()| stderr.flush())
        .map_err(asking())?;
    let mut answer = String::new();
    let read = io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(asking())?;
    Ok(read > 0 && !answer.trim().to_lowercase().starts_with('n'))
}
