//! Splitting a value into words: quotes and C escapes of systemd.syntax(7), "Quoting".
//!
//! Specifiers are expanded afterwards, because systemd does not split their values.

use std::iter::Peekable;
use std::str::Chars;

/// Error for a value with an unclosed quote; systemd ignores the whole assignment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("splitting '{value}': unbalanced quotes")]
pub struct Unbalanced {
    /// The value.
    pub value: String,
}

/// Splits a value at blanks; `"…"` and `'…'` protect blanks, also within a word, and are removed.
///
/// C escapes are decoded inside and outside of quotes; an unknown escape stays as written.
///
/// # Errors
/// [`Unbalanced`] if a quote is not closed.
pub fn split(value: &str) -> Result<Vec<String>, Unbalanced> {
    let words = split_marked(value)?;
    Ok(words.into_iter().map(|word| word.text).collect())
}

/// A word, and whether it was unquoted, which tells `;` from `";"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::facts::unit) struct Word {
    pub text: String,
    pub bare: bool,
}

pub(in crate::facts::unit) fn split_marked(value: &str) -> Result<Vec<Word>, Unbalanced> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut rest = value.chars().peekable();
    while let Some(c) = rest.next() {
        let blank = matches!(c, ' ' | '\t' | '\n' | '\r');
        if blank && quote.is_none() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            text: String::new(),
            bare: true,
        });
        match (c, quote) {
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.bare = false;
            }
            ('\\', _) => {
                unescape(&mut rest, &mut word.text);
                word.bare = false;
            }
            _ => word.text.push(c),
        }
    }
    if quote.is_some() {
        return Err(Unbalanced {
            value: value.to_owned(),
        });
    }
    words.extend(word);
    Ok(words)
}

/// Decodes the escape after a backslash and appends its character to `out`.
fn unescape(rest: &mut Peekable<Chars<'_>>, out: &mut String) {
    let Some(&c) = rest.peek() else {
        out.push('\\');
        return;
    };
    let simple = match c {
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{b}'),
        's' => Some(' '),
        '\\' | '"' | '\'' => Some(c),
        _ => None,
    };
    if let Some(simple) = simple {
        rest.next();
        out.push(simple);
        return;
    }
    let (skip, digits, radix) = match c {
        'x' => (1, 2, 16),
        'u' => (1, 4, 16),
        'U' => (1, 8, 16),
        '0'..='7' => (0, 3, 8),
        _ => (0, 0, 16),
    };
    let code: String = rest.clone().skip(skip).take(digits).collect();
    let character = (digits > 0 && code.len() == digits)
        .then(|| u32::from_str_radix(&code, radix).ok())
        .flatten()
        .and_then(char::from_u32)
        .filter(|c| *c != '\0');
    match character {
        Some(character) => {
            out.push(character);
            // Only ASCII digits were read, so each is one byte.
            rest.nth(skip + digits - 1);
        }
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_split() {
        let cases: [(&str, &[&str]); 9] = [
            ("", &[]),
            ("  a \t b  ", &["a", "b"]),
            (r#"a "b c" 'd "e'"#, &["a", "b c", r#"d "e"#]),
            (r#"--x="a b"c"#, &["--x=a bc"]),
            (r#""" a"#, &["", "a"]),
            (r"a\sb \x41\102\u00e4 \t.", &["a b", "ABä", "\t."]),
            (r#"'it\'s' "say \"x\"""#, &["it's", r#"say "x""#]),
            (r"\d+ \x4 \0", &[r"\d+", r"\x4", r"\0"]),
            (r"a\", &[r"a\"]),
        ];
        for (value, words) in cases {
            assert_eq!(split(value).unwrap(), words, "{value}");
        }
        assert!(split(r#"a "b"#).is_err());
        assert!(split("don't").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_split(text in any::<String>()) {
            let _ = split(&text);
        }

        #[test]
        fn escapes_never_panic(text in r#"[\\xuU0-9a-fäs"' ]{0,40}"#) {
            let _ = split(&text);
        }
    }
}
