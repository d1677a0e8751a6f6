use proptest::prelude::*;

use super::*;
use crate::archive::toc::{Compression, DataState, FormatVersion, Header, Section};

const MIB: u64 = 1 << 20;

/// A table of so many bytes whose rows are dumped.
fn relation(oid: u32, bytes: u64) -> RelationFacts {
    let (schema, name) = ("public".to_owned(), format!("t{oid}"));
    RelationFacts { oid, schema, name, kind: 'r', persistence: 'p', of_extension: false, bytes }
}

fn entry(dump_id: i32, desc: &str, relation: &RelationFacts) -> TocEntry {
    TocEntry {
        dump_id,
        had_dumper: desc == "TABLE DATA",
        table_oid: 0,
        oid: relation.oid,
        tag: relation.name.clone(),
        desc: desc.to_owned(),
        section: Section::Data,
        defn: None,
        drop_stmt: None,
        copy_stmt: None,
        namespace: Some(relation.schema.clone()),
        tablespace: None,
        table_access_method: None,
        relkind: None,
        owner: None,
        dependencies: Vec::new(),
        data_state: DataState::OffsetUnknown,
    }
}

/// Definitions of some tables, rows of some.
fn contents(made: &[RelationFacts], with_rows: &[RelationFacts]) -> Toc {
    let definitions = made.iter().map(|relation| ("TABLE", relation));
    let rows = with_rows.iter().map(|relation| ("TABLE DATA", relation));
    let entries = definitions.chain(rows).zip(1..).map(|((desc, relation), id)| entry(id, desc, relation));
    let version = FormatVersion { major: 1, minor: 14, revision: 0 };
    let (database, server_version, dump_version) = (None, None, None);
    let header = Header {
        version,
        int_size: 4,
        off_size: 8,
        compression: Compression::None,
        created: None,
        database,
        server_version,
        dump_version,
    };
    Toc { header, entries: entries.collect() }
}

fn divided(relations: &[RelationFacts], jobs: usize) -> Division {
    Division::of(&contents(relations, relations), relations, 0, jobs)
}

fn names(stream: &Stream) -> Vec<&str> {
    stream.tables().map(|table| table.name.as_str()).collect()
}

proptest! {
    #[test]
    fn every_table_is_in_one_stream_and_none_has_more_than_another_by_more_than_the_largest_table(
        sizes in prop::collection::vec(0..4000 * MIB, 0..60),
        large_objects in prop_oneof![Just(0), 0..8000 * MIB],
        jobs in 1_usize..9,
    ) {
        let relations: Vec<_> = sizes.iter().zip(1..).map(|(bytes, oid)| relation(oid, *bytes)).collect();
        let toc = contents(&relations, &relations);
        let division = Division::of(&toc, &relations, large_objects, jobs);
        let streams = division.streams();
        prop_assert!((1..=jobs).contains(&streams.len()));
        prop_assert_eq!(&division, &Division::of(&toc, &relations, large_objects, jobs));

        let mut all: Vec<_> = streams.iter().flat_map(Stream::tables).cloned().collect();
        all.sort();
        let mut given: Vec<_> = toc.tables_with_rows().map(name_of).collect();
        given.sort();
        prop_assert_eq!(all, given);
        let total: u64 = streams.iter().map(|stream| stream.bytes).sum();
        prop_assert_eq!(total, sizes.iter().sum::<u64>() + large_objects);
        prop_assert!(streams[1..].iter().all(|stream| !stream.tables.is_empty()));

        let largest = sizes.iter().copied().max().unwrap_or(0);
        let movable = |stream: &Stream| {
            stream.tables.keys().any(|oid| relations[*oid as usize - 1].bytes >= MOVED_BYTES_MIN)
        };
        if streams.len() > 1 {
            let least = streams.iter().map(|stream| stream.bytes).min().unwrap_or(0);
            // What cannot be moved may make the main stream larger than any balance allows: then nothing else is in it.
            for stream in streams.iter().filter(|stream| movable(stream)) {
                prop_assert!(stream.bytes - least <= largest);
            }
        }
    }

    #[test]
    fn a_stream_passes_for_what_it_should_hold_and_for_nothing_else(
        sizes in prop::collection::vec(64 * MIB..900 * MIB, 4..12),
        jobs in 2_usize..5,
        which in any::<prop::sample::Index>(),
    ) {
        let relations: Vec<_> = sizes.iter().zip(1..).map(|(bytes, oid)| relation(oid, *bytes)).collect();
        let division = divided(&relations, jobs);
        let held = |stream: &Stream| -> Vec<RelationFacts> {
            relations.iter().filter(|relation| stream.tables.contains_key(&relation.oid)).cloned().collect()
        };
        let odd = which.get(&relations);
        for (at, stream) in division.streams().iter().enumerate() {
            let whole = held(stream);
            prop_assert_eq!(division.check(at, &contents(&[], &whole)), Ok(()));
            let mut others = whole.clone();
            let expected = match stream.tables.contains_key(&odd.oid) {
                true => {
                    others.retain(|relation| relation.oid != odd.oid);
                    Misdivided::Missing { stream: at, tables: vec![name_of(&entry(1, "TABLE", odd))] }
                }
                false => {
                    others.push(odd.clone());
                    Misdivided::Surplus { stream: at, tables: vec![name_of(&entry(1, "TABLE", odd))] }
                }
            };
            prop_assert_eq!(division.check(at, &contents(&[], &others)), Err(expected));
            let twice = [whole.clone(), whole.clone()].concat();
            let is_surplus = matches!(division.check(at, &contents(&[], &twice)), Err(Misdivided::Surplus { .. }));
            prop_assert!(is_surplus || whole.is_empty());
        }
    }
}

#[test]
fn the_largest_tables_are_moved_and_the_main_stream_counts() {
    let relations =
        [relation(1, 500 * MIB), relation(2, 300 * MIB), relation(3, 200 * MIB), relation(4, MIB)];
    let division = divided(&relations, 3);
    let streams: Vec<_> = division.streams().iter().map(|s| (names(s), s.bytes / MIB)).collect();
    // The main stream has 1 MiB already, so that the two largest go elsewhere.
    assert_eq!(streams, [(vec!["t3", "t4"], 201), (vec!["t1"], 500), (vec!["t2"], 300)]);
    assert_eq!(division.moved().len(), 2);
    let with_large_objects = Division::of(&contents(&relations, &relations), &relations, 2000 * MIB, 2);
    assert_eq!(names(&with_large_objects.streams()[0]), ["t4"]);
}

#[test]
fn what_is_small_stays_in_one_stream() {
    let small = [relation(1, 60 * MIB), relation(2, 60 * MIB)];
    assert!(!Division::is_worth_while(&small, 4));
    assert_eq!(divided(&small, 4).streams().len(), 1);
    let large = [relation(1, 70 * MIB), relation(2, 60 * MIB)];
    assert!(Division::is_worth_while(&large, 2) && !Division::is_worth_while(&large, 1));
    assert_eq!(divided(&large, 4).streams().len(), 2);
    assert_eq!(divided(&large, 1).streams().len(), 1);
}

#[test]
fn what_is_no_plain_table_stays_in_the_main_stream() {
    let plain = relation(1, 300 * MIB);
    let foreign = RelationFacts { kind: 'f', ..relation(2, 300 * MIB) };
    let view = RelationFacts { kind: 'm', ..relation(3, 300 * MIB) };
    let unlogged = RelationFacts { persistence: 'u', ..relation(4, 300 * MIB) };
    let of_extension = RelationFacts { of_extension: true, ..relation(5, 300 * MIB) };
    let configuration = relation(6, 300 * MIB);
    let unreadable = RelationFacts { name: "\u{fffd}".to_owned(), ..relation(7, 300 * MIB) };
    let without_rows = relation(8, 300 * MIB);
    let other = relation(9, 10 * MIB);
    let made = [plain, foreign, view, unlogged, of_extension, unreadable, without_rows, other];
    let mut with_rows = made.to_vec();
    with_rows.retain(|relation| !['m', 'f'].contains(&relation.kind) && relation.oid != 8);
    // Only its rows are in the archive: an extension makes it.
    with_rows.push(configuration.clone());
    let relations = [made.to_vec(), vec![configuration]].concat();
    let mut toc = contents(&made, &with_rows);
    let division = Division::of(&toc, &relations, 0, 4);
    let moved: Vec<_> = division.moved().into_iter().map(|table| table.name).collect();
    assert_eq!(moved, ["t1", "t9"]);
    assert_eq!(names(&division.streams()[0]), ["t4", "t5", "t6", "\u{fffd}"]);

    let of_hash_partition = |entry: &&mut TocEntry| entry.is_table_data() && entry.oid == 1;
    let entry = toc.entries.iter_mut().find(of_hash_partition).unwrap();
    entry.defn = Some("-- load via partition root public.t".to_owned());
    assert_eq!(Division::of(&toc, &relations, 0, 4).streams().len(), 1);
}

#[test]
fn an_error_names_a_few_tables() {
    let tables = (1..8).map(|oid| name_of(&entry(1, "TABLE", &relation(oid, 0)))).collect();
    let told = Misdivided::Missing { stream: 1, tables }.to_string();
    assert_eq!(
        told,
        "stream 1 lacks the rows of public.t1, public.t2, public.t3, public.t4, public.t5, 2 more"
    );
}
