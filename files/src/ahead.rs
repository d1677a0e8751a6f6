//! Frames decrypted and decoded on a thread of their own, while those before them are hashed and written.

use std::sync::mpsc::{self, Receiver};
use std::thread;

use pgproof_repository::sealed::{FrameReader, ReadError};

/// Frames that wait to be used; with the one in use and the one being decoded, of 8 MiB at most each, this bounds memory.
const FRAMES_WAITING: usize = 1;

type Frame = Result<Vec<u8>, ReadError>;

/// The frames of a reader in their order. Its thread ends when this is dropped.
#[derive(Debug)]
pub(crate) enum Ahead {
    Decoded(Receiver<Frame>),
    /// Where the system gives no thread.
    Here(Box<FrameReader>),
}

impl Ahead {
    /// `again` gives the same reader anew.
    pub(crate) fn start(
        mut again: impl FnMut() -> Result<FrameReader, ReadError>,
    ) -> Result<Self, ReadError> {
        let reader = again()?;
        let (sender, decoded) = mpsc::sync_channel(FRAMES_WAITING);
        let decode = move || {
            for frame in reader {
                if sender.send(frame).is_err() {
                    break;
                }
            }
        };
        match thread::Builder::new().name("decode files".to_owned()).spawn(decode) {
            Ok(_) => Ok(Self::Decoded(decoded)),
            Err(_) => Ok(Self::Here(Box::new(again()?))),
        }
    }
}

impl Iterator for Ahead {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        match self {
            Self::Decoded(frames) => frames.recv().ok(),
            Self::Here(reader) => reader.next(),
        }
    }
}
