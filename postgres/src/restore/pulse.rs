//! Whether a server still answers, while a program or a statement may rightly be silent for hours.
//!
//! A new session is asked now and then. Keepalives end a line that swallows packets; a server that is stopped keeps its
//! lines open, and is found out only here.

use std::time::Duration;

use tokio::time::Instant;

use crate::connection::{ConnectError, ConnectionSpec};

/// Questions within one patience.
const ASKED_WITHIN_PATIENCE: u32 = 4;

/// Ends once the server has answered nothing for the spec's patience, which it answers; never where there is none.
pub(super) async fn lost(server: &ConnectionSpec) -> Duration {
    let Some(patience) = server.patience() else { return std::future::pending().await };
    let mut answered = Instant::now();
    while answered.elapsed() < patience {
        tokio::time::sleep(patience / ASKED_WITHIN_PATIENCE).await;
        if Box::pin(answers(server)).await {
            answered = Instant::now();
        }
    }
    patience
}

/// A refusal is an answer, too: no connection may be left, or a role may have been changed.
async fn answers(server: &ConnectionSpec) -> bool {
    match server.connect().await {
        Ok(session) => session.query_one("SELECT 1", &[]).await.is_ok(),
        Err(ConnectError::Refused { source, .. }) => source.code().is_some(),
        Err(ConnectError::Timeout { .. } | ConnectError::Tls(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::connection::Environment;

    const PATIENCE: Duration = Duration::from_secs(1);

    /// A server that takes connections and says this to each.
    async fn server(says: &'static [u8]) -> ConnectionSpec {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Ok((mut client, _)) = listener.accept().await {
                client.write_all(says).await.unwrap();
                taken.push(client);
            }
        });
        let uri = format!("postgresql://drill@{address}/drill?sslmode=disable&connect_timeout=1");
        ConnectionSpec::from_uri(&uri, &Environment::default(), None).unwrap().with_patience(PATIENCE)
    }

    #[tokio::test]
    async fn a_server_that_takes_connections_and_says_nothing_is_lost() {
        let lost = tokio::time::timeout(PATIENCE * 10, lost(&server(b"").await)).await;
        assert_eq!(lost, Ok(PATIENCE));
    }

    #[tokio::test]
    async fn a_server_that_has_no_connection_left_is_there() {
        let full = server(b"E\0\0\0\x1dSFATAL\0C53300\0Mtoo many\0\0").await;
        assert!(tokio::time::timeout(PATIENCE * 3, lost(&full)).await.is_err());
    }
}
