//! What `doctor` finds, as lines that people and programs read.
//!
//! Probing and judging are apart: a probe writes down what an attempt came to, and a pure function makes a [`Line`] of
//! it. This crate has the store and the host; servers and sources have their own.

pub mod host;
pub mod store;
pub mod text;

use serde::Serialize;

/// What a line says of its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// It could not be tried, or there was nothing to try: no news, good or bad.
    NotTried,
    /// It works, and could be better or safer.
    Warn,
    /// Something that pgproof needs does not work.
    Fail,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotTried => "not tried",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One check. Fields are only added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What it is about: `store`, `host`, `source app`.
    pub about: String,
    pub check: String,
    pub verdict: Verdict,
    pub told: String,
    /// What an operator can do.
    pub hint: Option<String>,
}

impl Line {
    pub fn new(verdict: Verdict, about: &str, check: impl Into<String>, told: impl Into<String>) -> Self {
        Self { about: about.to_owned(), check: check.into(), verdict, told: told.into(), hint: None }
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    #[must_use]
    pub fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self { hint: hint.map(Into::into), ..self }
    }
}

/// All lines, for programs. Fields are only added.
#[derive(Debug, Serialize)]
pub struct Document<'a> {
    /// Nothing failed.
    pub ok: bool,
    pub lines: &'a [Line],
}

impl<'a> Document<'a> {
    pub fn of(lines: &'a [Line]) -> Self {
        Self { ok: !has_failed(lines), lines }
    }
}

pub fn has_failed(lines: &[Line]) -> bool {
    lines.iter().any(|line| line.verdict == Verdict::Fail)
}

/// An error with its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    let told = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    told.split_whitespace().collect::<Vec<_>>().join(" ")
}
