//! Who may look: everybody who reaches a loopback address under one of its own names, or who has the token.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, header};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use pgproof_repository::private_file::is_private;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// A token that somebody could guess in a lifetime is none: 20 letters and digits are 100 bits and more.
const TOKEN_CHARS_MIN: usize = 20;
const TOKEN_BYTES_MAX: u64 = 4096;
/// Wrong tokens are answered one after another, each after so long. That none is guessed is for the token's length to see to;
/// this keeps the log of a guesser short.
const PAUSE_AFTER_WRONG: Duration = Duration::from_secs(1);
/// Wrong tries that wait for their turn; further ones are sent away.
const WAITING_MAX: usize = 16;
/// A working day.
const SESSION: Duration = Duration::from_secs(12 * 3600);
/// Sessions at the same time; of more, the one that would end first ends.
const SESSIONS_MAX: usize = 256;
const COOKIE: &str = "pgproof_session";

/// What somebody shows who may look. Neither `Debug` nor anything else gives it back.
pub(crate) struct Token {
    /// Of this process, so that what is compared tells nothing of the token.
    key: [u8; 32],
    mac: Vec<u8>,
}

/// Whom pages are shown to.
#[derive(Debug)]
pub(crate) enum Access {
    Everybody,
    WithToken(Guard),
}

/// The token, and those who have shown it.
#[derive(Debug)]
pub(crate) struct Guard {
    token: Token,
    /// One wrong try at a time, with the pause after it.
    turn: Semaphore,
    waiting: Semaphore,
    /// By the hashes of their cookies, with their ends.
    sessions: Mutex<HashMap<[u8; 32], Instant>>,
}

/// What came of asking for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entrance {
    Open,
    /// `wrong` where something was shown and is not the token.
    Closed {
        wrong: bool,
    },
    Crowded,
}

/// Names under which this server may be asked. On a loopback address a page of another site could have its own name point
/// here, and read what this machine's user may (DNS rebinding).
#[derive(Debug)]
pub(crate) struct Hosts(Option<BTreeSet<String>>);

impl Token {
    /// The first line of a file that only its owner can read, or root's that a group may read, too.
    pub(crate) fn read(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::File { path: path.to_owned(), source };
        let file = File::open(path).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        let mode = metadata.mode() & 0o7777;
        if !is_private(mode, metadata.uid()) {
            return Err(TokenError::FileTooOpen { path: path.to_owned(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        Self::of(text.lines().next().unwrap_or_default())
    }

    pub(crate) fn of(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.chars().count() < TOKEN_CHARS_MIN {
            return Err(TokenError::TooShort);
        }
        let key: [u8; 32] = rand::random();
        Ok(Self { key, mac: keyed(&key, text).finalize().into_bytes().to_vec() })
    }

    /// In a time that does not depend on where they differ.
    fn is(&self, shown: &str) -> bool {
        keyed(&self.key, shown).verify_slice(&self.mac).is_ok()
    }
}

fn keyed(key: &[u8], text: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    mac.update(text.as_bytes());
    mac
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Access {
    pub(crate) fn with_token(token: Token) -> Self {
        Self::WithToken(Guard {
            token,
            turn: Semaphore::new(1),
            waiting: Semaphore::new(WAITING_MAX),
            sessions: Mutex::new(HashMap::new()),
        })
    }

    /// Whether a page is shown to who sent these headers: by a session's cookie, or by the token as programs show it.
    pub(super) async fn entrance(&self, headers: &HeaderMap) -> Entrance {
        let Self::WithToken(guard) = self else { return Entrance::Open };
        if guard.has_session(headers) {
            return Entrance::Open;
        }
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        match shown.and_then(|shown| shown.strip_prefix("Bearer ")) {
            Some(shown) => guard.try_token(shown.trim()).await,
            None => Entrance::Closed { wrong: false },
        }
    }

    pub(super) async fn log_in(&self, shown: &str) -> Entrance {
        match self {
            Self::Everybody => Entrance::Open,
            Self::WithToken(guard) => guard.try_token(shown).await,
        }
    }

    /// The cookie of a new session; `None` where nobody needs one.
    pub(super) fn new_session(&self, is_encrypted: bool) -> Option<HeaderValue> {
        let Self::WithToken(guard) = self else { return None };
        let id = HEXLOWER.encode(&rand::random::<[u8; 32]>());
        guard.begin(&id);
        let secure = if is_encrypted { "; Secure" } else { "" };
        let lasts = SESSION.as_secs();
        let cookie = format!("{COOKIE}={id}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}");
        Some(HeaderValue::try_from(cookie).expect("a cookie is plain text"))
    }

    pub(super) fn has_session(&self, headers: &HeaderMap) -> bool {
        matches!(self, Self::WithToken(guard) if guard.has_session(headers))
    }

    pub(super) fn end_session(&self, headers: &HeaderMap) {
        if let (Self::WithToken(guard), Some(id)) = (self, cookie(headers)) {
            guard.sessions.lock().expect("no holder of this lock panics").remove(&hash(id));
        }
    }
}

impl Guard {
    /// The right one opens at once: whoever tries wrong ones must not lock others out.
    async fn try_token(&self, shown: &str) -> Entrance {
        if self.token.is(shown) {
            return Entrance::Open;
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Entrance::Crowded };
        let Ok(_turn) = self.turn.acquire().await else { return Entrance::Crowded };
        tracing::warn!("a wrong token was shown");
        // With the turn in hand, so that the log of many who try at once is as short as that of one.
        tokio::time::sleep(PAUSE_AFTER_WRONG).await;
        Entrance::Closed { wrong: true }
    }

    fn begin(&self, id: &str) {
        let now = Instant::now();
        let mut sessions = self.sessions.lock().expect("no holder of this lock panics");
        sessions.retain(|_, until| *until > now);
        if sessions.len() >= SESSIONS_MAX {
            let first = sessions.iter().min_by_key(|(_, until)| **until).map(|(id, _)| *id);
            first.and_then(|first| sessions.remove(&first));
        }
        sessions.insert(hash(id), now + SESSION);
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        let Some(id) = cookie(headers) else { return false };
        let sessions = self.sessions.lock().expect("no holder of this lock panics");
        sessions.get(&hash(id)).is_some_and(|until| *until > Instant::now())
    }
}

/// What a session is known by here: its cookie cannot be made of it.
fn hash(id: &str) -> [u8; 32] {
    Sha256::digest(id.as_bytes()).into()
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

pub(super) fn ended_cookie() -> HeaderValue {
    let cookie = format!("{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict");
    HeaderValue::try_from(cookie).expect("a cookie is plain text")
}

/// Whether a form comes from one of our pages. Browsers say so; what says nothing is no browser of these days, and the
/// token is asked for all the same.
pub(super) fn is_from_here(headers: &HeaderMap) -> bool {
    headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin")
}

/// Whether a proxy before this server says that it was reached by TLS. Whoever lies gets a cookie that is sent less often.
pub(super) fn is_behind_tls(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https")
}

/// A path of this site, or else its first page: never an address elsewhere.
pub(super) fn local(path: &str) -> &str {
    let mut letters = path.bytes();
    let is_here = letters.next() == Some(b'/') && !matches!(letters.next(), Some(b'/' | b'\\'));
    if is_here && path.bytes().all(|byte| byte.is_ascii_graphic()) { path } else { "/" }
}

impl Hosts {
    /// On other addresses than loopback any name will do, unless some are given.
    pub(crate) fn of(address: SocketAddr, given: &[String]) -> Self {
        if !address.ip().is_loopback() && given.is_empty() {
            return Self(None);
        }
        let own = match address.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let usual = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        Self(Some(
            usual.into_iter().chain([own]).chain(given.iter().map(|name| name.to_lowercase())).collect(),
        ))
    }

    pub(super) fn admit(&self, headers: &HeaderMap) -> bool {
        let Self(Some(names)) = self else { return true };
        let mut hosts = headers.get_all(header::HOST).into_iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let Ok(host) = host.to_str() else { return false };
        names.contains(&without_port(host).to_lowercase())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("token file {} cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("token file {} can be read by others: its mode is {mode:04o}", path.display())]
    FileTooOpen { path: PathBuf, mode: u32 },
    #[error("token has fewer than {TOKEN_CHARS_MIN} characters")]
    TooShort,
}

impl TokenError {
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::File { .. } | Self::TooShort => {
                "make one: (umask 077; openssl rand -hex 24 > FILE), and give it to those who may look"
            }
            Self::FileTooOpen { .. } => "chmod 600 it; root's may be 640, for the service's group",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn shown(token: &str) -> HeaderMap {
        headers(&[(header::AUTHORIZATION, &format!("Bearer {token}"))])
    }

    #[test]
    fn short_tokens_and_open_files_are_refused() {
        use std::os::unix::fs::PermissionsExt;
        assert!(matches!(Token::of("hunter2"), Err(TokenError::TooShort)));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
        assert!(Token::read(file.path()).unwrap().is(TOKEN));
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Token::read(file.path()), Err(TokenError::FileTooOpen { mode: 0o644, .. })));
        assert_eq!(format!("{:?}", Access::with_token(Token::of(TOKEN).unwrap())).matches("0123").count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_tokens_take_turns_and_a_crowd_is_sent_away() {
        let access = Access::with_token(Token::of(TOKEN).unwrap());
        let began = Instant::now();
        let wrong = shown("0123456789abcdef0123456789abcdeX");
        let tries = futures::future::join_all((0..WAITING_MAX + 4).map(|_| access.entrance(&wrong)));
        let right = shown(TOKEN);
        let right = async {
            // Once all others wait.
            tokio::time::sleep(PAUSE_AFTER_WRONG / 2).await;
            (access.entrance(&right).await, began.elapsed())
        };
        let (tries, (entered, after)) = tokio::join!(tries, right);
        assert!(entered == Entrance::Open && after < PAUSE_AFTER_WRONG, "{entered:?} after {after:?}");
        let crowded = tries.iter().filter(|it| **it == Entrance::Crowded).count();
        assert_eq!(crowded, 4);
        assert!(began.elapsed() >= PAUSE_AFTER_WRONG * WAITING_MAX as u32);
        let began = Instant::now();
        assert_eq!(access.entrance(&shown(TOKEN)).await, Entrance::Open);
        assert_eq!(access.entrance(&HeaderMap::new()).await, Entrance::Closed { wrong: false });
        assert!(began.elapsed() < PAUSE_AFTER_WRONG);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_opens_until_it_ends() {
        let access = Access::with_token(Token::of(TOKEN).unwrap());
        let cookie = access.new_session(false).unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains("Secure"), "{cookie}");
        assert!(access.new_session(true).unwrap().to_str().unwrap().ends_with("; Secure"));
        let sent = headers(&[(header::COOKIE, &format!("other=1; {}", cookie.split(';').next().unwrap()))]);
        assert_eq!(access.entrance(&sent).await, Entrance::Open);
        let forged = headers(&[(header::COOKIE, &format!("{COOKIE}={}", "0".repeat(64)))]);
        assert_eq!(access.entrance(&forged).await, Entrance::Closed { wrong: false });
        access.end_session(&sent);
        assert!(!access.has_session(&sent));
        let later = access.new_session(false).unwrap();
        let sent = headers(&[(header::COOKIE, later.to_str().unwrap().split(';').next().unwrap())]);
        tokio::time::advance(SESSION).await;
        assert!(!access.has_session(&sent));
    }

    #[test]
    fn names_of_other_sites_are_not_admitted() {
        let host = |name: &str| headers(&[(header::HOST, name)]);
        let loopback = Hosts::of("127.0.0.1:8431".parse().unwrap(), &["Proofs.example".to_owned()]);
        for good in ["localhost:8431", "LOCALHOST", "127.0.0.1:1", "[::1]:8431", "proofs.example"] {
            assert!(loopback.admit(&host(good)), "{good}");
        }
        for bad in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "localhost:evil"]
        {
            assert!(!loopback.admit(&host(bad)), "{bad}");
        }
        assert!(!loopback.admit(&HeaderMap::new()));
        assert!(Hosts::of("192.0.2.1:80".parse().unwrap(), &[]).admit(&host("any")));
    }

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(local("/sources/app?x=1"), "/sources/app?x=1");
        for bad in [
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "",
            "/a\r\nset-cookie: x",
            "javascript:1",
        ] {
            assert_eq!(local(bad), "/", "{bad:?}");
        }
    }
}
