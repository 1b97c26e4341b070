//! `completions`.

use clap::ValueEnum;

use crate::commands::complete::{self, Shell};
use crate::commands::output;
use crate::error::Result;

/// Print what a shell has to be told to complete the command lines of a program
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// The program
    #[arg(value_enum, default_value_t)]
    program: Program,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Program {
    /// This one
    #[default]
    VirtSandboxService,
    /// The one for commands
    VirtSandbox,
}

pub fn run(args: &Args) -> Result<()> {
    let program = match args.program {
        Program::VirtSandboxService => super::PROGRAM,
        Program::VirtSandbox => crate::commands::run::PROGRAM,
    };
    output::print(&complete::registration(args.shell, program)?)
}
