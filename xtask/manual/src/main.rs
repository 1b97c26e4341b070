//! Writes the manual pages of both programs into a directory: `manual DIR`.
//!
//! Options and subcommands come from the command lines themselves; what they do not say is here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use virt_sandbox::commands::{run, service};

/// What a page has beside its command line.
#[derive(Default)]
struct About<'a> {
    /// Commands, and what each does.
    examples: &'a [(&'a str, &'a str)],
    /// Variables of the environment.
    environment: &'a [(&'a str, &'a str)],
    /// Files and directories.
    files: &'a [(&'a str, &'a str)],
    /// Other pages.
    see_also: &'a [(&'a str, u8)],
}

const RUN: About<'_> = About {
    examples: &[
        (
            "virt-sandbox -- sh -c 'id; touch /etc/x'",
            "The host's root can be read, and nothing of it written.",
        ),
        (
            "tar c src | virt-sandbox -m ram:/mnt=100M -- tar x -C /mnt",
            "Standard input, output and error are those of the command.",
        ),
        (
            "virt-sandbox -c qemu:///session -N dhcp,user -- curl https://example.org/",
            "In a virtual machine of an ordinary user, with a network.",
        ),
    ],
    environment: &[
        (
            "LIBVIRT_DEFAULT_URI",
            "The connection where --connect says none.",
        ),
        (
            "VIRT_SANDBOX_VIRT_TYPE",
            "How virtual machines are run where --virt-type says nothing.",
        ),
    ],
    files: &[(
        "/var/cache/virt-sandbox, ~/.cache/virt-sandbox",
        "What virtual machines boot from, made of the host's kernel.",
    )],
    see_also: &[("virt-sandbox-service", 1), ("virsh", 1)],
};

const SERVICE: About<'_> = About {
    examples: &[
        (
            "virt-sandbox-service create -u apache2.service web1",
            "Makes a sandbox around a unit of the host; --dry-run shows what would be in it.",
        ),
        (
            "virt-sandbox-service enable --now web1",
            "Starts it now and whenever the host boots.",
        ),
        (
            "virt-sandbox-service logs -f -u apache2.service web1",
            "Follows the journal of the unit inside.",
        ),
        (
            "virt-sandbox-service execute web1 -- apachectl configtest",
            "Runs a command in it.",
        ),
    ],
    environment: &[
        (
            "LIBVIRT_DEFAULT_URI",
            "The connection where --connect says none, if it is one of LXC.",
        ),
        (
            "VISUAL, EDITOR",
            "The editor of virt-sandbox-service-edit(1).",
        ),
        (
            "LIBVIRT_SANDBOX_INIT_DEBUG",
            "If set, every step of a sandbox's boot is shown.",
        ),
    ],
    files: &[
        (
            "/etc/libvirt-sandbox/services/NAME/sandbox.toml",
            "The configuration of a sandbox, from which all else is made at every start.",
        ),
        (
            "/var/lib/libvirt/filesystems/NAME",
            "Its private /etc, /var, /home, /root and /srv.",
        ),
        (
            "/etc/systemd/system/NAME_sandbox.service",
            "The unit by which the host's systemd runs it.",
        ),
        (
            "/etc/libvirt-sandbox/templates, /usr/share/virt-sandbox/templates",
            "What units and domains are made from.",
        ),
        (
            "/etc/libvirt-sandbox/services.d, /usr/share/virt-sandbox/services.d",
            "What packages need initialised in a sandbox.",
        ),
        (
            "/etc/logrotate.d/virt-sandbox-service",
            "Has the logs in running sandboxes rotated every day.",
        ),
    ],
    see_also: &[
        ("virt-sandbox", 1),
        ("virsh", 1),
        ("systemctl", 1),
        ("journalctl", 1),
        ("logrotate", 8),
    ],
};

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        bail!("usage: manual DIR");
    };
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).with_context(|| format!("making '{}'", directory.display()))?;
    for (command, about) in [
        (run::Cli::command(), &RUN),
        (service::Cli::command(), &SERVICE),
    ] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        pages(&command, about, &directory)?;
    }
    Ok(())
}

/// The page of a program or subcommand, and one of each of its subcommands.
fn pages(program: &Command, about: &About<'_>, directory: &Path) -> Result<()> {
    write(program, about, directory)?;
    let name = program.get_display_name().unwrap_or(program.get_name());
    let of_subcommand = About {
        see_also: &[(name, 1)],
        ..About::default()
    };
    for subcommand in program
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
    {
        pages(subcommand, &of_subcommand, directory)?;
    }
    Ok(())
}

fn write(command: &Command, about: &About<'_>, directory: &Path) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    // What is not said has to be blank, or what follows takes its place.
    let man = Man::new(command.clone().override_usage(usage))
        .source(format!("virt-sandbox {version}"))
        .manual("virt-sandbox")
        .date(" ");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    description(command, &mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    examples(about.examples, &mut page)?;
    list("ENVIRONMENT", about.environment, &mut page)?;
    list("FILES ON THE HOST", about.files, &mut page)?;
    see_also(about.see_also, &mut page)?;
    let path = directory.join(man.get_filename());
    fs::write(&path, page).with_context(|| format!("writing '{}'", path.display()))
}

/// What the name alone does not say; the name's line where that is all.
fn description(command: &Command, page: &mut dyn Write) -> Result<()> {
    let long = command.get_long_about().map(ToString::to_string);
    let more = long.as_ref().and_then(|text| text.split_once("\n\n"));
    let more = more.map(|(_, more)| more.to_owned());
    let notes = command.get_after_help().map(ToString::to_string);
    let mut texts: Vec<String> = more.into_iter().chain(notes).collect();
    if texts.is_empty() {
        texts.extend(command.get_about().map(ToString::to_string));
    }
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for text in texts.iter().flat_map(|text| text.split("\n\n")) {
        roff.control("PP", []).text([roman(text)]);
    }
    Ok(roff.to_writer(page)?)
}

fn examples(examples: &[(&str, &str)], page: &mut dyn Write) -> Result<()> {
    let mut roff = Roff::new();
    if !examples.is_empty() {
        roff.control("SH", ["EXAMPLES"]);
    }
    for (command, what) in examples {
        roff.control("PP", []).text([roman(*what)]);
        roff.control("RS", ["4"]).control("nf", []);
        roff.text([bold(*command)]);
        roff.control("fi", []).control("RE", []);
    }
    Ok(roff.to_writer(page)?)
}

fn list(title: &str, entries: &[(&str, &str)], page: &mut dyn Write) -> Result<()> {
    let mut roff = Roff::new();
    if !entries.is_empty() {
        roff.control("SH", [title]);
    }
    for (what, meaning) in entries {
        roff.control("TP", [])
            .text([bold(*what)])
            .text([roman(*meaning)]);
    }
    Ok(roff.to_writer(page)?)
}

fn see_also(pages: &[(&str, u8)], page: &mut dyn Write) -> Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]);
    let mut line: Vec<Inline> = Vec::new();
    for (index, (name, section)) in pages.iter().enumerate() {
        let end = if index + 1 < pages.len() { ", " } else { "" };
        line.extend([bold(*name), roman(format!("({section}){end}"))]);
    }
    roff.text(line);
    Ok(roff.to_writer(page)?)
}
