use super::*;
use secrecy::ExposeSecret;
use std::fs;
use std::os::unix::fs::PermissionsExt;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().copied().collect()
}

fn pgpass(home: &Path, text: &str) {
    let path = home.join(".pgpass");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn secret(spec: &ConnectionSpec) -> Option<&str> {
    spec.password.as_ref().map(|p| p.expose_secret())
}

#[test]
fn the_uri_comes_before_the_service_and_that_before_the_environment() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".pg_service.conf"), "[app]\nhost=from-service\nport=2\nuser=from-service\n")
        .unwrap();
    let env = environment(&[
        ("HOME", home.path().to_str().unwrap()),
        ("PGHOST", "from-env"),
        ("PGUSER", "from-env"),
        ("PGPORT", "3"),
        ("PGDATABASE", "from-env"),
    ]);
    let spec = ConnectionSpec::from_uri("postgresql://from-uri@?service=app", &env, None).unwrap();
    assert_eq!(spec.describe(), "database \"from-env\" on from-service:2 as \"from-uri\"");
    let spec = ConnectionSpec::from_service("app", &env, None).unwrap();
    assert_eq!(spec.describe(), "database \"from-env\" on from-service:2 as \"from-service\"");
    let spec = ConnectionSpec::from_environment(&env, None).unwrap();
    assert_eq!(spec.describe(), "database \"from-env\" on from-env:3 as \"from-env\"");
    // The account is the system's word; USER is whatever somebody left there.
    let env = environment(&[("USER", "left-by-su")]);
    assert!(matches!(ConnectionSpec::from_environment(&env, None), Err(ConnectionError::NoUser)));
    let spec = ConnectionSpec::from_environment(&env.with_account("account"), None).unwrap();
    assert!(spec.describe().ends_with("as \"account\""), "{}", spec.describe());
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    let account = String::from_utf8(id.stdout).unwrap();
    assert_eq!(Environment::of_process().account(), Some(account.trim()));
}

#[test]
fn passwords_come_from_the_named_file_first_then_the_environment_then_the_home() {
    let home = tempfile::tempdir().unwrap();
    pgpass(home.path(), "db:5432:app:u:from-home\n");
    let at_home = ("HOME", home.path().to_str().unwrap());
    let uri = "postgresql://u@db/app";
    let spec = ConnectionSpec::from_uri(uri, &environment(&[at_home]), None).unwrap();
    assert_eq!(secret(&spec), Some("from-home"));
    let env = environment(&[at_home, ("PGPASSWORD", "from-env")]);
    assert_eq!(secret(&ConnectionSpec::from_uri(uri, &env, None).unwrap()), Some("from-env"));
    let named = home.path().join("secret");
    fs::write(&named, "from-file\n").unwrap();
    fs::set_permissions(&named, fs::Permissions::from_mode(0o400)).unwrap();
    let spec = ConnectionSpec::from_uri(uri, &env, Some(&named)).unwrap();
    assert_eq!(secret(&spec), Some("from-file"));
    assert!(!format!("{spec:?}").contains("from-file"));
    assert!(!format!("{env:?}").contains("from-env"));
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    let home = tempfile::tempdir().unwrap();
    let env = environment(&[("HOME", home.path().to_str().unwrap())]);
    let mode = |query: &str| {
        ConnectionSpec::from_uri(&format!("postgresql://u@db/app{query}"), &env, None)
            .map(|spec| (spec.tls.mode, spec.tls.roots))
            .map_err(|e| e.to_string())
    };
    assert_eq!(mode(""), Ok((SslMode::Prefer, RootCertificates::None)));
    assert_eq!(mode("?sslmode=require"), Ok((SslMode::Require, RootCertificates::None)));
    assert_eq!(mode("?sslrootcert=system"), Ok((SslMode::VerifyFull, RootCertificates::System)));
    assert!(mode("?sslrootcert=system&sslmode=require").unwrap_err().contains("verify-full"));
    assert!(mode("?sslmode=verify-full").unwrap_err().contains("needs a root certificate"));
    assert!(mode("?sslmode=verify-ca&sslrootcert=/nowhere").unwrap_err().contains("does not exist"));
    assert!(mode("?sslmode=sometimes").unwrap_err().contains("sometimes"));
    fs::create_dir(home.path().join(".postgresql")).unwrap();
    let root = home.path().join(".postgresql/root.crt");
    fs::write(&root, "").unwrap();
    assert_eq!(mode("?sslmode=require"), Ok((SslMode::VerifyCa, RootCertificates::File(root))));
}

#[test]
fn a_child_gets_what_it_needs_in_private_and_nothing_else() {
    let env = environment(&[
        ("PATH", "/bin"),
        ("HOME", "/h"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
        ("PGPASSWORD", "p:w"),
    ]);
    let spec =
        ConnectionSpec::from_uri("postgresql://u@db:5/a%20b?options=-c%20x.y%3D1", &env, None).unwrap();
    let child = spec.with_setting("z", "1").child_env().unwrap();
    let get = |name: &str| child.variables().get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(get("PGDATABASE").as_deref(), Some("a b"));
    assert_eq!(get("PGPASSWORD"), None);
    assert_eq!(get("AWS_SECRET_ACCESS_KEY"), None);
    assert!(get("PGOPTIONS").unwrap().starts_with("-c x.y=1 -c z=1 -c TimeZone=UTC "));
    let file = PathBuf::from(get("PGPASSFILE").unwrap());
    assert_eq!(fs::read_to_string(&file).unwrap(), "*:*:*:*:p\\:w\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    drop(child);
    assert!(!file.exists() && !file.parent().unwrap().exists());
}

#[test]
fn what_protects_is_refused_wherever_it_is_asked_for_and_not_carried_out() {
    let home = tempfile::tempdir().unwrap();
    let at_home = ("HOME", home.path().to_str().unwrap());
    // Name, variable, whether it is taken.
    for (name, variable, value, taken) in [
        ("gssencmode", "PGGSSENCMODE", "disable", true),
        ("gssencmode", "PGGSSENCMODE", "prefer", true),
        ("gssencmode", "PGGSSENCMODE", "require", false),
        ("target_session_attrs", "PGTARGETSESSIONATTRS", "any", true),
        ("target_session_attrs", "PGTARGETSESSIONATTRS", "prefer-standby", true),
        ("target_session_attrs", "PGTARGETSESSIONATTRS", "standby", false),
        ("target_session_attrs", "PGTARGETSESSIONATTRS", "read-write", false),
        ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "tlsv1.2", true),
        ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "TLSv1.3", false),
        ("requirepeer", "PGREQUIREPEER", "postgres", false),
        ("sslcrl", "PGSSLCRL", "/x", false),
        ("sslcrldir", "PGSSLCRLDIR", "/x", false),
        ("require_auth", "PGREQUIREAUTH", "scram-sha-256", false),
    ] {
        let by_uri = ConnectionSpec::from_uri(
            &format!("postgresql://u@db/app?{name}={value}"),
            &environment(&[at_home]),
            None,
        );
        let by_variable = ConnectionSpec::from_uri(
            "postgresql://u@db/app",
            &environment(&[at_home, (variable, value)]),
            None,
        );
        for given in [by_uri, by_variable] {
            match given {
                Ok(_) => assert!(taken, "{name}={value} was dropped in silence"),
                Err(ConnectionError::Unsupported { name: told }) => {
                    assert!(!taken && told.starts_with(name), "{name}={value}: {told}");
                }
                Err(error) => panic!("{name}={value}: {error}"),
            }
        }
    }
}
