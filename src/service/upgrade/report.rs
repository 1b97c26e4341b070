//! Text of a plan for people: a line for each path, and differences of texts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use similar::TextDiff;

use crate::service::upgrade::merge::{Action, Change};
use crate::service::upgrade::plan::Plan;
use crate::service::upgrade::public;
use crate::sys::path::below;
use crate::sys::root::Root;
use crate::tree::manifest::{Kind, Manifest};

/// Maximum size of a file whose differences are shown, in bytes.
const LARGEST: u64 = 1 << 20;

/// Returns a line for each affected package, path and account.
#[must_use]
pub fn lines(plan: &Plan) -> Vec<String> {
    let line = |word: &str, what: &str, reason: &str| format!("{word:<9} {what}  [{reason}]");
    let mut lines: Vec<String> = plan
        .packages
        .iter()
        .map(|package| format!("{:<9} {package}", "package"))
        .collect();
    for change in &plan.changes {
        let path = change.path.display();
        let shown = match &change.action {
            Action::Conflict(at) => format!("{path}, the host's is {}", at.display()),
            Action::Add
            | Action::Replace(_)
            | Action::Attributes(_)
            | Action::Remove
            | Action::Keep => path.to_string(),
        };
        lines.push(line(change.action.as_str(), &shown, change.reason));
    }
    for note in &plan.notes {
        let word = if note.is_conflict {
            "conflict"
        } else {
            "updated"
        };
        lines.push(line(word, note.path, &note.text));
    }
    for (path, entry) in &plan.appearing {
        lines.push(line("added", &path.display().to_string(), &entry.reason));
    }
    let withheld = plan.withheld.iter();
    lines.extend(withheld.map(|what| line("withheld", what, public::REASON)));
    lines
}

/// Summarises the plan in a few words.
#[must_use]
pub fn summary(plan: &Plan, has_new_config: bool) -> String {
    let mut counts: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
    let words = [
        "added", "updated", "removed", "conflict", "kept", "withheld",
    ];
    let mut count = |word: &'static str| {
        let place = words.iter().position(|known| *known == word).unwrap_or(0);
        counts.entry(place).or_insert((0, word)).0 += 1;
    };
    for change in &plan.changes {
        count(change.action.as_str());
    }
    for note in &plan.notes {
        count(if note.is_conflict {
            "conflict"
        } else {
            "updated"
        });
    }
    for _ in &plan.appearing {
        count("added");
    }
    for _ in &plan.withheld {
        count("withheld");
    }
    let mut parts: Vec<String> = counts
        .values()
        .map(|(count, word)| match (*count, *word) {
            (1, "conflict") | (_, "added" | "updated" | "removed" | "kept" | "withheld") => {
                format!("{count} {word}")
            }
            (count, word) => format!("{count} {word}s"),
        })
        .collect();
    if !plan.packages.is_empty() {
        parts.insert(0, plan.packages.join(", "));
    }
    if parts.is_empty() && has_new_config {
        parts.push("its configuration is renewed".to_owned());
    }
    match parts.is_empty() {
        true => "up to date".to_owned(),
        false => parts.join(", "),
    }
}

/// Returns the differences of texts as `diff -u` shows them; `tree` is the sandbox's tree. For a file that not everybody may read
/// on the host, the diff only says that it changes.
#[must_use]
pub fn diff(plan: &Plan, tree: &Root) -> String {
    let mut text = String::new();
    for change in &plan.changes {
        text.push_str(&of_change(plan, tree, change).unwrap_or_default());
    }
    for (path, new) in &plan.accounts {
        let path = Path::new(path);
        if is_readable(&plan.sandbox, path)
            && let Some(old) = own(tree, path)
        {
            text.push_str(&unified(path, path, &old, new));
        }
    }
    text
}

fn of_change(plan: &Plan, tree: &Root, change: &Change) -> Option<String> {
    let path = &change.path;
    let to = match &change.action {
        Action::Replace(_) => path,
        Action::Conflict(at) => at,
        Action::Add | Action::Attributes(_) | Action::Remove | Action::Keep => return None,
    };
    if !is_readable(&plan.host, path) || !is_readable(&plan.sandbox, path) {
        return None;
    }
    let old = own(tree, path)?;
    let new = fs::read_to_string(below(&plan.candidate, path)).ok()?;
    (!old.contains('\0') && !new.contains('\0')).then(|| unified(path, to, &old, &new))
}

/// Reads a text in the sandbox. The manifest says that it is a file; if it has become a link, that is not followed.
fn own(tree: &Root, path: &Path) -> Option<String> {
    std::io::read_to_string(tree.open_plain(path).ok()?).ok()
}

fn unified(from: &Path, to: &Path, old: &str, new: &str) -> String {
    let names = (
        format!("sandbox{}", from.display()),
        format!("host{}", to.display()),
    );
    TextDiff::from_lines(old, new)
        .unified_diff()
        .header(&names.0, &names.1)
        .to_string()
}

fn is_readable(manifest: &Manifest, path: &Path) -> bool {
    manifest.get(path).is_some_and(|entry| {
        let is_short = matches!(entry.kind, Kind::File { size, .. } if size <= LARGEST);
        is_short && entry.mode & 0o004 != 0
    })
}
