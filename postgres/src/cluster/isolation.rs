//! Starting a server where there is no network: in a network namespace of its own, made by `unshare` of util-linux.
//!
//! Sockets with a path lie in the file system and are reached across network namespaces; addresses, ports and abstract
//! sockets are not. The statistics collector of PostgreSQL 14 and older talks over 127.0.0.1, which is down there: such
//! a server runs without it, which a drill does not miss.

use std::process::{Command, Stdio};

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

/// What a server is started through.
#[derive(Debug)]
pub(super) struct Isolation {
    through: &'static [&'static str],
    network: Network,
}

impl Isolation {
    pub(super) fn none() -> Self {
        Self { through: &[], network: Network::Shared }
    }

    /// Tries it with a program that does nothing.
    pub(super) fn probe(as_root: bool) -> Self {
        let through: &[&str] = if as_root { &AS_ROOT } else { &AS_USER };
        let tried = Command::new(PROGRAM).args(through).arg("true").stdin(Stdio::null()).output();
        let reason = match tried {
            Ok(output) if output.status.success() => return Self { through, network: Network::Cut },
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
            Err(error) => format!("cannot run {PROGRAM}: {error}"),
        };
        Self { through: &[], network: Network::NotCut { reason } }
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
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
