//! Lines as people read them: a table on a terminal, one line a check for whatever else reads.

use std::fmt::Write;

use super::{Line, Verdict};

/// Where the words of a table's line begin: behind the longest verdict.
const VERDICT_WIDTH: usize = 9;
/// Longer names of checks push what follows to the right.
const CHECK_WIDTH_MAX: usize = 26;

/// A heading for each thing that was looked at, and a line for each check.
pub fn table(lines: &[Line], is_coloured: bool) -> String {
    let width = lines.iter().map(|line| line.check.chars().count()).max().unwrap_or(0).min(CHECK_WIDTH_MAX);
    let (mut text, mut about) = (String::new(), "");
    for line in lines {
        if line.about != about {
            about = &line.about;
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&format!("{about}\n"));
        }
        let verdict = format!("{:<VERDICT_WIDTH$}", line.verdict.as_str());
        let verdict = if is_coloured { coloured(line.verdict, &verdict) } else { verdict };
        written(writeln!(text, "  {verdict}  {:<width$}  {}", line.check, line.told));
        if let Some(hint) = &line.hint {
            written(writeln!(text, "  {:VERDICT_WIDTH$}  {:width$}  hint: {hint}", "", ""));
        }
    }
    written(write!(text, "\n{}", summary(lines)));
    text
}

/// `fail: store: put if absent: …`, so that a search for a verdict finds whole lines.
pub fn plain(lines: &[Line]) -> String {
    let mut text = String::new();
    for Line { about, check, verdict, told, hint } in lines {
        let verdict = verdict.as_str();
        written(write!(text, "{verdict}: {about}: {check}: {told}"));
        if let Some(hint) = hint {
            written(write!(text, "; hint: {hint}"));
        }
        text.push('\n');
    }
    text + &summary(lines)
}

fn summary(lines: &[Line]) -> String {
    let count = |verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let counts = [Verdict::Fail, Verdict::Warn, Verdict::NotTried, Verdict::Ok];
    let told = counts.map(|verdict| format!("{} {}", count(verdict), verdict.as_str()));
    told.join(", ")
}

fn coloured(verdict: Verdict, text: &str) -> String {
    let colour = match verdict {
        Verdict::Ok => "32",
        Verdict::NotTried => "2",
        Verdict::Warn => "33",
        Verdict::Fail => "31",
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

fn written(result: std::fmt::Result) {
    result.expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> [Line; 3] {
        [
            Line::new(Verdict::Ok, "store", "list", "in order"),
            Line::new(Verdict::Fail, "store", "put if absent", "ignored").hint("say so in the policy"),
            Line::new(Verdict::NotTried, "host", "memory", "not known"),
        ]
    }

    #[test]
    fn a_table_has_a_heading_for_each_thing() {
        let expected = "store\n  \
                        ok         list           in order\n  \
                        fail       put if absent  ignored\n  \
                        \u{20}                         hint: say so in the policy\n\
                        \nhost\n  \
                        not tried  memory         not known\n\
                        \n1 fail, 0 warn, 1 not tried, 1 ok";
        assert_eq!(table(&lines(), false), expected);
        assert!(table(&lines(), true).contains("\u{1b}[31mfail     \u{1b}[0m  put if absent"));
    }

    #[test]
    fn for_programs_a_check_is_one_line() {
        let text = plain(&lines());
        assert!(
            text.contains("\nfail: store: put if absent: ignored; hint: say so in the policy\n"),
            "{text}"
        );
        assert!(text.ends_with("1 fail, 0 warn, 1 not tried, 1 ok"), "{text}");
    }
}
