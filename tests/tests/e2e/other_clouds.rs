//! Google Cloud Storage and Azure Blob Storage: the checks that every store passes, and a whole life through the programs.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use hyper::Method;
use pgproof_repository::ids::{KeyPrefix, ObjectKey};
use pgproof_repository::store::azure::{self, AzureSettings};
use pgproof_repository::store::google::{self, GoogleSettings};
use pgproof_repository::store::{PutCondition, SharedStore, Store, StoreError, conformance};
use pgproof_tests::azurite::{self, Azurite};
use pgproof_tests::google_server::{self, GoogleServer};
use pgproof_tests::sandbox::{Outcome, PREFIX, SOURCE, Sandbox};

const FAILED: i32 = 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn google_conforms() {
    let server = GoogleServer::start();
    let store = google(&server, google_server::TOKEN).await;
    conformance::run_all(&*store).await;
    completing_twice_is_completing_once(&store).await;
    names_of_others_are_passed_over(&server, &*store).await;
    for number in 0..10 {
        let key: ObjectKey = format!("many/{number}").parse().unwrap();
        store.start_upload(&key).await.unwrap();
    }
    assert_eq!(store.list_uploads(&"many/".parse().unwrap()).await.unwrap().len(), 10, "over two pages");
    strangers_are_denied(google(&server, "another token").await).await;

    // Whoever may only create is refused before the condition is looked at.
    let key: ObjectKey = "once/object".parse().unwrap();
    server.deny(Method::PUT, "once/object");
    let put = store.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await;
    assert!(matches!(put, Err(StoreError::AlreadyExists { .. })), "{put:?}");
    let nowhere = GoogleSettings { bucket: "elsewhere".to_owned(), ..google_settings(&server) };
    nothing_is_there(google::connect_with_token(nowhere, &google_server::TOKEN.into()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn azure_conforms() {
    let server = tokio::task::spawn_blocking(Azurite::start).await.unwrap();
    let store = azure(&server, azurite::KEY).await;
    all_but_uploads_over_objects(&*store).await;
    uploads_do_not_overwrite_what_is_there(&store).await;
    completing_twice_is_completing_once(&store).await;
    strangers_are_denied(azure(&server, "YW5vdGhlciBrZXk=").await).await;
    let nowhere = AzureSettings { container: "elsewhere".to_owned(), ..azure_settings(&server) };
    nothing_is_there(azure::connect_with_key(nowhere, &azurite::KEY.into()).await.unwrap()).await;
}

#[test]
fn a_life_in_google_cloud_storage() {
    let server = GoogleServer::start();
    let lines =
        format!("location = \"gs://{}/{PREFIX}\"\nendpoint = \"{}\"\n", google_server::BUCKET, server.url());
    let world = World::new(&lines, &[("GOOGLE_BEARER_TOKEN", google_server::TOKEN)]);
    world.lives();
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}\n{}", doctor.text(), doctor.stderr);
    for said in ["these credentials may delete backups", "not asked of Google", "and there are none"] {
        assert!(doctor.text().contains(said), "{said}: {}", doctor.text());
    }
    server.deny(Method::DELETE, "/backups/");
    assert!(world.run(&["doctor"]).text().contains("refused, as it should be"));
    world.tells_of(("GOOGLE_BEARER_TOKEN", "wrong"), "401 AuthenticationRequired");
}

#[test]
fn a_life_in_azure_blob_storage() {
    let server = Azurite::start();
    let lines = format!(
        "location = \"az://{}/{PREFIX}\"\naccount = \"{}\"\nendpoint = \"{}\"\npath_style = true\n",
        azurite::CONTAINER,
        azurite::ACCOUNT,
        server.url()
    );
    let world = World::new(&lines, &[("AZURE_STORAGE_ACCOUNT_KEY", azurite::KEY)]);
    world.lives();
    let doctor = world.run(&["doctor"]);
    assert_eq!(doctor.code, Some(0), "{}\n{}", doctor.text(), doctor.stderr);
    for said in ["the store drops them after 7 day(s)", "not asked of Azure"] {
        assert!(doctor.text().contains(said), "{said}: {}", doctor.text());
    }
    world.tells_of(("AZURE_STORAGE_ACCOUNT_KEY", "d3Jvbmc="), "403 AuthorizationFailure");
}

/// Of names that are no keys lists say nothing, and all of the rest.
async fn names_of_others_are_passed_over(server: &GoogleServer, store: &dyn Store) {
    let prefix: KeyPrefix = "beside/".parse().unwrap();
    let key: ObjectKey = "beside/folder/object".parse().unwrap();
    store.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap();
    for name in ["beside//x", "beside/folder//y", "beside//", "beside/folder/object/", "beside/../z"] {
        server.put_foreign(&format!("{PREFIX}/{name}"));
    }
    let listed: Vec<_> = store.list(&prefix, None).map_ok(|meta| meta.key).try_collect().await.unwrap();
    assert_eq!(listed, [key]);
    assert_eq!(store.list_folders(&prefix).await.unwrap(), ["folder"]);
}

fn google_settings(server: &GoogleServer) -> GoogleSettings {
    GoogleSettings {
        bucket: google_server::BUCKET.to_owned(),
        prefix: PREFIX.to_owned(),
        endpoint: Some(server.url()),
    }
}

async fn google(server: &GoogleServer, token: &str) -> SharedStore {
    google::connect_with_token(google_settings(server), &token.into()).await.unwrap()
}

fn azure_settings(server: &Azurite) -> AzureSettings {
    AzureSettings {
        container: azurite::CONTAINER.to_owned(),
        prefix: PREFIX.to_owned(),
        account: Some(azurite::ACCOUNT.to_owned()),
        endpoint: Some(server.url()),
        path_style: true,
    }
}

async fn azure(server: &Azurite, key: &str) -> SharedStore {
    azure::connect_with_key(azure_settings(server), &key.into()).await.unwrap()
}

/// Azurite takes a name with blocks for taken, so that check cannot put its object as the second. Once Azurite learns what Azure
/// does, all checks can be run here, too.
async fn all_but_uploads_over_objects(store: &dyn Store) {
    conformance::objects_are_put_once(store).await.unwrap();
    conformance::one_of_many_writers_wins(store).await.unwrap();
    conformance::versions_guard_replacement(store).await.unwrap();
    conformance::bodies_come_back_whole_and_in_ranges(store).await.unwrap();
    conformance::what_is_missing_is_not_found(store).await.unwrap();
    conformance::lists_are_complete_and_in_order(store).await.unwrap();
    conformance::folders_are_those_with_objects(store).await.unwrap();
    conformance::deleting_is_repeatable(store).await.unwrap();
    conformance::uploads_appear_whole(store).await.unwrap();
    let broken = conformance::uploads_do_not_overwrite(store).await.unwrap_err();
    assert!(matches!(broken.source, Some(StoreError::AlreadyExists { .. })), "{broken:?}");
    conformance::aborted_uploads_leave_nothing(store).await.unwrap();
    conformance::pending_uploads_are_found(store).await.unwrap();
    assert!(store.clock().await.unwrap().is_some());
}

async fn uploads_do_not_overwrite_what_is_there(store: &SharedStore) {
    let key: ObjectKey = "uploads/there".parse().unwrap();
    store.put(&key, Bytes::from_static(b"was first"), PutCondition::IfAbsent).await.unwrap();
    let upload = store.start_upload(&key).await.unwrap();
    let part = upload.put_part(1, Bytes::from_static(b"is second")).await.unwrap();
    let completed = upload.complete(vec![part]).await;
    assert!(matches!(completed, Err(StoreError::AlreadyExists { .. })), "{completed:?}");
    assert_eq!(store.get(&key, 100).await.unwrap().0, "was first");
}

/// As after an answer that was lost: the second one finds the first one's object and knows it for its own.
async fn completing_twice_is_completing_once(store: &SharedStore) {
    let key: ObjectKey = "twice/object".parse().unwrap();
    let upload = store.start_upload(&key).await.unwrap();
    let part = upload.put_part(1, Bytes::from_static(b"the only part")).await.unwrap();
    let first = Arc::clone(&upload).complete(vec![part.clone()]).await.unwrap();
    let second = upload.complete(vec![part]).await.unwrap();
    assert_eq!((second.version, second.bytes), (first.version, 13));
}

async fn strangers_are_denied(store: SharedStore) {
    let key: ObjectKey = "once/object".parse().unwrap();
    let got = store.get(&key, 100).await;
    assert!(matches!(got, Err(StoreError::Denied { .. })), "{got:?}");
    let put = store.put(&key, Bytes::from_static(b"x"), PutCondition::IfAbsent).await;
    assert!(matches!(put, Err(StoreError::Denied { .. })), "{put:?}");
    let listed = store.list_folders(&KeyPrefix::everything()).await;
    assert!(matches!(listed, Err(StoreError::Denied { .. })), "{listed:?}");
}

async fn nothing_is_there(store: SharedStore) {
    let got = store.get(&"once/object".parse().unwrap(), 100).await;
    assert!(matches!(got, Err(StoreError::NoSuchPlace { .. })), "{got:?}");
}

/// A source whose backups go elsewhere than to S3.
struct World {
    sandbox: Sandbox,
    environment: Vec<(&'static str, &'static str)>,
}

impl World {
    fn new(repository: &str, environment: &[(&'static str, &'static str)]) -> Self {
        let sandbox = Sandbox::small().with_retention("{ last = 1 }");
        let text = std::fs::read_to_string(sandbox.policy()).expect("a policy");
        let (before, rest) = text.split_once("location =").expect("a location");
        let (_, after) = rest.split_once("\n\n").expect("a next section");
        std::fs::write(sandbox.policy(), format!("{before}{repository}\n{after}")).expect("own file");
        Self { sandbox, environment: environment.to_vec() }
    }

    fn ready(&self, mut command: Command) -> Command {
        for (name, _) in std::env::vars_os() {
            if ["GOOGLE_", "AZURE_", "AWS_"].iter().any(|it| name.to_string_lossy().starts_with(it)) {
                command.env_remove(name);
            }
        }
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().copied());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        ended(self.ready(self.sandbox.command(arguments)))
    }

    fn well(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, Some(0), "{arguments:?}\n{}\n{}", outcome.text(), outcome.stderr);
        outcome
    }

    fn backups(&self) -> Vec<serde_json::Value> {
        self.well(&["list", SOURCE, "--json"]).good_backups()
    }

    /// Backs up, lists, restores an earlier moment, drills and prunes.
    fn lives(&self) {
        self.well(&["backup", SOURCE]);
        let first = self.backups()[0]["snapshot_at"].as_str().expect("a time").to_owned();
        self.sandbox.server.psql(SOURCE, "delete from orders where id > 10000");
        self.well(&["backup", SOURCE]);
        assert_eq!(self.backups().len(), 2);

        self.well(&["restore", SOURCE, "--at", &first, "--into", "earlier"]);
        let count =
            |database| self.sandbox.server.psql(database, "select count(*) from orders").trim().to_owned();
        assert_eq!((count("earlier"), count(SOURCE)), ("20000".to_owned(), "10000".to_owned()));

        let drill = ended(self.ready(self.sandbox.verifier_command(&["drill", SOURCE, "--json"])));
        assert_eq!(drill.json()["verdict"], "passed", "{}\n{}", drill.text(), drill.stderr);

        self.well(&["prune", SOURCE, "--yes"]);
        let left = self.backups();
        assert!(left.len() == 1 && left[0]["snapshot_at"] != first.as_str(), "{left:#?}");
    }

    /// What credentials that do not fit come to, and what is not said of them.
    fn tells_of(&self, (name, value): (&str, &str), answer: &str) {
        let mut command = self.ready(self.sandbox.command(&["list", SOURCE]));
        let outcome = ended({
            command.env(name, value);
            command
        });
        assert_eq!(outcome.code, Some(FAILED), "{}", outcome.stderr);
        assert!(
            outcome.stderr.contains(answer) && outcome.stderr.contains("hint: check the credentials"),
            "{}",
            outcome.stderr
        );
        let none = ended({
            let mut command = self.ready(self.sandbox.command(&["list", SOURCE]));
            command.env_remove(name).env("HOME", self.sandbox.path("nowhere"));
            command
        });
        assert!(none.stderr.contains("there are no credentials for"), "{}", none.stderr);
    }
}

fn ended(mut command: Command) -> Outcome {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}
