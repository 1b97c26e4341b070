//! Writes the manual pages of both programs, and that of `sandbox.toml`, into a directory: `manual DIR`.
//!
//! Synopsis, description, options and subcommands come from the command lines. Examples and the other sections come from
//! `pages/`; a subcommand whose page lacks a section has that of its program. sandbox.toml(5) is `docs/sandbox.toml.md`.

mod markdown;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use virt_sandbox::commands::{run, service};

/// Sections of a command's page after those from its command line, in order.
const SECTIONS: [&str; 5] = [
    "EXAMPLES",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "SEE ALSO",
];

const SOURCE: &str = concat!("virt-sandbox ", env!("CARGO_PKG_VERSION"));

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        bail!("usage: manual DIR");
    };
    let directory = PathBuf::from(directory);
    // Pages of an earlier run may have had other names.
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("removing '{}'", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("making '{}'", directory.display()))?;
    for (command, section) in programs() {
        write_pages(&command, section, &read_page(&command)?, &directory)?;
    }
    let path = directory.join("sandbox.toml.5");
    fs::write(&path, sandbox_toml()?).with_context(|| format!("writing '{}'", path.display()))
}

/// Returns the programs, each with the section of the manual that its pages are in.
fn programs() -> [(Command, &'static str); 2] {
    [(run::Cli::command(), "1"), (service::Cli::command(), "8")].map(|(command, section)| {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        (command, section)
    })
}

fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// Subcommands that have a page.
fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    let all = command.get_subcommands();
    all.filter(|subcommand| !subcommand.is_hide_set())
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Result<String> {
    let path = checkout().join(path);
    fs::read_to_string(&path).with_context(|| format!("reading '{}'", path.display()))
}

/// Reads the sections of a command that its command line does not have.
fn read_page(command: &Command) -> Result<String> {
    read(&format!("xtask/manual/pages/{}.md", name(command)))
        .context("every command has a page of its own, with EXAMPLES")
}

/// Writes the page of a command and those of its subcommands. A section that a page lacks is read from `of_program`.
fn write_pages(command: &Command, section: &str, of_program: &str, directory: &Path) -> Result<()> {
    let page = render(command, section, &read_page(command)?, of_program)?;
    let path = directory.join(format!("{}.{section}", name(command)));
    fs::write(&path, page).with_context(|| format!("writing '{}'", path.display()))?;
    subcommands(command)
        .try_for_each(|subcommand| write_pages(subcommand, section, of_program, directory))
}

fn render(command: &Command, section: &str, own: &str, of_program: &str) -> Result<Vec<u8>> {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    // An empty date or manual would shift the following words of the title.
    let man = Man::new(command.clone().override_usage(usage))
        .section(section)
        .source(SOURCE)
        .manual("virt-sandbox")
        .date(" ");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    description(command).to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let (_, own) = markdown::sections(own);
    let (_, of_program) = markdown::sections(of_program);
    let mut roff = Roff::new();
    for title in SECTIONS {
        let found = own
            .iter()
            .chain(&of_program)
            .find(|section| section.title == title);
        let section = found.with_context(|| format!("'{}' lacks {title}", name(command)))?;
        markdown::write_section(*section, &mut roff);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// Returns the description: the command's help without its first line and its exit status.
fn description(command: &Command) -> Roff {
    let long = command.get_long_about().map(ToString::to_string);
    let more = long.as_ref().and_then(|text| text.split_once("\n\n"));
    let more = more.map(|(_, more)| more.to_owned());
    let notes = command.get_after_help().map(ToString::to_string);
    let notes = notes.map(|text| {
        text.split("Exit status:")
            .next()
            .unwrap_or_default()
            .to_owned()
    });
    let mut texts: Vec<String> = more.into_iter().chain(notes).collect();
    texts.retain(|text| !text.trim().is_empty());
    if texts.is_empty() {
        texts.extend(command.get_about().map(|about| format!("{about}.")));
    }
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for text in texts.iter().flat_map(|text| text.split("\n\n")) {
        roff.control("PP", []).text([roman(text.trim())]);
    }
    roff
}

/// Returns sandbox.toml(5), made of the page of the docs.
fn sandbox_toml() -> Result<Vec<u8>> {
    let page = read("docs/sandbox.toml.md")?;
    let (first, sections) = markdown::sections(&page);
    let mut roff = Roff::new();
    roff.control("TH", ["sandbox.toml", "5", " ", SOURCE, "virt-sandbox"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(
        "sandbox.toml - configuration of a sandbox of virt-sandbox-service",
    )]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([roman("/etc/libvirt-sandbox/services/NAME/sandbox.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    markdown::write_text(first, &mut roff);
    for section in sections {
        markdown::write_section(section, &mut roff);
    }
    roff.control("SH", ["SEE ALSO"]);
    markdown::write_text(
        "`virt-sandbox-service`(8), `virt-sandbox-service-edit`(8)",
        &mut roff,
    );
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
