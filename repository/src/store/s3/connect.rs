//! The clients: transport, credentials, time limits.

use std::time::Duration;

use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, SharedHttpClient, StalledStreamProtectionConfig};
use aws_sdk_s3::config::{ProvideCredentials, RequestChecksumCalculation, ResponseChecksumValidation};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use pgproof_policies::policy::Checksums;

use super::S3Settings;
use crate::store::StoreError;

/// Tries of a call that is safe to repeat; the wrapper [`crate::store::retry`] carries longer outages.
const ATTEMPTS: u32 = 3;
/// An upload slower than this counts as failed: 64 KiB/s moves a first part of 8 MiB in two minutes.
const SLOWEST_UPLOAD_BYTES_PER_SECOND: u64 = 64 * 1024;
/// What an upload may take besides its bytes.
const UPLOAD_ANSWER: Duration = Duration::from_secs(60);
/// The chain asks the host's metadata service last, which does not exist outside a cloud.
const CREDENTIALS: Duration = Duration::from_secs(15);

/// One client that tries again, and one that sends every request once.
pub(super) async fn clients(
    settings: &S3Settings,
    keys: Option<Credentials>,
) -> Result<(Client, Client), StoreError> {
    let sdk = sdk_config(settings, keys).await;
    if sdk.region().is_none() {
        return Err(StoreError::NoRegion { location: location(settings) });
    }
    check_credentials(settings, &sdk).await?;
    let config = |attempts| {
        let retry = RetryConfig::standard().with_max_attempts(attempts);
        let config = Builder::from(&sdk).force_path_style(settings.path_style).retry_config(retry);
        Client::from_conf(config.build())
    };
    Ok((config(ATTEMPTS), config(1)))
}

async fn sdk_config(settings: &S3Settings, keys: Option<Credentials>) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new();
    let http = http.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    // The read timeout of the SDK counts from the start of the request, upload and all; the limit of one attempt does the same
    // and can be set per call. What stalls within a body is found by the stream's own limits.
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(settings.connect_timeout)
        .operation_attempt_timeout(settings.connect_timeout + settings.read_timeout)
        .build();
    let stalls = StalledStreamProtectionConfig::enabled().grace_period(settings.read_timeout);
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .timeout_config(timeouts)
        .stalled_stream_protection(stalls.build());
    // Whoever knows no checksum headers may refuse a request for them.
    loader = match settings.checksums {
        Checksums::Crc32c => loader.response_checksum_validation(ResponseChecksumValidation::WhenSupported),
        Checksums::Md5 => loader
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired),
    };
    if let Some(region) = settings.region.clone().or_else(|| default_region(settings)) {
        loader = loader.region(Region::new(region));
    } else if let (Some(profile), Some(usual)) = (&settings.profile, &settings.usual_region) {
        let of_profile = ProfileFileRegionProvider::builder().profile_name(profile).build();
        let usual = Region::new(usual.clone());
        loader = loader.region(RegionProviderChain::first_try(of_profile).or_else(usual));
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Some(keys) = keys {
        loader = loader.credentials_provider(keys);
    } else if let Some(profile) = &settings.profile {
        loader = loader.profile_name(profile).credentials_provider(profile_only(profile, http, settings));
    }
    loader.load().await
}

/// Other stores seldom have regions, but requests are signed for one; without this the metadata service is asked.
fn default_region(settings: &S3Settings) -> Option<String> {
    let from_environment =
        ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| std::env::var_os(name).is_some());
    let needed = settings.endpoint.is_some() && settings.profile.is_none() && !from_environment;
    let usual = || settings.usual_region.clone().unwrap_or_else(|| "us-east-1".to_owned());
    needed.then(usual)
}

/// A profile that is named in the policy outranks variables that happen to be set.
fn profile_only(
    profile: &str,
    http: SharedHttpClient,
    settings: &S3Settings,
) -> ProfileFileCredentialsProvider {
    let region = settings.region.clone().map(Region::new);
    let provider = ProviderConfig::without_region().with_http_client(http).with_region(region);
    ProfileFileCredentialsProvider::builder().configure(&provider).profile_name(profile).build()
}

/// Missing credentials are reported here, by name, and not as the failure of the first request.
async fn check_credentials(settings: &S3Settings, sdk: &SdkConfig) -> Result<(), StoreError> {
    let none = |source| StoreError::NoCredentials { location: location(settings), source };
    let Some(provider) = sdk.credentials_provider() else {
        return Err(none("no provider of credentials is configured".into()));
    };
    match tokio::time::timeout(CREDENTIALS, provider.provide_credentials()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(none(Box::new(source))),
        Err(elapsed) => Err(none(Box::new(elapsed))),
    }
}

fn location(settings: &S3Settings) -> String {
    format!("s3://{}", settings.bucket)
}

/// Limits of one upload, by its size.
pub(super) fn upload_timeouts(bytes: usize) -> Builder {
    let sending = Duration::from_secs(bytes as u64 / SLOWEST_UPLOAD_BYTES_PER_SECOND);
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(UPLOAD_ANSWER + sending);
    Builder::new().timeout_config(timeouts.build())
}
