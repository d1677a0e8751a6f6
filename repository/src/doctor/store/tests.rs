//! Stores that do as they should, and what is left of the trials.

use std::sync::Arc;

use super::powers::Powers;
use super::*;
use crate::doctor::has_failed;
use crate::store::directory::DirectoryStore;
use crate::store::faulty::{Fault, FaultyStore, Rule};
use crate::store::memory::MemoryStore;
use crate::store::operation::Operation;

fn expected() -> verdicts::Expected {
    verdicts::Expected {
        profile: None,
        is_named: false,
        conditions: Conditions::HONOURED,
        object_lock: None,
        powers: &Powers::S3,
        role: Role::Agent,
    }
}

fn subject(store: SharedStore) -> Subject {
    Subject::new(store, Role::Agent, vec!["app".parse().unwrap()], Timestamp::now())
}

#[tokio::test]
async fn a_store_that_conforms_passes_and_keeps_nothing() {
    let memory = MemoryStore::new();
    let subject = subject(Arc::new(memory.clone()));
    let lines = verdicts::judge(&subject.examine().await, &expected());
    assert!(!has_failed(&lines), "{lines:#?}");
    assert_eq!(subject.traces.remove(Timestamp::now()).await, Left::Nothing);
    assert_eq!(memory.keys(), []);
    assert_eq!(subject.store.list_uploads(&KeyPrefix::everything()).await.unwrap(), []);
}

#[tokio::test]
async fn a_folder_passes_and_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store: SharedStore = Arc::new(DirectoryStore::open(folder.path()).unwrap());
    let subject = subject(store.clone());
    let lines = verdicts::judge(&subject.examine().await, &expected());
    assert!(!has_failed(&lines), "{lines:#?}");
    assert_eq!(subject.traces.remove(Timestamp::now()).await, Left::Nothing);
    assert_eq!(store.list_folders(&KeyPrefix::everything()).await.unwrap(), Vec::<String>::new());
}

/// What may not be deleted is counted; whoever may removes it later, and nothing else.
#[tokio::test]
async fn what_one_may_not_delete_another_does() {
    let memory = MemoryStore::new();
    let bystander = "doctor/note.txt".parse().unwrap();
    memory.overwrite(&bystander, bytes::Bytes::from_static(b"whose?"));
    let from_the_end_of_time = "doctor/99991230T215959Z-zzzzzz/x".parse().unwrap();
    memory.overwrite(&from_the_end_of_time, bytes::Bytes::from_static(b"?"));
    let rules = vec![Rule::on(Operation::Delete, Fault::Deny).times(u64::MAX)];
    let first = subject(Arc::new(FaultyStore::scripted(Arc::new(memory.clone()), rules)));
    first.examine().await;
    let left = first.traces.remove(Timestamp::now()).await;
    let Left::Kept { objects, .. } = left else { panic!("{left:?}") };
    assert_eq!(objects + 2, memory.keys().len());

    let second = subject(Arc::new(memory.clone()));
    assert_eq!(second.traces.remove(Timestamp::now()).await, Left::Nothing);
    assert_eq!(memory.keys().len(), objects + 2, "a run that may still go on was removed");
    let later = Timestamp::now() + SignedDuration::from_hours(2);
    assert_eq!(second.traces.remove(later).await, Left::Nothing);
    assert_eq!(memory.keys(), [from_the_end_of_time, bystander]);
}

#[tokio::test]
async fn a_verifier_that_may_put_nothing_there_is_no_failure() {
    let rules = vec![Rule::on(Operation::Put, Fault::Deny).times(u64::MAX)];
    let store = Arc::new(FaultyStore::scripted(Arc::new(MemoryStore::new()), rules));
    let subject = subject(store);
    let found = subject.examine().await;
    assert_eq!(found.put, Probe::Denied);
    let verifiers = verdicts::Expected { role: Role::Verifier, ..expected() };
    let failed = |expected: verdicts::Expected| {
        let lines = verdicts::judge(&found, &expected);
        lines
            .into_iter()
            .filter(|line| line.verdict == Verdict::Fail)
            .map(|line| line.check)
            .collect::<Vec<_>>()
    };
    assert_eq!(failed(expected()), ["put and get"]);
    assert!(!failed(verifiers).contains(&"put and get".to_owned()));
}

/// A store that does one thing wrong is not called good.
#[tokio::test]
async fn a_store_that_gives_other_bytes_or_no_answer_fails() {
    for (operation, fault) in [
        (Operation::Get, Fault::Corrupt { at: 0 }),
        (Operation::GetRange, Fault::Corrupt { at: 0 }),
        (Operation::List, Fault::Deny),
        (Operation::List, Fault::Cut { bytes: 2 }),
        (Operation::StartUpload, Fault::Deny),
        (Operation::PutPart, Fault::Deny),
        (Operation::CompleteUpload, Fault::FailBefore),
    ] {
        let rules = vec![Rule::on(operation, fault).times(u64::MAX)];
        let store = Arc::new(FaultyStore::scripted(Arc::new(MemoryStore::new()), rules));
        let lines = verdicts::judge(&subject(store).examine().await, &expected());
        assert!(has_failed(&lines), "{operation}, {fault:?}: {lines:#?}");
    }
}

#[tokio::test]
async fn an_agent_that_was_cut_off_from_the_store_says_so_once() {
    let store =
        Arc::new(FaultyStore::scripted(Arc::new(MemoryStore::new()), vec![Rule::always(Fault::FailBefore)]));
    let lines = verdicts::judge(&subject(store).examine().await, &expected());
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(has_failed(&lines));
}
