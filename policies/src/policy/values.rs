//! Texts of a policy file that stand for something: durations, schedules, connections, recipients.

use jiff::{SignedDuration, Span, SpanRelativeTo, fmt::friendly::SpanParser, tz::TimeZone};

use crate::schedule::Schedule;

pub(super) const DURATION: &str = "must be a duration such as \"90s\", \"5m\", \"1h\" or \"7d\"";
pub(super) const SCHEDULE: &str =
    "must be five cron fields (minute, hour, day, month, weekday) that come true some day";
pub(super) const ZONE: &str = "must be the name of a time zone such as \"Europe/Berlin\"";

/// More than nothing; a day is 24 hours. Months and years have no fixed length and are refused.
pub(super) fn duration(text: &str) -> Option<SignedDuration> {
    let span: Span = SpanParser::new().parse_span(text.trim()).ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    duration.is_positive().then_some(duration)
}

pub(super) fn schedule(text: &str) -> Option<String> {
    text.parse::<Schedule>().ok().map(|schedule| schedule.to_string())
}

pub(super) fn zone(text: &str) -> Option<String> {
    TimeZone::get(text).ok().map(|_| text.to_owned())
}

/// Whether a line looks like something age can encrypt to. The key itself is checked where it is used.
pub(super) fn is_recipient(line: &str) -> bool {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("ssh-ed25519" | "ssh-rsa"), Some(key)) => key.starts_with("AAAA"),
        (Some(key), None) => {
            key.len() > "age1".len()
                && key.starts_with("age1")
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        }
        _ => false,
    }
}

/// The part of a recipient line that makes the key, without the comment.
pub(super) fn recipient_key(line: &str) -> String {
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// What is wrong with a connection URI, if anything. The text may hold a password, so it is never repeated.
pub(super) fn connection_problem(uri: &str) -> Option<&'static str> {
    let Some(rest) = uri.strip_prefix("postgresql://").or_else(|| uri.strip_prefix("postgres://")) else {
        return Some("must start with postgresql://");
    };
    if uri.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Some("must hold no white space");
    }
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = address.rsplit_once('@').map_or("", |(user, _)| user);
    let secret = |pair: &str| {
        let key = percent_decoded(pair.split('=').next().unwrap_or_default()).to_ascii_lowercase();
        key == "password" || key == "sslpassword"
    };
    if user.contains(':') || query.split('&').any(secret) {
        return Some("must hold no password, name a `password_file` instead");
    }
    None
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(code) => {
                decoded.push(char::from(code));
                decoded.push_str(&part[2..]);
            }
            None => decoded.push_str(part),
        }
    }
    decoded
}

/// An endpoint of a store, as far as its safety is concerned.
pub(super) enum Endpoint {
    Safe,
    /// Whoever is between can read and change everything that is not sealed.
    PlainToAnotherHost,
    Malformed,
}

pub(super) fn endpoint(text: &str) -> Endpoint {
    let (plain, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Endpoint::Malformed,
    };
    let host_and_port = rest.trim_end_matches('/');
    let odd = |letter: char| letter.is_whitespace() || letter.is_control() || "@/?#".contains(letter);
    if host_and_port.is_empty() || host_and_port.contains(odd) {
        return Endpoint::Malformed;
    }
    if plain && !is_loopback(host_and_port) { Endpoint::PlainToAnotherHost } else { Endpoint::Safe }
}

fn is_loopback(host_and_port: &str) -> bool {
    let host = match host_and_port.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => host_and_port,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let by_address = address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    host.eq_ignore_ascii_case("localhost") || by_address
}
