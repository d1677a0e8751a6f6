//! What an error tells of the server and its machine, and not of what the server was given: a full disk, a lost
//! connection, somebody who stopped it. A backup is never blamed for these.

use tokio_postgres::error::SqlState;

/// Classes of SQLSTATE: connections, resources, an operator's intervention, the operating system (PostgreSQL's manual,
/// appendix A).
const CLASSES: [&str; 4] = ["08", "53", "57", "58"];
/// The same in the words of programs, which print no SQLSTATE.
const WORDS: [&str; 15] = [
    "no space left on device",
    "out of memory",
    "cannot allocate memory",
    "out of shared memory",
    "too many open files",
    "could not extend file",
    "input/output error",
    "could not connect to",
    "connection to server",
    "server closed the connection",
    "terminating connection",
    "the database system is",
    "remaining connection slots",
    "too many clients",
    "could not fork",
];

/// What an operator does about a connection that ended.
pub const HINT_OF_A_LOST_CONNECTION: &str =
    "the connection to the server ended: see its log and the network in between, then run it again";

/// Whether a server's answer is about itself. That a statement took longer than it may (57014, in a class of these)
/// depends on the statement as much, and is not among them.
pub fn in_answer(code: &SqlState) -> bool {
    *code != SqlState::QUERY_CANCELED && CLASSES.iter().any(|class| code.code().starts_with(class))
}

/// Whether a session ended for want of a server: no answer came, or one about the server itself.
pub fn in_error(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(in_answer)
}

/// The hint where a session ended without an answer.
pub fn hint(error: &tokio_postgres::Error) -> Option<String> {
    error.code().is_none().then(|| HINT_OF_A_LOST_CONNECTION.to_owned())
}

/// Whether one line of a program's message says so. The texts that it repeats must be taken away before.
pub fn in_words(message: &str) -> bool {
    let message = message.to_lowercase();
    WORDS.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_the_server_are_known_by_their_class() {
        for code in ["53100", "53200", "53300", "57P01", "57P03", "58030", "08006"] {
            assert!(in_answer(&SqlState::from_code(code)), "{code}");
        }
        for code in ["22P02", "23505", "42P01", "42704", "42501", "57014", "XX001"] {
            assert!(!in_answer(&SqlState::from_code(code)), "{code}");
        }
    }
}
