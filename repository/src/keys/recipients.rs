//! To whom everything is encrypted.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use age::plugin::RecipientPluginV1;
use age::stream::StreamWriter;

use super::KeyError;
use super::prompts::{Bridge, KeyPrompts, NoPrompts};

/// At least one recipient, no two the same.
#[derive(Clone)]
pub struct Recipients {
    keys: Vec<Key>,
    prompts: Arc<dyn KeyPrompts>,
}

#[derive(Clone)]
enum Key {
    X25519(age::x25519::Recipient),
    Tag(age::tag::Recipient),
    TagPq(Box<age::tagpq::Recipient>),
    Ssh(age::ssh::Recipient),
    Plugin(age::plugin::Recipient),
}

impl Recipients {
    /// Reads one recipient a line. Errors count lines from 1.
    pub fn parse<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for (index, text) in lines.into_iter().enumerate() {
            let line = index + 1;
            let key =
                Key::parse(text.as_ref().trim()).map_err(|reason| KeyError::BadRecipient { line, reason })?;
            let normal = key.to_string();
            if let Some(first) = seen.iter().position(|other| *other == normal) {
                return Err(KeyError::DuplicateRecipient { line, first: first + 1 });
            }
            seen.push(normal);
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyError::NoRecipients);
        }
        Ok(Self { keys, prompts: Arc::new(NoPrompts) })
    }

    /// Lets plugin recipients ask through `prompts`.
    pub fn with_prompts(mut self, prompts: Arc<dyn KeyPrompts>) -> Self {
        self.prompts = prompts;
        self
    }

    /// The public keys, without comments: what the manifest records.
    pub fn public_lines(&self) -> Vec<String> {
        self.keys.iter().map(Key::to_string).collect()
    }

    /// Begins an age file in `output`. Only [`StreamWriter::finish`] makes it whole.
    pub fn encrypt_writer<W: Write>(&self, output: W) -> Result<StreamWriter<W>, KeyError> {
        let writer = self.encryptor()?.wrap_output(output);
        writer.map_err(|source| KeyError::Encrypt { source: source.into() })
    }

    /// Wraps a new file key for every recipient; a plugin that is missing is noticed here.
    pub fn encryptor(&self) -> Result<age::Encryptor, KeyError> {
        let recipients = self.to_age().map_err(|source| KeyError::Encrypt { source })?;
        age::Encryptor::with_recipients(recipients.iter().map(|r| r.as_ref()))
            .map_err(|source| KeyError::Encrypt { source })
    }

    /// One age recipient a key; plugin keys are grouped, so that each plugin runs once.
    fn to_age(&self) -> Result<Vec<Box<dyn age::Recipient>>, age::EncryptError> {
        let mut recipients: Vec<Box<dyn age::Recipient>> = Vec::new();
        let mut plugins: Vec<age::plugin::Recipient> = Vec::new();
        for key in self.keys.iter().cloned() {
            match key {
                Key::X25519(key) => recipients.push(Box::new(key)),
                Key::Tag(key) => recipients.push(Box::new(key)),
                Key::TagPq(key) => recipients.push(key),
                Key::Ssh(key) => recipients.push(Box::new(key)),
                Key::Plugin(key) => plugins.push(key),
            }
        }
        let mut names: Vec<&str> = plugins.iter().map(age::plugin::Recipient::plugin).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let bridge = Bridge(self.prompts.clone());
            let plugin = RecipientPluginV1::new(name, &plugins, &[], bridge);
            recipients.push(Box::new(plugin.map_err(age::EncryptError::PluginResolve)?));
        }
        Ok(recipients)
    }
}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Recipients").field(&self.public_lines()).finish()
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("AGE-SECRET-KEY-")
            || text.starts_with("AGE-PLUGIN-")
            || text.contains("PRIVATE KEY")
        {
            return Err("this is a secret key, which must not be here".to_owned());
        }
        if text.starts_with("ssh-") {
            let key = text.parse().map(Self::Ssh);
            return key.map_err(|_| format!("{:?} is no ssh key that age can encrypt to", shortened(text)));
        }
        let age = text.parse().map(Self::X25519);
        let age = age.or_else(|_| text.parse().map(Self::Tag));
        let age = age.or_else(|_| text.parse().map(|key| Self::TagPq(Box::new(key))));
        let age = age.or_else(|_| text.parse().map(Self::Plugin));
        age.map_err(|_| format!("{:?} is no recipient", shortened(text)))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X25519(key) => key.fmt(f),
            Self::Tag(key) => key.fmt(f),
            Self::TagPq(key) => key.fmt(f),
            Self::Ssh(key) => key.fmt(f),
            Self::Plugin(key) => key.fmt(f),
        }
    }
}

/// Enough to recognise the line by.
fn shortened(text: &str) -> String {
    text.chars().take(24).collect()
}
