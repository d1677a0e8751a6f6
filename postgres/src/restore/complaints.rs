//! What a `pg_restore` that goes on after errors says on its standard error, taken apart.
//!
//! With `--verbose` it names the entry before the first error of each (`pg_restore: from TOC entry 215; …`); further
//! errors of the same entry follow without. A message goes on over several lines, with the statement at its end, and
//! the last line counts the errors. (PostgreSQL 12 to 18, `src/bin/pg_dump/pg_backup_archiver.c`.)

use crate::infrastructure;

const OWN: &str = "pg_restore: ";
const STAGE: &str = "while ";
const ENTRY: &str = "from TOC entry ";
const ERROR: &str = "error: ";
const IGNORED: &str = "warning: errors ignored on restore: ";
const CONTEXT: &str = "CONTEXT:  ";
const STATEMENT: &str = "Command was: ";
/// So many words of a statement go as far as its object's name; what it says of it comes later.
const STATEMENT_WORDS: usize = 4;
/// How much of a program's complaints is shown, in bytes.
const SHOWN_BYTES_MAX: usize = 2 << 10;

/// One error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// The dump id of the entry that was at hand, where one was.
    pub(crate) entry: Option<i32>,
    /// The first line of the message.
    pub(crate) message: String,
}

/// All errors of a run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Complaints {
    pub(crate) errors: Vec<Complaint>,
    /// How many the program counted itself; absent where it did not come to its end.
    pub(crate) counted: Option<usize>,
}

impl Complaints {
    /// A line of a statement that looks like an error of the program's adds one that was not counted: it can make a
    /// run unaccounted for, never make one look better.
    pub(crate) fn parse(stderr: &str) -> Self {
        let mut all = Self::default();
        let mut entry = None;
        for line in stderr.lines().filter_map(|line| line.strip_prefix(OWN)) {
            if line.starts_with(STAGE) {
                entry = None;
            } else if let Some(rest) = line.strip_prefix(ENTRY) {
                entry = rest.split_once(';').and_then(|(id, _)| id.parse().ok());
            } else if let Some(message) = line.strip_prefix(ERROR) {
                all.errors.push(Complaint { entry, message: message.to_owned() });
            } else if let Some(count) = line.strip_prefix(IGNORED) {
                all.counted = count.trim().parse().ok();
            }
        }
        all
    }

    /// Whether each error that the program counted was found in what it said.
    pub(crate) fn are_complete(&self) -> bool {
        !self.errors.is_empty() && self.counted == Some(self.errors.len())
    }
}

/// Whether a statement has a line that looks like one of the program's own.
pub(crate) fn may_mislead(statement: &str) -> bool {
    statement.lines().any(|line| line.starts_with(OWN))
}

/// Whether `pg_restore` complains about its server or a machine, not about what it restores. Only an error's own line
/// counts, never the statement below it, which is the backup's text.
pub fn tell_of_server(stderr: &str) -> bool {
    let errors = Complaints::parse(stderr).errors;
    errors.iter().any(|error| infrastructure::in_words(&error.message))
}

/// The complaints without what may be a row or a secret: no details, no contexts, and of statements the first words.
pub(crate) fn shown(stderr: &str) -> String {
    let own = |line: &str| {
        let said = line.strip_prefix(OWN)?;
        let tells = [ENTRY, ERROR, IGNORED].iter().any(|start| said.starts_with(start));
        tells.then(|| said.to_owned())
    };
    let statement = |line: &str| {
        let statement = line.strip_prefix(STATEMENT)?;
        Some(format!("the command was {} …", beginning(statement)))
    };
    let told = |line: &str| own(line).or_else(|| statement(line));
    let mut all = stderr.lines().filter_map(told).collect::<Vec<_>>().join("; ");
    all.truncate(all.floor_char_boundary(SHOWN_BYTES_MAX));
    all
}

fn beginning(statement: &str) -> String {
    let is_name = |word: &&str| !word.contains(['\'', '(', '$']);
    let words = statement.split_whitespace().take(STATEMENT_WORDS).take_while(is_name);
    words.collect::<Vec<_>>().join(" ")
}

/// The first error's object, and the server's message where it rose in no function. In the message whatever is quoted,
/// and no name of the object, is left out: it may be a value.
pub(crate) fn named(stderr: &str) -> String {
    let mut entry = None;
    let mut lines = stderr.lines();
    let message = lines.by_ref().find_map(|line| {
        let said = line.strip_prefix(OWN)?;
        entry = said.strip_prefix(ENTRY).and_then(object_of).or(entry);
        said.strip_prefix(ERROR)
    });
    let below: Vec<&str> = lines.take_while(|line| !line.starts_with(OWN)).collect();
    let command = below.iter().position(|line| line.starts_with(STATEMENT));
    // Several jobs at once name no entry.
    let statement = command.and_then(|at| below[at].strip_prefix(STATEMENT)).map(beginning);
    let object = entry.map(str::to_owned).or(statement).unwrap_or_default();
    let at = if object.is_empty() { String::new() } else { format!(", at {object}") };
    let quoted = below.iter().take(command.unwrap_or(below.len()));
    let in_a_function = quoted.into_iter().any(|line| line.starts_with(CONTEXT));
    match message.filter(|_| !in_a_function) {
        Some(message) => format!("{at}: {}", without_values(message, &object)),
        None => at,
    }
}

/// What `215; 1259 16512 TABLE geo postgres` is about.
fn object_of(entry: &str) -> Option<&str> {
    entry.splitn(4, ' ').nth(3)
}

fn without_values(message: &str, object: &str) -> String {
    let names: Vec<&str> = object.split([' ', '.', '"']).collect();
    let is_known = |quoted: &str| quoted.split('.').all(|name| names.contains(&name));
    let parts = message.split('"').enumerate().map(|(at, part)| match at % 2 {
        1 if !is_known(part) => "…",
        _ => part,
    });
    parts.collect::<Vec<_>>().join("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As PostgreSQL 18's program says it; that of 15 words it the same.
    const PRE_DATA: &str = "\
pg_restore: connecting to database for restore
pg_restore: creating EXTENSION \"hstore\"
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 2; 3079 16384 EXTENSION hstore (no owner)
pg_restore: error: could not execute query: ERROR:  extension \"hstore\" is not available
HINT:  The extension must first be installed on the system where PostgreSQL is running.
Command was: CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA public;


pg_restore: creating COMMENT \"EXTENSION hstore\"
pg_restore: from TOC entry 3476; 0 0 COMMENT EXTENSION hstore 
pg_restore: error: could not execute query: ERROR:  extension \"hstore\" does not exist
Command was: COMMENT ON EXTENSION hstore IS 'data type for storing sets of (key, value) pairs';


pg_restore: creating TABLE \"public.geo\"
pg_restore: from TOC entry 215; 1259 16512 TABLE geo postgres
pg_restore: error: could not execute query: ERROR:  type \"public.hstore\" does not exist
LINE 3:     h public.hstore DEFAULT '\"a\"=>\"1\"'::public.hstore NOT NU...
              ^
Command was: CREATE TABLE public.geo (
    id integer NOT NULL,
    h public.hstore DEFAULT '\"a\"=>\"1\"'::public.hstore NOT NULL,
    note text DEFAULT 'x
y'::text
);


pg_restore: error: could not execute query: ERROR:  relation \"public.geo\" does not exist
Command was: ALTER TABLE public.geo OWNER TO postgres;

pg_restore: warning: errors ignored on restore: 4
";

    #[test]
    fn each_error_is_found_with_its_entry() {
        let complaints = Complaints::parse(PRE_DATA);
        let entries: Vec<_> = complaints.errors.iter().map(|error| error.entry).collect();
        assert_eq!(entries, [Some(2), Some(3476), Some(215), Some(215)]);
        assert!(complaints.errors[3].message.ends_with("relation \"public.geo\" does not exist"));
        assert!(complaints.are_complete());
    }

    #[test]
    fn what_is_shown_holds_no_row_and_no_secret() {
        let subscription = "\
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 3341; 6100 16389 SUBSCRIPTION feed postgres
pg_restore: error: could not execute query: ERROR:  invalid connection string: \"hunter2secret\"
DETAIL:  Key (email)=(alice@example.org) is duplicated.
Command was: CREATE SUBSCRIPTION feed CONNECTION 'host=x password=hunter2secret' PUBLICATION p;";
        assert_eq!(
            named(subscription),
            ", at SUBSCRIPTION feed postgres: could not execute query: ERROR:  invalid connection string: \"…\""
        );
        let told = shown(&subscription.replace(": \"hunter2secret\"", ""));
        assert!(
            told.contains("invalid connection string; the command was CREATE SUBSCRIPTION feed"),
            "{told}"
        );
        assert!(!told.contains("hunter2secret") && !told.contains("alice"), "{told}");
        let raised = "pg_restore: error: could not execute query: ERROR:  no customer alice@example.org\n\
                      CONTEXT:  PL/pgSQL function public.f() line 3 at RAISE\n\
                      Command was: CREATE INDEX i ON public.t USING btree (public.f());";
        assert_eq!(named(raised), ", at CREATE INDEX i ON");
        assert!(shown(raised).contains("the command was CREATE INDEX i ON …"), "{}", shown(raised));
        assert!(named(PRE_DATA).ends_with(
            "EXTENSION hstore (no owner): could not execute query: ERROR:  \
                                           extension \"hstore\" is not available"
        ));
        let parallel = "pg_restore: error: could not execute query: ERROR:  could not create unique index \"odd\"\n\
                        DETAIL:  Key (odd(body))=(alice@example.org) is duplicated.\n\
                        Command was: CREATE UNIQUE INDEX odd ON public.notes USING btree (public.odd(body));";
        assert_eq!(
            named(parallel),
            ", at CREATE UNIQUE INDEX odd: could not execute query: ERROR:  could not create unique index \"odd\""
        );
        let long = format!("pg_restore: error: {}", "ä".repeat(SHOWN_BYTES_MAX));
        assert!(shown(&long).len() <= SHOWN_BYTES_MAX);
    }

    #[test]
    fn what_was_not_counted_or_not_said_leaves_a_run_unaccounted_for() {
        let unended = PRE_DATA.rsplit_once("pg_restore: warning").unwrap().0;
        assert!(!Complaints::parse(unended).are_complete());
        let forged = PRE_DATA.replace("y'::text", "pg_restore: error: not one'::text");
        assert!(!Complaints::parse(&forged).are_complete());
        assert!(!Complaints::parse("").are_complete());
        let fatal = "pg_restore: error: connection to server on socket \"/x/.s.PGSQL.5432\" failed: gone\n";
        assert_eq!(Complaints::parse(fatal).errors[0].entry, None);
    }

    #[test]
    fn an_error_outside_the_contents_has_no_entry() {
        let late = format!("{PRE_DATA}pg_restore: while FINALIZING:\npg_restore: error: could not write\n");
        assert_eq!(Complaints::parse(&late).errors[4].entry, None);
    }

    #[test]
    fn only_own_lines_tell_of_the_server() {
        for line in [
            "ERROR:  could not extend file \"base/5/1\": No space left on device",
            "server closed the connection unexpectedly",
            "FATAL:  terminating connection due to administrator command",
        ] {
            assert!(tell_of_server(&format!("pg_restore: error: could not execute query: {line}")), "{line}");
        }
        assert!(tell_of_server(
            "pg_restore: error: connection to server on socket \"/x\" failed: No such file"
        ));
        let table = "pg_restore: error: could not execute query: ERROR:  syntax error\n\
                     Command was: CREATE TABLE x (y text DEFAULT 'no space left on device');";
        assert!(!tell_of_server(table));
    }
}
