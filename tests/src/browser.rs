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

/// A page as the browser has it after it was loaded from a server. What the browser complains of, such as a style or a script
/// that the page's own policy refuses, is a failure.
///
/// # Panics
/// When it does not load, or the browser complains.
#[must_use]
pub fn visit(url: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut chromium = chromium(folder.path());
    chromium.args(["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", url]);
    let output = succeed(&mut chromium);
    let said = String::from_utf8_lossy(&output.stderr);
    // A page that is refused or out of order is one all the same.
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| {
            line.contains(":CONSOLE") && !line.contains("status of 401") && !line.contains("status of 503")
        })
        .collect();
    assert!(complaints.is_empty(), "{url}: {complaints:#?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Leaves a picture of a page, for people.
///
/// # Panics
/// When it cannot be made.
pub fn picture(url: &str, width: u32, dark: bool, file: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut chromium = chromium(folder.path());
    if dark {
        chromium.arg("--blink-settings=preferredColorScheme=0");
    }
    let (size, target) = (format!("--window-size={width},1600"), format!("--screenshot={}", file.display()));
    succeed(chromium.args(["--hide-scrollbars", &size, &target, url]));
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
    let mut chromium = chromium(folder);
    chromium.args(arguments).arg(format!("file://{}", page.display()));
    String::from_utf8_lossy(&succeed(&mut chromium).stdout).into_owned()
}

fn chromium(folder: &Path) -> Command {
    let mut chromium = Command::new("chromium");
    chromium.args(ARGUMENTS).arg(format!("--user-data-dir={}", folder.join("profile").display()));
    chromium.env("HOME", folder);
    chromium
}
