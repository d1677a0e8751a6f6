//! What an answer of the server, or its absence, means to a caller.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;

use crate::store::operation::Operation;
use crate::store::{Source, StoreError};

/// One call, for its errors.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) operation: Operation,
    pub(super) key: String,
    pub(super) location: String,
}

/// What the server said.
#[derive(Debug, thiserror::Error)]
#[error("the store answered {status} {code}: {message}{}", request_id.as_ref().map(|id| format!(" (request {id})")).unwrap_or_default())]
struct Answer {
    status: u16,
    code: String,
    message: String,
    request_id: Option<String>,
}

impl Call {
    /// The outcome of a failed request.
    pub(super) fn failed<E>(&self, error: SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        match &error {
            SdkError::ServiceError(service) => {
                let metadata = service.err().meta();
                let answer = Answer {
                    status: service.raw().status().as_u16(),
                    code: metadata.code().unwrap_or("without a code").to_owned(),
                    message: metadata.message().unwrap_or("no message").to_owned(),
                    request_id: metadata.request_id().map(ToOwned::to_owned),
                };
                self.answered(answer)
            }
            SdkError::ResponseError(response) if response.raw().status().is_client_error() => {
                let status = response.raw().status().as_u16();
                let message = "an answer that is not S3's".to_owned();
                self.answered(Answer { status, code: "without a code".to_owned(), message, request_id: None })
            }
            SdkError::ConstructionFailure(_) => self.refused(error),
            _ if is_about_credentials(&error) => self.denied(error),
            _ => self.unreachable(error),
        }
    }

    fn answered(&self, answer: Answer) -> StoreError {
        let key = self.key.clone();
        match (answer.code.as_str(), answer.status) {
            ("NoSuchBucket", _) => {
                StoreError::NoSuchPlace { location: self.location.clone(), source: Box::new(answer) }
            }
            ("NoSuchUpload", _) => self.refused(answer),
            ("NoSuchKey" | "NotFound", _) => StoreError::NotFound { key },
            ("NotImplemented" | "MethodNotAllowed", _) | (_, 501 | 405) => {
                StoreError::Unsupported { operation: self.operation.name() }
            }
            ("QuotaExceeded" | "XMinioStorageFull", _) | (_, 507) => {
                StoreError::NoSpace { key, source: Box::new(answer) }
            }
            (
                "SlowDown"
                | "RequestTimeout"
                | "InternalError"
                | "ServiceUnavailable"
                | "Throttling"
                | "ConditionalRequestConflict"
                | "OperationAborted",
                _,
            )
            | (_, 408 | 429 | 500 | 502 | 503 | 504) => self.unreachable(answer),
            (
                "AccessDenied"
                | "InvalidAccessKeyId"
                | "SignatureDoesNotMatch"
                | "ExpiredToken"
                | "InvalidToken"
                | "RequestTimeTooSkewed",
                _,
            )
            | (_, 401 | 403) => self.denied(answer),
            (_, 404) => StoreError::NotFound { key },
            _ => self.refused(answer),
        }
    }

    pub(super) fn refused(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Refused { operation: self.operation.name(), key: self.key.clone(), source: source.into() }
    }

    pub(super) fn unreachable(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Unreachable {
            operation: self.operation.name(),
            key: self.key.clone(),
            source: source.into(),
        }
    }

    pub(super) fn damaged(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Damaged { operation: self.operation.name(), key: self.key.clone(), source: source.into() }
    }

    pub(super) fn short(&self, got: u64, expected: u64) -> StoreError {
        StoreError::Short { operation: self.operation.name(), key: self.key.clone(), got, expected }
    }

    fn denied(&self, source: impl Into<Source>) -> StoreError {
        StoreError::Denied { operation: self.operation.name(), key: self.key.clone(), source: source.into() }
    }
}

/// The condition of a conditional write did not hold.
pub(super) fn is_precondition<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code() == Some("PreconditionFailed")
        || error.raw_response().is_some_and(|answer| answer.status().as_u16() == 412)
}

/// No upload has this id: completed, aborted, or never begun.
pub(super) fn is_no_upload<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    error.code() == Some("NoSuchUpload")
}

fn is_about_credentials(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<CredentialsError>() {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: &str, status: u16) -> StoreError {
        let call = Call { operation: Operation::Get, key: "a".to_owned(), location: "s3://b".to_owned() };
        let (code, message) = (code.to_owned(), "said".to_owned());
        call.answered(Answer { status, code, message, request_id: Some("r1".to_owned()) })
    }

    /// Absence, refusal and an outage lead to different acts, whichever of the two a server tells them by.
    #[test]
    fn answers_mean_what_their_code_says_and_without_one_their_status() {
        type Is = fn(&StoreError) -> bool;
        let absent: Is = |error| matches!(error, StoreError::NotFound { .. });
        let no_place: Is = |error| matches!(error, StoreError::NoSuchPlace { .. });
        let unsupported: Is = |error| matches!(error, StoreError::Unsupported { .. });
        let full: Is = |error| matches!(error, StoreError::NoSpace { .. });
        let away: Is = |error| matches!(error, StoreError::Unreachable { .. });
        let denied: Is = |error| matches!(error, StoreError::Denied { .. });
        let refused: Is = |error| matches!(error, StoreError::Refused { .. });
        let none = "without a code";
        for (code, status, expected) in [
            ("NoSuchKey", 404, absent),
            ("NotFound", 404, absent),
            ("NoSuchKey", 400, absent),
            (none, 404, absent),
            ("NoSuchBucket", 404, no_place),
            ("NoSuchUpload", 404, refused),
            ("NotImplemented", 400, unsupported),
            ("MethodNotAllowed", 400, unsupported),
            (none, 501, unsupported),
            (none, 405, unsupported),
            ("QuotaExceeded", 400, full),
            ("XMinioStorageFull", 400, full),
            (none, 507, full),
            ("SlowDown", 400, away),
            ("ConditionalRequestConflict", 409, away),
            (none, 408, away),
            (none, 429, away),
            (none, 500, away),
            (none, 503, away),
            ("AccessDenied", 400, denied),
            ("SignatureDoesNotMatch", 400, denied),
            (none, 401, denied),
            (none, 403, denied),
            ("InvalidArgument", 400, refused),
            (none, 418, refused),
        ] {
            let found = outcome(code, status);
            assert!(expected(&found), "{code} {status}: {found:?}");
        }
        let told = outcome("InvalidArgument", 400);
        let cause = std::error::Error::source(&told).unwrap().to_string();
        assert_eq!(cause, "the store answered 400 InvalidArgument: said (request r1)");
    }
}
