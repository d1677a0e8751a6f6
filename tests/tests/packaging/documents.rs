//! Manual pages, shell completions, and what the programs need of the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use pgproof_tests::binaries::{pgproof, pgproof_verifier, workspace};
use pgproof_tests::postgres_server::succeed;

/// Debian 12 has this one.
const GLIBC_MAX: (u32, u32) = (2, 36);

#[test]
fn every_command_has_a_page_and_each_shell_its_completions() {
    for (program, command) in
        [(pgproof(), "pgproof-restore-point-show"), (pgproof_verifier(), "pgproof-verifier-report-check")]
    {
        let folder = tempfile::tempdir().expect("a temporary folder");
        succeed(Command::new(program).arg("documents").arg(folder.path()));
        let name = program.file_name().expect("a program").to_string_lossy();
        let page = std::fs::read_to_string(folder.path().join(format!("man1/{command}.1"))).expect("a page");
        assert!(page.contains(".SH SYNOPSIS") && page.contains("\\-\\-policy"), "{page}");
        let bash = folder.path().join(format!("bash/{name}.bash"));
        let complete = format!("source {} && complete -p {name}", bash.display());
        succeed(Command::new("bash").args(["-c", &complete]));
        for path in [format!("fish/{name}.fish"), format!("zsh/_{name}")] {
            let text = std::fs::read_to_string(folder.path().join(&path)).expect("completions");
            assert!(text.contains("documents"), "{path}");
        }
        are_described(&folder.path().join("man1"), &name);
    }
}

/// `systemctl help` shows what the units name.
fn are_described(pages: &Path, program: &str) {
    let mut named = 0;
    for entry in std::fs::read_dir(workspace().join("packaging/systemd")).expect("the units") {
        let path = entry.expect("a file").path();
        if !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a unit");
        if !text.contains(&format!("man:{program}(1)")) {
            continue;
        }
        let line = text.lines().find_map(|line| line.strip_prefix("Documentation=")).expect("its pages");
        for page in line.split(' ') {
            let name = page.trim_start_matches("man:").trim_end_matches("(1)");
            assert!(pages.join(format!("{name}.1")).is_file(), "{} names {page}", path.display());
            named += 1;
        }
    }
    assert!(named > 0);
}

#[test]
fn programs_run_on_debian_12() {
    for program in [pgproof(), pgproof_verifier()] {
        let symbols = succeed(Command::new("objdump").arg("-T").arg(program));
        let text = String::from_utf8_lossy(&symbols.stdout).into_owned();
        let versions: BTreeSet<(u32, u32)> = text.split("GLIBC_").skip(1).filter_map(version).collect();
        let newest = versions.last().expect("a program that is linked to glibc");
        assert!(*newest <= GLIBC_MAX, "{} needs glibc {newest:?}", program.display());
        let libraries = succeed(Command::new("objdump").arg("-p").arg(program));
        let libraries = String::from_utf8_lossy(&libraries.stdout).into_owned();
        let needed: BTreeSet<&str> =
            libraries.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim).collect();
        let glibc_or_gcc =
            ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
        assert!(needed.iter().all(|library| glibc_or_gcc.contains(library)), "{needed:?}");
    }
}

/// The version at the beginning, such as 2.34 of `2.34) name`.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = number.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
