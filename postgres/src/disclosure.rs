//! What of an error is told, and to whom: a server's words may hold a row or a password.
//!
//! [`told`] is for people at the machine and its log: the message, without the details, statements and contexts that
//! quote rows. [`recorded`] is for what leaves the machine: objects in the bucket, pages, alerts. There a message stands only
//! if it names objects; of others its SQLSTATE does, and the object that it is about. What `pg_dump` says in the one line
//! that is kept of it tells of catalogs, and stands in both.

use std::error::Error;

use tokio_postgres::error::DbError;

use crate::restore::{self, RestoreError};

/// Classes of SQLSTATE whose messages quote values (PostgreSQL's manual, appendix A): data exceptions, functions in other
/// languages, foreign data, and whatever a function raises.
const CLASSES_WITH_VALUES: [&str; 5] = ["22", "38", "39", "HV", "P0"];
/// Syntax errors and bad names quote what they could not read, in a statement that a function may have put together.
const STATES_WITH_VALUES: [&str; 2] = ["42601", "42602"];

/// An error with its causes, on one line, for people at the machine.
pub fn told(error: &(dyn Error + 'static)) -> String {
    chained(error, |cause| {
        let refusal = cause.downcast_ref::<DbError>()?;
        Some(format!("{}: {} ({})", refusal.severity(), refusal.message(), refusal.code().code()))
    })
}

/// An error with its causes, on one line, for everybody who may read what is stored.
pub fn recorded(error: &(dyn Error + 'static)) -> String {
    chained(error, |cause| match cause.downcast_ref::<RestoreError>() {
        Some(RestoreError::PgRestore { section, status, stderr }) => {
            Some(format!("pg_restore failed on {section} with {status}{}", restore::named(stderr)))
        }
        _ => cause.downcast_ref::<DbError>().map(answer),
    })
}

/// A server's refusal, as far as it holds no value.
pub fn answer(refusal: &DbError) -> String {
    if names_objects_alone(refusal) {
        return refusal.message().to_owned();
    }
    let of_schema = refusal.schema().map(|schema| format!("{schema}.")).unwrap_or_default();
    let objects = [
        ("table", refusal.table().map(|table| format!("{of_schema}{table}"))),
        ("column", refusal.column().map(str::to_owned)),
        ("constraint", refusal.constraint().map(str::to_owned)),
        ("type", refusal.datatype().map(str::to_owned)),
    ];
    let named = objects.iter().filter_map(|(what, name)| Some(format!(", {what} {}", name.as_ref()?)));
    format!("SQLSTATE {}{}", refusal.code().code(), named.collect::<String>())
}

/// An error that rose in a function, or while a row was read, has a context, and anything may stand in its message.
fn names_objects_alone(refusal: &DbError) -> bool {
    let code = refusal.code().code();
    refusal.where_().is_none()
        && !CLASSES_WITH_VALUES.iter().any(|class| code.starts_with(class))
        && !STATES_WITH_VALUES.contains(&code)
}

/// Each cause in the words given for it, or else in its own.
fn chained(
    error: &(dyn Error + 'static),
    words: impl Fn(&(dyn Error + 'static)) -> Option<String>,
) -> String {
    let causes = causes(error).map(|cause| words(cause).unwrap_or_else(|| cause.to_string()));
    causes.collect::<Vec<_>>().join(": ")
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (**cause).source())
}
