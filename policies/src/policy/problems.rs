//! What is wrong with a policy file, said all at once.

use std::fmt;

/// One mistake: where it is, which field, what that field must be, and what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// Counted from one.
    pub line: usize,
    /// Path of keys, `sources.app.schedule`; empty for the file as a whole.
    pub field: String,
    pub constraint: String,
    /// As written; `None` if nothing was.
    pub given: Option<String>,
}

/// Every mistake of one file, in the order of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PolicyProblems {
    pub problems: Vec<Problem>,
}

impl PolicyProblems {
    pub fn hint(&self) -> Option<String> {
        Some(
            "Nothing was done. Mend the lines named above; all of the file's problems are listed.".to_owned(),
        )
    }
}

impl fmt::Display for PolicyProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.constraint)?;
        match &self.given {
            Some(given) => write!(f, ", got {given}"),
            None => Ok(()),
        }
    }
}

/// Finds the line of a byte in a text.
pub(super) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { starts: std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect() }
    }

    /// Counted from one.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }
}
