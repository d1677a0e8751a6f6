//! Messages by mail.

use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use pgproof_policies::policy::{self, Email};

use super::{DeliveryError, Payload, read_file};

pub(super) async fn send(mail: &Email, payload: &Payload, limit: Duration) -> Result<(), DeliveryError> {
    let message = message(mail, payload)?;
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&mail.host)
        .port(mail.port)
        .timeout(Some(limit))
        .tls(tls(mail).await?);
    if let (Some(user), Some(file)) = (&mail.username, &mail.password_file) {
        transport = transport.credentials(Credentials::new(user.clone(), read_file(file).await?));
    }
    let sent = transport.build().send(message).await;
    sent.map(drop).map_err(|source| DeliveryError::Mail { source })
}

fn message(mail: &Email, payload: &Payload) -> Result<Message, DeliveryError> {
    let no_mail = |why: &dyn std::fmt::Display| DeliveryError::NoMail { why: why.to_string() };
    let address =
        |text: &String| text.parse::<Mailbox>().map_err(|error| no_mail(&format!("{text:?}: {error}")));
    let mut builder = Message::builder().from(address(&mail.from)?).subject(payload.title());
    for to in &mail.to {
        builder = builder.to(address(to)?);
    }
    builder.header(ContentType::TEXT_PLAIN).body(payload.to_text()).map_err(|error| no_mail(&error))
}

/// Encryption that is asked for and not to be had is no message, rather than one that everybody reads.
async fn tls(mail: &Email) -> Result<Tls, DeliveryError> {
    if mail.tls == policy::Tls::None {
        return Ok(Tls::None);
    }
    let no_mail = |error: lettre::transport::smtp::Error| DeliveryError::Mail { source: error };
    let mut parameters = TlsParameters::builder(mail.host.clone());
    if let Some(file) = &mail.ca_file {
        let pem = read_file(file).await?;
        parameters = parameters.add_root_certificate(Certificate::from_pem(pem.as_bytes()).map_err(no_mail)?);
    }
    let parameters = parameters.build_rustls().map_err(no_mail)?;
    Ok(match mail.tls {
        policy::Tls::Implicit => Tls::Wrapper(parameters),
        policy::Tls::Starttls | policy::Tls::None => Tls::Required(parameters),
    })
}
