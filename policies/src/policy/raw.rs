//! Reading tables field by field, so that every mistake is found and none ends the reading.
//!
//! A reader of a table asks for each key it knows; what is left over at [`Table::finish`] is unknown. Wrong
//! types and wrong values become problems of the [`Report`], and the asker gets `None`.

use std::path::PathBuf;

use jiff::SignedDuration;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problems::{Lines, PolicyProblems, Problem},
    values,
};

/// Keys that differ in more letters than this are no misspelling of one another.
const SUGGESTION_DISTANCE_MAX: usize = 3;
/// Longest value repeated in a problem, in characters: enough to recognise it.
const GIVEN_CHARS_MAX: usize = 80;

/// Collects the problems of one file.
pub(super) struct Report<'a> {
    file: &'a str,
    lines: Lines,
    problems: Vec<Problem>,
}

/// A table of the file, with the keys that were asked for so far.
pub(super) struct Table<'a> {
    path: String,
    offset: usize,
    fields: &'a DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value with its place, for checks that come after reading.
#[derive(Clone, Debug)]
pub(super) struct Field<T> {
    pub(super) value: T,
    pub(super) path: String,
    pub(super) offset: usize,
}

impl<'a> Report<'a> {
    pub(super) fn of(text: &str, file: &'a str) -> Self {
        Self { file, lines: Lines::of(text), problems: Vec::new() }
    }

    pub(super) fn add(&mut self, offset: usize, field: &str, constraint: &str, given: Option<String>) {
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: self.lines.line_of(offset),
            field: field.to_owned(),
            constraint: constraint.to_owned(),
            given,
        });
    }

    pub(super) fn refuse<T>(&mut self, field: &Field<T>, constraint: &str, given: Option<String>) {
        self.add(field.offset, &field.path, constraint, given);
    }

    /// The value, if the whole file was without a problem.
    pub(super) fn conclude<T>(mut self, value: Option<T>) -> Result<T, PolicyProblems> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => {
                self.problems.sort_by(|a, b| (a.line, &a.field).cmp(&(b.line, &b.field)));
                Err(PolicyProblems { problems: self.problems })
            }
        }
    }
}

impl<'a> Table<'a> {
    pub(super) fn top(fields: &'a DeTable<'a>) -> Self {
        Self { path: String::new(), offset: 0, fields, known: Vec::new() }
    }

    /// Names every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for key in self.fields.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let constraint = match closest(name, &self.known) {
                Some(known) => format!("is no known key, did you mean `{known}`?"),
                None => "is no known key".to_owned(),
            };
            report.add(key.span().start, &self.path_of(name), &constraint, None);
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    pub(super) fn missing(&self, key: &str, constraint: &str, report: &mut Report<'_>) {
        report.add(self.offset, &self.path_of(key), constraint, Some("nothing".to_owned()));
    }

    /// A problem of the value of `key` as a whole.
    pub(super) fn refuse(&self, key: &str, constraint: &str, given: Option<String>, report: &mut Report<'_>) {
        let offset = self.fields.get_key_value(key).map_or(self.offset, |(name, _)| name.span().start);
        report.add(offset, &self.path_of(key), constraint, given);
    }

    pub(super) fn text(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<Field<String>> {
        self.typed(key, "must be a text in quotes that is not empty", report, |value| {
            value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned)
        })
    }

    /// Like [`Table::text`], for what may hold a password: a value of the wrong type is not repeated.
    pub(super) fn secret_text(
        &mut self,
        key: &'static str,
        constraint: &str,
        report: &mut Report<'_>,
    ) -> Option<Field<String>> {
        let (path, fields) = (self.path_of(key), self.fields);
        self.known.push(key);
        let value = fields.get(key)?;
        let offset = value.span().start;
        let Some(text) = value.get_ref().as_str() else {
            report.add(offset, &path, constraint, None);
            return None;
        };
        Some(Field { value: text.to_owned(), path, offset })
    }

    /// A text that `convert` understands, or else a problem with `constraint`.
    pub(super) fn converted<T>(
        &mut self,
        key: &'static str,
        constraint: &str,
        report: &mut Report<'_>,
        convert: impl Fn(&str) -> Option<T>,
    ) -> Option<Field<T>> {
        self.typed(key, constraint, report, |value| value.as_str().and_then(&convert))
    }

    pub(super) fn path(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<PathBuf> {
        self.text(key, report).map(|field| PathBuf::from(field.value))
    }

    pub(super) fn duration(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<SignedDuration> {
        self.converted(key, values::DURATION, report, values::duration).map(|field| field.value)
    }

    pub(super) fn schedule(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<String> {
        self.converted(key, values::SCHEDULE, report, values::schedule).map(|field| field.value)
    }

    pub(super) fn flag(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<Field<bool>> {
        self.typed(key, "must be true or false", report, DeValue::as_bool)
    }

    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: std::ops::RangeInclusive<u32>,
        report: &mut Report<'_>,
    ) -> Option<u32> {
        let constraint = format!("must be a whole number from {} to {}", range.start(), range.end());
        let number = self.typed(key, &constraint, report, |value| {
            let integer = value.as_integer()?;
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            range.contains(&number).then_some(number)
        });
        number.map(|field| field.value)
    }

    /// A number with or without a fraction.
    pub(super) fn decimal(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<f64> {
        let number = self.typed(key, "must be a number", report, |value| {
            let integer = || value.as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
            let float = || value.as_float().and_then(|n| n.as_str().parse::<f64>().ok());
            // Whole numbers of this size are exact.
            integer().map(|number| number as f64).or_else(float).filter(|number| number.is_finite())
        });
        number.map(|field| field.value)
    }

    /// A list of texts; the default for an absent key is the empty list.
    pub(super) fn texts(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<Field<String>> {
        let path = self.path_of(key);
        let mut texts = Vec::new();
        for (number, item) in self.items(key, "must be a list of texts", report).iter().enumerate() {
            let (path, offset) = (format!("{path}[{number}]"), item.span().start);
            match item.get_ref().as_str().filter(|text| !text.trim().is_empty()) {
                Some(text) => texts.push(Field { value: text.trim().to_owned(), path, offset }),
                None => {
                    let constraint = "must be a text in quotes that is not empty";
                    report.add(offset, &path, constraint, Some(given(item.get_ref())));
                }
            }
        }
        texts
    }

    pub(super) fn table(&mut self, key: &'static str, report: &mut Report<'_>) -> Option<Table<'a>> {
        let (path, fields) = (self.path_of(key), self.fields);
        self.known.push(key);
        let (name, value) = fields.get_key_value(key)?;
        nested(path, name.span().start, value, report)
    }

    pub(super) fn tables(&mut self, key: &'static str, report: &mut Report<'_>) -> Vec<Table<'a>> {
        let path = self.path_of(key);
        let items = self.items(key, "must be a list of tables", report);
        let numbered = items.iter().enumerate();
        numbered
            .filter_map(|(number, item)| nested(format!("{path}[{number}]"), item.span().start, item, report))
            .collect()
    }

    /// All tables below this one, whatever their names, with the place of the name.
    pub(super) fn named_tables(self, report: &mut Report<'_>) -> Vec<(Field<String>, Table<'a>)> {
        let mut tables = Vec::new();
        for (name, value) in self.fields {
            let (path, offset) = (self.path_of(name.get_ref()), name.span().start);
            if let Some(table) = nested(path.clone(), offset, value, report) {
                tables.push((Field { value: name.get_ref().to_string(), path, offset }, table));
            }
        }
        tables
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    fn items(
        &mut self,
        key: &'static str,
        constraint: &str,
        report: &mut Report<'_>,
    ) -> &'a [Spanned<DeValue<'a>>] {
        let (path, fields) = (self.path_of(key), self.fields);
        self.known.push(key);
        let Some(value) = fields.get(key) else { return &[] };
        match value.get_ref().as_array() {
            Some(items) => items,
            None => {
                report.add(value.span().start, &path, constraint, Some(given(value.get_ref())));
                &[]
            }
        }
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        constraint: &str,
        report: &mut Report<'_>,
        read: impl Fn(&DeValue<'a>) -> Option<T>,
    ) -> Option<Field<T>> {
        let (path, fields) = (self.path_of(key), self.fields);
        self.known.push(key);
        let value = fields.get(key)?;
        let offset = value.span().start;
        match read(value.get_ref()) {
            Some(value) => Some(Field { value, path, offset }),
            None => {
                report.add(offset, &path, constraint, Some(given(value.get_ref())));
                None
            }
        }
    }
}

fn nested<'a>(
    path: String,
    offset: usize,
    value: &'a Spanned<DeValue<'a>>,
    report: &mut Report<'_>,
) -> Option<Table<'a>> {
    match value.get_ref().as_table() {
        Some(fields) => Some(Table { path, offset, fields, known: Vec::new() }),
        None => {
            report.add(offset, &path, "must be a table", Some(given(value.get_ref())));
            None
        }
    }
}

fn given(value: &DeValue<'_>) -> String {
    let whole = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    };
    match whole.char_indices().nth(GIVEN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // A short word is within three letters of almost any other.
    let near = SUGGESTION_DISTANCE_MAX.min(name.chars().count() / 2);
    let candidates = known.iter().map(|&key| (distance(name, key), key));
    candidates.filter(|(distance, _)| *distance <= near).min().map(|(_, key)| key)
}

/// How many letters must be put in, taken out or changed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other_letter) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other_letter);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_put_in_taken_out_and_changed() {
        let pairs =
            [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("ab", "ab", 0), ("abcd", "bcde", 2)];
        for (one, other, expected) in pairs {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn short_words_are_like_few_others() {
        assert_eq!(closest("jitte", &["jitter", "schedule"]), Some("jitter"));
        assert_eq!((closest("ab", &["xy"]), closest("ab", &["ax"])), (None, Some("ax")));
    }
}
