//! Asking a person, where there is one.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use secrecy::SecretString;

/// What protected identities and plugins ask for. `None` means that nobody answers.
pub trait KeyPrompts: fmt::Debug + Send + Sync {
    /// Something to tell, such as "touch the key".
    fn message(&self, text: &str);

    /// A passphrase or PIN.
    fn passphrase(&self, description: &str) -> Option<SecretString>;

    /// A choice between `yes` and `no`.
    fn confirm(&self, _question: &str, _yes: &str, _no: Option<&str>) -> Option<bool> {
        None
    }

    /// Text that is no secret.
    fn public_text(&self, _description: &str) -> Option<String> {
        None
    }
}

/// Unattended: messages are logged, questions stay unanswered.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPrompts;

impl KeyPrompts for NoPrompts {
    fn message(&self, text: &str) {
        tracing::info!(message = text, "an age plugin says");
    }

    fn passphrase(&self, _description: &str) -> Option<SecretString> {
        None
    }
}

/// Somebody at the terminal, where there is one.
#[derive(Debug, Clone, Copy, Default)]
pub struct TerminalPrompts;

impl KeyPrompts for TerminalPrompts {
    fn message(&self, text: &str) {
        // Where nobody reads it, the key is not touched, and its plugin says so.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    fn passphrase(&self, description: &str) -> Option<SecretString> {
        let ask = || rpassword::prompt_password(format!("{description}: ")).ok();
        std::io::stdin().is_terminal().then(ask)?.map(Into::into)
    }
}

/// Gives prompts the form in which age takes them.
#[derive(Clone)]
pub(super) struct Bridge(pub(super) Arc<dyn KeyPrompts>);

impl age::Callbacks for Bridge {
    fn display_message(&self, message: &str) {
        self.0.message(message);
    }

    fn confirm(&self, message: &str, yes: &str, no: Option<&str>) -> Option<bool> {
        self.0.confirm(message, yes, no)
    }

    fn request_public_string(&self, description: &str) -> Option<String> {
        self.0.public_text(description)
    }

    fn request_passphrase(&self, description: &str) -> Option<SecretString> {
        self.0.passphrase(description)
    }
}
