//! That what a backup and a restore keep in memory is bounded, and does not grow with what there is.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use pgproof_tests::s3_proxy::{Fault, Rule};
use pgproof_tests::sandbox::{Outcome, SOURCE, Sandbox};

const UPLOADS: &str = "uploads";
const PATIENCE: Duration = Duration::from_secs(120);
/// In KiB: the 128 MiB that are promised of two compressing threads, and what of an unoptimised program lies in memory.
const PEAK_KIB_MAX: u64 = 144 << 10;
/// What each further thread has: a block, its frame, and the compressor.
const WORKER_KIB: u64 = 16 << 10;
/// What twice as much may take more. All that was added, kept for a moment too long, would take 32 MiB and more.
const MORE_KIB_MAX: u64 = 20 << 10;
/// Slower than anything is made, so that all that may wait does.
const UPLOAD_BYTES_A_SECOND: u64 = 12 << 20;

/// The most memory that a program had until its request that `last` is about, which is held while it is asked.
fn peak(sandbox: &Sandbox, arguments: &[&str], (method, part): (&'static str, &str)) -> u64 {
    sandbox.proxy.forget_seen();
    let throttle = Rule::new(Fault::Throttle(UPLOAD_BYTES_A_SECOND));
    sandbox.proxy.add(throttle.method("PUT").containing("partNumber"));
    sandbox.proxy.add(Rule::new(Fault::Hold).method(method).containing(part));
    let mut command = sandbox.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pgproof");
    let is_held = sandbox.proxy.wait_until(PATIENCE, |seen| {
        seen.iter().any(|seen| seen.method == method && seen.target.contains(part))
    });
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
    sandbox.proxy.release();
    let ended = Outcome::from(child.wait_with_output().expect("pgproof ends"));
    assert!(ended.succeeded() && is_held, "{arguments:?}: {}", ended.stderr);
    let status = status.expect("it was there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("KiB");
    println!("{kib} KiB: {arguments:?}");
    kib
}

fn assert_bounded(what: &str, small: u64, large: u64) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let most = PEAK_KIB_MAX + WORKER_KIB * threads.saturating_sub(2) as u64;
    assert!(small < most && large < most, "{what}: {small} KiB, {large} KiB");
    assert!(large < small + MORE_KIB_MAX, "{what}: {small} KiB, and of twice as much {large} KiB");
}

#[test]
fn memory_of_a_database_does_not_grow_with_it() {
    const MEGABYTES: u32 = 90;
    let sandbox = Sandbox::bulky(MEGABYTES);
    let measure = |into: &str| {
        let backup = peak(&sandbox, &["backup", SOURCE], ("PUT", "/manifest.json"));
        let restore = ["restore", SOURCE, "--at", "now", "--into", into, "--yes"];
        (backup, peak(&sandbox, &restore, ("PUT", "/audit/")))
    };
    let small = measure("small");
    sandbox
        .server
        .psql(SOURCE, &format!("insert into bulk select id + {MEGABYTES} * 1000, reverse(body) from bulk"));
    let large = measure("large");
    assert_bounded("backup", small.0, large.0);
    assert_bounded("restore", small.1, large.1);
}

#[test]
fn memory_of_files_does_not_grow_with_them() {
    const BYTES: u32 = 48 << 20;
    let folder = tempfile::tempdir().expect("a folder");
    let lines = format!(
        "[sources.{UPLOADS}]\nkind = \"files\"\npaths = [{:?}]\nretention = {{ last = 1 }}\n",
        folder.path().display().to_string()
    );
    let sandbox = Sandbox::small().with_policy_lines(&lines);
    let measure = |name: &str| {
        let file = fs::File::create(folder.path().join(name)).expect("a file");
        let random =
            Command::new("head").args(["-c", &BYTES.to_string(), "/dev/urandom"]).stdout(file).status();
        assert!(random.is_ok_and(|status| status.success()));
        peak(&sandbox, &["backup", UPLOADS], ("PUT", "/manifest.json"))
    };
    let (small, large) = (measure("one"), measure("two"));
    assert_bounded("backup of files", small, large);
}
