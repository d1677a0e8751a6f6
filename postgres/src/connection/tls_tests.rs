//! Encrypted connections to a real server, with certificates made on the spot.

use super::*;
use crate::cluster::{Cluster, ClusterOptions};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

const BIN: &str = "/usr/lib/postgresql/15/bin";

#[tokio::test]
async fn certificates_are_checked_as_far_as_the_mode_says() {
    let made = tempfile::tempdir().unwrap();
    let certificates = made.path();
    authority(certificates, "ours");
    authority(certificates, "theirs");
    issued(certificates, "ours", "db.example.org");
    let password = SecretString::from("pw");
    let (cluster, plain) = Cluster::on_loopback(Path::new(BIN), ClusterOptions::default(), &password).await;
    let with = |mode: SslMode, roots: Option<&str>, name: &str| {
        let roots = roots.map_or(RootCertificates::None, |r| RootCertificates::File(certificates.join(r)));
        let host = Host::Tcp { name: name.to_owned(), address: Some("127.0.0.1".parse().unwrap()) };
        ConnectionSpec { host, tls: TlsSettings { mode, roots, ..TlsSettings::none() }, ..plain.clone() }
    };
    let (ours, theirs, right) = (Some("ours.crt"), Some("theirs.crt"), "db.example.org");
    assert!(with(SslMode::Require, None, right).connect().await.is_err(), "the server has no encryption yet");
    assert_eq!(encrypted(&with(SslMode::Prefer, None, right)).await, Ok(false));
    enable_tls(&cluster, &plain, certificates).await;
    assert_eq!(encrypted(&with(SslMode::Disable, None, right)).await, Ok(false));
    for (mode, roots, name, good) in [
        (SslMode::Prefer, None, right, true),
        (SslMode::Require, None, "elsewhere", true),
        (SslMode::VerifyCa, ours, right, true),
        (SslMode::VerifyCa, ours, "elsewhere", true),
        (SslMode::VerifyCa, theirs, right, false),
        (SslMode::VerifyFull, ours, right, true),
        (SslMode::VerifyFull, ours, "elsewhere", false),
        (SslMode::VerifyFull, theirs, right, false),
    ] {
        let spec = with(mode, roots, name);
        let result = encrypted(&spec).await;
        assert_eq!(result.is_ok(), good, "{mode:?} {roots:?} {name}: {result:?}");
        assert_eq!(psql_connects(&spec), good, "psql: {mode:?} {roots:?} {name}");
    }
    cluster.stop().await.unwrap();
}

async fn encrypted(spec: &ConnectionSpec) -> Result<bool, String> {
    let session = spec.connect().await.map_err(|e| format!("{e:?}"))?;
    let query = "SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(session.query_one(query, &[]).await.map_err(|e| e.to_string())?.get(0))
}

/// Whether PostgreSQL's own client comes to the same result from the environment that children are given.
fn psql_connects(spec: &ConnectionSpec) -> bool {
    let environment = spec.child_env().unwrap();
    let mut command = Command::new(Path::new(BIN).join("psql"));
    environment.apply(command.args(["-X", "-w", "-c", "SELECT 1"]));
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

async fn enable_tls(cluster: &Cluster, plain: &ConnectionSpec, certificates: &Path) {
    let data = cluster.data_directory();
    let owner = fs::metadata(&data).unwrap();
    for (from, to) in [("server.crt", "server.crt"), ("server.key", "server.key")] {
        fs::copy(certificates.join(from), data.join(to)).unwrap();
        fs::set_permissions(data.join(to), fs::Permissions::from_mode(0o600)).unwrap();
        chown(data.join(to), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let session = cluster.spec().connect().await.unwrap();
    session.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    session.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    // The reload is carried out by the server's first process, soon after the call returned.
    while !encrypted_offered(plain).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn encrypted_offered(plain: &ConnectionSpec) -> bool {
    let tls = TlsSettings { mode: SslMode::Require, ..TlsSettings::none() };
    ConnectionSpec { tls, ..plain.clone() }.connect().await.is_ok()
}

fn authority(directory: &Path, name: &str) {
    let subject = format!("/CN={name}");
    openssl(
        directory,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            &subject,
            "-keyout",
            &format!("{name}.key"),
            "-out",
            &format!("{name}.crt"),
        ],
    );
}

fn issued(directory: &Path, authority: &str, host: &str) {
    openssl(
        directory,
        &[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            &format!("/CN={host}"),
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ],
    );
    fs::write(
        directory.join("extensions"),
        format!("subjectAltName=DNS:{host}\nbasicConstraints=CA:FALSE\n"),
    )
    .unwrap();
    openssl(
        directory,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            &format!("{authority}.crt"),
            "-CAkey",
            &format!("{authority}.key"),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            "extensions",
            "-out",
            "server.crt",
        ],
    );
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
