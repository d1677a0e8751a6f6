//! The commented policy that `pgproof init` writes.

use std::path::PathBuf;

use toml::Value;

/// What a first policy is made of.
#[derive(Clone, Debug)]
pub struct Template {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub location: String,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub provider: Option<super::Provider>,
    /// The store was tried, and heeds no conditions on writes.
    pub ignores_conditions: bool,
    pub source: crate::names::SourceName,
    pub connection: super::Connection,
    pub recipients: Vec<String>,
    /// Why one recipient is enough; needed exactly if there is only one.
    pub single_recipient_waiver: Option<String>,
    pub signing_key: PathBuf,
    pub trusted_signers: PathBuf,
    /// Named in a comment: a host that only makes backups holds no identity.
    pub identity_file: Option<PathBuf>,
}

/// The text of a policy that backs up one source every night.
///
/// It is a proposal to be edited, and it is not checked here: [`Policy::parse`](super::Policy::parse) does that.
pub fn template(about: &Template) -> String {
    [repository(about), keys(about), source(about)].join("\n")
}

fn repository(about: &Template) -> String {
    let mut text = format!(
        "# Policy of pgproof: what is backed up, where to, when, and how long it is kept.\n\
         # After an edit, `pgproof policy check` says whether all of it holds.\n\
         \n\
         # Zone of the schedules below, of calendar days and months, and of `--at`. Without it: UTC.\n\
         # zone = \"Europe/Berlin\"\n\
         \n\
         [repository]\n\
         location = {}\n",
        quoted(&about.location),
    );
    let said = |key: &str, value: Option<&str>, example: &str| match value {
        Some(value) => format!("{key} = {}\n", quoted(value)),
        None => format!("# {key} = {example}\n"),
    };
    let is_azure = about.location.starts_with("az://");
    if is_azure {
        text.push_str("# account = \"house\"                     # otherwise AZURE_STORAGE_ACCOUNT_NAME\n");
    }
    let names_s3 = about.region.is_some() || about.provider.is_some();
    if (is_azure || about.location.starts_with("gs://")) && !names_s3 {
        let example = "\"https://storage.example.org\"   # of a private endpoint or another cloud";
        text.push_str(&said("endpoint", about.endpoint.as_deref(), example));
    // What has no meaning for a place is refused when the policy is read.
    } else if about.location.starts_with("s3://") || names_s3 || about.endpoint.is_some() {
        let provider = about.provider.map(super::Provider::name);
        text.push_str(&said("region", about.region.as_deref(), "\"eu-central-1\""));
        let example = "\"https://s3.example.org\"   # for a store that is not AWS";
        text.push_str(&said("endpoint", about.endpoint.as_deref(), example));
        let example = "\"minio\"                    # whose ways are known; else they are taken for Amazon's";
        text.push_str(&said("provider", provider, example));
        if about.ignores_conditions {
            text.push_str(
                "# Tried by `pgproof init`: the store heeds no conditions on writes. Leases are taken by a slower way without.\n\
                 conditional_writes = \"ignored\"\n",
            );
        }
        text.push_str(
            "# path_style = true                     # if the store has no names per bucket\n\
             # storage_class = \"STANDARD_IA\"\n",
        );
    }
    text
}

fn keys(about: &Template) -> String {
    let recipients: String =
        about.recipients.iter().map(|recipient| format!("    {},\n", quoted(recipient))).collect();
    let waiver = match &about.single_recipient_waiver {
        Some(reason) => format!("single_recipient_waiver = {}\n", quoted(reason)),
        None => String::new(),
    };
    let identity = about.identity_file.clone().unwrap_or_else(|| PathBuf::from("/etc/pgproof/identity.txt"));
    format!(
        "[keys]\n\
         # Backups can be read with any one of these keys. Keep one of them far from this host: whoever loses\n\
         # them all has no backups.\n\
         recipients = [\n{recipients}]\n\
         {waiver}\
         signing_key = {}\n\
         trusted_signers = {}\n\
         # Only where backups are restored or verified. A host that just makes them must not be able to read them.\n\
         # identity_files = [{}]\n",
        quoted_path(&about.signing_key),
        quoted_path(&about.trusted_signers),
        quoted_path(&identity),
    )
}

fn source(about: &Template) -> String {
    let connection = match &about.connection {
        super::Connection::Uri(uri) => format!("connection = {}", quoted(uri)),
        super::Connection::Service(service) => format!("service = {}", quoted(service)),
        super::Connection::Environment => "from_environment = true".to_owned(),
    };
    format!(
        "[sources.{}]\n\
         kind = \"postgres\"\n\
         {connection}\n\
         # password_file = \"/etc/pgproof/pgpass\"   # never the password itself\n\
         \n\
         # Minute, hour, day of the month, month, day of the week.\n\
         schedule = \"0 2 * * *\"\n\
         # jitter = \"20m\"             # begin up to so much later, so that many hosts do not start at once\n\
         # jobs = 2                    # streams of a large database's dump, each a connection to the server\n\
         # snapshot_max = \"2h\"        # a dump that takes longer is given up, so that it holds up no clean-up\n\
         # lock_wait = \"1m\"           # a table that is locked for longer fails the dump; 5 minutes without it\n\
         # deadline = \"6h\"            # how long a failed run is tried again; else until the next one\n\
         # pause = [{{ days = \"mon-fri\", from = \"08:00\", to = \"18:00\", reason = \"office hours\" }}]\n\
         # hooks = {{ before = [\"/usr/local/bin/quiesce\", \"app\"], time_limit = \"5m\" }}   # no shell reads it\n\
         \n\
         # The newest good backup of each of so many days and months. The newest good one is never removed.\n\
         retention = {{ daily = 30, monthly = 12 }}\n\
         \n\
         # How old the newest good backup may grow, and how long a restore may take. `pgproof status` goes by it.\n\
         objectives = {{ recovery_point = \"25h\", recovery_time = \"4h\" }}\n\
         # alarms = {{ backup_age = {{ warning = \"26h\", critical = \"50h\" }} }}   # without it: the objective, and twice it\n\
         \n\
         # What the verifier does. With it, only a backup that was proved displaces an older one.\n\
         # [sources.{}.verification]\n\
         # schedule = \"0 4 * * 0\"\n\
         # window = \"90d\"           # within it every kept backup is proved once\n\
         # older_per_run_max = 4    # so many beside the newest each time, at most\n\
         # checks = [{{ name = \"orders exist\", sql = \"select count(*) > 0 from orders\", expect = \"t\" }}]\n\
         \n\
         # Folders beside the database.\n\
         # [sources.uploads]\n\
         # kind = \"files\"\n\
         # paths = [\"/srv/uploads\"]\n\
         # exclude = [\"*.tmp\"]\n\
         # incremental = {{ full_every = \"7d\", chain_max = 14 }}   # between full ones only what changed\n\
         # schedule = \"30 2 * * *\"\n\
         # retention = {{ daily = 7 }}\n",
        about.source, about.source,
    )
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn quoted_path(path: &std::path::Path) -> String {
    quoted(&path.to_string_lossy())
}
