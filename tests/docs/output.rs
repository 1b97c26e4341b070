//! Compares the output that a page shows with that of the command.
//!
//! A page shows what its author saw: so blanks, addresses, and what `...` stands for are not compared. A line that is
//! only `...` stands for any number of lines.

/// Returns what differs, or nothing.
pub fn difference(shown: &[String], seen: &str) -> Option<String> {
    // A page that shows no output says nothing of it.
    if shown.is_empty() {
        return None;
    }
    let shown: Vec<String> = shown.iter().map(|line| normal(line)).collect();
    let shown: Vec<&str> = shown
        .iter()
        .map(String::as_str)
        .filter(|line| !line.is_empty())
        .collect();
    let lines: Vec<String> = seen
        .lines()
        .map(normal)
        .filter(|line| !line.is_empty())
        .collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    (!matches(&shown, &lines)).then(|| {
        format!(
            "shown:\n  {}\nseen:\n  {}",
            shown.join("\n  "),
            lines.join("\n  ")
        )
    })
}

fn matches(shown: &[&str], seen: &[&str]) -> bool {
    match (shown, seen) {
        ([], []) => true,
        (["...", rest @ ..], _) => (0..=seen.len()).any(|skipped| matches(rest, &seen[skipped..])),
        ([first, rest @ ..], [line, others @ ..]) => {
            line_matches(first, line) && matches(rest, others)
        }
        (_, _) => false,
    }
}

fn line_matches(shown: &str, seen: &str) -> bool {
    match shown.split_once("...") {
        None => shown == seen,
        Some((begin, rest)) => {
            let (begin, rest) = (begin.trim_end(), rest.trim_start());
            seen.strip_prefix(begin).is_some_and(|seen| {
                seen.char_indices()
                    .map(|(index, _)| index)
                    .chain([seen.len()])
                    .any(|index| line_matches(rest, &seen[index..]))
            })
        }
    }
}

/// One blank for many, and one word for every IPv4 address.
fn normal(line: &str) -> String {
    let words: Vec<String> = line.split_whitespace().map(with_addresses_hidden).collect();
    words.join(" ")
}

fn with_addresses_hidden(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let mut normal = String::new();
    let mut rest = word;
    while let Some(begin) = rest.find(is_part) {
        let end = rest[begin..]
            .find(|c| !is_part(c))
            .map_or(rest.len(), |end| begin + end);
        let number = &rest[begin..end];
        normal.push_str(&rest[..begin]);
        normal.push_str(if number.parse::<std::net::Ipv4Addr>().is_ok() {
            "ADDRESS"
        } else {
            number
        });
        rest = &rest[end..];
    }
    normal.push_str(rest);
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(shown: &[&str], seen: &str) -> bool {
        let shown: Vec<String> = shown.iter().map(|&line| line.to_owned()).collect();
        difference(&shown, seen).is_none()
    }

    #[test]
    fn blanks_and_addresses_are_not_compared() {
        assert!(is_same(
            &["web1  192.168.122.7  up"],
            "web1 192.168.150.42   up\n"
        ));
        assert!(is_same(
            &["GET http://192.168.122.7/"],
            "GET http://10.0.0.1/\n"
        ));
        assert!(!is_same(&["HTTP/1.1 200 OK"], "HTTP/1.1 403 Forbidden\n"));
        assert!(is_same(&[], "anything\n"));
    }

    #[test]
    fn dots_stand_for_words_and_lines() {
        assert!(is_same(&["a ... d", "...", "z"], "a b c d\ne\nf\nz\n"));
        assert!(is_same(&["a", "..."], "a\n"));
        assert!(is_same(&["size=...K"], "size=12K"));
        assert!(!is_same(&["a", "..."], "b\na\n"));
        assert!(!is_same(&["a"], "a\nb\n"));
        assert!(!is_same(&["a", "b"], "a\n"));
    }
}
