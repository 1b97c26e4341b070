//! Reads what a Markdown page says to do: its command blocks, the files it shows, and the remarks for this suite.
//!
//! A block of commands is fenced with `console`. A line that begins with `# ` is a command of root's, one that begins
//! with `$ ` is a command of an ordinary user; the other lines are the output, or continue a command that ends with a
//! backslash. Comments right before a block say more, and no reader sees them:
//!
//! | comment | meaning |
//! |---|---|
//! | `<!-- not run: REASON -->` | the block cannot be run by a test |
//! | `<!-- slow: REASON -->` | the block is run by the slow part of the suite only |
//! | `<!-- fails -->` | the last command of the block ends with a failure |
//! | `<!-- file: PATH -->` | the block is the content of a file of the host |
//! | `<!-- run: COMMANDS -->` | preparation, or clearing up, that the page does not show; may span lines |

/// Account that runs a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    Root,
    User,
}

/// A command and the output that the page shows for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub line: usize,
    pub account: Account,
    pub command: String,
    pub output: Vec<String>,
    pub fails: bool,
}

/// A thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Run(Shown),
    Write { path: String, content: String },
}

/// A step and whether only the slow part of the suite takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub step: Step,
    pub is_slow: bool,
}

/// Everything that a page says to do, and the blocks that are left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub steps: Vec<Planned>,
    /// Line and reason of each block that is not run.
    pub left_out: Vec<(usize, String)>,
}

/// Languages of blocks that hold no commands.
const OTHER_LANGUAGES: [&str; 6] = ["toml", "ini", "text", "rust", "xml", "json"];

/// Remark of a comment for the next block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remark {
    NotRun(String),
    Slow,
    Fails,
    File(String),
}

/// Reads a page; an error names the line.
pub fn parse(text: &str) -> Result<Page, String> {
    let mut page = Page::default();
    let mut remarks: Vec<Remark> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    let mut index = 0;
    while let Some(line) = lines.get(index) {
        let number = index + 1;
        index += 1;
        if let Some(comment) = line.strip_prefix("<!-- ") {
            let (text, next) = comment_text(comment, &lines, index)
                .ok_or_else(|| format!("{number}: the comment has no end"))?;
            index = next;
            match text.strip_prefix("run:") {
                Some(commands) => {
                    let is_slow = remarks.contains(&Remark::Slow);
                    remarks.clear();
                    page.steps.push(Planned {
                        step: Step::Run(hidden(commands, number)),
                        is_slow,
                    });
                }
                None => remarks.push(remark(text.trim()).map_err(|e| format!("{number}: {e}"))?),
            }
        } else if let Some(info) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let length = lines[index..]
                .iter()
                .position(|line| line.trim() == "```")
                .ok_or_else(|| format!("{number}: the block has no end"))?;
            let body: Vec<&str> = lines[index..index + length]
                .iter()
                .map(|line| line.get(indent..).unwrap_or_default())
                .collect();
            index += length + 1;
            add_block(&mut page, info.trim(), &body, &remarks, number)
                .map_err(|e| format!("{number}: {e}"))?;
            remarks.clear();
        } else if !line.trim().is_empty() && !remarks.is_empty() {
            return Err(format!("{number}: the comment before stands at no block"));
        } else if line.starts_with("    ") && lines[index.saturating_sub(2)].is_empty() {
            return Err(format!(
                "{number}: an indented block; fence it, with a language"
            ));
        }
    }
    Ok(page)
}

/// Returns the text of a comment whose first line is `first`, and the index of the line after it.
fn comment_text(first: &str, lines: &[&str], mut next: usize) -> Option<(String, usize)> {
    let mut text = first.to_owned();
    loop {
        if let Some(whole) = text.trim_end().strip_suffix("-->") {
            return Some((whole.to_owned(), next));
        }
        text.push('\n');
        text.push_str(lines.get(next)?);
        next += 1;
    }
}

fn remark(text: &str) -> Result<Remark, String> {
    let reason = |word: &str| {
        let reason = text.strip_prefix(word).map(str::trim);
        reason
            .filter(|reason| !reason.is_empty())
            .map(str::to_owned)
    };
    if let Some(reason) = reason("not run:") {
        Ok(Remark::NotRun(reason))
    } else if reason("slow:").is_some() {
        Ok(Remark::Slow)
    } else if let Some(path) = reason("file:") {
        Ok(Remark::File(path))
    } else if text == "fails" {
        Ok(Remark::Fails)
    } else {
        Err(format!(
            "the comment '{text}' is none of: not run: REASON, slow: REASON, fails, file: PATH, run: COMMANDS"
        ))
    }
}

fn hidden(commands: &str, line: usize) -> Shown {
    Shown {
        line,
        account: Account::Root,
        command: format!("set -e\n{}", commands.trim()),
        output: Vec::new(),
        fails: false,
    }
}

fn add_block(
    page: &mut Page,
    language: &str,
    body: &[&str],
    remarks: &[Remark],
    line: usize,
) -> Result<(), String> {
    let is_slow = remarks.contains(&Remark::Slow);
    for remark in remarks {
        if let Remark::NotRun(reason) = remark {
            page.left_out.push((line, reason.clone()));
            return Ok(());
        }
        if let Remark::File(path) = remark {
            let content = format!("{}\n", body.join("\n"));
            let path = path.clone();
            page.steps.push(Planned {
                step: Step::Write { path, content },
                is_slow,
            });
            return Ok(());
        }
    }
    if language != "console" {
        return match OTHER_LANGUAGES.contains(&language) {
            true => Ok(()),
            false => Err(format!(
                "the language '{language}' of a block is neither console nor one of {OTHER_LANGUAGES:?}"
            )),
        };
    }
    let mut commands = commands(body, line)?;
    let last = commands
        .last_mut()
        .ok_or("a block of commands without one")?;
    last.fails = remarks.contains(&Remark::Fails);
    page.steps.extend(commands.into_iter().map(|shown| Planned {
        step: Step::Run(shown),
        is_slow,
    }));
    Ok(())
}

fn commands(body: &[&str], line: usize) -> Result<Vec<Shown>, String> {
    let mut commands: Vec<Shown> = Vec::new();
    let mut continues = false;
    for (offset, text) in body.iter().enumerate() {
        let prompt = if let Some(command) = text.strip_prefix("# ") {
            Some((Account::Root, command))
        } else {
            text.strip_prefix("$ ")
                .map(|command| (Account::User, command))
        };
        match (prompt, commands.last_mut()) {
            (_, Some(last)) if continues => {
                last.command.push('\n');
                last.command.push_str(text);
                continues = text.ends_with('\\');
            }
            (Some((account, command)), _) => {
                commands.push(Shown {
                    line: line + 1 + offset,
                    account,
                    command: command.to_owned(),
                    output: Vec::new(),
                    fails: false,
                });
                continues = command.ends_with('\\');
            }
            (None, Some(last)) => last.output.push((*text).to_owned()),
            (None, None) => return Err("a block of commands begins with '# ' or '$ '".to_owned()),
        }
    }
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_with_their_output() {
        let page = parse("text\n\n```console\n# one \\\n  more\nsaid\n$ two\n```\n").unwrap();
        let shown = |line, account, command: &str, output: &[&str]| Planned {
            step: Step::Run(Shown {
                line,
                account,
                command: command.to_owned(),
                output: output.iter().map(|&line| line.to_owned()).collect(),
                fails: false,
            }),
            is_slow: false,
        };
        assert_eq!(
            page.steps,
            [
                shown(4, Account::Root, "one \\\n  more", &["said"]),
                shown(7, Account::User, "two", &[]),
            ]
        );
    }

    #[test]
    fn comments_say_what_is_not_run_and_what_is_hidden() {
        let text = "<!-- not run: needs a network -->\n```console\n# one\n```\n<!-- run:\na\nb\n-->\n\
            <!-- slow: boots -->\n<!-- fails -->\n```console\n# two\n```\n<!-- file: /x -->\n```ini\n[A]\n```\n";
        let page = parse(text).unwrap();
        assert_eq!(page.left_out, [(2, "needs a network".to_owned())]);
        let [hidden, slow, file] = &page.steps[..] else {
            panic!("{page:?}");
        };
        assert!(matches!(&hidden.step, Step::Run(shown) if shown.command == "set -e\na\nb"));
        assert!(slow.is_slow && matches!(&slow.step, Step::Run(shown) if shown.fails));
        let expected = Step::Write {
            path: "/x".to_owned(),
            content: "[A]\n".to_owned(),
        };
        assert_eq!(file.step, expected);
    }

    #[test]
    fn blocks_that_nobody_would_run_are_refused() {
        for text in [
            "```sh\ntrue\n```",
            "```\ntrue\n```",
            "```console\ntrue\n```",
            "```console\n# true\n",
            "text\n\n    # true\n",
            "<!-- not run: -->\n```console\n# true\n```",
            "<!-- slow: boots -->\ntext",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
