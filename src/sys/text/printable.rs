//! Untrusted text, made safe for a terminal.
//!
//! Control characters move the cursor, set titles or type answers (ECMA-48, both the 7-bit and the 8-bit
//! forms). Bidirectional overrides, separators and characters without width make a line look like another one
//! (Unicode TR 36, CVE-2021-42574).

/// Removes characters that a terminal obeys or hides. Line ends and tabs stay.
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |c| {
        if is_safe(c) || "\n\t".contains(c) {
            c
        } else {
            '?'
        }
    };
    text.chars().map(shown).collect()
}

/// Makes text safe as one line, for a cell of a table.
#[must_use]
pub fn printable_line(text: &str) -> String {
    let shown = |c| if is_safe(c) { c } else { '?' };
    text.chars().map(shown).collect()
}

/// Makes a message safe: further lines are indented, so that none can pass for a message of its own.
#[must_use]
pub fn printable_message(text: &str) -> String {
    let mut shown = String::new();
    for (index, line) in printable(text).split('\n').enumerate() {
        if index > 0 {
            shown.push('\n');
            if !line.is_empty() && !line.starts_with([' ', '\t']) {
                shown.push_str("  ");
            }
        }
        shown.push_str(line);
    }
    shown
}

/// Escapes unsafe characters in JSON. All JSON syntax is ASCII, so no value changes.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_safe(c) || c == '\n' {
            shown.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

/// Returns whether a character takes one place on the screen and does nothing else.
fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            // Soft hyphen, combining grapheme joiner, Arabic letter mark, Hangul fillers, Khmer's inherent vowels
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}'
            // Mongolian variation selectors and vowel separator
            | '\u{180b}'..='\u{180f}'
            // Zero width, marks of direction; separators of lines and paragraphs, embeddings and overrides; joiners, isolates
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Byte order mark, annotations, tags
            | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing() {
        let bad = "\0\x07\x1b[2J\r\x7f\u{80}\u{9b}31m\u{9f}\u{202e}\u{202a}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}\u{2028}\u{2029}\u{200b}\u{feff}\u{e0041}";
        let shown = printable(bad);
        assert_eq!(shown.replace('?', ""), "[2J31m");
        assert_eq!(printable("é 日本 🦀 \t|\n"), "é 日本 🦀 \t|\n");
        assert_eq!(printable_line("a\tb\nc"), "a?b?c");
    }

    #[test]
    fn a_line_inside_of_a_message_is_no_message() {
        let text = "reading: x\nvirt-sandbox: error: all is lost\n  | quoted\n\n";
        let expected = "reading: x\n  virt-sandbox: error: all is lost\n  | quoted\n\n";
        assert_eq!(printable_message(text), expected);
        assert_eq!(printable_message("a\rb"), "a?b");
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({"a": "\u{1b}\u{9b}\u{202e}\u{7f}\u{e0041}é\n"});
        let shown = printable_json(&serde_json::to_string_pretty(&value).unwrap());
        assert_eq!(printable(&shown), shown);
        assert!(
            shown.contains("\\u202e\\u007f\\udb40\\udc41é\\n"),
            "{shown}"
        );
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read, value);
    }
}
