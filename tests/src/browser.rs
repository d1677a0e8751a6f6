//! A real browser without a window: what a page looks like, and what it prints.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::postgres_server::succeed;

/// Chromium keeps what it is told from reaching out, and as root it has no sandbox of its own.
const ARGUMENTS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// What a page measures in a window of some width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub window_width: u32,
    /// Pixels by which the page has to be scrolled sideways.
    pub overflow: u32,
    pub height: u32,
}

/// Measures a page in a frame of so many pixels: windows have a least width, frames have none.
///
/// # Panics
/// When the browser cannot be run or the page does not load.
#[must_use]
pub fn measure(page: &Path, width: u32) -> Measured {
    const PROBE: &str = "<script>addEventListener('load', () => { const e = document.documentElement; \
        parent.document.title = [innerWidth, e.scrollWidth - e.clientWidth, e.scrollHeight].join(' '); });</script>";
    let text = std::fs::read_to_string(page).expect("a page");
    // The page itself allows no script, which is for the page's readers; the copy is for the probe.
    let (before, rest) = text.split_once("<meta http-equiv=\"Content-Security-Policy\"").expect("a policy");
    let (_, after) = rest.split_once('>').expect("the policy's end");
    let probed = format!("{before}{}", after.replace("</head>", &format!("{PROBE}</head>")));
    let escaped = probed.replace('&', "&amp;").replace('"', "&quot;");
    let frame = format!(
        "<!doctype html><meta charset=utf-8><body style=\"margin:0\">\
         <iframe style=\"width:{width}px;height:800px;border:0\" srcdoc=\"{escaped}\"></iframe>"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("frame.html");
    std::fs::write(&file, frame).expect("own file");
    let dom = run(folder.path(), &["--virtual-time-budget=10000", "--dump-dom"], &file);
    let title = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let (title, _) = title.unwrap_or_else(|| panic!("{} was not measured", page.display()));
    let numbers: Vec<u32> = title.split(' ').map(|number| number.parse().expect("a measure")).collect();
    let [window_width, overflow, height] = numbers[..] else { panic!("measured {title:?}") };
    Measured { window_width, overflow, height }
}

/// The text of the page printed on paper, and the number of sheets.
///
/// # Panics
/// When it cannot be printed.
#[must_use]
pub fn print(page: &Path) -> (String, usize) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pdf = folder.path().join("page.pdf");
    let target = format!("--print-to-pdf={}", pdf.display());
    run(folder.path(), &["--no-pdf-header-footer", &target], page);
    let output = succeed(Command::new("pdftotext").arg("-layout").arg(&pdf).arg("-"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sheets = text.matches('\u{c}').count();
    (text, sheets)
}

fn run(folder: &Path, arguments: &[&str], page: &Path) -> String {
    let page: PathBuf = page.canonicalize().expect("the page's path");
    let mut chromium = Command::new("chromium");
    chromium.args(ARGUMENTS).arg(format!("--user-data-dir={}", folder.join("profile").display()));
    chromium.args(arguments).arg(format!("file://{}", page.display())).env("HOME", folder);
    String::from_utf8_lossy(&succeed(&mut chromium).stdout).into_owned()
}
