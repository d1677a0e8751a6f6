//! Repositories in folders, looked at side by side.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pgproof_monitoring::fleet::{Document, Fleet, FleetSurvey, worst};
use pgproof_policies::standing::State;
use pgproof_repository::catalog;
use pgproof_repository::store::directory::DirectoryStore;

use crate::support::{self, Bucket, noon};

const DEADLINE: Duration = Duration::from_secs(30);

/// A folder with repositories, their signers and policies.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A repository in a folder of its own, and the file of its signers.
    async fn repository(&self, name: &str) -> Bucket {
        let folder = self.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let store = Arc::new(DirectoryStore::open(&folder).unwrap());
        let repository = format!("{name:a<26}").parse().unwrap();
        let bucket = Bucket { store, repository, ..Bucket::new() };
        self.write(&format!("{name}.signers"), &format!("host {}\n", bucket.key.public_line()));
        catalog::ensure_marker(&*bucket.store, bucket.repository.clone(), noon()).await.unwrap();
        bucket
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// A policy of the source `app`, backed up every night to the repository.
    fn policy(&self, name: &str, repository: &str) {
        let place = self.path().display();
        let text = support::POLICY
            .replace("/backups", &format!("{place}/{repository}"))
            .replace("[keys]\n", &format!("[keys]\ntrusted_signers = \"{place}/{repository}.signers\"\n"));
        self.write(name, &text);
    }

    async fn survey(&self, fleet: &str) -> FleetSurvey {
        self.write("fleet.toml", &fleet.replace("PLACE", &self.path().display().to_string()));
        Fleet::read(&[self.path().join("fleet.toml")]).unwrap().survey(noon(), DEADLINE).await
    }
}

fn hours_before_noon(hours: i64) -> Timestamp {
    noon() - SignedDuration::from_hours(hours)
}

/// Repository, source and state of each line, in order.
fn told(survey: &FleetSurvey) -> Vec<(String, String, &'static str)> {
    let lines = survey.judge(noon());
    let told = lines.iter().map(|line| {
        let source = line.source.map(ToString::to_string).unwrap_or_default();
        (line.repository.to_owned(), source, line.state.protection())
    });
    told.collect()
}

fn line(repository: &str, source: &str, state: &'static str) -> (String, String, &'static str) {
    (repository.to_owned(), source.to_owned(), state)
}

#[tokio::test]
async fn the_worst_come_first_and_what_cannot_be_read_is_unknown() {
    let place = Place::new();
    place.repository("good").await.backup(hours_before_noon(10)).await;
    place.repository("empty").await;
    place.repository("late").await.backup(hours_before_noon(40)).await;
    for name in ["good", "empty", "gone"] {
        place.policy(&format!("{name}.toml"), name);
    }
    std::fs::copy(place.path().join("good.signers"), place.path().join("gone.signers")).unwrap();
    place.write("broken.toml", "[repository");
    let survey = place
        .survey(
            "[repositories.good]\npolicy = \"good.toml\"\n[repositories.empty]\npolicy = \"empty.toml\"\n\
             [repositories.gone]\npolicy = \"gone.toml\"\n[repositories.broken]\npolicy = \"broken.toml\"\n\
             [repositories.late]\nrepository = { location = \"file://PLACE/late\" }\n\
             trusted_signers = \"late.signers\"\nsources = [\"mail\"]\nrecovery_point = \"26h\"\n",
        )
        .await;
    let expected = [
        line("empty", "app", "unprotected"),
        line("late", "mail", "unprotected"),
        line("broken", "", "unknown"),
        line("gone", "app", "unknown"),
        line("late", "app", "at_risk"),
        line("good", "app", "protected"),
    ];
    assert_eq!(told(&survey), expected);
    let lines = survey.judge(noon());
    assert_eq!(worst(&lines), State::Critical);
    assert!(lines[0].reasons[0].contains("there is no backup"), "{:?}", lines[0].reasons);
    assert!(lines[3].reasons[0].contains("no bucket or folder"), "{:?}", lines[3].reasons);
    assert!(lines[4].reasons[0].contains("more than"), "{:?}", lines[4].reasons);
    assert!(lines[5].reasons.is_empty());
    let document = serde_json::to_value(Document::of(&survey, noon())).unwrap();
    assert_eq!((&document["protection"], &document["repository_count"]), (&"unprotected".into(), &5.into()));
    let late = &document["sources"][4];
    assert_eq!((&late["recovery_point_seconds"], &late["holds"]), (&93_600.0.into(), &0.into()), "{late:#}");
    assert_eq!(late["standing"]["newest_backup"]["age_seconds"], 144_000.0, "{late:#}");
}

#[tokio::test]
async fn what_nobody_named_is_told_once_unless_it_is_retired() {
    let place = Place::new();
    let bucket = place.repository("shared").await;
    bucket.backup(hours_before_noon(10)).await;
    for name in ["old", "stray"] {
        std::fs::create_dir(place.path().join("shared").join(name)).unwrap();
        place.write(&format!("shared/{name}/an-object"), "x");
    }
    place.policy("one.toml", "shared");
    place.policy("two.toml", "shared");
    let both = "[repositories.one]\npolicy = \"one.toml\"\n[repositories.two]\npolicy = \"two.toml\"\n";
    let survey = place.survey(&format!("{both}retired = [\"old\"]\n")).await;
    let expected =
        [line("one", "stray", "unknown"), line("one", "app", "protected"), line("two", "app", "protected")];
    assert_eq!(told(&survey), expected);
    assert!(survey.judge(noon())[0].reasons[0].contains("no policy names it"));
}
