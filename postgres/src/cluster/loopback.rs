//! Clusters that also listen on a port, for tests of what comes over the network. A port is open to every local user.

use std::net::TcpListener;

use secrecy::{ExposeSecret, SecretString};

use super::*;

/// Attempts to find a free TCP port, which another process may take between our look and the server's.
const PORT_ATTEMPTS: u32 = 5;
const RULES: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

impl Cluster {
    /// A new one, and how to connect to it over TCP, which takes this password.
    pub(crate) async fn on_loopback(
        bin_dir: &Path,
        options: ClusterOptions,
        password: &SecretString,
    ) -> (Self, ConnectionSpec) {
        let mut cluster = Self::start(bin_dir, options).await.unwrap();
        let session = cluster.spec.connect().await.unwrap();
        let escaped = password.expose_secret().replace('\'', "''");
        session.batch_execute(&format!("ALTER ROLE {SUPERUSER} PASSWORD '{escaped}'")).await.unwrap();
        // The server is ended at once, and its commits wait for no disk.
        session.batch_execute("CHECKPOINT").await.unwrap();
        drop(session);
        fs::write(cluster.data_directory().join("pg_hba.conf"), RULES).unwrap();
        let port = cluster.restart_on_a_port(bin_dir);
        cluster.spec = on_socket(&cluster.directory, port);
        let loopback = cluster.spec.over_loopback(port, Some(password.clone()));
        (cluster, loopback)
    }

    fn restart_on_a_port(&self, bin_dir: &Path) -> u16 {
        let path = self.data_directory().join(OWN_SETTINGS);
        let settings = fs::read_to_string(&path).unwrap();
        for attempt in 1.. {
            let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
            postmaster::stop(&self.data_directory(), Shutdown::Immediate).unwrap();
            fs::write(&path, format!("{settings}listen_addresses = '127.0.0.1'\nport = {port}\n")).unwrap();
            match launch(bin_dir, account(None).unwrap(), &self.directory, &Enclosure::none()) {
                Ok(()) => return port,
                Err(_) if attempt < PORT_ATTEMPTS && self.directory.log_tail().contains("in use") => {}
                Err(error) => panic!("{error}"),
            }
        }
        unreachable!("the last attempt panics")
    }
}
