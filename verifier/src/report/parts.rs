//! What pages are made of: tables, facts and marks. The templates know these and nothing of drills.

use askama::Template;
use pgproof_repository::report::Verdict;
use pgproof_repository::report::v1::OutcomeKind;

/// How something turned out. Every colour that a page shows comes with a mark and a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Weak,
    Bad,
    Unknown,
}

/// Rows from which on a browser need not lay out what it does not show.
const LONG_ROWS: usize = 200;

/// Characters of an id or a digest, which stay on one line where there is room; hashes and keys are longer.
const SHORT_CODE_CHARS: usize = 32;

/// A table: the first cell of each row is its heading.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "grid.html")]
pub(crate) struct Grid {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    pub title: &'static str,
    /// Set to the right, with figures of one width.
    pub numeric: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "cell.html")]
pub(crate) struct Cell {
    pub text: String,
    pub tone: Option<Tone>,
    /// Hashes, keys and ids: of one width, broken anywhere.
    pub code: bool,
}

/// What whoever hands out a page has to say of it, with where to go from there. An alarm stands above the verdict, anything
/// else below it.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "notice.html")]
pub(crate) struct Notice {
    pub tone: Tone,
    pub heading: String,
    pub sentences: Vec<String>,
    pub facts: Vec<Fact>,
    /// Pages above this one.
    pub above: Vec<Link>,
    /// Files to take along.
    pub files: Vec<Link>,
    pub as_of: String,
}

/// A place of the same site, whose path is made of checked names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub path: String,
    pub text: String,
}

/// A name and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    pub name: &'static str,
    pub value: Cell,
}

/// A page, in which no name turns the words around it.
pub(crate) fn written(page: &impl Template) -> String {
    let page = page.render().expect("a page is written to memory, which takes all");
    if page.contains(turns) { plain(&page) } else { page }
}

/// Whether a character makes the text after it run another way than its letters do, up to the end of a line.
fn turns(letter: char) -> bool {
    matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Such characters are shown by their names, as nobody else would see them.
fn plain(page: &str) -> String {
    let mut plain = String::with_capacity(page.len());
    for letter in page.chars() {
        match turns(letter) {
            true => plain.push_str(&format!("[U+{:04X}]", u32::from(letter))),
            false => plain.push(letter),
        }
    }
    plain
}

impl Tone {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Weak => "weak",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }

    /// Tells the tones apart without their colours.
    pub(crate) fn mark(self) -> &'static str {
        match self {
            Self::Good => "✓",
            Self::Weak => "!",
            Self::Bad => "✕",
            Self::Unknown => "–",
        }
    }
}

impl From<Verdict> for Tone {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Passed => Self::Good,
            Verdict::Degraded => Self::Weak,
            Verdict::Failed | Verdict::VerifierFailed => Self::Bad,
            Verdict::NotRun => Self::Unknown,
        }
    }
}

impl From<OutcomeKind> for Tone {
    fn from(outcome: OutcomeKind) -> Self {
        match outcome {
            OutcomeKind::Passed => Self::Good,
            OutcomeKind::Degraded => Self::Weak,
            OutcomeKind::Failed => Self::Bad,
            OutcomeKind::NotRun => Self::Unknown,
        }
    }
}

impl Grid {
    pub(crate) fn new<const N: usize>(caption: impl Into<String>, columns: [Column; N]) -> Self {
        Self { caption: caption.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "a cell for each column of {:?}", self.caption);
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How it is laid out: two columns do not need the page's width.
    fn class(&self) -> &'static str {
        match (self.columns.len(), self.rows.len()) {
            (2, _) => "pair",
            (_, LONG_ROWS..) => "list",
            _ => "plain",
        }
    }

    /// The rows with the columns' titles beside their cells, as narrow screens show them.
    pub(crate) fn cells<'a>(&'a self, row: &'a [Cell]) -> impl Iterator<Item = (&'a Column, &'a Cell)> {
        self.columns.iter().zip(row)
    }
}

impl Notice {
    pub(super) fn is_alarm(&self) -> bool {
        self.tone == Tone::Bad
    }
}

impl Column {
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, numeric: false }
    }

    pub(crate) const fn number(title: &'static str) -> Self {
        Self { title, numeric: true }
    }
}

impl Cell {
    pub(crate) fn code(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None, code: true }
    }

    pub(crate) fn marked(tone: Tone, text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: Some(tone), code: false }
    }

    fn is_short(&self) -> bool {
        self.text.len() <= SHORT_CODE_CHARS
    }

    /// For what is not known: an empty cell would leave open whether something was forgotten.
    pub(crate) fn absent() -> Self {
        Self::from("not known")
    }

    pub(crate) fn known(value: Option<String>) -> Self {
        value.map_or_else(Self::absent, Self::from)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tone: None, code: false }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Fact {
    pub(crate) fn new(name: &'static str, value: impl Into<Cell>) -> Self {
        Self { name, value: value.into() }
    }
}
