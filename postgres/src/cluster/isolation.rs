//! What keeps a private server from reaching anything: an account of its own, a network namespace of its own, made by
//! `unshare` of util-linux, in which there is no network, and rules that close everybody else's files ([`confinement`]).
//!
//! Sockets with a path lie in the file system and are reached across network namespaces; addresses, ports and abstract
//! sockets are not. The statistics collector of PostgreSQL 14 and older talks over 127.0.0.1, which is down there: such
//! a server runs without it, which a drill does not miss.
//!
//! [`confinement`]: super::confinement

use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::confinement::{Confinement, ConfinementError, Files};
use super::{Account, command};
use crate::disclosure;

const PROGRAM: &str = "unshare";
/// As root: before the account is changed.
const AS_ROOT: [&str; 2] = ["--net", "--"];
/// As an ordinary user, who may do so only in a user namespace, in which it stays who it is.
const AS_USER: [&str; 4] = ["--user", "--map-current-user", "--net", "--"];

/// Whether a server can reach anything over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// It has the machine's network, as nothing else was asked for.
    Shared,
    /// There is none where it runs.
    Cut,
    /// It has the machine's network, though it was to have none.
    NotCut { reason: String },
}

/// What a server is kept from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Isolation {
    /// The account that the server runs under, where it is not our own.
    pub account_name: Option<String>,
    pub network: Network,
    pub files: Files,
}

impl Isolation {
    /// Why a server, and so whoever made the database in it, can read whatever we can; absent where it cannot.
    pub fn exposure(&self) -> Option<&str> {
        match (&self.account_name, &self.files) {
            (Some(_), _) | (None, Files::Confined) => None,
            (None, Files::Shared) => Some("its files are not confined"),
            (None, Files::NotConfined { reason }) => Some(reason),
        }
    }
}

/// What a server is started through.
#[derive(Debug)]
pub(super) struct Enclosure {
    through: &'static [&'static str],
    network: Network,
    confinement: Option<Confinement>,
    files: Files,
}

impl Enclosure {
    pub(super) fn none() -> Self {
        Self { through: &[], network: Network::Shared, confinement: None, files: Files::Shared }
    }

    /// Tries everything with programs that do nothing.
    pub(super) fn probe(bin_dir: &Path, account: Option<Account>, own: &Path) -> Self {
        let mut enclosure = Self::none();
        let confinement = Confinement::new(own, bin_dir, account.is_none());
        let mut server = command(&bin_dir.join("postgres"), account, own);
        match confinement.within(|| succeeds(server.arg("--version"))) {
            Ok(Ok(())) => (enclosure.confinement, enclosure.files) = (Some(confinement), Files::Confined),
            Ok(Err(reason)) => enclosure.files = Files::NotConfined { reason },
            Err(error) => enclosure.files = Files::NotConfined { reason: disclosure::told(&error) },
        }
        let through: &[&str] = if account.is_some() { &AS_ROOT } else { &AS_USER };
        let tried = enclosure
            .within(|| succeeds(Command::new(PROGRAM).args(through).arg("true").stdin(Stdio::null())))
            .unwrap_or_else(|error| Err(disclosure::told(&error)));
        match tried {
            Ok(()) => (enclosure.through, enclosure.network) = (through, Network::Cut),
            Err(reason) => enclosure.network = Network::NotCut { reason },
        }
        enclosure
    }

    pub(super) fn isolation(&self, account_name: Option<String>) -> Isolation {
        Isolation { account_name, network: self.network.clone(), files: self.files.clone() }
    }

    /// Does this where a server is started.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, ConfinementError> {
        match &self.confinement {
            Some(confinement) => confinement.within(work),
            None => Ok(work()),
        }
    }

    /// The same command, started where this says.
    pub(super) fn around(&self, command: Command) -> Command {
        if self.through.is_empty() {
            return command;
        }
        let mut outer = Command::new(PROGRAM);
        outer.args(self.through).arg(command.get_program()).args(command.get_args()).env_clear();
        outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = command.get_current_dir() {
            outer.current_dir(directory);
        }
        outer.stdin(Stdio::null());
        outer
    }
}

/// What a program says that fails.
fn succeeds(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { status, stderr, .. }) => {
            let said = String::from_utf8_lossy(&stderr).trim().replace('\n', "; ");
            Err(if said.is_empty() { status.to_string() } else { said })
        }
        Err(error) => Err(format!("cannot run {}: {error}", command.get_program().display())),
    }
}
