//! Tests of README.md and `docs/`: their commands are run, and their references are complete.
//!
//! | module | what it owns |
//! |---|---|
//! | [`page`] | the commands of a page, with the output that it shows |
//! | [`output`] | comparing that with what is seen |
//! | [`host`] | running the commands of a page, and taking back what they did |
//! | [`reference`] | every key of `sandbox.toml` and every link is in the pages |
//!
//! A page is followed from its first command to its last, as root against the private libvirtd of `make test`; without one
//! it is skipped. `--ignored` follows the pages that have slow blocks once more, with these.

// Helpers of a test are part of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;
mod output;
mod page;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use host::Host;
use page::{Page, Planned};

/// Makes a test of each page, and one of its slow blocks.
macro_rules! pages {
    ($($name:ident: $path:literal),* $(,)?) => {
        const PAGES: &[&str] = &[$($path),*];

        mod fast {
            $(#[test] fn $name() { super::follow($path, false); })*
        }

        mod slow {
            $(#[test] #[ignore = "virtual machines, and services that are large"] fn $name() { super::follow($path, true); })*
        }
    };
}

pages! {
    readme: "README.md",
    getting_started: "docs/getting-started.md",
    one_shots: "docs/one-shots.md",
    networking: "docs/networking.md",
    state_and_upgrades: "docs/state-and-upgrades.md",
    images_and_snapshots: "docs/images-and-snapshots.md",
    virtual_machines: "docs/virtual-machines.md",
    security_choices: "docs/security-choices.md",
    troubleshooting: "docs/troubleshooting.md",
    migration: "docs/migration.md",
    recipes: "docs/recipes.md",
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn parsed(path: &str) -> Page {
    page::parse(&read(path)).unwrap_or_else(|error| panic!("{path}:{error}"))
}

fn follow(path: &str, with_slow: bool) {
    let page = parsed(path);
    let has_slow = page.steps.iter().any(|planned| planned.is_slow);
    if page.steps.is_empty() || with_slow && !has_slow {
        return;
    }
    let Some(mut host) = Host::begin(path) else {
        return;
    };
    for (line, reason) in &page.left_out {
        eprintln!("SKIP {path}:{line}: {reason}");
    }
    let steps: Vec<Planned> = page
        .steps
        .into_iter()
        .filter(|planned| with_slow || !planned.is_slow)
        .collect();
    host.follow(path, &steps);
    host.end();
}

/// Every page of `docs/`, with its path from the checkout.
fn documents() -> Vec<String> {
    let entries = fs::read_dir(root().join("docs")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let pages =
        paths.filter(|path: &PathBuf| path.extension().is_some_and(|extension| extension == "md"));
    pages
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect()
}

#[test]
fn every_page_is_well_formed_and_no_command_of_one_is_left_out() {
    for path in documents()
        .into_iter()
        .chain(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()])
    {
        let page = parsed(&path);
        assert!(
            page.steps.is_empty() || PAGES.contains(&path.as_str()),
            "{path} has commands and is not in the list of tests/docs/main.rs"
        );
    }
}
