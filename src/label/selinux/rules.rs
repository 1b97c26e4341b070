//! Rules of the policy for the labels of files, which restorecon(8) and a relabelling of the host follow. semanage(8) keeps them: the
//! file with the rules is generated anew with every change of the policy.

use std::fs;
use std::path::Path;

use super::Context;
use crate::sys::process::command;

/// Adds a rule for `top` and everything in it, unless there is one.
pub(super) fn ensure(policy: &Path, top: &Path, context: &Context) {
    let pattern = pattern(top);
    let rules = read(policy);
    let known = rules.lines().find_map(|line| rule(line, &pattern));
    if known == Some(context.to_string().as_str()) {
        return;
    }
    let action = match known {
        Some(_) => "--modify",
        None => "--add",
    };
    run(&[
        action,
        "--type",
        context.kind(),
        "--range",
        context.level(),
        "--seuser",
        "system_u",
        "--",
        &pattern,
    ]);
}

/// Removes the rule for `top`.
pub(super) fn remove(policy: &Path, top: &Path) {
    let pattern = pattern(top);
    if read(policy)
        .lines()
        .any(|line| rule(line, &pattern).is_some())
    {
        run(&["--delete", "--", &pattern]);
    }
}

fn read(policy: &Path) -> String {
    fs::read_to_string(policy.join("contexts/files/file_contexts.local")).unwrap_or_default()
}

/// Returns the context in a line for a pattern: `PATTERN [KIND] CONTEXT`.
fn rule<'a>(line: &'a str, pattern: &str) -> Option<&'a str> {
    let mut words = line.split_whitespace();
    (words.next() == Some(pattern))
        .then(|| words.next_back())
        .flatten()
}

/// Returns the regular expression for a directory and everything in it.
fn pattern(top: &Path) -> String {
    let mut pattern = String::new();
    for c in top.to_string_lossy().chars() {
        if ".^$?*+|[](){}\\".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern + "(/.*)?"
}

/// Runs semanage(8) without a reload of the policy: the kernel does not know these rules, and a reload takes seconds.
fn run(arguments: &[&str]) {
    let arguments = [&["fcontext", "--noreload"], arguments].concat();
    let shown = || format!("semanage {}", arguments.join(" "));
    match command::capture("semanage", arguments.iter().copied()) {
        Ok(done) if done.success => {}
        Ok(done) => log::warn!("{}: {}", shown(), done.stderr.trim()),
        Err(error) => log::warn!(
            "{}: {error}; without it 'restorecon -F' takes the sandbox's label from its files",
            shown()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_found_by_its_pattern() {
        let pattern = pattern(Path::new("/srv/a.b+c"));
        assert_eq!(pattern, r"/srv/a\.b\+c(/.*)?");
        let line = format!("{pattern}    system_u:object_r:f_t:s0:c1,c2 ");
        assert_eq!(
            rule(&line, &pattern),
            Some("system_u:object_r:f_t:s0:c1,c2")
        );
        assert_eq!(rule(&line, "/srv/a(/.*)?"), None);
        assert_eq!(rule("", &pattern), None);
    }
}
