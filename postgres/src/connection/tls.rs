//! Encryption of a connection with libpq's meanings of `sslmode` and `sslrootcert`.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::parameters::{Environment, Parameters};
use super::{ConnectionError, Host};

/// Files in which distributions keep the certificates that the system trusts, for client programs older than
/// PostgreSQL 16, which do not know `sslrootcert=system`.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How much protection a connection must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// Encrypted where the server offers it. libpq's `allow` is taken as this, which asks for more.
    Prefer,
    Require,
    /// Encrypted, and the certificate was issued by a trusted authority.
    VerifyCa,
    /// The same, and it names the host.
    VerifyFull,
}

impl SslMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = TlsProblem;

    fn from_str(text: &str) -> Result<Self, TlsProblem> {
        match text {
            "disable" => Ok(Self::Disable),
            "allow" | "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(TlsProblem::Mode { given: text.chars().take(40).collect() }),
        }
    }
}

/// Whose certificates are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    None,
    /// Those that the operating system trusts.
    System,
    File(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) mode: SslMode,
    pub(crate) roots: RootCertificates,
    /// Certificate and key by which we show who we are.
    pub(crate) own: Option<(PathBuf, PathBuf)>,
    pub(crate) require_channel_binding: bool,
}

impl TlsSettings {
    pub(super) fn none() -> Self {
        let roots = RootCertificates::None;
        Self { mode: SslMode::Disable, roots, own: None, require_channel_binding: false }
    }

    pub(super) fn from_parameters(
        all: &Parameters,
        host: &Host,
        environment: &Environment,
    ) -> Result<Self, ConnectionError> {
        if matches!(host, Host::Socket(_)) {
            // libpq, too, ignores every one of these settings on a Unix socket.
            return Ok(Self::none());
        }
        let stated = all.get("sslmode").map(SslMode::from_str).transpose()?;
        let (mode, roots) = mode_and_roots(stated, all.get("sslrootcert"), environment)?;
        let own = match (all.get("sslcert"), all.get("sslkey")) {
            (Some(certificate), Some(key)) => Some((PathBuf::from(certificate), PathBuf::from(key))),
            (None, None) => None,
            _ => return Err(TlsProblem::HalfAnIdentity.into()),
        };
        let require_channel_binding = match all.get("channel_binding") {
            None | Some("disable" | "prefer") => false,
            Some("require") => true,
            Some(_) => return Err(super::value("channel_binding", "is none of disable, prefer, require")),
        };
        Ok(Self { mode, roots, own, require_channel_binding })
    }

    /// `PGSSLROOTCERT` of a client program.
    pub(super) fn root_certificate_for_child(&self) -> Option<PathBuf> {
        match &self.roots {
            RootCertificates::None => None,
            RootCertificates::File(path) => Some(path.clone()),
            RootCertificates::System => {
                let bundle = SYSTEM_BUNDLES.iter().find(|path| Path::new(path).is_file());
                Some(PathBuf::from(bundle.unwrap_or(&"system")))
            }
        }
    }

    pub(super) fn client_config(&self) -> Result<ClientConfig, TlsProblem> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Verifier {
            roots: self.load_roots()?,
            check: match self.mode {
                SslMode::VerifyFull => Check::ChainAndName,
                SslMode::VerifyCa => Check::Chain,
                _ => Check::Nothing,
            },
            provider: provider.clone(),
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsProblem::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        match &self.own {
            None => Ok(builder.with_no_client_auth()),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|source| TlsProblem::Pem { path: key.clone(), source })?;
                builder.with_client_auth_cert(certificates(certificate)?, key).map_err(TlsProblem::Setup)
            }
        }
    }

    fn load_roots(&self) -> Result<Roots, TlsProblem> {
        let trusted = match &self.roots {
            RootCertificates::None => Vec::new(),
            RootCertificates::File(path) => certificates(path)?,
            RootCertificates::System => rustls_native_certs::load_native_certs().certs,
        };
        let mut anchors = RootCertStore::empty();
        let (usable, _) = anchors.add_parsable_certificates(trusted.iter().cloned());
        if usable == 0 && matches!(self.mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            return Err(TlsProblem::NoUsableRoot);
        }
        Ok(Roots { anchors, trusted })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    #[error("sslmode must be disable, allow, prefer, require, verify-ca or verify-full, got \"{given}\"")]
    Mode { given: String },
    #[error("sslmode {} needs a root certificate, and there is none", mode.as_str())]
    NoRoot { mode: SslMode },
    #[error("sslrootcert=system trusts every public authority, so sslmode must be verify-full")]
    SystemNeedsFull,
    #[error("the root certificate file does not exist: {path}", path = path.display())]
    RootMissing { path: PathBuf },
    #[error("no usable certificate among the roots")]
    NoUsableRoot,
    #[error("sslcert and sslkey belong together, and only one is given")]
    HalfAnIdentity,
    #[error("cannot read a certificate or key from {path}", path = path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("cannot prepare encryption")]
    Setup(#[source] Error),
}

fn mode_and_roots(
    stated: Option<SslMode>,
    root: Option<&str>,
    environment: &Environment,
) -> Result<(SslMode, RootCertificates), TlsProblem> {
    if root == Some("system") {
        return match stated {
            None | Some(SslMode::VerifyFull) => Ok((SslMode::VerifyFull, RootCertificates::System)),
            Some(_) => Err(TlsProblem::SystemNeedsFull),
        };
    }
    let mode = stated.unwrap_or(SslMode::Prefer);
    let must_verify = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    let file = match root {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home().map(|home| home.join(".postgresql/root.crt")),
    };
    match file {
        Some(path) if path.is_file() => {
            // As in libpq: who has a root certificate wants it used.
            let mode = if mode == SslMode::Require { SslMode::VerifyCa } else { mode };
            Ok((mode, RootCertificates::File(path)))
        }
        Some(path) if must_verify && root.is_some() => Err(TlsProblem::RootMissing { path }),
        _ if must_verify => Err(TlsProblem::NoRoot { mode }),
        _ => Ok((mode, RootCertificates::None)),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsProblem> {
    let failed = |source| TlsProblem::Pem { path: path.to_owned(), source };
    CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)
}

#[derive(Debug)]
struct Roots {
    anchors: RootCertStore,
    trusted: Vec<CertificateDer<'static>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

/// Checks as much of a server's certificate as the mode asks for; possession of its key always.
#[derive(Debug)]
struct Verifier {
    roots: Roots,
    check: Check,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn chain(
        &self,
        certificate: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let anchors = &self.roots.anchors;
        let verified = rustls::client::verify_server_cert_signed_by_trust_anchor(
            parsed,
            anchors,
            intermediates,
            now,
            algorithms,
        );
        match verified {
            // Servers often present the self-signed certificate that clients were given as their root.
            Err(error) if is_authority_itself(&error) && self.roots.trusted.contains(certificate) => Ok(()),
            other => other,
        }
    }
}

/// Whether all that was wrong is that the certificate is an authority's own; its dates were checked before that.
fn is_authority_itself(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    format!("{:?}", other.0).contains("CaUsedAsEndEntity")
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            self.chain(end_entity, &parsed, intermediates, now)?;
            if self.check == Check::ChainAndName {
                rustls::client::verify_server_name(&parsed, server_name)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
