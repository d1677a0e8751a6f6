//! Where a process tells how things stand: the address of its health server, the text file for the node exporter.

use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::SignedDuration;

use super::raw::{Report, Table};

/// How often the repository is read for those who ask. Nothing here is younger than a schedule's minutes, and each
/// reading is a few dozen requests per source.
pub const REFRESH_DEFAULT: SignedDuration = SignedDuration::from_mins(5);

/// What `[monitoring]` says for the agent, and `[verifier.monitoring]` for the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitoring {
    /// Where the daemon answers; without it, nowhere.
    pub listen: Option<SocketAddr>,
    pub refresh: SignedDuration,
    /// Written by every run that ends.
    pub textfile: Option<PathBuf>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { listen: None, refresh: REFRESH_DEFAULT, textfile: None }
    }
}

pub(super) fn read(mut table: Table<'_>, report: &mut Report<'_>) -> Monitoring {
    let constraint = "must be an address and a port, such as \"127.0.0.1:9187\"";
    let listen = table.converted("listen", constraint, report, |text| text.parse::<SocketAddr>().ok());
    // The reason is for whoever reads the policy; that there is one is what counts.
    let reason = table.text("public_listen_reason", report);
    if let Some(public) = listen.as_ref().filter(|field| !field.value.ip().is_loopback() && reason.is_none())
    {
        let constraint = "must be a loopback address, since whoever reaches it learns names and times of all \
                          sources, unless `public_listen_reason` says why not";
        report.refuse(public, constraint, Some(public.value.to_string()));
    }
    let refresh = table.duration("refresh", report).unwrap_or(REFRESH_DEFAULT);
    let textfile = table.path("textfile", report);
    table.finish(report);
    Monitoring { listen: listen.map(|field| field.value), refresh, textfile }
}
