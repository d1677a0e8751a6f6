//! Where a repository lies, in words that no other repository in the same Prometheus has. Rules put together what several hosts export
//! of one repository; two that are taken for one hide each other's silence, while one that is taken for two is told of twice.

use pgproof_policies::policy::Location;

/// Without credentials: an endpoint has none. A folder is its host's own, even where a share is mounted below it.
pub(crate) fn of(location: &Location, host: &str) -> String {
    let (endpoint, account) = match location {
        Location::Directory { path } => return format!("file://{host}{}", path.display()),
        Location::S3 { endpoint, .. } | Location::Google { endpoint, .. } => (endpoint, None),
        Location::Azure { endpoint, account, .. } => (endpoint, account.as_deref()),
    };
    let server = endpoint.as_deref().and_then(|endpoint| endpoint.split('/').nth(2));
    match (server, account) {
        (None, None) => location.to_string(),
        (Some(one), None) | (None, Some(one)) => format!("{location} at {one}"),
        (Some(server), Some(account)) => format!("{location} at {server}/{account}"),
    }
}

#[cfg(test)]
mod tests {
    use pgproof_policies::Policy;

    use super::*;

    #[test]
    fn repositories_of_one_name_on_two_servers_are_told_apart() {
        let cases = [
            ("s3://backups/prod\"\nregion = \"eu-west-1", "s3://backups/prod"),
            ("s3://backups/prod/\"\nregion = \"eu-west-1", "s3://backups/prod"),
            (
                "s3://backups/prod\"\nendpoint = \"https://minio.example.org:9000",
                "s3://backups/prod at minio.example.org:9000",
            ),
            ("gs://my_bucket", "gs://my_bucket"),
            ("az://backups/prod\"\naccount = \"house", "az://backups/prod at house"),
            (
                "az://backups\"\naccount = \"house\"\nendpoint = \"https://storage.example.org",
                "az://backups at storage.example.org/house",
            ),
            ("file:///srv/backups", "file://db1/srv/backups"),
        ];
        for (location, expected) in cases {
            let text = "[repository]\nlocation = \"LOCATION\"\n[keys]\nsingle_recipient_waiver = \"a test\"\n\
                recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
                [sources.app]\nkind = \"postgres\"\nconnection = \"postgresql:///app\"\nretention = { daily = 1 }\n";
            let policy = Policy::parse(&text.replace("LOCATION", location), "pgproof.toml").unwrap();
            assert_eq!(of(&policy.repository.location, "db1"), expected);
        }
    }
}
