//! What a command answers on standard output. A reader that has seen enough (`| head`) is no failure, and ends nothing else
//! that the command has to do.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// A line, or many.
pub fn say(text: &str) -> io::Result<()> {
    print(&format!("{text}\n"))
}

/// Text that ends its lines itself.
pub fn print(text: &str) -> io::Result<()> {
    heard(io::stdout().write_all(text.as_bytes()))
}

/// A document for programs, to be read by people, too.
pub fn print_json(document: &impl Serialize) -> io::Result<()> {
    say(&serde_json::to_string_pretty(document)?)
}

/// A document of a line of its own.
pub fn print_json_line(document: &impl Serialize) -> io::Result<()> {
    say(&serde_json::to_string(document)?)
}

fn heard(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_left_is_no_failure() {
        assert!(heard(Err(ErrorKind::BrokenPipe.into())).is_ok());
        assert!(heard(Err(ErrorKind::StorageFull.into())).is_err());
    }
}
