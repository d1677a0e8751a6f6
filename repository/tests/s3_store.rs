//! The S3 store against a server in this process, and against answers that no honest server gives.

mod in_process_s3;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use in_process_s3::{Server, connect, settings};
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::store::retry::{RetryPolicy, RetryStore};
use pgproof_repository::store::s3::{S3Settings, S3Store};
use pgproof_repository::store::{PutCondition, Store, StoreError, conformance};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_s3_store_conforms() {
    let server = Server::start().await;
    conformance::run_all(&connect(server.settings()).await).await;
}

#[tokio::test]
async fn answers_have_their_outcomes() {
    let cases = [
        ("403 Forbidden", "AccessDenied", "denied"),
        ("403 Forbidden", "InvalidAccessKeyId", "denied"),
        ("403 Forbidden", "SignatureDoesNotMatch", "denied"),
        ("503 Slow Down", "SlowDown", "unreachable"),
        ("500 Internal Server Error", "InternalError", "unreachable"),
        ("404 Not Found", "NoSuchBucket", "no place"),
        ("501 Not Implemented", "NotImplemented", "unsupported"),
        ("412 Precondition Failed", "PreconditionFailed", "exists"),
        ("409 Conflict", "ConditionalRequestConflict", "unreachable"),
        ("400 Bad Request", "InvalidRequest", "refused"),
    ];
    for (status, code, outcome) in cases {
        let store = canned(vec![error_answer(status, code)]).await;
        let error =
            store.put(&key("a/b"), Bytes::from_static(b"x"), PutCondition::IfAbsent).await.unwrap_err();
        let got = match error {
            StoreError::Denied { .. } => "denied",
            StoreError::Unreachable { .. } => "unreachable",
            StoreError::NoSuchPlace { .. } => "no place",
            StoreError::Unsupported { .. } => "unsupported",
            StoreError::AlreadyExists { .. } => "exists",
            StoreError::Refused { .. } => "refused",
            other => panic!("{code}: {other:?}"),
        };
        assert_eq!(got, outcome, "{code}");
    }
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let store = connect(settings(&endpoint)).await;
    let error = store.get(&key("a"), 10).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_short() {
    let answer =
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: \"e\"\r\nConnection: close\r\n\r\nonly this";
    let store = canned(vec![answer.to_owned()]).await;
    let error = store.get(&key("a"), 1_000).await.unwrap_err();
    assert!(matches!(error, StoreError::Short { got: 9, expected: 100, .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_that_stalls_does_not_hang() {
    // The answer is kept open: the canned server closes only with `Connection: close`.
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: \"e\"\r\n\r\nonly this";
    let endpoint = canned_endpoint(vec![answer.to_owned()]).await;
    let quick = S3Settings { read_timeout: Duration::from_millis(300), ..settings(&endpoint) };
    let store = connect(quick).await;
    let got = tokio::time::timeout(Duration::from_secs(20), store.get(&key("a"), 1_000)).await;
    let error = got.expect("gives up by itself").unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[tokio::test]
async fn a_completion_answered_200_with_an_error_inside_is_no_success() {
    let body = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>try again</Message></Error>";
    let store = canned(vec![
        ok_answer(
            "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
            "",
        ),
        ok_answer("", "ETag: \"5d41402abc4b2a76b9719d911017c592\"\r\n"),
        ok_answer(body, ""),
        "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
    ])
    .await;
    let upload = store.start_upload(&key("a")).await.unwrap();
    let part = upload.put_part(1, Bytes::from_static(b"hello")).await.unwrap();
    let error = upload.complete(vec![part]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_looked_up() {
    // The composed ETag of one part: md5(md5("hello"))-1.
    let head = |etag: &str| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"{etag}\"\r\nConnection: close\r\n\r\n")
    };
    let answers = |etag: &str| {
        vec![
            ok_answer(
                "<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
                "",
            ),
            ok_answer("", "ETag: \"5d41402abc4b2a76b9719d911017c592\"\r\n"),
            error_answer("404 Not Found", "NoSuchUpload"),
            head(etag),
        ]
    };
    let complete = async |etag: &str| {
        let upload = canned(answers(etag)).await.start_upload(&key("a")).await.unwrap();
        let part = upload.put_part(1, Bytes::from_static(b"hello")).await.unwrap();
        upload.complete(vec![part]).await
    };
    assert_eq!(complete("62109206880d38a4010a98e11243924a-1").await.unwrap().bytes, 5);
    let other = complete("00000000000000000000000000000000-1").await.unwrap_err();
    assert!(matches!(other, StoreError::AlreadyExists { .. }), "{other:?}");
}

#[tokio::test]
async fn a_put_whose_answer_was_lost_is_ours_if_the_bytes_are() {
    let answers = || {
        vec![
            error_answer("503 Slow Down", "SlowDown"),
            error_answer("412 Precondition Failed", "PreconditionFailed"),
            ok_answer("mine", "ETag: \"e1\"\r\n"),
        ]
    };
    let wait = Duration::from_millis(1);
    let policy = RetryPolicy { first_wait: wait, longest_wait: wait, ..RetryPolicy::default() };
    let store = RetryStore::with_policy(Arc::new(canned(answers()).await), policy);
    let version = store.put(&key("a"), Bytes::from_static(b"mine"), PutCondition::IfAbsent).await.unwrap();
    assert_eq!(version.0, "\"e1\"");
    let store = RetryStore::with_policy(Arc::new(canned(answers()).await), policy);
    let error = store.put(&key("a"), Bytes::from_static(b"your"), PutCondition::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
}

#[tokio::test]
async fn the_clock_is_read_from_a_refusal_too() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nDate: Tue, 24 Nov 2026 01:30:00 GMT\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let store = canned(vec![refusal.to_owned()]).await;
    assert_eq!(store.clock().await.unwrap(), Some("2026-11-24T01:30:00Z".parse().unwrap()));
}

/// A store whose server gives these answers, one per connection, the last one again and again.
async fn canned(answers: Vec<String>) -> S3Store {
    connect(settings(&canned_endpoint(answers).await)).await
}

async fn canned_endpoint(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let last = answers.last().cloned().into_iter().cycle();
        let mut open = Vec::new();
        for answer in answers.into_iter().chain(last) {
            let (mut socket, _) = listener.accept().await.unwrap();
            read_request(&mut socket).await;
            socket.write_all(answer.as_bytes()).await.unwrap();
            if !answer.contains("Connection: close") {
                open.push(socket);
            }
        }
    });
    endpoint
}

async fn read_request(socket: &mut tokio::net::TcpStream) {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0usize) {
                return;
            }
        }
        match socket.read(&mut buffer).await.unwrap() {
            0 => return,
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
}

fn ok_answer(body: &str, headers: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn error_answer(status: &str, code: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>canned</Message></Error>");
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}
