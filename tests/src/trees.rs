//! Trees of files, compared by the stock tools.

use std::path::Path;
use std::process::Command;

use crate::postgres_server::succeed;

/// Fails unless both folders hold the same, but for files named `*.tmp`: contents, modes, times to the nanosecond, owners, numbers of
/// links and their targets.
///
/// # Panics
/// With what differs.
pub fn assert_same(original: &Path, restored: &Path) {
    let mut diff = Command::new("diff");
    succeed(diff.args(["-r", "--no-dereference", "--exclude=*.tmp"]).arg(original).arg(restored));
    assert_eq!(listed(restored), listed(original));
}

fn listed(folder: &Path) -> Vec<String> {
    let format = "%P %y %m %U:%G %T@ %n %l %s\\0";
    let mut find = Command::new("find");
    let output = succeed(find.arg(folder).args(["-not", "-name", "*.tmp", "-printf", format]));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<_> = text.split('\0').map(str::to_owned).collect();
    lines.sort();
    lines
}
