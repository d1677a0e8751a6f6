//! Messages over HTTP. Redirects are not followed: an address is a secret, and nobody else learns it.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::Full;
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pgproof_policies::policy::holds_user;
use sha2::Sha256;

use super::DeliveryError;

/// `sha256=` and the HMAC-SHA-256 of the body in hexadecimal, as receivers of GitHub's webhooks know it.
const SIGNATURE: &str = "x-pgproof-signature-256";
const AGENT: &str = concat!("pgproof/", env!("CARGO_PKG_VERSION"));

pub(super) async fn get(url: &str) -> Result<(), DeliveryError> {
    send(Method::GET, url, Vec::new(), None).await
}

/// Posts JSON.
pub(super) async fn post(url: &str, body: Vec<u8>, secret: Option<&str>) -> Result<(), DeliveryError> {
    let signature = secret.map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
        mac.update(&body);
        format!("sha256={}", HEXLOWER.encode(&mac.finalize().into_bytes()))
    });
    send(Method::POST, url, body, signature).await
}

async fn send(
    method: Method,
    url: &str,
    body: Vec<u8>,
    signature: Option<String>,
) -> Result<(), DeliveryError> {
    let uri: Uri = url.parse().map_err(|_| DeliveryError::Address)?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(DeliveryError::Address);
    }
    if holds_user(url) {
        return Err(DeliveryError::UserInAddress);
    }
    let mut request = Request::builder().method(method).uri(uri).header("user-agent", AGENT);
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    if let Some(signature) = signature {
        request = request.header(SIGNATURE, signature);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|_| DeliveryError::Address)?;
    let roots = HttpsConnectorBuilder::new().with_native_roots();
    let roots = roots.map_err(|error| DeliveryError::Unreachable { source: Box::new(error) })?;
    let connector = roots.https_or_http().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let answered = client.request(request).await;
    let answer = answered.map_err(|error| DeliveryError::Unreachable { source: Box::new(error) })?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(DeliveryError::Refused { status: answer.status().as_u16() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_that_would_not_be_sent_is_no_silence() {
        let sent = get("http://me:secret@127.0.0.1:1/").await;
        assert!(matches!(sent, Err(DeliveryError::UserInAddress)), "{sent:?}");
    }
}
