//! `pgproof-verifier serve`: pages for reviewers.

use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use pgproof_monitoring::answer;
use pgproof_monitoring::server;
use pgproof_monitoring::service_manager::ServiceManager;
use pgproof_monitoring::survey::{PATIENCE, Subject};
use pgproof_repository::access::LoadedPolicy;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::failure::{self, Exit, Failure};
use crate::serve::{self, Access, Bucket, Hosts, Site, Token};

/// Where the token may stand in place of a file. Never on the command line, which others see.
const TOKEN_VARIABLE: &str = "PGPROOF_SERVE_TOKEN";

pub(crate) async fn run(
    policy: &Path,
    args: cli::Serve,
    cancel: CancellationToken,
) -> anyhow::Result<ExitCode> {
    let access = access(&args)?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (shown, bucket) = watch::channel(Arc::new(open(policy).await?));
    let cannot = || format!("pages cannot be served on {}", args.listen);
    let listener = TcpListener::bind(args.listen).await.with_context(cannot)?;
    let address = listener.local_addr().with_context(cannot)?;
    let hosts = Hosts::of(address, &args.host);
    answer::say(&format!("serving http://{address}/"))?;
    let mut manager = ServiceManager::of_this_process();
    manager.ready();
    let serving = server::serve(listener, serve::router(Site { bucket, access, hosts }), cancel.clone());
    let mut serving = pin!(serving);
    loop {
        tokio::select! {
            () = manager.alive_during(serving.as_mut()) => break,
            _ = hangup.recv() => reload(policy, &shown, &mut manager).await,
        }
    }
    manager.stopping();
    Ok(ExitCode::SUCCESS)
}

/// Takes the policy as it is now, or goes on with the one in force when it is wrong.
async fn reload(policy: &Path, shown: &watch::Sender<Arc<Bucket>>, manager: &mut ServiceManager) {
    manager.reloading();
    match open(policy).await {
        Ok(bucket) => {
            shown.send_replace(Arc::new(bucket));
            tracing::info!("the policy was read again");
        }
        Err(error) => {
            failure::report(&error, false);
            tracing::warn!("the policy that was in force stays in force");
        }
    }
    manager.ready();
}

/// A bucket may be out of reach: pages say so then, and go on when it is back.
async fn open(policy: &Path) -> anyhow::Result<Bucket> {
    let loaded = LoadedPolicy::read(policy)?.for_verifier();
    let signers = loaded.trusted_signers()?;
    let store = loaded.open_store_to_watch(PATIENCE).await?;
    let subject = Subject::new(store.clone(), signers.clone(), &loaded.policy, Timestamp::now());
    let names = loaded.policy.sources.keys().cloned().collect();
    Ok(Bucket::new(subject, store, signers, names))
}

/// On another address than loopback nobody is shown anything without the token, unless somebody says so aloud.
fn access(args: &cli::Serve) -> anyhow::Result<Access> {
    let in_environment = std::env::var(TOKEN_VARIABLE).ok();
    let token = match (&args.token_file, in_environment) {
        _ if args.without_token => None,
        (Some(path), _) => Some(Token::read(path)?),
        (None, Some(text)) => Some(Token::of(&text)?),
        (None, None) => None,
    };
    match token {
        Some(token) => Ok(Access::with_token(token)),
        None if args.without_token || args.listen.ip().is_loopback() => Ok(Access::Everybody),
        None => Err(needs_token(args.listen).into()),
    }
}

fn needs_token(listen: SocketAddr) -> Failure {
    let message = format!("others reach {listen}, and there is no token");
    let hint =
        "name --token-file FILE, made by (umask 077; openssl rand -hex 24 > FILE); or say --without-token";
    Failure::new(Exit::Usage, message, hint)
}
