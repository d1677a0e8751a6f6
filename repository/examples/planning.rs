//! How long a prune takes to plan over many backups, and how much memory; and how long a page of the newest:
//! `cargo run --release --workspace --example planning -- [backups] [folder] [reports]`.
//!
//! The store is in memory: what is measured is reading, checking signatures and planning. Over a network a round trip for
//! each backup comes on top, sixty-four at a time. With a folder the repository is made and left there, with its
//! `trusted_signers`, for `pgproof list`, `status` and `restore --at` to be tried on. With `reports` each backup has the report
//! of a drill beside it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::{self, Retention};
use pgproof_repository::ids::{BackupId, ManifestSha256, ReportSha256, RepositoryId};
use pgproof_repository::manifest::{self, v1::Previous};
use pgproof_repository::report::{self, Report, by_time};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::counting::{Counters, CountingStore};
use pgproof_repository::store::directory::DirectoryStore;
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{PutCondition, SharedStore, Store};
use pgproof_repository::{catalog, layout, prune, records};

const GOLDEN: &[u8] = include_bytes!("../fixtures/manifest.v1.json");
const GOLDEN_REPORT: &[u8] = include_bytes!("../fixtures/report.v1.json");

/// Backups that `pgproof list` shows.
const PAGE: usize = 50;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Fallible<()> {
    let backups = std::env::args().nth(1).map_or(Ok(100_000), |text| text.parse::<i64>())?;
    let source: SourceName = "app".parse()?;
    let key = SigningKey::parse(&generate("example").0, "example".as_ref())?;
    let signers = TrustedSigners::parse(&format!("host {}\n", key.public_line()))?;
    let now = Timestamp::now();
    let first = now - SignedDuration::from_hours(backups);
    let store: SharedStore = match std::env::args().nth(2) {
        Some(folder) => {
            fs::create_dir_all(&folder)?;
            fs::write(format!("{folder}/trusted_signers"), format!("host {}\n", key.public_line()))?;
            Arc::new(DirectoryStore::open(format!("{folder}/repository"))?)
        }
        None => Arc::new(MemoryStore::new()),
    };
    catalog::ensure_marker(&*store, RepositoryId::generate(&mut rand::rng()), first).await?;
    let with_reports = std::env::args().nth(3).is_some_and(|text| text == "reports");
    fill(&*store, &source, &key, first, backups, with_reports).await?;

    // Forgets the peak so far: the store itself is no part of what is measured.
    fs::write("/proc/self/clear_refs", "5")?;
    let before = memory_kib("VmRSS")?;
    let started = Instant::now();
    let briefs = catalog::survey(&store, &source, &signers).await?;
    let read_in = started.elapsed();
    let candidates = prune::candidates(&briefs, &BTreeMap::new(), now);
    let rules =
        Retention { hourly: 48, daily: 30, weekly: 8, monthly: 12, yearly: 7, ..Retention::default() };
    let plan = retention::plan(&candidates, &rules, &TimeZone::UTC, now);
    let all_in = started.elapsed();
    println!("backups      {}", briefs.len());
    println!("kept         {}", plan.lines.len() - plan.expired().count());
    println!("read         {:.2} s, every signature checked", read_in.as_secs_f64());
    println!("planned      {:.2} s", (all_in - read_in).as_secs_f64());
    println!("together     {:.2} s", all_in.as_secs_f64());
    println!("memory       {} MiB above what the store takes", (memory_kib("VmHWM")? - before) >> 10);

    let (started, watched, counters) = counted(&store);
    let page = catalog::page(&watched, &source, &signers, None, PAGE).await?;
    tell("a page", started, &counters, page.entries.len(), "backups");
    let (started, watched, counters) = counted(&store);
    let entries = catalog::for_moment(&watched, &source, &signers, now).await?;
    tell("restore --at", started, &counters, entries.len(), "backups");
    let (started, watched, counters) = counted(&store);
    let reports = by_time::newest(&watched, &source, PAGE, now).await?;
    tell("reports", started, &counters, reports.len(), "names");
    Ok(())
}

fn counted(store: &SharedStore) -> (Instant, SharedStore, Counters) {
    let counting = CountingStore::new(store.clone());
    let counters = counting.counters();
    (Instant::now(), Arc::new(counting), counters)
}

fn tell(what: &str, started: Instant, counters: &Counters, count: usize, of_what: &str) {
    let requests: u64 = counters.all().values().map(|count| count.requests).sum();
    println!(
        "{what:<12} {:.2} s, {requests} requests for {count} {of_what}",
        started.elapsed().as_secs_f64()
    );
}

/// One signed manifest an hour, and the report of a drill half an hour later.
async fn fill(
    store: &dyn Store,
    source: &SourceName,
    key: &SigningKey,
    first: Timestamp,
    backups: i64,
    with_reports: bool,
) -> Fallible<()> {
    let mut made = manifest::parse(GOLDEN)?;
    made.previous = Previous::None;
    let mut report: Report = serde_json::from_slice(GOLDEN_REPORT)?;
    (report.source, report.number, report.previous) = (source.clone(), 1, report::v1::Previous::None);
    for number in 0..backups {
        let at = first + SignedDuration::from_hours(number);
        let id: BackupId = format!("{}-aaaaaa", at.strftime("%Y%m%dT%H%M%SZ")).parse()?;
        (made.id, made.started_at, made.finished_at, made.snapshot.at) = (id.clone(), at, at, at);
        let bytes = made.to_bytes();
        let signature = key.sign(manifest::NAMESPACE, &bytes)?;
        let manifest_sha256 = ManifestSha256::of(&bytes);
        for (place, body) in [
            (layout::manifest_signature(source, &id), signature.into_bytes()),
            (layout::manifest(source, &id), bytes),
        ] {
            store.put(&place, Bytes::from(body), PutCondition::IfAbsent).await?;
        }
        if !with_reports {
            continue;
        }
        (report.backup, report.manifest_sha256) = (id.clone(), manifest_sha256);
        report.finished_at = at + SignedDuration::from_mins(30);
        let place = layout::verification(source, &id, report.finished_at);
        records::put(store, &place, &report, key).await?;
        by_time::name(store, &report).await?;
        report.previous = report::v1::Previous::Known {
            number: report.number,
            sha256: ReportSha256::of(&[serde_json::to_vec_pretty(&report)?, b"\n".to_vec()].concat()),
        };
        report.number += 1;
    }
    Ok(())
}

fn memory_kib(field: &str) -> Fallible<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    Ok(line.split_whitespace().nth(1).ok_or("no number")?.parse()?)
}
