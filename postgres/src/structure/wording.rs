//! What an expression says, whatever its parentheses and casts.
//!
//! The server words the expressions that it stores anew each time, and a restore may change the wording: of
//! `status in ('a', 'b')` on a varchar column it first makes `(status)::text = ANY ((ARRAY['a'::character varying,
//! 'b'::character varying])::text[])`, and after a dump and a restore `… ANY (ARRAY[('a'::character varying)::text, …])`.
//! So expressions are compared without parentheses, casts and white space. Constants and quoted names stay as they are.

/// Words that may follow the first of a type's name, for types whose names have several.
const FURTHER_WORDS: [&str; 14] = [
    "varying",
    "precision",
    "with",
    "without",
    "time",
    "zone",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "to",
    "local",
];
/// First words of such names.
const FIRST_WORDS: [&str; 6] = ["character", "bit", "double", "timestamp", "time", "interval"];

/// The words, names, constants and operators of `text`.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    let mut parted = false;
    while let Some(next) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("::") {
            rest = after_type(after);
            parted = true;
        } else if next.is_whitespace() || matches!(next, '(' | ')') {
            rest = &rest[next.len_utf8()..];
            parted = true;
        } else {
            if parted && plain.chars().next_back().is_some_and(is_word) && is_word(next) {
                plain.push(' ');
            }
            parted = false;
            let length = match next {
                '\'' => quoted_length(rest, '\'', plain.ends_with('E')),
                '"' => quoted_length(rest, '"', false),
                _ => next.len_utf8(),
            };
            plain.push_str(&rest[..length]);
            rest = &rest[length..];
        }
    }
    plain
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// The length of what begins with a quote, to the quote that ends it. Two quotes are one within.
fn quoted_length(text: &str, quote: char, backslashes: bool) -> usize {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if c == '\\' && backslashes {
            characters.next();
        } else if c == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return at + quote.len_utf8();
        }
    }
    text.len()
}

/// What follows a type's name, its lengths in parentheses and its array brackets.
fn after_type(text: &str) -> &str {
    let (first, mut rest) = name(text);
    if FIRST_WORDS.contains(&first) {
        loop {
            let after = after_parentheses(rest);
            let (word, further) = name(after.trim_start());
            if !after.starts_with(' ') || !FURTHER_WORDS.contains(&word) {
                break;
            }
            rest = further;
        }
    }
    rest = after_parentheses(rest);
    while let Some(after) = rest.strip_prefix("[]") {
        rest = after;
    }
    rest
}

/// A possibly qualified and quoted name, and what follows it.
fn name(text: &str) -> (&str, &str) {
    let mut end = 0;
    while let Some(next) = text[end..].chars().next() {
        end += match next {
            '"' => quoted_length(&text[end..], '"', false),
            c if is_word(c) || c == '.' => c.len_utf8(),
            _ => break,
        };
    }
    text.split_at(end)
}

/// What follows a type's lengths, such as `(10,2)`; all of it if there are none.
fn after_parentheses(text: &str) -> &str {
    let inner = text.strip_prefix('(').and_then(|inner| inner.split_once(')'));
    let digits =
        |inner: &str| inner.bytes().all(|byte| byte.is_ascii_digit() || byte == b',' || byte == b'-');
    inner.filter(|(lengths, _)| digits(lengths)).map_or(text, |(_, after)| after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casts_and_parentheses_do_not_matter() {
        let same = [
            (
                "((status)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[]))",
                "((status)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text]))",
            ),
            ("((a > 1) AND (b < 2)) AND c", "(a > 1) AND (b < 2) AND (c)"),
            ("x::numeric(10,2) + 1", "x + (1)::numeric"),
            ("at::timestamp(3) without time zone AT TIME ZONE 'UTC'", "at AT TIME ZONE 'UTC'::text"),
            ("a::interval day to second(3) < b", "a < b"),
            ("a::\"Odd type\".\"x::y\"[] AND b", "a AND b"),
            ("SELECT a,\n   b\n  FROM t", "SELECT a, b FROM t"),
        ];
        for (one, other) in same {
            assert_eq!(plain(one), plain(other), "{one}");
        }
        assert_eq!(plain("(a)::character varying(40) COLLATE \"C\""), "a COLLATE\"C\"");
    }

    #[test]
    fn constants_names_and_operators_do() {
        let other = [
            ("a > 1", "a > 2"),
            ("a > 1", "a < 1"),
            ("a = 'x (y)'", "a = 'x y'"),
            ("a = 'it''s ::text'", "a = 'it''s '"),
            ("a = E'x\\' ::text'", "a = E'x\\' '"),
            ("\"a b\" > 1", "ab > 1"),
            ("a AND b", "a OR b"),
            ("a", "b"),
        ];
        for (one, other) in other {
            assert_ne!(plain(one), plain(other), "{one}");
        }
    }
}
