//! `pgproof init`: writes a commented policy and generates the keys.
//!
//! The private identity reads every backup, so it is written apart and must leave this host. Nothing that exists
//! is overwritten. The store is tried once: whether it heeds conditional writes decides how leases are taken there.

mod service;

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use pgproof_policies::policy::{Connection, Policy, Template, template};
use pgproof_repository::access::LoadedPolicy;
use pgproof_repository::doctor::store::{self, Heeds};
use pgproof_repository::keys::{Recipients, generate_identity};
use pgproof_repository::lease::host_name;
use pgproof_repository::signature::{self, TrustedSigners, namespace, trusted_line};

use self::service::{make_folder, refused, service_group};
use super::{print_json, say};
use crate::cli;
use crate::failure::{Exit, Failure};

pub(crate) async fn run(policy: &Path, args: cli::Init, json: bool) -> anyhow::Result<ExitCode> {
    let folder = keys_folder(policy, args.keys.as_deref());
    let [identity_path, signing_path, signers_path] =
        ["identity.txt", "signing_key", "trusted_signers"].map(|name| folder.join(name));
    refuse_existing(&[policy, &identity_path, &signing_path, &signers_path])?;
    if args.recipient.is_empty() && args.single_recipient_waiver.is_none() {
        return Err(one_recipient().into());
    }

    let (identity, recipient) = generate_identity();
    let mut recipients = vec![recipient.clone()];
    recipients.extend(args.recipient.iter().cloned());
    if !args.recipient.is_empty() {
        Recipients::parse(&args.recipient).context("--recipient cannot be used")?;
    }
    let (signing_key, public_line) = signature::generate(&format!("pgproof agent on {}", host_name()));
    let signers = signers(&public_line, args.verifier_key.as_deref());
    TrustedSigners::parse(&signers).context("--verifier-key cannot be used")?;
    let about = Template {
        location: args.location.clone(),
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        provider: args.provider,
        ignores_conditions: false,
        source: args.source.clone(),
        connection: Connection::Uri(args.connection.clone()),
        recipients: recipients.clone(),
        single_recipient_waiver: args.single_recipient_waiver.clone(),
        signing_key: signing_path.clone(),
        trusted_signers: signers_path.clone(),
        identity_file: Some(identity_path.clone()),
    };
    // What is wrong in the arguments is found before anything is tried or written.
    let parsed = Policy::parse(&template(&about), &policy.display().to_string())
        .context("the arguments do not make a policy")?;
    let loaded = LoadedPolicy { policy: parsed, path: policy.to_owned(), sha256: String::new() };
    let tried = Box::pin(try_store(&loaded)).await;
    let text = template(&Template { ignores_conditions: tried.must_be_said(), ..about });
    let of_policy = folder_of(policy);
    make_folder(&of_policy)?;
    make_folder(&folder)?;
    // The policy first: where even that cannot be written, no key should be.
    write_all_new(&[
        NewFile { path: policy, text: &text, readers: service_group(&of_policy) },
        NewFile { path: &identity_path, text: secret(&identity), readers: None },
        NewFile { path: &signing_path, text: secret(&signing_key), readers: service_group(&folder) },
        NewFile { path: &signers_path, text: &signers, readers: service_group(&folder) },
    ])?;

    if json {
        print_json(&serde_json::json!({
            "policy": policy, "identity": identity_path, "signing_key": signing_path,
            "trusted_signers": signers_path, "recipient": recipient, "conditional_writes": tried.as_str(),
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("wrote {}", policy.display()))?;
    say(&format!("wrote {} (signs backups; stays here)", signing_path.display()))?;
    say(&format!("wrote {} (whose signatures are believed)", signers_path.display()))?;
    say(&format!("wrote {} (reads every backup)", identity_path.display()))?;
    if args.verifier_key.is_none() {
        say(
            "  for now it believes this host's reports, too: with --verifier-key only the verifier can sign those",
        )?;
    }
    if let Some(told) = tried.told() {
        say(&told)?;
    }
    say("")?;
    say(&format!("MOVE {} TO A SAFE PLACE AND DELETE IT HERE.", identity_path.display()))?;
    say(&format!(
        "A host that backs up needs no identity; without it nobody can restore. Its public key is {recipient}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What became of trying the store.
enum Tried {
    /// A folder, which heeds conditions by its nature.
    Folder,
    Honoured,
    /// Found, where the provider is not known for it.
    Ignored,
    /// Found, and known of the provider.
    KnownToIgnore,
    Not {
        why: String,
    },
}

async fn try_store(loaded: &LoadedPolicy) -> Tried {
    let Some(settings) = loaded.s3_settings() else { return Tried::Folder };
    match store::heeds(loaded).await {
        Heeds::Conditions => Tried::Honoured,
        Heeds::Nothing if settings.conditions.keep_leases() => Tried::Ignored,
        Heeds::Nothing => Tried::KnownToIgnore,
        Heeds::NotTried { why } => Tried::Not { why },
    }
}

impl Tried {
    fn must_be_said(&self) -> bool {
        matches!(self, Self::Ignored)
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Folder | Self::Honoured => "honoured",
            Self::Ignored | Self::KnownToIgnore => "ignored",
            Self::Not { .. } => "not_tried",
        }
    }

    fn told(&self) -> Option<String> {
        match self {
            Self::Folder => None,
            Self::Honoured => Some("tried the store: it honours conditional writes, which keep two hosts apart".to_owned()),
            Self::Ignored => Some(
                "tried the store: it IGNORES conditional writes. The policy says so (conditional_writes = \"ignored\"), and \
                 leases are taken by a slower way that is safe without"
                    .to_owned(),
            ),
            Self::KnownToIgnore => Some(
                "tried the store: it ignores conditional writes, as is known of its provider; leases are taken by a slower \
                 way that is safe without"
                    .to_owned(),
            ),
            Self::Not { why } => Some(format!(
                "the store could not be tried ({why}); `pgproof doctor` tries it once it can be reached"
            )),
        }
    }
}

/// Whose signatures are believed. With a verifier elsewhere, each of the two signs its own alone.
fn signers(agent: &str, verifier: Option<&str>) -> String {
    match verifier {
        None => format!("agent {agent}\n"),
        Some(verifier) => format!(
            "{}\n{}\n",
            trusted_line("agent", &namespace::OF_AGENT, agent),
            trusted_line("verifier", &namespace::OF_VERIFIER, verifier),
        ),
    }
}

fn keys_folder(policy: &Path, keys: Option<&Path>) -> PathBuf {
    let folder = keys.map_or_else(|| folder_of(policy), Path::to_owned);
    // The policy may be read from another folder later.
    std::path::absolute(&folder).unwrap_or(folder)
}

fn folder_of(policy: &Path) -> PathBuf {
    policy.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

fn refuse_existing(paths: &[&Path]) -> anyhow::Result<()> {
    // A link to nowhere is something, too.
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let message = format!("{} exists already", path.display());
            Err(Failure::new(
                Exit::Usage,
                message,
                "nothing is overwritten; move it away, or name another --policy and --keys",
            )
            .into())
        }
    }
}

fn one_recipient() -> Failure {
    Failure::new(
        Exit::Usage,
        "only one key could decrypt the backups, and whoever loses it loses them all",
        "name a second one, kept elsewhere, with --recipient (age-keygen makes one), or accept the risk with --single-recipient-waiver REASON",
    )
}

fn secret(secret: &secrecy::SecretString) -> &str {
    use secrecy::ExposeSecret;
    secret.expose_secret()
}

/// A file that only its owner reads, and a service by its group.
struct NewFile<'a> {
    path: &'a Path,
    text: &'a str,
    readers: Option<u32>,
}

/// All of them, or none: what half an `init` left would stand in the way of the next.
fn write_all_new(files: &[NewFile<'_>]) -> anyhow::Result<()> {
    for (at, file) in files.iter().enumerate() {
        if let Err(error) = file.write() {
            files[..at].iter().for_each(NewFile::remove);
            return refused(format!("{} cannot be written", file.path.display()), error);
        }
    }
    Ok(())
}

impl NewFile<'_> {
    /// One that exists is an error, and stays as it is.
    fn write(&self) -> std::io::Result<()> {
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path)?;
        self.fill(file).inspect_err(|_| self.remove())
    }

    fn fill(&self, mut file: File) -> std::io::Result<()> {
        if let Some(group) = self.readers {
            fchown(&file, None, Some(group))?;
            file.set_permissions(Permissions::from_mode(0o640))?;
        }
        file.write_all(self.text.as_bytes())?;
        file.sync_all()
    }

    fn remove(&self) {
        // One that stays is named by the next run, as any that exists.
        let _ = std::fs::remove_file(self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_takes_the_others_of_this_run_with_it_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second, other] = ["first", "second", "other"].map(|name| folder.path().join(name));
        std::fs::write(&other, "somebody's").unwrap();
        let new = |path| NewFile { path, text: "new", readers: None };
        assert!(write_all_new(&[new(&first), new(&second), new(&other)]).is_err());
        assert!(!first.exists() && !second.exists());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "somebody's");
        write_all_new(&[new(&first), new(&second)]).unwrap();
    }

    #[test]
    fn a_link_to_nowhere_exists() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(refuse_existing(&[&link]).is_err());
    }
}
