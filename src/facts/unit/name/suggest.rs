//! Suggestions for a unit name that does not exist.

use super::UnitName;

/// Maximum number of suggestions in a message.
const MAX_SHOWN: usize = 5;

/// Returns the known names that are most similar to `wanted`, best first.
pub(in crate::facts::unit) fn nearest<'a>(
    wanted: &UnitName,
    known: impl Iterator<Item = &'a UnitName>,
) -> Vec<UnitName> {
    let mut near: Vec<(usize, &UnitName)> = known
        .filter_map(|name| Some((distance(wanted, name)?, name)))
        .collect();
    near.sort();
    near.dedup();
    near.into_iter()
        .take(MAX_SHOWN)
        .map(|(_, name)| name.clone())
        .collect()
}

/// Returns the distance between two names, or `None` if they are not similar.
fn distance(wanted: &UnitName, known: &UnitName) -> Option<usize> {
    let (a, b) = (
        wanted.prefix().to_lowercase(),
        known.prefix().to_lowercase(),
    );
    let other_kind = usize::from(wanted.kind() != known.kind());
    let edits = levenshtein(&a, &b);
    // One edit in three letters is a typing error, more is another word.
    if edits <= (a.len() / 3).clamp(1, 3) {
        return Some(2 * edits + other_kind);
    }
    // People leave out versions and words: `foo` for `foo2` or `foo-server`, `foo` for `libfoo`.
    let part =
        a.len() >= 3 && (b.starts_with(&a) || a.starts_with(&b) && b.len() >= 3 || b.ends_with(&a));
    part.then_some(8 + edits + other_kind)
}

fn levenshtein(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_and_shortened_names_get_suggestions() {
        let known: Vec<UnitName> = [
            "web2.service",
            "web2.socket",
            "webmail.service",
            "database@.service",
            "clock.timer",
        ]
        .map(|name| UnitName::exact(name).unwrap())
        .to_vec();
        let cases: [(&str, &[&str]); 5] = [
            ("web", &["web2.service", "web2.socket", "webmail.service"]),
            ("databsae@main", &["database@.service"]),
            ("clock", &["clock.timer"]),
            ("mail", &["webmail.service"]),
            ("unlike-anything", &[]),
        ];
        for (wanted, expected) in cases {
            let near = nearest(&wanted.parse().unwrap(), known.iter());
            assert_eq!(
                near.iter().map(UnitName::as_str).collect::<Vec<_>>(),
                expected,
                "{wanted}"
            );
        }
    }
}
