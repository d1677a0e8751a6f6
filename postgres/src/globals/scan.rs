//! Cutting SQL text into statements and tokens: quotes, escapes, dollar quotes, comments.

/// A statement without its semicolon.
pub(super) struct Scanned<'a> {
    pub(super) text: &'a str,
    pub(super) tokens: Vec<Token>,
}

/// A word, a quoted name, a string, a number, or one character of anything else, as it stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
}

impl Token {
    /// A bare word, in capitals.
    pub(super) fn keyword(&self) -> Option<String> {
        self.text.starts_with(is_word_start).then(|| self.text.to_uppercase())
    }

    /// The name that this stands for: a bare word folded to small letters, or what is inside the quotes.
    pub(super) fn name(&self) -> Option<String> {
        match self.text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
            Some(inside) => Some(inside.replace("\"\"", "\"")),
            None => self.text.starts_with(is_word_start).then(|| self.text.to_lowercase()),
        }
    }
}

/// The statements of a text, in order. What cannot be cut, or starts with a backslash and is not on the list of
/// commands to be left out, comes as `Err` with its text. Nothing after it can be trusted, so it ends the sequence.
pub(super) fn statements(text: &str) -> Vec<Result<Scanned<'_>, &str>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blank(rest);
        if rest.is_empty() {
            return found;
        }
        if rest.starts_with('\\') {
            let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
            if !is_restriction(line) {
                found.push(Err(line));
                return found;
            }
            rest = after;
            continue;
        }
        match one(rest) {
            Some((statement, after)) => {
                if !statement.tokens.is_empty() {
                    found.push(Ok(statement));
                }
                rest = after;
            }
            None => {
                found.push(Err(rest));
                return found;
            }
        }
    }
}

/// The statement with every string after PASSWORD hidden.
pub(super) fn without_password(sql: &str) -> String {
    let mut shown = String::with_capacity(sql.len());
    let mut rest = sql;
    let mut hide = false;
    while !rest.is_empty() {
        let blank = rest.len() - skip_blank(rest).len();
        shown.push_str(&rest[..blank]);
        rest = &rest[blank..];
        let Some(length) = token_length(rest) else {
            // A quote without its end: what it hides is not known, so nothing of it is shown.
            shown.push('…');
            break;
        };
        let token = &rest[..length];
        let is_string = token.ends_with('\'') || token.starts_with('$');
        shown.push_str(if hide && is_string { "'…'" } else { token });
        hide =
            token.eq_ignore_ascii_case("PASSWORD") || (hide && !is_string && token.eq_ignore_ascii_case("E"));
        rest = &rest[length..];
    }
    shown
}

/// `\restrict key` and `\unrestrict key`, and nothing behind the key.
fn is_restriction(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let known = matches!(words.next(), Some("\\restrict" | "\\unrestrict"));
    let plain = words.next().is_some_and(|key| key.bytes().all(|b| b.is_ascii_alphanumeric()));
    known && plain && words.next().is_none()
}

fn one(text: &str) -> Option<(Scanned<'_>, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = skip_blank(rest);
        let length = token_length(rest)?;
        let (token, after) = rest.split_at(length);
        if token == ";" {
            let end = text.len() - rest.len();
            return Some((Scanned { text: text[..end].trim_end(), tokens }, after));
        }
        // psql takes a backslash anywhere outside of quotes as its own; SQL has no use for one.
        if token == "\\" {
            return None;
        }
        tokens.push(Token { text: token.to_owned() });
        rest = after;
    }
}

/// Bytes of the token at the start; `None` if the text is at its end, or the token has none.
fn token_length(text: &str) -> Option<usize> {
    let mut characters = text.chars();
    match characters.next()? {
        '\'' => quoted(text, 0, '\'', false),
        '"' => quoted(text, 0, '"', false),
        'e' | 'E' if text[1..].starts_with('\'') => quoted(text, 1, '\'', true),
        '$' => dollar_quoted(text),
        c if is_word_start(c) || c.is_ascii_digit() => Some(
            text.find(|c: char| !is_word_start(c) && !c.is_ascii_digit() && c != '$').unwrap_or(text.len()),
        ),
        c => Some(c.len_utf8()),
    }
}

fn quoted(text: &str, open: usize, quote: char, backslash_escapes: bool) -> Option<usize> {
    let mut characters = text.char_indices().skip(open + 1).peekable();
    while let Some((at, c)) = characters.next() {
        if backslash_escapes && c == '\\' {
            characters.next()?;
        } else if c == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

fn dollar_quoted(text: &str) -> Option<usize> {
    let tag_end = text[1..].find('$')? + 2;
    let tag = &text[..tag_end];
    let inside = &tag[1..tag.len() - 1];
    let is_tag = !inside.starts_with(|c: char| c.is_ascii_digit())
        && inside.chars().all(|c| is_word_start(c) || c.is_ascii_digit());
    if !is_tag {
        return Some(1);
    }
    text[tag_end..].find(tag).map(|at| tag_end + at + tag.len())
}

/// Skips white space and comments; a comment without its end takes all that is left.
fn skip_blank(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        if text.starts_with("--") {
            text = text.split_once('\n').map_or("", |(_, after)| after);
        } else if text.starts_with("/*") {
            text = skip_block_comment(text);
        } else {
            return text;
        }
    }
}

fn skip_block_comment(text: &str) -> &str {
    let mut depth = 0_usize;
    let mut rest = text;
    loop {
        let Some(at) = rest.find(['/', '*']) else { return "" };
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("/*") {
            (depth, rest) = (depth + 1, after);
        } else if let Some(after) = rest.strip_prefix("*/") {
            (depth, rest) = (depth - 1, after);
            if depth == 0 {
                return rest;
            }
        } else {
            rest = &rest[1..];
        }
    }
}

fn is_word_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}
