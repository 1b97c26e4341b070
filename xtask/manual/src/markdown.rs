//! Markdown as the pages use it, as sections of a manual page, man(7).
//!
//! Supported are headings, paragraphs, fenced blocks, lists, tables, and inline `code`, **bold** and links. HTML comments are
//! left out.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// A section of a page: the text below a heading of the second level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section<'a> {
    /// Heading, in capitals in a manual page.
    pub title: &'a str,
    /// Text up to the next heading of this level.
    pub text: &'a str,
}

/// Returns the text before the first section without the title of the page, and the sections.
pub fn sections(page: &str) -> (&str, Vec<Section<'_>>) {
    let mut parts = page.split("\n## ");
    let first = parts.next().unwrap_or_default();
    let first = match first.strip_prefix("# ") {
        Some(rest) => rest.split_once('\n').map_or("", |(_, text)| text),
        None => first,
    };
    let sections = parts.map(|part| {
        let (title, text) = part.split_once('\n').unwrap_or((part, ""));
        Section { title, text }
    });
    (first, sections.collect())
}

/// Writes a section with its heading.
pub fn write_section(section: Section<'_>, roff: &mut Roff) {
    let title = section.title.replace('`', "").to_uppercase();
    roff.control("SH", [title.as_str()]);
    write_text(section.text, roff);
}

/// Writes text without headings of the second level.
pub fn write_text(text: &str, roff: &mut Roff) {
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("<!--") || line.trim().is_empty() {
            continue;
        }
        if line.starts_with("```") {
            roff.control("PP", [])
                .control("RS", ["4"])
                .control("nf", []);
            for code in lines.by_ref().take_while(|line| !line.starts_with("```")) {
                roff.text([roman(code)]);
            }
            roff.control("fi", []).control("RE", []);
        } else if let Some(heading) = line.strip_prefix("### ") {
            roff.control("SS", [heading.replace('`', "").as_str()]);
        } else if line.starts_with('|') {
            // The first two lines are the heading of the table.
            lines.next();
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                write_row(row, roff);
            }
        } else {
            let item = line.strip_prefix("* ");
            let mut paragraph = item.unwrap_or(line).to_owned();
            while let Some(more) = lines.next_if(|line| continues(line)) {
                paragraph.push(' ');
                paragraph.push_str(more.trim());
            }
            match item {
                Some(_) => roff.control("IP", ["\\(bu", "2"]),
                None => roff.control("PP", []),
            };
            roff.text(inlines(&paragraph));
        }
    }
}

/// Returns whether a line continues the paragraph before it.
fn continues(line: &str) -> bool {
    let begins = ["* ", "|", "#", "```", "<!--"];
    !line.trim().is_empty() && !begins.iter().any(|begin| line.starts_with(begin))
}

/// Writes the first cell as a term, and the others as its meaning.
fn write_row(row: &str, roff: &mut Roff) {
    let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
    let Some((term, meaning)) = cells.split_first() else {
        return;
    };
    roff.control("TP", []);
    roff.text([bold(plain(term))]);
    roff.text(inlines(&meaning.join("; ")));
}

fn plain(text: &str) -> String {
    text.replace(['`', '*'], "")
}

fn inlines(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            inlines.push(bold(part));
            continue;
        }
        for (index, part) in without_links(part).split("**").enumerate() {
            match index % 2 {
                0 => inlines.push(roman(part)),
                _ => inlines.push(bold(part)),
            }
        }
    }
    inlines
}

/// Replaces `[text](target)` by its text.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        let parts = link
            .split_once("](")
            .and_then(|(name, after)| Some((name, after.split_once(')')?.1)));
        plain.push_str(before);
        match parts {
            Some((name, after)) => {
                plain.push_str(name);
                rest = after;
            }
            None => {
                plain.push('[');
                rest = link;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roff(text: &str) -> String {
        let mut roff = Roff::new();
        write_text(text, &mut roff);
        roff.render()
    }

    #[test]
    fn a_page_has_sections() {
        let (first, sections) = sections("# x\n\nText.\n\n## A\n\nB.\n");
        assert_eq!(first.trim(), "Text.");
        let [section] = sections[..] else {
            panic!("{sections:?}");
        };
        assert_eq!((section.title, section.text.trim()), ("A", "B."));
    }

    #[test]
    fn tables_are_lists_of_terms() {
        let page = roff("| a | b |\n|---|---|\n| `-x` | see [that](y.md) and `z` |\n");
        assert!(
            page.contains(".TP\n\\fB\\-x\\fR\nsee that and \\fBz\\fR\n"),
            "{page}"
        );
    }

    #[test]
    fn blocks_are_kept_as_they_are() {
        let page = roff("One\ntwo.\n\n<!-- slow: x -->\n```console\n# a  b\n```\n");
        assert!(page.contains("One two.\n"), "{page}");
        assert!(page.contains(".nf\n# a  b\n.fi\n"), "{page}");
    }
}
