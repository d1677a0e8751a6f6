//! What a message says, in the form that each route takes.

use jiff::Timestamp;
use pgproof_policies::alerts::{Event, Kind, Message, Severity};
use pgproof_policies::names::SourceName;
use pgproof_repository::lease::host_name;
use serde::Serialize;

/// The version of the JSON form. Fields are only ever added to it.
const VERSION: u32 = 1;
/// Longest text that is sent, in characters: the beginning has the cause.
const TEXT_CHARS_MAX: usize = 4000;
const SUBJECT_CHARS_MAX: usize = 200;

/// One message.
#[derive(Debug, Clone, Serialize)]
pub struct Payload {
    version: u32,
    event: Event,
    severity: Severity,
    kind: Option<Kind>,
    source: SourceName,
    host: String,
    since: Timestamp,
    subject: String,
    text: String,
    held_back: usize,
}

impl Payload {
    pub(super) fn of(message: &Message, source: &SourceName) -> Self {
        Self {
            version: VERSION,
            event: message.event,
            severity: message.severity,
            kind: message.kind,
            source: source.clone(),
            host: host_name(),
            since: message.since,
            subject: one_line(&message.subject),
            text: cut(&message.text, TEXT_CHARS_MAX),
            held_back: message.held_back,
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a message has only string keys")
    }

    /// <https://api.slack.com/reference/surfaces/formatting#escaping>: what is escaped mentions nobody.
    pub(super) fn to_slack(&self) -> Vec<u8> {
        let escaped = self.to_text().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (title, rest) = (escaped.lines().next().unwrap_or_default(), escaped.lines().skip(1));
        let text = format!("*{title}*\n{}", rest.collect::<Vec<_>>().join("\n"));
        serde_json::to_vec(&serde_json::json!({ "text": text.trim_end() })).expect("only string keys")
    }

    /// One line: also the subject of a mail.
    pub(super) fn title(&self) -> String {
        let event = match self.event {
            Event::Raised => "",
            Event::Reminder => "still: ",
            Event::Recovered => "",
            Event::Test => "",
        };
        format!("[{}] {}: {event}{}", self.severity, self.source, self.subject)
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.title(), self.text);
        text.push_str(&format!(
            "\nhost {}, since {}\n",
            self.host,
            self.since.strftime("%Y-%m-%d %H:%M:%S UTC")
        ));
        if self.held_back > 0 {
            text.push_str(&format!("and {} more, which `pgproof alert list` shows\n", self.held_back));
        }
        text
    }
}

/// Nothing that ends a line, so that no text of a server becomes a header of its own.
fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    cut(&plain, SUBJECT_CHARS_MAX)
}

fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} …", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_somebody_elses_forges_no_header_and_mentions_nobody() {
        let message = Message {
            route: "r".to_owned(),
            event: Event::Reminder,
            severity: Severity::P1,
            kind: Some(Kind::RunFailed),
            key: "run_failed".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            subject: "no backup\r\nBcc: everybody@example.org".to_owned(),
            text: "<!channel> & <https://example.org|click>".to_owned(),
            held_back: 3,
        };
        let payload = Payload::of(&message, &"app".parse().unwrap());
        assert_eq!(payload.title(), "[P1] app: still: no backup  Bcc: everybody@example.org");
        let slack = String::from_utf8(payload.to_slack()).unwrap();
        assert!(slack.contains("&lt;!channel&gt; &amp; &lt;https") && !slack.contains("<!"), "{slack}");
        assert!(payload.to_text().contains("and 3 more"));
        let json: serde_json::Value = serde_json::from_slice(&payload.to_json()).unwrap();
        assert_eq!((json["severity"].as_str(), json["event"].as_str()), (Some("P1"), Some("reminder")));
        let long = Message { text: "ä".repeat(5000), ..message };
        assert!(Payload::of(&long, &"app".parse().unwrap()).text.chars().count() < 4010);
    }
}
