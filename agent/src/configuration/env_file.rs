//! Files of `NAME=value` lines, as Compose, shells and systemd read them.

/// Names and values, in order. A value is what stands there, quotes and all: nothing is interpreted, so nothing is lost.
/// Lines that are no assignments are left out.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let assignment = line.strip_prefix("export ").unwrap_or(line).split_once('=');
        let Some((name, value)) = assignment.filter(|(name, _)| is_name(name.trim())) else { continue };
        let mut value = value.trim().to_owned();
        while is_open(&value) {
            let Some(more) = lines.next() else { break };
            value.push('\n');
            value.push_str(more.trim_end());
        }
        variables.push((name.trim().to_owned(), value));
    }
    variables
}

/// <https://pubs.opengroup.org/onlinepubs/9799919799/basedefs/V1_chap03.html#tag_03_216>, and dots, which Java likes.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    name.bytes().all(plain) && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
}

/// Whether a quote that the value begins with is still to be closed.
fn is_open(value: &str) -> bool {
    let Some(quote) = value.chars().next().filter(|first| *first == '"' || *first == '\'') else {
        return false;
    };
    let mut escaped = false;
    for character in value.chars().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if character == quote => return false,
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_kept_as_they_stand() {
        let text = "# comment\n\nA=1\nexport B = \"two words\" \nC='it''s'\nD=a=b # not ours to interpret\n9=no\nnothing\n\
                    KEY=\"-----BEGIN\nline \\\" two\n-----END\"\nE=\nlast=\"open\nto the end";
        let expected = [
            ("A", "1"),
            ("B", "\"two words\""),
            ("C", "'it''s'"),
            ("D", "a=b # not ours to interpret"),
            ("KEY", "\"-----BEGIN\nline \\\" two\n-----END\""),
            ("E", ""),
            ("last", "\"open\nto the end"),
        ];
        assert_eq!(parse(text), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
