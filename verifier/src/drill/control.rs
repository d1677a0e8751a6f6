//! The negative control: the verifier tests its own alarm. It damages a copy of the backup in ways that happen, lets
//! the drill's own judgement look at each, and must hear that it is bad. An alarm that was never tested is no alarm.
//!
//! Bytes are damaged in a view of the store (nothing is written to it), rows in the scratch database once all checks
//! of the drill are done.

use std::sync::Arc;

use pgproof_postgres::comparison;
use pgproof_postgres::connection::ConnectionSpec;
use pgproof_postgres::damage::take_row;
use pgproof_repository::catalog::{self, CatalogError, Entry};
use pgproof_repository::contents;
use pgproof_repository::ids::ObjectKey;
use pgproof_repository::inventory::{Inventory, Table};
use pgproof_repository::keys::Identities;
use pgproof_repository::layout;
use pgproof_repository::manifest::v1::{Object, Role};
use pgproof_repository::manifest::{self, MANIFEST_BYTES_MAX, SignedManifest};
use pgproof_repository::report::Report;
use pgproof_repository::report::chain::SignedReport;
use pgproof_repository::report::v1::{Damage, NegativeControl, OutcomeKind};
use pgproof_repository::signature::{SigningKey, TrustedSigners, generate};
use pgproof_repository::store::SharedStore;
use pgproof_repository::store::altered::{Alteration, AlteredStore};
use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};

use super::objects::{Depth, read_object};
use super::scratch::Fault;
use crate::failure::chain;

/// Tables that a row is tried to be taken from, at most: triggers and rules of some may not let it go.
const TABLES_TRIED_MAX: usize = 20;
/// Bytes cut off an archive's end, at most: the smaller, the harder to notice.
const CUT_BYTES_MAX: u64 = 64 << 10;

/// Whether the control is to be made with this drill, and what a report says where it is not.
///
/// It is made with the first drill, then with every so many; and again at once after it failed.
pub(super) fn due(past: &[&SignedReport], every: u32) -> Result<(), NegativeControl> {
    let made = |signed: &&&SignedReport| signed.get().negative_control.outcome != OutcomeKind::NotRun;
    let last = past.iter().filter(made).max_by_key(|signed| signed.get().number);
    let Some(last) = last.map(|signed| signed.get()) else { return Ok(()) };
    let since = past.iter().filter(|signed| signed.get().number > last.number).count();
    if last.negative_control.outcome == OutcomeKind::Failed || since + 1 >= every as usize {
        return Ok(());
    }
    let reason = format!("made with every {every} drills; report {} made the last", last.number);
    Err(not_made(reason, Some(last.number)))
}

/// A control that was not made.
pub(super) fn not_made(reason: String, last_made: Option<u64>) -> NegativeControl {
    NegativeControl { outcome: OutcomeKind::NotRun, reason: Some(reason), damages: Vec::new(), last_made }
}

/// What is damaged, and with whose eyes it is looked at.
#[derive(Debug)]
pub(super) struct Control<'a> {
    pub store: &'a SharedStore,
    pub signed: &'a SignedManifest,
    pub signers: &'a TrustedSigners,
    pub identities: &'a Identities,
    pub entries: &'a [Entry],
    pub inventory: &'a Inventory,
    /// The restored database. It is worth nothing afterwards.
    pub database: &'a ConnectionSpec,
}

impl Control<'_> {
    /// Makes every damage and says which were noticed. `report` tells which tables were found equal before.
    pub(super) async fn make(&self, report: &Report, random: &mut (impl Rng + Send)) -> NegativeControl {
        let mut findings = Vec::new();
        let archives = self.signed.get().objects.iter().filter(|object| object.role == Role::Archive);
        if let Some(archive) = archives.choose(random) {
            for (name, alteration) in self.damages_of(archive, random) {
                findings.push((name, self.judge_object(archive, alteration).await));
            }
        }
        findings.push(("one changed bit in the manifest", self.judge_changed_manifest(random).await));
        findings.push(("the manifest signed by a stranger", self.judge_forged_signature().await));
        findings.push(("one row taken out of a restored table", self.judge_lost_row(report, random).await));
        concluded(findings, report.number)
    }

    fn damages_of(&self, archive: &Object, random: &mut impl Rng) -> Vec<(&'static str, Alteration)> {
        let bytes = archive.ciphertext.bytes;
        let flip = Alteration::Flipped {
            at: random.random_range(0..bytes.max(1)),
            mask: 1 << random.random_range(0..8_u8),
        };
        let off = random.random_range(1..=CUT_BYTES_MAX.min(bytes.max(2) - 1));
        let mut damages = vec![
            ("one flipped bit in the archive", flip),
            ("the archive without its end", Alteration::Cut { bytes: bytes.saturating_sub(off) }),
        ];
        damages.extend(
            self.foreign_object()
                .map(|with| ("another object in the archive's place", Alteration::Exchanged { with })),
        );
        damages
    }

    /// The archive of another backup; where there is only one, another object of the same.
    fn foreign_object(&self) -> Option<ObjectKey> {
        let own = self.signed.get();
        let others = self.entries.iter().filter_map(Entry::whole).map(SignedManifest::get);
        let of_another = others.filter(|other| other.id != own.id).find_map(|other| {
            let object = other.object(Role::Archive)?;
            contents::object_key(&other.source, &other.id, object).ok()
        });
        let of_the_same = || contents::object_key(&own.source, &own.id, own.object(Role::Inventory)?).ok();
        of_another.or_else(of_the_same)
    }

    async fn judge_object(&self, object: &Object, alteration: Alteration) -> Finding {
        let manifest = self.signed.get();
        let Ok(key) = contents::object_key(&manifest.source, &manifest.id, object) else {
            return Finding::NotMade("the archive's name is no key".to_owned());
        };
        let view: SharedStore = Arc::new(AlteredStore::new(self.store.clone(), key, alteration));
        Finding::of(read_object(&view, self.signed, object, self.identities, Depth::Plaintext).await.err())
    }

    async fn judge_changed_manifest(&self, random: &mut (impl Rng + Send)) -> Finding {
        let manifest = self.signed.get();
        let key = layout::manifest(&manifest.source, &manifest.id);
        let bytes = match self.store.head(&key).await {
            Ok(meta) => meta.bytes.max(1),
            Err(error) => return Finding::NotMade(chain(&error)),
        };
        let at = random.random_range(0..bytes);
        self.judge_manifest(key, Alteration::Flipped { at, mask: 1 << random.random_range(0..8_u8) }).await
    }

    async fn judge_forged_signature(&self) -> Finding {
        let manifest = self.signed.get();
        let bytes =
            match self.store.get(&layout::manifest(&manifest.source, &manifest.id), MANIFEST_BYTES_MAX).await
            {
                Ok((bytes, _)) => bytes,
                Err(error) => return Finding::NotMade(chain(&error)),
            };
        let stranger = SigningKey::parse(&generate("a stranger").0, "a stranger".as_ref());
        match stranger.and_then(|stranger| stranger.sign(manifest::NAMESPACE, &bytes)) {
            Ok(forged) => {
                let key = layout::manifest_signature(&manifest.source, &manifest.id);
                self.judge_manifest(key, Alteration::Replaced { by: forged.into_bytes().into() }).await
            }
            Err(error) => Finding::NotMade(chain(&error)),
        }
    }

    /// Whether the backup is still taken for one.
    async fn judge_manifest(&self, key: ObjectKey, alteration: Alteration) -> Finding {
        let manifest = self.signed.get();
        let view: SharedStore = Arc::new(AlteredStore::new(self.store.clone(), key, alteration));
        match catalog::find(&view, &manifest.source, &manifest.id, self.signers).await {
            Ok(_) => Finding::Missed("it was taken for a good backup".to_owned()),
            Err(CatalogError::Store { source }) => Finding::NotMade(chain(&source)),
            Err(error) => Finding::Noticed(chain(&error)),
        }
    }

    async fn judge_lost_row(&self, report: &Report, random: &mut (impl Rng + Send)) -> Finding {
        let equal = |table: &Table| {
            report.tables.iter().any(|t| t.equal && (&t.schema, &t.name) == (&table.schema, &table.name))
        };
        let tables = self.inventory.archives.iter().flat_map(|archive| &archive.tables);
        let mut tables: Vec<_> = tables.filter(|table| table.rows > 0 && equal(table)).collect();
        tables.shuffle(random);
        for table in tables.into_iter().take(TABLES_TRIED_MAX) {
            match take_row(self.database, table).await {
                Ok(true) => return self.judge_table(table).await,
                Ok(false) => {}
                Err(error) => return Finding::NotMade(chain(&error)),
            }
        }
        Finding::NotMade("no table of the backup lets a row be taken out".to_owned())
    }

    async fn judge_table(&self, table: &Table) -> Finding {
        let mut only = self.inventory.clone();
        for archive in &mut only.archives {
            archive.tables.retain(|other| (&other.schema, &other.name) == (&table.schema, &table.name));
        }
        let name = format!("{}.{}", table.schema, table.name);
        match comparison::compare(self.database, &only, 1).await {
            Err(error) => Finding::NotMade(chain(&error)),
            Ok(found) if found.iter().all(|table| table.equal) => {
                Finding::Missed(format!("{name} was called equal without one of its rows"))
            }
            Ok(_) => Finding::Noticed(format!("{name} does not hold what was dumped")),
        }
    }
}

/// What the verifier made of one damage.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Noticed(String),
    Missed(String),
    /// The damage could not be made, or the store or server did not answer: nothing is known.
    NotMade(String),
}

impl Finding {
    /// Only a fault that is the backup's is an alarm.
    fn of(fault: Option<Fault>) -> Self {
        match fault {
            None => Self::Missed("it was called good".to_owned()),
            Some(Fault::Backup { reason }) => Self::Noticed(reason),
            Some(Fault::Passing { reason } | Fault::Lasting { reason }) => Self::NotMade(reason),
        }
    }
}

fn concluded(findings: Vec<(&'static str, Finding)>, number: u64) -> NegativeControl {
    let (mut damages, mut not_made) = (Vec::new(), Vec::new());
    for (name, finding) in findings {
        let (noticed, told) = match finding {
            Finding::Noticed(told) => (true, told),
            Finding::Missed(told) => (false, told),
            Finding::NotMade(why) => {
                not_made.push(format!("{name}: {why}"));
                continue;
            }
        };
        damages.push(Damage { name: name.to_owned(), noticed, told });
    }
    let missed: Vec<_> =
        damages.iter().filter(|damage| !damage.noticed).map(|damage| &*damage.name).collect();
    let (outcome, reason) = if !missed.is_empty() {
        (OutcomeKind::Failed, Some(format!("not noticed: {}", missed.join("; "))))
    } else if damages.is_empty() {
        (OutcomeKind::NotRun, Some(format!("no damage could be made: {}", not_made.join("; "))))
    } else if not_made.is_empty() {
        (OutcomeKind::Passed, None)
    } else {
        (OutcomeKind::Degraded, Some(format!("not made: {}", not_made.join("; "))))
    };
    let last_made = (!damages.is_empty()).then_some(number);
    NegativeControl { outcome, reason, damages, last_made }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTICED: fn(&str) -> Finding = |told| Finding::Noticed(told.to_owned());

    #[test]
    fn every_damage_must_be_noticed() {
        let whole = vec![("flip", NOTICED("bad")), ("row", NOTICED("bad"))];
        let passed = concluded(whole.clone(), 3);
        assert_eq!((passed.outcome, passed.reason, passed.last_made), (OutcomeKind::Passed, None, Some(3)));

        let one_missed =
            [whole.clone(), vec![("forged", Finding::Missed("called good".to_owned()))]].concat();
        let failed = concluded(one_missed, 3);
        assert_eq!((failed.outcome, failed.damages.len()), (OutcomeKind::Failed, 3));
        assert_eq!(failed.reason.as_deref(), Some("not noticed: forged"));

        let not_made = || ("cut", Finding::NotMade("store away".to_owned()));
        assert_eq!(concluded([whole, vec![not_made()]].concat(), 3).outcome, OutcomeKind::Degraded);
        let nothing = concluded(vec![not_made()], 3);
        assert_eq!((nothing.outcome, nothing.last_made), (OutcomeKind::NotRun, None));
    }

    #[test]
    fn only_the_backups_own_fault_is_an_alarm() {
        let reason = || "why".to_owned();
        assert_eq!(Finding::of(Some(Fault::Backup { reason: reason() })), NOTICED("why"));
        assert!(matches!(Finding::of(None), Finding::Missed(_)));
        assert!(matches!(Finding::of(Some(Fault::Passing { reason: reason() })), Finding::NotMade(_)));
    }
}
