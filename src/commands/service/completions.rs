//! `completions`.

use clap::ValueEnum;

use crate::commands::complete::{self, Shell};
use crate::commands::output;
use crate::error::Result;

/// Print the completion script of a program for a shell
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub struct Args {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
    /// Program
    #[arg(value_enum, default_value_t)]
    program: Program,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Program {
    /// virt-sandbox-service
    #[default]
    VirtSandboxService,
    /// virt-sandbox
    VirtSandbox,
}

pub fn run(args: &Args) -> Result<()> {
    let program = match args.program {
        Program::VirtSandboxService => super::PROGRAM,
        Program::VirtSandbox => crate::commands::run::PROGRAM,
    };
    output::print(&complete::registration(args.shell, program)?)
}
