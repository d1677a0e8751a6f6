//! The order of a restore: what each phase does with the pieces that the other modules provide.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use pgproof_repository::inventory::Table;
use pgproof_repository::manifest::v1::Object;
use tokio::runtime::Handle;

use super::blobs::{Stream, run_with_stream};
use super::error::RestoreError;
use super::frames::FrameMap;
use super::head::{self, Workspace, dump_major, read_head};
use super::lenience::Lenience;
use super::load::{LoadArchive, Loader, RowForm, TableDone, TableTask};
use super::object::{ArchiveObject, ReadArchives};
use super::plan::{Mode, Unit, fetched_bytes, is_empty, units};
use super::prepared::Prepared;
use super::properties::Properties;
use super::sections::{Input, PgRestore, Run, Section};
use super::target::{self, Made, open};
use super::witness::{Witness, hasty};
use super::{Phase, PhaseClock, Restore, RestoreReport, serial};
use crate::archive::selection::Selection;
use crate::archive::{Toc, TocEntry};
use crate::client::{Program, Version, is_vulnerable_restore};
use crate::connection::Session;
use crate::digest::RowDigest;
use crate::quoting::{CopyTarget, qualified};

/// An archive with its contents.
#[derive(Debug)]
pub(crate) struct OpenArchive {
    pub(crate) object: Arc<ArchiveObject>,
    pub(crate) head: Bytes,
    pub(crate) toc: Option<Toc>,
}

/// All that was found out before the database is made.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) prepared: Prepared,
    archives: Vec<OpenArchive>,
    selection: Option<Selection>,
    program: PgRestore,
    report: RestoreReport,
}

/// Reads the archives' heads and looks whether backup, programs and target fit together. Changes nothing.
pub(crate) async fn prepare(restore: &Restore) -> Result<Ready, RestoreError> {
    let prepared = Prepared::new(restore)?;
    let archives = open_archives(restore, &prepared).await?;
    let mut report = RestoreReport {
        archives: ReadArchives::new(archives.iter().map(|archive| archive.object.clone())),
        ..RestoreReport::default()
    };
    let selection = choose(restore, &archives[0])?;
    let mut flags = flags(restore);
    if !restore.without_extensions.is_empty() && (prepared.mode != Mode::Parallel || selection.is_none()) {
        return Err(RestoreError::LenienceWithoutIndex { extensions: restore.without_extensions.clone() });
    }
    if let (Some(toc), Some(selection)) = (&archives[0].toc, &selection) {
        let session = open(&restore.target).await?;
        check_target(restore, &session, toc, selection, &mut flags, &mut report).await?;
    }
    let program = pg_restore(restore, &archives, flags, &mut report).await?;
    Ok(Ready { prepared, archives, selection, program, report })
}

/// Fills the new database, from its definitions to its properties.
pub(crate) async fn fill(
    restore: &Restore,
    clock: &mut PhaseClock,
    ready: Ready,
    (properties, made): (&Properties, Made),
) -> Result<RestoreReport, RestoreError> {
    let witness = Witness::open(&restore.target.with_database(&restore.database)).await?;
    let mut report = witness.sees(contents(restore, clock, ready)).await?;
    clock.enter(Phase::Analyze);
    // Before another role becomes the owner: ours may have no right to it afterwards.
    witness.analyze().await?;
    report.warnings.extend(properties.apply(restore, made).await?);
    witness.confirm().await?;
    Ok(report)
}

/// Makes all that the backup holds.
async fn contents(
    restore: &Restore,
    clock: &mut PhaseClock,
    ready: Ready,
) -> Result<RestoreReport, RestoreError> {
    let Ready { prepared, archives, selection, program, mut report } = ready;
    let workspace = Workspace::create(&restore.temp_root)?;
    match (&prepared.mode, selection) {
        (Mode::Parallel, Some(selection)) => {
            parallel(restore, clock, &archives, &selection, &program, &workspace, &mut report).await?;
        }
        (_, selection) => {
            clock.enter(Phase::Serial);
            let lists = match (&restore.selection, &selection) {
                (Some(_), Some(selection)) => Some(serial_lists(&workspace, &archives, selection)?),
                _ => None,
            };
            serial::run(&program, &archives, lists.as_deref()).await?;
            report.bytes_fetched = prepared.objects.iter().map(|object| object.ciphertext.bytes).sum();
            report.tables = prepared.facts.archive.table_count;
            report.rows = prepared.facts.archive.row_count;
            report.warnings.push("rows were not compared while loading: the serial path cannot".to_owned());
        }
    }
    Ok(report)
}

async fn parallel(
    restore: &Restore,
    clock: &mut PhaseClock,
    archives: &[OpenArchive],
    selection: &Selection,
    program: &PgRestore,
    workspace: &Workspace,
    report: &mut RestoreReport,
) -> Result<(), RestoreError> {
    let main = &archives[0];
    let head = workspace.write("head", &main.head)?;
    let list = |name: &str, ids: &[i32]| match &restore.selection {
        Some(_) => workspace.write_list(name, ids).map(Some),
        None => Ok(None),
    };
    let toc =
        main.toc.as_ref().ok_or_else(|| RestoreError::Inventory { why: "it has no head".to_owned() })?;
    let mut lenience = Lenience::new(toc, &restore.without_extensions);
    clock.enter(Phase::PreData);
    let pre_data = list("pre-data.list", &selection.pre_data)?;
    let ended = section(program, Section::PreData, pre_data.as_deref(), 1, &head).await;
    lenience.forgive(ended)?;

    clock.enter(Phase::Load);
    let absent = absent_tables(restore, program, &lenience).await?;
    load(restore, archives, selection, program, &absent, report).await?;

    clock.enter(Phase::OtherData);
    if !selection.other_data.is_empty() {
        let other = workspace.write_list("data.list", &selection.other_data)?;
        lenience.forgive(other_data(restore, main, selection, program, &head, &other).await)?;
    }

    clock.enter(Phase::PostData);
    let post_data = list("post-data.list", &selection.post_data)?;
    let jobs = restore.jobs.max(1);
    lenience.forgive(section(program, Section::PostData, post_data.as_deref(), jobs, &head).await)?;
    report.left_out = lenience.left_out(absent);
    let lost = selection.foreign_keys_left_out.len();
    if lost > 0 {
        report.warnings.push(format!("{lost} foreign keys to tables that were not chosen were left out"));
    }
    Ok(())
}

/// Tables of the backup that were not made, as extensions are missing. Any other that is absent fails its load.
async fn absent_tables(
    restore: &Restore,
    program: &PgRestore,
    lenience: &Lenience,
) -> Result<BTreeSet<(String, String)>, RestoreError> {
    if !lenience.is_needed() {
        return Ok(BTreeSet::new());
    }
    let present = target::tables(&open(&program.target).await?).await?;
    let tables = restore.inventory.archives.iter().flat_map(|archive| &archive.tables);
    let excused = tables.filter(|table| lenience.excuses(&table.schema, &table.name));
    let names = excused.map(|table| (table.schema.clone(), table.name.clone()));
    Ok(names.filter(|name| !present.contains(name)).collect())
}

async fn section(
    program: &PgRestore,
    section: Section,
    list: Option<&Path>,
    jobs: usize,
    head: &Path,
) -> Result<(), RestoreError> {
    let run = Run { section, list, jobs };
    program.run(run, Input::File(head)).await
}

/// Opens all archives and reads the heads of those that are indexed.
async fn open_archives(restore: &Restore, prepared: &Prepared) -> Result<Vec<OpenArchive>, RestoreError> {
    let (restore, runtime) = (restore.clone(), Handle::current());
    let objects: Vec<_> = prepared.objects.iter().cloned().zip(prepared.maps.iter().cloned()).collect();
    let open = move || {
        let open_one = |(object, map): (Object, FrameMap)| {
            let Restore { store, manifest, identities, .. } = &restore;
            let archive = ArchiveObject::open(store, &runtime, manifest, &object, map, identities)?;
            let described = restore.inventory.archives.iter().find(|archive| archive.object == object.name);
            let (head, toc) = match described {
                Some(described) if described.head_bytes > 0 => {
                    let (head, toc) = read_head(&archive, described.head_bytes)?;
                    (head.into(), Some(toc))
                }
                _ => (Bytes::new(), None),
            };
            Ok(OpenArchive { object: Arc::new(archive), head, toc })
        };
        objects.into_iter().map(open_one).collect()
    };
    tokio::task::spawn_blocking(open).await.map_err(|source| RestoreError::Worker { source })?
}

fn choose(restore: &Restore, main: &OpenArchive) -> Result<Option<Selection>, RestoreError> {
    let Some(toc) = &main.toc else { return Ok(None) };
    match &restore.selection {
        None => Ok(Some(Selection::everything(toc))),
        Some(filter) => {
            Selection::of(toc, filter).map(Some).map_err(|source| RestoreError::Selection { source })
        }
    }
}

fn flags(restore: &Restore) -> Vec<OsString> {
    let mut flags = Vec::new();
    if restore.no_owner {
        flags.push("--no-owner".into());
    }
    if restore.no_acl {
        flags.push("--no-privileges".into());
    }
    flags
}

/// Whether the target has the roles and tablespaces that the selected entries name.
async fn check_target(
    restore: &Restore,
    session: &Session,
    toc: &Toc,
    selection: &Selection,
    flags: &mut Vec<OsString>,
    report: &mut RestoreReport,
) -> Result<(), RestoreError> {
    let mut owners = BTreeSet::new();
    let mut tablespaces = BTreeSet::new();
    for entry in head::selected(toc, selection) {
        owners.extend(entry.owner.clone().filter(|owner| !owner.is_empty()));
        tablespaces.extend(entry.tablespace.clone());
    }
    if !restore.no_owner {
        target::check_roles(session, &owners).await?;
    }
    let missing = target::missing_tablespaces(session, &tablespaces).await?;
    if !missing.is_empty() {
        flags.push("--no-tablespaces".into());
        let names = missing.join(", ");
        report.warnings.push(format!("tablespaces {names} are missing: everything went to the default one"));
    }
    Ok(())
}

/// From this version on an archive may bring statistics of the planner along, and a server of it takes them by functions of its
/// own (CVE-2026-16238). ANALYZE makes them anew in any case.
const STATISTICS_SINCE: u32 = 18;

/// The program, no older than the one that wrote the archive.
async fn pg_restore(
    restore: &Restore,
    archives: &[OpenArchive],
    mut flags: Vec<OsString>,
    report: &mut RestoreReport,
) -> Result<PgRestore, RestoreError> {
    let written_by = archives[0].toc.as_ref().and_then(|toc| dump_major(&toc.header));
    let by_manifest =
        || restore.manifest.get().programs.pg_dump.as_ref()?.parse::<Version>().ok().map(|v| v.major);
    let major = written_by.or_else(by_manifest).unwrap_or(0);
    let tools = restore.tools.clone();
    let client = tokio::task::spawn_blocking(move || tools.find(Program::PgRestore, major))
        .await
        .map_err(|source| RestoreError::Worker { source })?
        .map_err(|source| RestoreError::Client { source })?;
    if is_vulnerable_restore(client.version) {
        let version = client.version;
        report
            .warnings
            .push(format!("pg_restore {version} runs code that a hostile archive brings along; update it"));
    }
    if client.version.major >= STATISTICS_SINCE {
        flags.push("--no-statistics".into());
    }
    let target = hasty(&restore.target.with_database(&restore.database));
    let lenient = !restore.without_extensions.is_empty();
    Ok(PgRestore { program: client.path, target, flags, lenient, cancel: restore.cancel.clone() })
}

async fn load(
    restore: &Restore,
    archives: &[OpenArchive],
    selection: &Selection,
    program: &PgRestore,
    absent: &BTreeSet<(String, String)>,
    report: &mut RestoreReport,
) -> Result<(), RestoreError> {
    let chosen = chosen_tables(archives, selection, restore.selection.is_some());
    let inventory = ordered_inventory(restore, archives)?;
    let maps: Vec<FrameMap> = archives.iter().map(|archive| archive.object.map.clone()).collect();
    let wanted = |archive: usize, table: &Table| match &chosen {
        None => !absent.contains(&(table.schema.clone(), table.name.clone())),
        Some(chosen) => chosen.contains(&(archive, table.dump_id)),
    };
    let units = units(&inventory, &maps, &wanted, restore.jobs.max(1));
    report.bytes_fetched = fetched_bytes(&units, &maps);
    let fresh = fresh_tables(archives[0].toc.as_ref());
    let mut loaded = Vec::new();
    for (at, archive) in archives.iter().enumerate() {
        let tables = &inventory.archives[at].tables;
        let task = |table: &Table| match wanted(at, table) {
            false => Ok(None),
            true => {
                report.tables += 1;
                report.rows += table.rows;
                table_task(table, archive, &fresh).map(Some)
            }
        };
        let object = (*archive.object).clone();
        let starts = tables.iter().map(|table| table.start).collect();
        let tables = tables.iter().map(task).collect::<Result<_, _>>()?;
        loaded.push(LoadArchive { object, tables, starts });
    }
    report.rows_compared = true;
    let loader = Loader {
        archives: loaded,
        target: program.target.clone(),
        encoding: archive_encoding(archives)?,
        bytes_total: units.iter().map(|unit: &Unit| unit.bytes).sum(),
        queue: Mutex::new(VecDeque::from(units)),
        progress: restore.progress.clone(),
        bytes_done: AtomicU64::new(0),
    };
    Arc::new(loader).run(restore.jobs.max(1)).await
}

/// The encoding of the archives' rows, which is not always the database's: the archive itself says it.
fn archive_encoding(archives: &[OpenArchive]) -> Result<String, RestoreError> {
    let entries = archives.iter().filter_map(|archive| archive.toc.as_ref()).flat_map(|toc| &toc.entries);
    let set = entries.filter(|entry| entry.desc == "ENCODING").find_map(|entry| entry.defn.as_deref());
    let named = set.and_then(|defn| defn.trim().strip_prefix("SET client_encoding = '")?.strip_suffix("';"));
    let plain = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let why = "the archive does not say in which encoding its rows are".to_owned();
    named.filter(plain).map(str::to_owned).ok_or(RestoreError::Inventory { why })
}

/// Archive and dump id of every table that a selection fills. Further archives name their tables by ids of their own; the
/// oids are those of one snapshot.
fn chosen_tables(
    archives: &[OpenArchive],
    selection: &Selection,
    selective: bool,
) -> Option<HashSet<(usize, i32)>> {
    if !selective {
        return None;
    }
    let mut chosen: HashSet<(usize, i32)> = selection.table_data.iter().map(|id| (0, *id)).collect();
    for (at, archive) in archives.iter().enumerate().skip(1) {
        chosen.extend(chosen_of_further(archive, selection).into_iter().map(|id| (at, id)));
    }
    Some(chosen)
}

/// The dump ids of what a selection takes of an archive that holds rows alone.
fn chosen_of_further(archive: &OpenArchive, selection: &Selection) -> Vec<i32> {
    let with_rows = archive.toc.iter().flat_map(Toc::tables_with_rows);
    with_rows.filter(|entry| selection.filled.contains(&entry.oid)).map(|entry| entry.dump_id).collect()
}

/// The inventory with its archives in the order of the manifest's objects.
fn ordered_inventory(
    restore: &Restore,
    archives: &[OpenArchive],
) -> Result<pgproof_repository::inventory::Inventory, RestoreError> {
    let mut inventory = restore.inventory.clone();
    let find = |archive: &OpenArchive| {
        let name = &archive.object.name;
        let described = restore.inventory.archives.iter().find(|described| described.object == *name);
        described.cloned().ok_or_else(|| RestoreError::Inventory { why: format!("{name} is not in it") })
    };
    inventory.archives = archives.iter().map(find).collect::<Result<_, _>>()?;
    Ok(inventory)
}

/// Schema and name of the tables that the archive itself makes. Those of extensions come with rows of their own.
fn fresh_tables(toc: Option<&Toc>) -> HashSet<(String, String)> {
    let tables = toc.into_iter().flat_map(|toc| toc.entries.iter()).filter(|entry| entry.desc == "TABLE");
    tables.map(|entry| (entry.namespace.clone().unwrap_or_default(), entry.tag.clone())).collect()
}

fn table_task(
    table: &Table,
    archive: &OpenArchive,
    fresh: &HashSet<(String, String)>,
) -> Result<TableTask, RestoreError> {
    let label = format!("{}.{}", table.schema, table.name);
    let bad = |what: &str| RestoreError::Inventory { why: format!("{label} has {what}") };
    let copy = CopyTarget::parse(&table.copy).ok_or_else(|| bad("no usable COPY statement"))?;
    let sum = u128::from_str_radix(&table.digest, 16).map_err(|_| bad("no usable digest"))?;
    let entry = archive.toc.as_ref().and_then(|toc| toc.entry(table.dump_id));
    // Such rows may go to any partition, also to those that other pieces fill.
    let through_root = entry.is_some_and(TocEntry::goes_through_partition_root);
    let is_fresh = !through_root && fresh.contains(&(table.schema.clone(), table.name.clone()));
    let bytes_left = if is_empty(table) { 0 } else { table.end - table.start };
    Ok(TableTask {
        copy: format!("COPY {} {} FROM STDIN", copy.relation, copy.columns),
        columns: copy.column_list().to_owned(),
        form: RowForm::default(),
        relation: copy.relation,
        fresh: is_fresh.then(|| qualified(&table.schema, &table.name)),
        expected: RowDigest { rows: table.rows, sum },
        done: Mutex::new(TableDone { digest: RowDigest::default(), bytes_left }),
        label,
    })
}

/// Values of sequences, and large objects: what of the data section is no table.
async fn other_data(
    restore: &Restore,
    main: &OpenArchive,
    selection: &Selection,
    program: &PgRestore,
    head: &Path,
    list: &Path,
) -> Result<(), RestoreError> {
    let described = restore.inventory.archives.iter().find(|archive| archive.object == main.object.name);
    let wanted: HashSet<i32> = selection.other_data.iter().copied().collect();
    let mut blobs = described.map(|archive| archive.blobs.clone()).unwrap_or_default();
    blobs.retain(|block| wanted.contains(&block.dump_id));
    blobs.sort_by_key(|block| block.start);
    if blobs.is_empty() {
        return section(program, Section::Data, Some(list), 1, head).await;
    }
    let run = Run { section: Section::Data, list: Some(list), jobs: 1 };
    let stream = Stream::Spliced { head: main.head.clone(), blobs };
    run_with_stream(program, run, &main.object, stream).await
}

/// What the serial path takes of each archive.
fn serial_lists(
    workspace: &Workspace,
    archives: &[OpenArchive],
    selection: &Selection,
) -> Result<Vec<PathBuf>, RestoreError> {
    let list = |(at, archive): (usize, &OpenArchive)| {
        let ids = if at == 0 { all_ids(selection) } else { chosen_of_further(archive, selection) };
        workspace.write_list(&format!("serial.{at}.list"), &ids)
    };
    archives.iter().enumerate().map(list).collect()
}

fn all_ids(selection: &Selection) -> Vec<i32> {
    let lists = [&selection.pre_data, &selection.table_data, &selection.other_data, &selection.post_data];
    lists.into_iter().flatten().copied().collect()
}
