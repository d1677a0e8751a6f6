//! Where a password comes from: the policy's file, the service, the environment, a `.pgpass`. Nobody is ever asked.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pgproof_repository::private_file::is_private;
use secrecy::SecretString;

use super::ConnectionError;

/// What a line of a password file is matched against.
pub(super) struct Account<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

/// The password in a file that the operator named: lines as in `.pgpass`, or the password alone on one line.
/// Every reason for not finding one is an error, for it was asked for.
pub(super) fn from_named_file(path: &Path, account: &Account<'_>) -> Result<SecretString, ConnectionError> {
    let text = read_private(path)?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let password = match lines.as_slice() {
        [only] if split_fields(only).len() < 5 => Some((*only).to_owned()),
        _ => find(&text, account),
    };
    password.map(SecretString::from).ok_or_else(|| ConnectionError::NoPassword { path: path.to_owned() })
}

/// The password in a file that libpq would consult by itself; as there, an absent or open file counts for nothing.
pub(super) fn from_usual_file(path: &Path, account: &Account<'_>) -> Option<SecretString> {
    match read_private(path) {
        Ok(text) => find(&text, account).map(SecretString::from),
        Err(ConnectionError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), "password file ignored: {error}");
            None
        }
    }
}

/// A line of a password file that matches every connection.
pub(super) fn line_for_all(password: &str) -> String {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:*:{escaped}\n")
}

fn read_private(path: &Path) -> Result<String, ConnectionError> {
    let failed = |source| ConnectionError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file")));
    }
    if !is_private(metadata.mode(), metadata.uid()) {
        return Err(ConnectionError::OpenFile { path: path.to_owned() });
    }
    fs::read_to_string(path).map_err(failed)
}

fn find(text: &str, account: &Account<'_>) -> Option<String> {
    let port = account.port.to_string();
    let wanted = [account.host, port.as_str(), account.database, account.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = split_fields(line);
        let matches = fields.len() == 5
            && fields.iter().zip(wanted).all(|(field, want)| field.0 == "*" || field.1 == want);
        matches.then(|| fields.swap_remove(4).1)
    })
}

/// The five fields of a line, each as it stands and with its escapes undone; the last takes all that is left.
fn split_fields(line: &str) -> Vec<(String, String)> {
    let mut fields = vec![(String::new(), String::new())];
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        if c == ':' && fields.len() < 5 {
            fields.push(Default::default());
            continue;
        }
        let (raw, plain) = fields.last_mut().expect("starts with one");
        raw.push(c);
        if c == '\\' {
            let Some(escaped) = characters.next() else { break };
            raw.push(escaped);
            plain.push(escaped);
        } else {
            plain.push(c);
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;
    use std::os::unix::fs::PermissionsExt;

    const ACCOUNT: Account<'static> = Account { host: "db", port: 5432, database: "app", user: "backup" };

    fn file(text: &str, mode: u32) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn named(text: &str) -> Result<String, String> {
        let file = file(text, 0o600);
        from_named_file(file.path(), &ACCOUNT)
            .map(|p| p.expose_secret().to_owned())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_first_matching_line_wins() {
        let text = "# comment\nother:5432:app:backup:no\n*:*:app:backup:a\\:b\\\\c:d\n*:*:*:*:late\n";
        assert_eq!(named(text).as_deref(), Ok("a:b\\c:d"));
        assert!(named("other:5432:app:backup:no\n").unwrap_err().contains("no password"));
    }

    #[test]
    fn a_password_alone_on_a_line_is_taken() {
        assert_eq!(named("hunter2\n").as_deref(), Ok("hunter2"));
        assert_eq!(named("with:colons\\in\n").as_deref(), Ok("with:colons\\in"));
        assert!(named("").is_err());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_when_named_and_ignored_when_not() {
        let file = file("*:*:*:*:p\n", 0o660);
        let error = from_named_file(file.path(), &ACCOUNT).unwrap_err();
        assert!(error.to_string().contains("readable by others"), "{error}");
        assert!(from_usual_file(file.path(), &ACCOUNT).is_none());
    }

    #[test]
    fn a_line_for_all_is_read_back() {
        for password in ["simple", "a:b", "c\\d", ":\\:\\", "ü  "] {
            assert_eq!(named(&line_for_all(password)).as_deref(), Ok(password));
        }
    }
}
