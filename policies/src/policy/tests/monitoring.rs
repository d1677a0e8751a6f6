//! Alarms, the health server, and who is told.

use super::*;

#[test]
fn alarms_are_pairs_in_their_order() {
    let with = |alarms: &str| format!("{NIGHTLY}\n[sources.app.alarms]\n{alarms}\n");
    let policy = parsed(&with("backup_age = { warning = \"2h\", critical = \"4h\" }"));
    let hours = SignedDuration::from_hours;
    let alarms = policy.sources.values().find_map(|source| source.alarms.backup_age);
    assert_eq!(alarms, Some(Thresholds { warning: hours(2), critical: hours(4) }));
    let told = problems(&with("backup_age = { warning = \"4h\", critical = \"2h\" }"));
    assert!(told.contains("must not be shorter than `warning`"), "{told}");
    let told = problems(&with("proof_age = { warning = \"4h\" }\nbackup_rage = 1"));
    assert!(told.contains("proof_age.critical") && told.contains("did you mean `backup_age`"), "{told}");
}

#[test]
fn a_health_server_listens_to_this_machine_unless_a_reason_is_given() {
    let with =
        |lines: &str| format!("{NIGHTLY}\n[monitoring]\n{lines}\n[verifier.monitoring]\nrefresh = \"1m\"\n");
    let policy = parsed(&with("listen = \"[::1]:9187\"\ntextfile = \"/var/lib/x/pgproof.prom\""));
    assert_eq!(policy.monitoring.listen, "[::1]:9187".parse().ok());
    assert_eq!(policy.monitoring.refresh, REFRESH_DEFAULT);
    // The verifier has its own, or none: never the agent's.
    let own = policy.for_verifier().monitoring;
    assert_eq!((own.listen, own.textfile, own.refresh), (None, None, SignedDuration::from_mins(1)));
    for public in ["0.0.0.0:9187", "[::]:9187", "192.0.2.1:9187"] {
        let told = problems(&with(&format!("listen = \"{public}\"")));
        assert!(told.contains("must be a loopback address"), "{told}");
        parsed(&with(&format!("listen = \"{public}\"\npublic_listen_reason = \"behind a firewall\"")));
    }
    assert!(problems(&with("listen = \"9187\"")).contains("an address and a port"));
}

#[test]
fn routes_say_who_is_told_and_addresses_are_not_repeated() {
    let policy = parsed(DEPLOYMENT);
    let alerts = policy.alerts.clone().unwrap();
    assert_eq!(alerts.severity(AlertKind::RunFailed), Severity::P4);
    assert_eq!(alerts.severity(AlertKind::BackupBad), Severity::P1);
    let names: Vec<_> = alerts.routes.keys().map(String::as_str).collect();
    assert_eq!(names, ["dead-man", "oncall", "team"]);
    let Delivery::Email(email) = &alerts.routes["team"].delivery else { panic!("no mail") };
    assert_eq!((email.port, email.tls), (587, Tls::Starttls));
    let with = |lines: &str| problems(&format!("{NIGHTLY}\n[alerts.routes.x]\n{lines}\n"));
    for (lines, problem) in [
        ("kind = \"pigeon\"", "must be \"webhook\""),
        ("kind = \"slack\"", "url_file: must name the file"),
        ("kind = \"slack\"\nurl = \"ftp://x/T0KEN\"", "must begin with https://"),
        ("kind = \"ping\"\nurl = \"https://me:T0KEN@x/@\"", "must hold no user or password"),
        ("kind = \"slack\"\nurl = \"https://x\"\nseverities = [\"P5\"]", "must be \"P1\""),
        ("kind = \"command\"\ncommand = [\"sh\"]", "must be a program's whole path"),
        ("kind = \"email\"\nhost = \"x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\ntls = \"none\"", "plain_reason"),
        ("kind = \"email\"\nhost = \"x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\nusername = \"u\"", "password_file"),
    ] {
        let told = with(lines);
        assert!(told.contains(problem) && !told.contains("T0KEN"), "{problem} is not in:\n{told}");
    }
    assert!(!format!("{policy:?}").contains("T0KEN"));
}
