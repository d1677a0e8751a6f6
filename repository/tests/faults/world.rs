//! A repository in memory, and the processes that work in it as the programs do: backup, prune, drill's report, restore, hold.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::backups::Cause;
use pgproof_policies::names::SourceName;
use pgproof_policies::retention::{self, Retention};
use pgproof_repository::acts::{Book, Ended, What};
use pgproof_repository::catalog::{self, Brief, Standing};
use pgproof_repository::ids::{BackupId, KeyPrefix, ObjectKey, RepositoryId};
use pgproof_repository::keys::{Identities, NoPrompts, Recipients, generate_identity};
use pgproof_repository::lease::{Holder, Lease, LeaseError};
use pgproof_repository::lifecycle::{Started, upload_parts};
use pgproof_repository::manifest::v1::{Base, Chain, Contents, Manifest, Object, Previous, Role};
use pgproof_repository::manifest::{self, SignedManifest};
use pgproof_repository::pins::{self, Pin};
use pgproof_repository::prune::{self, Pruner};
use pgproof_repository::records::{self, Hold, Run, RunOutcome};
use pgproof_repository::report::{chain, v1};
use pgproof_repository::sealed::{Expected, seal_bytes, unseal_bytes};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::memory::MemoryStore;
use pgproof_repository::store::{SharedStore, Store};
use pgproof_repository::{holds, layout, lineage};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const MANIFEST: &[u8] = include_bytes!("../../fixtures/manifest.files.v1.json");
const REPORT: &[u8] = include_bytes!("../../fixtures/report.v1.json");
/// Backups that retention keeps beside what these need.
pub(crate) const KEPT: usize = 2;
/// Random bytes of an archive, which zstd cannot shrink: some parts of the smallest size.
const ARCHIVE_BYTES: usize = 2_600;
const PART_BYTES: usize = 1_200;
const PLAIN_BYTES_MAX: u64 = 1 << 20;

pub(crate) type Done<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Who is trusted, and whose processes are at work.
#[derive(Debug)]
pub(crate) struct Keys {
    signing: SigningKey,
    pub(crate) signers: TrustedSigners,
    recipients: Recipients,
    identities: Identities,
}

/// A repository and what ever became whole in it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) memory: MemoryStore,
    pub(crate) keys: Arc<Keys>,
    pub(crate) now: Timestamp,
    pub(crate) committed: BTreeSet<BackupId>,
}

/// What a process is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Backup,
    /// With bytes that only an earlier backup has.
    Increment,
    Prune,
    Report,
    Restore,
    /// The newest backup is held, and given back.
    HoldAndRelease,
}

impl Act {
    pub(crate) const ALL: [Self; 6] =
        [Self::Backup, Self::Increment, Self::Prune, Self::Report, Self::Restore, Self::HoldAndRelease];
}

/// What a process that came to its good end says it did.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) made: Option<BackupId>,
    pub(crate) removed: Vec<BackupId>,
    /// Whether anything at all was changed, as prune tells it.
    pub(crate) did_something: bool,
}

/// One process: a store handle and a moment, and no memory of others.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) store: SharedStore,
    pub(crate) keys: Arc<Keys>,
    pub(crate) now: Timestamp,
    pid: u32,
    random: StdRng,
}

pub(crate) fn source() -> SourceName {
    "uploads".parse().unwrap()
}

pub(crate) fn retention() -> Retention {
    Retention { last: KEPT as u32, ..Retention::default() }
}

impl World {
    /// Six days of it: a chain and two full backups, two reports, the lease of a host that crashed, and what a run left
    /// that died.
    pub(crate) async fn with_a_past(seed: u64) -> Self {
        let mut world = Self {
            memory: MemoryStore::new(),
            keys: Arc::new(Keys::new()),
            now: Timestamp::now() - SignedDuration::from_hours(6 * 24),
            committed: BTreeSet::new(),
        };
        let past = [Act::Backup, Act::Increment, Act::Backup, Act::Report, Act::Backup, Act::Report];
        for (number, act) in past.into_iter().enumerate() {
            world.process(seed + number as u64).carry_out(act).await.unwrap();
            world.observe();
            world.pass(SignedDuration::from_hours(24));
        }
        world.leave_a_dead_run().await;
        world
    }

    async fn leave_a_dead_run(&self) {
        let (store, id) = (self.store(), "20260101T020000Z-aaaaaa".parse().unwrap());
        let started = Started::new(store.clone(), source(), id);
        for number in 0..2 {
            let upload = store.start_upload(&started.key(&layout::archive_name(number))).await.unwrap();
            let part = upload.put_part(1, Bytes::from_static(b"half")).await.unwrap();
            if number == 0 {
                upload.complete(vec![part]).await.unwrap();
            }
        }
        let long_ago = self.now - SignedDuration::from_hours(24);
        let elsewhere = Holder { host: "elsewhere".to_owned(), boot: "b".to_owned(), pid: 7 };
        let lease = layout::backup_lease(&source());
        Lease::acquire(store, lease, elsewhere, long_ago, |_| false).await.unwrap();
    }

    pub(crate) fn store(&self) -> SharedStore {
        Arc::new(self.memory.clone())
    }

    /// A world of its own that is now as this one is.
    pub(crate) fn fork(&self) -> Self {
        let (keys, committed) = (self.keys.clone(), self.committed.clone());
        Self { memory: self.memory.fork(), keys, now: self.now, committed }
    }

    pub(crate) fn pass(&mut self, time: SignedDuration) {
        self.now += time;
    }

    /// A process that nothing disturbs.
    pub(crate) fn process(&self, seed: u64) -> Process {
        self.process_on(self.store(), seed)
    }

    pub(crate) fn process_on(&self, store: SharedStore, seed: u64) -> Process {
        let mut random = StdRng::seed_from_u64(seed);
        Process { store, keys: self.keys.clone(), now: self.now, pid: random.random(), random }
    }

    /// What is there, by name: two worlds alike in this differ in what was drawn or signed alone. Of leases and pins it also
    /// tells whether they were given back.
    pub(crate) async fn footprint(&self) -> String {
        let pins = layout::pins(&source());
        let mut lines = Vec::new();
        for key in self.memory.keys() {
            let name = key.as_str();
            // Named at random.
            let name = name.strip_prefix(pins.as_str()).map_or(name, |_| pins.as_str());
            let is_rewritten = name.starts_with("leases/") || name == pins.as_str();
            let (body, _) = self.memory.get(&key, PLAIN_BYTES_MAX).await.unwrap();
            let is_released = is_rewritten && String::from_utf8_lossy(&body).contains("\"released\": true");
            lines.push(format!("{name} {is_released}"));
        }
        let uploads = self.memory.list_uploads(&KeyPrefix::everything()).await.unwrap();
        lines.push(format!("{} uploads", uploads.len()));
        lines.join("\n")
    }

    /// Notes what has become a backup, whatever its maker was told.
    pub(crate) fn observe(&mut self) {
        let prefix = layout::backups(&source());
        for key in self.memory.keys() {
            let below = key.as_str().strip_prefix(prefix.as_str());
            if let Some((id, layout::MANIFEST)) = below.and_then(|path| path.split_once('/')) {
                self.committed.insert(id.parse().unwrap());
            }
        }
    }
}

impl Keys {
    fn new() -> Self {
        let signing = SigningKey::parse(&generate("a test").0, Path::new("a test")).unwrap();
        let signers = TrustedSigners::parse(&format!("host {}\n", signing.public_line())).unwrap();
        let (secret, recipient) = generate_identity();
        let identities = Identities::parse(&secret, Path::new("a test"), Arc::new(NoPrompts)).unwrap();
        Self { signing, signers, recipients: Recipients::parse([recipient]).unwrap(), identities }
    }
}

impl Process {
    pub(crate) async fn carry_out(mut self, act: Act) -> Done<Claimed> {
        match act {
            Act::Backup => self.back_up(false).await,
            Act::Increment => self.back_up(true).await,
            Act::Prune => self.prune().await,
            Act::Report => self.report().await.map(|()| Claimed::default()),
            Act::Restore => self.restore().await.map(|()| Claimed::default()),
            Act::HoldAndRelease => self.hold_and_release().await.map(|()| Claimed::default()),
        }
    }

    async fn back_up(&mut self, on_others: bool) -> Done<Claimed> {
        let id = BackupId::new(self.now, &mut self.random);
        let new_repository = RepositoryId::generate(&mut self.random);
        let marker = catalog::ensure_marker(&*self.store, new_repository, self.now).await?;
        let mut lease = self.lease(layout::backup_lease(&source())).await?;
        let made = self.make(&id, &marker.id, on_others, &mut lease).await;
        let outcome = match &made {
            Ok(()) => RunOutcome::Committed { warnings: Vec::new() },
            Err(error) => RunOutcome::Failed { error: error.to_string(), cause: Cause::Passing },
        };
        let run = Run {
            version: 1,
            source: source(),
            id: id.clone(),
            started_at: self.now,
            ended_at: self.now,
            host: "here".to_owned(),
            policy_sha256: None,
            outcome,
        };
        // As the agent has it, what comes after the manifest makes no backup worse.
        let _ = records::put(&*self.store, &layout::run(&source(), &id), &run, &self.keys.signing).await;
        let _ = lease.release().await;
        made.map(|()| Claimed { made: Some(id), ..Claimed::default() })
    }

    async fn make(
        &mut self,
        id: &BackupId,
        repository: &RepositoryId,
        on_others: bool,
        lease: &mut Lease,
    ) -> Done<()> {
        prune::abort_uploads(&*self.store, &source(), |_| true).await;
        let newest = match catalog::newest(&self.store, &source(), &self.keys.signers).await? {
            Some((_, Standing::Whole(signed))) => Some(signed),
            _ => None,
        };
        let mut started = Started::new(self.store.clone(), source(), id.clone());
        let mut plain = vec![0; ARCHIVE_BYTES];
        self.random.fill_bytes(&mut plain);
        let sealed = seal_bytes(&self.keys.recipients, 1, &plain)?;
        let (sender, parts) = mpsc::channel(8);
        for part in sealed.bytes.chunks(PART_BYTES) {
            sender.send(Bytes::copy_from_slice(part)).await?;
        }
        drop(sender);
        let name = layout::archive_name(0);
        let uploaded = upload_parts(self.store.clone(), started.key(&name), parts, 2).await?;
        // A dump takes longer than a lease lives. A store that is away for a while is no loss.
        for _ in 0..2 {
            match lease.renew(self.now).await {
                Ok(()) | Err(LeaseError::Store { .. }) => {}
                Err(lost) => return Err(lost.into()),
            }
        }
        let archive =
            Object { name, role: Role::Archive, plaintext: sealed.plaintext, ciphertext: sealed.ciphertext };
        started.complete_uploads(vec![(uploaded, archive)]).await?;
        let inventory = seal_bytes(&self.keys.recipients, 1, id.as_str().as_bytes())?;
        started.put_sealed("inventory.json.zst.age", Role::Inventory, inventory).await?;
        let bases = newest.as_deref().filter(|_| on_others).map(bases_after).unwrap_or_default();
        lineage::find(&self.store, &source(), id, &bases, &self.keys.signers).await?;
        let sealed = started.seal(|objects| {
            let mut made: Manifest = manifest::parse(MANIFEST).unwrap();
            (made.repository, made.source, made.id) = (repository.clone(), source(), id.clone());
            (made.started_at, made.finished_at, made.snapshot.at) = (self.now, self.now, self.now);
            made.objects = objects;
            made.previous = match &newest {
                None => Previous::None,
                Some(signed) => {
                    Previous::Known { id: signed.get().id.clone(), manifest_sha256: signed.sha256() }
                }
            };
            let Contents::Files(files) = &mut made.contents else { panic!("of files") };
            files.chain = bases.last().map(|parent| Chain {
                full: bases[0].id.clone(),
                parent: parent.id.clone(),
                depth: bases.len() as u32,
                bases: bases.clone(),
                own_files: 1,
                own_bytes: 1,
            });
            made
        });
        sealed.commit(&self.keys.signing).await?;
        Ok(())
    }

    async fn prune(&mut self) -> Done<Claimed> {
        let (store, signers) = (&self.store, &self.keys.signers);
        let briefs = catalog::survey(store, &source(), signers).await?;
        let pinned = pins::all(store, &source(), self.now).await?;
        let candidates = prune::candidates(&briefs, &pinned, self.now);
        let plan = retention::plan(&candidates, &retention(), &TimeZone::UTC, self.now);
        let lease = self.lease(layout::prune_lease(&source())).await?;
        let brief = |id: &str| briefs.iter().find(|brief| brief.id.as_str() == id);
        let expired: Vec<&Brief> = plan.expired().filter_map(brief).collect();
        let source = source();
        let pruner = Pruner {
            store,
            source: &source,
            signing_key: &self.keys.signing,
            signers,
            host: "here",
            cancel: CancellationToken::new(),
        };
        let outcome = pruner.carry_out(&expired, &briefs, self.now).await;
        if outcome.did_something() {
            self.enter(What::Prune {
                removed: outcome.removed.clone(),
                swept: outcome.swept.clone(),
                aborted_uploads: outcome.aborted_uploads,
                failures: Vec::new(),
                locked: Vec::new(),
                confirmed: None,
            })
            .await;
        }
        lease.release().await?;
        match outcome.failures.first() {
            Some(failure) => Err(format!("{}: {:?}", failure.id, failure.error).into()),
            None => Ok(Claimed {
                did_something: outcome.did_something(),
                removed: outcome.removed,
                ..Claimed::default()
            }),
        }
    }

    async fn report(&mut self) -> Done<()> {
        let lease = self.lease(layout::drill_lease(&source())).await?;
        let written = self.write_report().await;
        let _ = lease.release().await;
        written
    }

    async fn write_report(&mut self) -> Done<()> {
        let past = chain::list(&self.store, &source(), &self.keys.signers).await?;
        let signed = self.newest_before_now().await?;
        let mut report: v1::Report = serde_json::from_slice(REPORT)?;
        (report.number, report.previous) = chain::next(&past);
        (report.source, report.backup) = (source(), signed.get().id.clone());
        (report.manifest_sha256, report.finished_at) = (signed.sha256(), self.now);
        let key = layout::verification(&report.source, &report.backup, report.finished_at);
        Ok(records::put(&*self.store, &key, &report, &self.keys.signing).await?)
    }

    async fn restore(&mut self) -> Done<()> {
        let signed = self.newest_before_now().await?;
        let id = signed.get().id.clone();
        let pin = Pin::set(self.store.clone(), &source(), &id, self.now).await.ok();
        let read = self.read(&signed).await;
        if let Some(pin) = pin {
            pin.release().await;
        }
        let ended = match &read {
            Ok(()) => Ended::Done,
            Err(error) => Ended::Failed { error: error.to_string() },
        };
        let target = Some("a test".to_owned());
        self.enter(What::Restore { backup: id, started_at: self.now, target, ended }).await;
        read
    }

    async fn hold_and_release(&mut self) -> Done<()> {
        let id = self.newest_before_now().await?.get().id.clone();
        let (at, host, reason) = (self.now, "here".to_owned(), "a trial".to_owned());
        let hold = Hold { version: 1, source: source(), id: id.clone(), at, host, reason: reason.clone() };
        holds::put(&self.store, &hold, &self.keys.signing).await?;
        self.enter(What::Hold { backup: id.clone(), reason }).await;
        self.enter(What::Release { backup: id.clone() }).await;
        Ok(holds::give_back(&self.store, &source(), &id).await?)
    }

    /// Reads a backup, and those that hold bytes of it, to the last byte.
    pub(crate) async fn read(&self, signed: &SignedManifest) -> Done<()> {
        let mut all = lineage::bases_of(&self.store, signed, &self.keys.signers).await?;
        all.push(signed.clone());
        for manifest in all.iter().map(SignedManifest::get) {
            for object in &manifest.objects {
                self.read_object(&manifest.id, object).await?;
            }
        }
        Ok(())
    }

    async fn read_object(&self, id: &BackupId, object: &Object) -> Done<()> {
        let key = layout::backup_object(&source(), id, &object.name).ok_or("no name of an object")?;
        let pieces = self.store.get_stream(&key, 0..object.ciphertext.bytes).await?;
        let sealed: Vec<Bytes> = pieces.try_collect().await?;
        let expected = Expected { plaintext: object.plaintext, ciphertext: object.ciphertext };
        unseal_bytes(&self.keys.identities, &sealed.concat(), PLAIN_BYTES_MAX, Some(&expected))?;
        Ok(())
    }

    async fn newest_before_now(&self) -> Done<SignedManifest> {
        let entries = catalog::list(&self.store, &source(), &self.keys.signers).await?;
        let chosen = catalog::choose(&entries, self.now).ok_or("there is no backup")?;
        Ok(chosen.backup.clone())
    }

    async fn lease(&self, key: ObjectKey) -> Done<Lease> {
        let holder = Holder { host: "here".to_owned(), boot: "b".to_owned(), pid: self.pid };
        // Nothing is known of other processes, so that a dead one's lease has to run out.
        Ok(Lease::acquire(self.store.clone(), key, holder, self.now, |_| false).await?)
    }

    /// An act never fails because of its record.
    async fn enter(&self, what: What) {
        let (store, source, signing_key) = (&self.store, &source(), &self.keys.signing);
        let _ = Book { store, source, signing_key, policy_sha256: "p" }.enter(what).await;
    }
}

/// What an incremental backup after this one is made of.
fn bases_after(signed: &SignedManifest) -> Vec<Base> {
    let manifest = signed.get();
    let own = Base { id: manifest.id.clone(), manifest_sha256: signed.sha256() };
    manifest.bases().iter().cloned().chain([own]).collect()
}
