//! Streams of an archive into `pg_restore`: its head followed by large objects alone, or all of it.

use std::sync::Arc;

use bytes::Bytes;
use pgproof_repository::inventory::Blobs;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::error::RestoreError;
use super::object::ArchiveObject;
use super::sections::{Input, PgRestore, Run};

/// Pieces that wait for the program: with frames of at most 8 MiB this bounds the memory of a stream.
const PIECES_WAITING: usize = 2;

/// What a stream consists of.
#[derive(Debug, Clone)]
pub(crate) enum Stream {
    /// The head, then the blocks of large objects, byte for byte: an archive without tables' data.
    Spliced {
        head: Bytes,
        blobs: Vec<Blobs>,
    },
    Whole,
}

/// Runs `pg_restore` with a stream of `archive` on its standard input. Both must end well.
pub(crate) async fn run_with_stream(
    program: &PgRestore,
    run: Run<'_>,
    archive: &Arc<ArchiveObject>,
    stream: Stream,
) -> Result<(), RestoreError> {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING);
    let reading = read(archive.clone(), stream, sender);
    // What is unreadable also makes the program fail, for want of input; the first is the cause.
    let ended = program.run(run, Input::Stream(pieces)).await;
    if matches!(ended, Err(RestoreError::Cancelled)) {
        return ended;
    }
    reading.await.map_err(|source| RestoreError::Worker { source })??;
    ended
}

fn read(
    archive: Arc<ArchiveObject>,
    stream: Stream,
    sender: mpsc::Sender<Bytes>,
) -> JoinHandle<Result<(), RestoreError>> {
    tokio::task::spawn_blocking(move || {
        let mut give = |piece: Bytes| sender.blocking_send(piece).is_ok();
        match stream {
            Stream::Whole => archive.each_piece_of_all(give),
            Stream::Spliced { head, blobs } => {
                give(head);
                blobs.iter().try_for_each(|block| archive.each_piece(&(block.start..block.end), &mut give))
            }
        }
    })
}
