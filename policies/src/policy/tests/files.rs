//! Sources of files.

use super::*;

#[test]
fn a_source_of_files_says_what_is_taken() {
    let policy = parsed(FILES);
    let uploads = FilesSource {
        paths: vec!["/srv/uploads".into()],
        exclude: vec!["*.tmp".to_owned(), "/srv/uploads/cache".to_owned()],
        incremental: Some(Incremental { full_every: SignedDuration::from_hours(7 * 24), chain_max: 14 }),
        ..FilesSource::default()
    };
    assert_eq!(source(&policy, "uploads").kind, Kind::Files(uploads));
    let logs = FilesSource {
        paths: vec!["/var/log".into()],
        include: vec!["*.log".to_owned(), "*.gz".to_owned()],
        one_file_system: true,
        ..FilesSource::default()
    };
    assert_eq!(source(&policy, "logs").kind, Kind::Files(logs));
}

#[test]
fn what_a_source_of_files_cannot_be_is_said() {
    let head = FILES.split("[sources.uploads]").next().unwrap();
    let found = |lines: &str| {
        let text =
            format!("{head}[sources.uploads]\nkind = \"files\"\nretention = {{ daily = 7 }}\n{lines}\n");
        Policy::parse(&text, "p.toml").unwrap_err().to_string()
    };
    for (lines, problem) in [
        ("paths = []", "paths: must list the folders"),
        ("", "paths: must list the folders"),
        ("paths = [\"srv\"]", "paths[0]: must be an absolute path without `..`, got \"srv\""),
        ("paths = [\"/srv/../etc\"]", "paths[0]: must be an absolute path"),
        ("paths = [\"/srv\"]\nexclude = [\"a[\"]", "exclude[0]: must be a pattern"),
        ("paths = [\"/srv\"]\nconnection = \"postgresql:///app\"", "connection: is no known key"),
        ("paths = [\"/srv\"]\nsnapshot_max = \"1h\"", "snapshot_max: is no known key"),
        ("paths = [\"/srv\"]\njobs = 4", "jobs: must be left out"),
        ("paths = [\"/srv\"]\n[sources.uploads.verification]", "verification: must be left out"),
    ] {
        let found = found(lines);
        assert!(found.contains(problem), "{lines}: {found}");
    }
}

#[test]
fn an_incremental_backup_that_could_never_be_is_refused() {
    let head = FILES.split("[sources.uploads]").next().unwrap();
    let found = |lines: &str| {
        let source =
            "kind = \"files\"\npaths = [\"/srv\"]\nretention = { daily = 7 }\nschedule = \"30 2 * * *\"";
        Policy::parse(&format!("{head}[sources.uploads]\n{source}\n{lines}\n"), "p.toml")
    };
    for (given, problem) in [
        ("{}", "incremental.full_every: must say how long"),
        ("{ full_every = \"7d\" }", "incremental.chain_max: must say how many"),
        (
            "{ full_every = \"7d\", chain_max = 0 }",
            "incremental.chain_max: must be a whole number from 1 to 100",
        ),
        (
            "{ full_every = \"7d\", chain_max = 101 }",
            "incremental.chain_max: must be a whole number from 1 to 100",
        ),
        ("{ full_every = \"weekly\", chain_max = 7 }", "incremental.full_every: must be a duration"),
        ("{ full_every = \"7d\", chain_max = 7, chain_min = 1 }", "incremental.chain_min: is no known key"),
        ("true", "incremental: must be a table"),
        (
            "{ full_every = \"1d\", chain_max = 7 }",
            "uploads.incremental: must have a `full_every` longer than",
        ),
    ] {
        let found = found(&format!("incremental = {given}")).unwrap_err().to_string();
        assert!(found.contains(problem), "{given}: {found}");
    }
    assert!(found("incremental = { full_every = \"2d\", chain_max = 1 }").is_ok());
    let given = "incremental = { full_every = \"7d\", chain_max = 7 }\nretention =";
    let elsewhere = problems_with("retention =", given);
    assert!(elsewhere.contains("sources.app.incremental: must be left out"), "{elsewhere}");
}
