//! One file a command: each opens what it needs, acts, and prints.

pub(crate) mod doctor;
pub(crate) mod documents;
pub(crate) mod drill;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod restorability;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod textfile;

/// Connections of a drill, unless somebody says otherwise: one a processor.
fn jobs(asked: Option<u16>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(processors, usize::from)
}
