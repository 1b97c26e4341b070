use std::collections::BTreeSet;
use std::fs;

use super::*;

/// Collects every command of a program.
fn all<'a>(command: &'a Command, found: &mut Vec<&'a Command>) {
    found.push(command);
    for subcommand in subcommands(command) {
        all(subcommand, found);
    }
}

#[test]
fn every_command_has_a_page_and_every_page_a_command() {
    let programs = programs();
    let mut commands = Vec::new();
    for (program, _) in &programs {
        all(program, &mut commands);
    }
    let names: BTreeSet<String> = commands
        .iter()
        .map(|command| name(command).to_owned())
        .collect();
    let entries = fs::read_dir(checkout().join("xtask/manual/pages")).unwrap();
    let pages: BTreeSet<String> = entries
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .display()
                .to_string()
        })
        .collect();
    assert_eq!(names, pages);
    for command in commands {
        let page = read_page(command).unwrap();
        assert!(
            page.contains("## EXAMPLES\n"),
            "{} lacks examples",
            name(command)
        );
    }
}

/// Returns the lines of a page's blocks that call one of the programs, without redirections and pipes.
fn command_lines(page: &str) -> Vec<Vec<String>> {
    let mut lines = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        for line in block.replace("\\\n", " ").lines() {
            let Some(line) = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")) else {
                continue;
            };
            let words = shlex::split(&line.replace("$PWD", "/x").replace("$HOME", "/y"));
            let words = words.unwrap_or_default();
            for command in words.split(|word| ["|", "&&", ";"].contains(&word.as_str())) {
                let begin = command
                    .iter()
                    .position(|word| word.starts_with("virt-sandbox"));
                // Only environment variables may precede the program.
                if begin.is_some_and(|begin| command[..begin].iter().all(|word| word.contains('=')))
                {
                    lines.push(command[begin.unwrap_or(0)..].to_vec());
                }
            }
        }
    }
    lines
}

#[test]
fn examples_of_all_pages_are_valid_command_lines() {
    let programs = programs();
    let mut count = 0;
    for directory in ["xtask/manual/pages", "docs", "."] {
        for entry in fs::read_dir(checkout().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            for line in command_lines(&fs::read_to_string(&path).unwrap()) {
                let program = programs
                    .iter()
                    .find(|(command, _)| command.get_name() == line[0]);
                let (command, _) =
                    program.unwrap_or_else(|| panic!("{}: {line:?}", path.display()));
                let parsed = command.clone().try_get_matches_from(&line);
                assert!(
                    parsed.is_ok(),
                    "{}: {line:?}\n{}",
                    path.display(),
                    parsed.unwrap_err()
                );
                count += 1;
            }
        }
    }
    assert!(count > 100, "only {count} examples");
}

#[test]
fn every_page_has_every_section() {
    for (program, section) in programs() {
        let mut commands = Vec::new();
        all(&program, &mut commands);
        let of_program = read_page(&program).unwrap();
        for command in commands {
            let own = read_page(command).unwrap();
            let page = render(command, section, &own, &of_program).unwrap();
            let page = String::from_utf8(page).unwrap();
            for title in SECTIONS {
                let heading = format!(".SH \"{title}\"");
                let plain = format!(".SH {title}\n");
                assert!(
                    page.contains(&heading) || page.contains(&plain),
                    "{} {title}\n{page}",
                    name(command)
                );
            }
        }
    }
}
