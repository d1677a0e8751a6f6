//! What a failure means to a caller.

use std::error::Error;

use super::transport::{Answer, Fault};
use crate::store::operation::Operation;
use crate::store::{Source, StoreError};

/// One call, for its errors.
#[derive(Debug, Clone)]
pub(in crate::store) struct Call {
    pub(in crate::store) operation: Operation,
    pub(in crate::store) key: String,
    pub(in crate::store) location: String,
}

impl Call {
    pub(in crate::store) fn failed(&self, error: object_store::Error) -> StoreError {
        match fault(&error) {
            Some(fault) => self.fault(fault.clone()),
            // Found out before anything was sent, or of an answer that makes no sense.
            None => match error {
                object_store::Error::NotFound { .. } => StoreError::NotFound { key: self.key.clone() },
                error => self.refused(error),
            },
        }
    }

    fn fault(&self, fault: Fault) -> StoreError {
        match &fault {
            Fault::Answered(answer) => self.answered(answer.clone(), fault),
            Fault::Token { answer, .. } if !is_passing(answer) => self.denied(fault),
            _ => self.unreachable(fault),
        }
    }

    fn answered(&self, answer: Answer, fault: Fault) -> StoreError {
        let key = self.key.clone();
        match (answer.code.as_str(), answer.status) {
            ("NoSuchBucket" | "ContainerNotFound", _) => {
                StoreError::NoSuchPlace { location: self.location.clone(), source: Box::new(fault) }
            }
            ("NoSuchUpload", _) => self.refused(fault),
            // By a retention policy of the bucket, a hold, or an immutability policy of the container.
            ("BlobImmutableDueToPolicy" | "RetentionPolicyNotMet" | "ObjectUnderActiveHold", _)
            | (_, 401 | 403) => self.denied(fault),
            ("NotImplemented", _) | (_, 405 | 501) => {
                StoreError::Unsupported { operation: self.operation.name() }
            }
            (_, 404) => StoreError::NotFound { key },
            _ if is_passing(&answer) => self.unreachable(fault),
            _ => self.refused(fault),
        }
    }

    pub(in crate::store) fn refused(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Refused { operation: self.operation.name(), key: self.key.clone(), source: source.into() }
    }

    pub(in crate::store) fn short(&self, got: u64, expected: u64) -> StoreError {
        StoreError::Short { operation: self.operation.name(), key: self.key.clone(), got, expected }
    }

    fn unreachable(&self, source: impl Into<Source>) -> StoreError {
        let (operation, key) = (self.operation.name(), self.key.clone());
        StoreError::Unreachable { operation, key, source: source.into() }
    }

    fn denied(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Denied { operation: self.operation.name(), key: self.key.clone(), source: source.into() }
    }
}

/// What lies under an error of `object_store`, if anything was sent at all.
pub(in crate::store) fn fault(error: &object_store::Error) -> Option<&Fault> {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return Some(fault);
        }
        next = error.source();
    }
    None
}

/// What the service answered, if it did.
pub(in crate::store) fn answer(error: &object_store::Error) -> Option<&Answer> {
    match fault(error) {
        Some(Fault::Answered(answer)) => Some(answer),
        _ => None,
    }
}

/// The condition of a conditional write did not hold.
pub(in crate::store) fn is_precondition(error: &object_store::Error) -> bool {
    answer(error).is_some_and(|answer| answer.status == 412 || answer.code == "BlobAlreadyExists")
}

/// No upload has this id: completed, aborted, or never begun.
pub(in crate::store) fn is_no_upload(error: &object_store::Error) -> bool {
    answer(error).is_some_and(|answer| matches!(answer.code.as_str(), "NoSuchUpload" | "InvalidBlockList"))
}

/// An error of one's own making in the form that `object_store` gives to others.
pub(in crate::store) fn generic(store: &'static str, source: impl Into<Source>) -> object_store::Error {
    object_store::Error::Generic { store, source: source.into() }
}

fn is_passing(answer: &Answer) -> bool {
    matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504)
}
