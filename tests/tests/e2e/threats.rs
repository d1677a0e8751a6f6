//! THREATS.md shows each claim by a test; this one sees that all of them exist.

use std::path::{Path, PathBuf};

/// Names of settings, programs and system calls have so many underscores at most. What has more is a test, also outside
/// of tables.
const UNDERSCORES_OF_OTHERS: usize = 2;

#[test]
fn what_shows_a_claim_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("THREATS.md")).expect("THREATS.md");
    let mut sources = String::new();
    for file in rust_files(&root) {
        sources.push_str(&std::fs::read_to_string(file).expect("a source file"));
    }
    // What shows a claim stands in a table's last column, or in the running text.
    let last =
        |line: &str| line.trim_end_matches([' ', '|']).rsplit_once(" | ").map(|(_, last)| last.to_owned());
    let in_rows =
        text.lines().filter_map(last).flat_map(|column| quoted(&column)).filter(|name| name.contains('_'));
    let is_told = |name: &String| name.contains('/') || name.matches('_').count() > UNDERSCORES_OF_OTHERS;
    let mut seen = 0;
    for name in in_rows.chain(text.lines().flat_map(quoted).filter(is_told)) {
        if name.contains('/') {
            assert!(name.contains(' ') || root.join(&name).exists(), "no {name}");
            seen += 1;
        } else if name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit()) {
            assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} tests are named");
}

/// What stands in backquotes.
fn quoted(line: &str) -> Vec<String> {
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every source file of the workspace.
fn rust_files(root: &Path) -> Vec<PathBuf> {
    let (mut folders, mut files) = (vec![root.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}
