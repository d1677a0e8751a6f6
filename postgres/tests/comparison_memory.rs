//! Comparing streams: the memory it takes does not depend on how many rows there are.

use std::path::PathBuf;

use pgproof_postgres::cluster::{Cluster, ClusterOptions};
use pgproof_postgres::comparison::compare;
use pgproof_postgres::digest::{RowDigest, digest_rows};
use pgproof_repository::inventory::{Archive, FORMAT, Inventory, Table, VERSION};

/// Rows of two tables, one of them ten times as large. What ten times as many rows do not take, a hundred million do not.
const FEW: u32 = 400_000;
const MANY: u32 = 4_000_000;
/// How much more the larger may take: what the allocator makes of the same work.
const SLACK_KIB: u64 = 4 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_rows_take_no_more_memory() {
    let bin = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL").flatten();
    let bin: Vec<PathBuf> = bin.map(|entry| entry.path().join("bin")).collect();
    let bin = bin.iter().find(|bin| bin.join("initdb").exists()).expect("a server's programs");
    let cluster = Box::pin(Cluster::start(bin, ClusterOptions::default())).await.expect("a server");
    let session = Box::pin(cluster.spec().connect()).await.expect("a session");
    let fill =
        |rows| format!("CREATE UNLOGGED TABLE public.t{rows} AS SELECT generate_series(1, {rows}) AS n");
    session.batch_execute(&[fill(FEW), fill(MANY)].join(";")).await.expect("two tables");

    let mut peaks = Vec::new();
    for rows in [FEW, MANY] {
        let inventory = inventory(rows);
        let compared = Box::pin(compare(cluster.spec(), &inventory, 1)).await.expect("a comparison");
        assert!(compared[0].equal, "{compared:?}");
        assert_eq!(compared[0].found.map(|found| found.rows), Some(u64::from(rows)));
        peaks.push(peak_kib());
    }
    assert!(peaks[1] <= peaks[0] + SLACK_KIB, "{peaks:?} KiB");
    cluster.stop().await.expect("gone");
}

/// As a dump of the table would have it.
fn inventory(rows: u32) -> Inventory {
    let mut digest = RowDigest::default();
    for n in 1..=rows {
        digest += digest_rows([n.to_string().as_bytes()]);
    }
    let table = Table {
        dump_id: 1,
        schema: "public".into(),
        name: format!("t{rows}"),
        copy: format!("COPY public.t{rows} (n) FROM stdin;\n"),
        rows: u64::from(rows),
        digest: format!("{:032x}", digest.sum),
        start: 0,
        end: u64::from(rows),
    };
    let archive = Archive {
        object: "data.000.zst.age".into(),
        head_bytes: 0,
        tables: vec![table],
        blobs: Vec::new(),
        frames: Vec::new(),
    };
    Inventory {
        format: FORMAT.into(),
        version: VERSION,
        archives: vec![archive],
        facts: serde_json::Value::Null,
        server_settings: std::collections::BTreeMap::new(),
        sequences: None,
        large_objects: None,
        structure: None,
        wording: None,
    }
}

/// The most memory that this process ever had.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
