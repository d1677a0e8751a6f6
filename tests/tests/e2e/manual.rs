//! The manual is true: every command on its pages is run, in their order, and what matters of its output is compared.
//!
//! `docs/README.md` says how pages are written: `console` blocks with commands after `$`, `sh` blocks that are run whole, comments
//! `<!-- run: … -->` that prepare, and `no-run` blocks with a reason. Each page has a PostgreSQL and a folder of its own.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgproof_tests::binaries;
use pgproof_tests::postgres_server::PostgresServer;
use pgproof_tests::postgres_versions::PostgresVersion;

/// Folders of which the test has its own.
const FOLDERS: [&str; 3] = ["/etc/pgproof", "/srv", "/var/backups"];
/// Blocks that are not run. Another one is a decision, and so a change of this number.
const NOT_RUN: usize = 5;
/// Says that generated pages are to be written instead of compared.
const REWRITE: &str = "PGPROOF_REWRITE_MANUAL";

const SHOP: &str = "create table customers (id int primary key generated always as identity, name text not null); \
    insert into customers (name) select 'customer ' || n from generate_series(1, 200) n; \
    create table orders (id int primary key, customer int not null references customers, cents numeric(12,2), note text); \
    insert into orders select n, 1 + n % 200, n * 7.5, md5(n::text) from generate_series(1, 2000) n; analyze";

macro_rules! pages {
    ($($test:ident: $page:literal),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                Page::read($page).run();
            }
        )*
        const PAGES: &[&str] = &[$($page),*];
    };
}

pages! {
    quick_start: "quick-start.md",
    restore_at_3am: "restore-at-3am.md",
    keys: "keys.md",
    policies: "policies.md",
    stores: "stores.md",
    running: "running.md",
    retention: "retention.md",
    files_and_configuration: "files-and-configuration.md",
    drills: "drills.md",
    monitoring: "monitoring.md",
    reviewers: "reviewers.md",
    moving: "moving.md",
    without_pgproof: "without-pgproof.md",
    exit_codes: "exit-codes.md",
}

#[test]
fn every_page_is_tried_and_every_link_leads_somewhere() {
    let pages: BTreeSet<String> = fs::read_dir(docs())
        .expect("docs")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    let tried = PAGES.iter().copied().chain(["README.md", "options.md"]).map(str::to_owned).collect();
    assert_eq!(pages, tried);
    let mut not_run = Vec::new();
    for name in &pages {
        let page = Page::read(name);
        for target in page.links() {
            assert!(docs().join(&target).exists(), "{name} links to {target}");
        }
        for block in page.blocks().into_iter().filter(|block| block.language == "sh no-run") {
            let reason =
                block.before.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->"));
            let reason =
                reason.unwrap_or_else(|| panic!("{name}:{}: no reason why it is not run", block.line));
            not_run.push(format!("{name}:{}: {reason}", block.line));
        }
    }
    println!("not run:\n{}", not_run.join("\n"));
    assert_eq!(not_run.len(), NOT_RUN, "{not_run:#?}");
}

#[test]
fn every_option_is_in_the_manual() {
    let mut text = String::from(
        "# Options\n\nAs the programs print them. Written by a test: `PGPROOF_REWRITE_MANUAL=1 cargo nextest run -E \
         'test(every_option)'`.\n",
    );
    for program in [binaries::pgproof(), binaries::pgproof_verifier()] {
        describe(program, &mut Vec::new(), &mut text);
    }
    let path = docs().join("options.md");
    if std::env::var_os(REWRITE).is_some() {
        fs::write(&path, &text).expect("options.md");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "options.md is not what the programs print; {REWRITE}=1 writes it anew");
}

/// Appends the help of a command and of all below it.
fn describe(program: &Path, command: &mut Vec<String>, text: &mut String) {
    let mut help = Command::new(program);
    help.args(command.iter()).arg("--help").stdin(Stdio::null());
    for name in ["COLUMNS", "PGPROOF_POLICY", "PGPROOF_LOG"] {
        help.env_remove(name);
    }
    let output = help.output().expect("help");
    assert!(output.status.success(), "{command:?}");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let name = program.file_name().expect("a name").to_string_lossy().into_owned();
    let title =
        std::iter::once(&name).chain(command.iter()).map(String::as_str).collect::<Vec<_>>().join(" ");
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n## `{title}`\n\n```text\n{}\n```\n", lines.join("\n")).expect("a string takes all");
    let commands =
        lines.iter().skip_while(|line| **line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    for below in names.filter_map(|line| line.split(' ').next()).filter(|name| *name != "help") {
        command.push(below.to_owned());
        describe(program, command, text);
        command.pop();
    }
}

fn docs() -> PathBuf {
    binaries::workspace().join("docs")
}

struct Page {
    name: String,
    text: String,
}

/// A fenced block.
struct Block {
    line: usize,
    language: String,
    /// The line before it.
    before: String,
    lines: Vec<String>,
}

/// What is run at once.
struct Step {
    line: usize,
    command: String,
    /// Any failure ends it.
    is_strict: bool,
    expected: Vec<String>,
    code: i32,
}

impl Page {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(docs().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name: name.to_owned(), text }
    }

    /// Files that the page links to, relative to it.
    fn links(&self) -> Vec<String> {
        let targets = self.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let files = targets.filter(|target| !target.contains("://")).map(|target| target.split('#').next());
        files.flatten().filter(|file| !file.is_empty()).map(str::to_owned).collect()
    }

    fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut before = "";
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            let fence = line.strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let (language, before) = (language.to_owned(), before.to_owned());
                    open = Some(Block { line: number + 1, language, before, lines: Vec::new() });
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some(block), None) => block.lines.push(line.to_owned()),
                (None, None) if line == "<!-- run:" => {
                    let (language, before) = ("run".to_owned(), String::new());
                    open = Some(Block { line: number + 1, language, before, lines: Vec::new() });
                }
                (None, None) => {}
            }
            if line == "-->" && open.as_ref().is_some_and(|block| block.language == "run") {
                open.as_mut().expect("open").lines.pop();
                blocks.extend(open.take());
            }
            before = line;
        }
        assert!(open.is_none(), "{}: a block is not closed", self.name);
        blocks
    }

    fn steps(&self) -> Vec<Step> {
        let steps = |block: Block| match block.language.as_str() {
            "console" => console(&block),
            "sh" | "run" => {
                let (line, command) = (block.line, block.lines.join("\n"));
                vec![Step { line, command, is_strict: true, expected: Vec::new(), code: 0 }]
            }
            "text" if block.lines.iter().any(|line| line.starts_with("pgproof")) => {
                panic!("{}:{}: commands in a block of text", self.name, block.line)
            }
            "sh no-run" | "text" | "promql" => Vec::new(),
            other => panic!("{}:{}: blocks of {other:?} are not known", self.name, block.line),
        };
        self.blocks().into_iter().flat_map(steps).collect()
    }

    fn run(&self) {
        let server = PostgresServer::start(PostgresVersion::V15);
        server.create_database("shop");
        server.psql("shop", SHOP);
        let folder =
            tempfile::Builder::new().prefix("pgproof-manual.").tempdir().expect("a temporary folder");
        let root = folder.path();
        FOLDERS.iter().for_each(|name| fs::create_dir_all(root.join(&name[1..])).expect("own folder"));
        let steps = self.steps();
        assert!(!steps.is_empty(), "{} has no commands", self.name);
        fs::write(root.join("all.sh"), script(&steps, root)).expect("own file");
        let status = self.shell(root, &server).status().expect("bash");
        for (number, step) in steps.iter().enumerate() {
            let printed = fs::read(root.join(format!("{number}.out"))).unwrap_or_default();
            let printed = String::from_utf8_lossy(&printed).replace(&*root.to_string_lossy(), "");
            let about = format!("{}:{}: {}", self.name, step.line, step.command);
            let code = fs::read_to_string(root.join(format!("{number}.code")));
            let code = code.unwrap_or_else(|_| panic!("{about}\nended the shell ({status}):\n{printed}"));
            assert_eq!(code.trim(), step.code.to_string(), "{about}\n{printed}");
            let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
            let expected: Vec<&str> = step.expected.iter().map(String::as_str).collect();
            assert!(
                expected.is_empty() || matches(&expected, &printed),
                "{about}\nexpected:\n{}\nprinted:\n{}",
                expected.join("\n"),
                printed.join("\n")
            );
        }
    }

    fn shell(&self, root: &Path, server: &PostgresServer) -> Command {
        let own = binaries::pgproof().parent().expect("a folder");
        assert_eq!(Some(own), binaries::pgproof_verifier().parent());
        let usual = std::env::var_os("PATH").unwrap_or_default();
        let path =
            [own, server.programs()].into_iter().map(Path::to_owned).chain(std::env::split_paths(&usual));
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            if ["PG", "AWS_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
                shell.env_remove(name);
            }
        }
        shell
            .args(["--noprofile", "--norc", "all.sh"])
            .current_dir(root)
            .env("HOME", root)
            .env("PATH", std::env::join_paths(path).expect("a path"))
            .env("PGHOST", server.host())
            .env("PGUSER", "postgres")
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        shell
    }
}

/// Commands after `$`, each with what it prints and, after `?`, its exit code.
fn console(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in block.lines.iter().enumerate() {
        if let Some(command) = line.strip_prefix("$ ") {
            let (line, command) = (block.line + number + 1, command.to_owned());
            steps.push(Step { line, command, is_strict: false, expected: Vec::new(), code: 0 });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("line {}: output before a command", block.line));
        match line.strip_prefix("? ").and_then(|code| code.parse().ok()) {
            Some(code) => step.code = code,
            None => step.expected.push(line.clone()),
        }
    }
    steps
}

/// All steps in one shell, so that variables and folders last; each leaves its output and its exit code in a file.
fn script(steps: &[Step], root: &Path) -> String {
    let mut all = String::new();
    for (number, step) in steps.iter().enumerate() {
        let mut command = step.command.clone();
        for folder in FOLDERS {
            command = command.replace(folder, &format!("{}{folder}", root.display()));
        }
        let options = if step.is_strict { "set -eo pipefail" } else { "set +eo pipefail" };
        let file = root.join(format!("{number}.sh"));
        fs::write(&file, command).expect("own file");
        let place = root.display();
        writeln!(
            all,
            "{options}; . {place}/{number}.sh > {place}/{number}.out 2>&1; echo $? > {place}/{number}.code"
        )
        .expect("a string takes all");
    }
    all
}

/// `...` stands for any lines, `[..]` for any part of one.
fn matches(expected: &[&str], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"...", rest)), _) => (0..=printed.len()).any(|skipped| matches(rest, &printed[skipped..])),
        (Some((line, expected)), Some((found, printed))) => fits(line, found) && matches(expected, printed),
        _ => false,
    }
}

fn fits(expected: &str, found: &str) -> bool {
    let mut parts = expected.split("[..]");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = found.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // After the last wildcard the line may go on only where nothing is said of its end.
    last.map_or(rest.is_empty(), |part| part.is_empty() || found.ends_with(part))
}

#[test]
fn what_is_left_out_is_marked() {
    assert!(
        fits("a [..] c", "a b c") && !fits("a [..] c", "a b d") && fits("a [..]", "a b") && !fits("a", "a b")
    );
    assert!(matches(&["a", "...", "d"], &["a", "b", "c", "d"]) && matches(&["...", "a"], &["a"]));
    assert!(!matches(&["a", "..."], &["b"]) && !matches(&["a"], &["a", "b"]));
}
