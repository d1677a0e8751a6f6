//! Archives written by the installed versions of pg_dump, read here and restored piecewise by their pg_restore.

#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::process::Stdio;

use pgproof_postgres::archive::toc::list_file;
use pgproof_postgres::archive::{ArchiveIndex, CutBlock, Cutter, DataKind, Filter, Outcome, Selection};
use pgproof_postgres::digest::{RowDigest, RowHasher, digest_block};
use pgproof_postgres::payload::{CopyText, chunks_in_block};
use server::{Server, bin_dirs, run};

const SCHEMA: &str = include_str!("support/shop.sql");
const LARGE_OBJECTS: &str =
    "select count(*), md5(string_agg(md5(lo_get(oid)), ',' order by oid)) from pg_largeobject_metadata";

struct Dump {
    bytes: Vec<u8>,
    blocks: Vec<CutBlock>,
    index: ArchiveIndex,
}

fn dump(server: &Server, database: &str) -> Dump {
    let mut pg_dump = server.program("pg_dump");
    let mut child =
        pg_dump.args(["-Fc", "-Z0", database]).stdout(Stdio::piped()).spawn().expect("pg_dump starts");
    let mut cutter = Cutter::new(child.stdout.take().expect("its output"));
    let blocks: Vec<CutBlock> = cutter.by_ref().collect::<Result<_, _>>().expect("a sound archive");
    assert!(child.wait().expect("its status").success());
    let Outcome::Indexed(index) = cutter.finish().expect("it ended") else {
        panic!("the archive was not cut")
    };
    let bytes = blocks.iter().flat_map(|block| block.bytes.iter().copied()).collect();
    Dump { bytes, blocks, index: *index }
}

impl Dump {
    fn digests(&self) -> BTreeMap<i32, RowDigest> {
        let mut digests = self.index.giant_rows.clone();
        for block in &self.blocks {
            for (id, digest) in digest_block(block).expect("sound chunks") {
                *digests.entry(id).or_default() += digest;
            }
        }
        digests
    }

    fn head(&self) -> &[u8] {
        &self.bytes[..self.index.head_bytes as usize]
    }

    /// A table's rows, taken out of the blocks.
    fn text(&self, dump_id: i32) -> Vec<u8> {
        let span = self.index.data.iter().find(|span| span.dump_id == dump_id).expect("its place");
        let table = span.start..span.end;
        let mut reader = CopyText::resume(0, false);
        let mut text = Vec::new();
        for block in &self.blocks {
            let range = chunks_in_block(block.layout.plain_offset, block.bytes.len(), &table);
            for piece in reader.pieces(&block.bytes[range]) {
                text.extend_from_slice(piece.expect("sound chunks"));
            }
        }
        assert!(reader.ended());
        text
    }

    fn copy_statement(&self, dump_id: i32) -> &str {
        let entry = self.index.toc.entry(dump_id).expect("its entry");
        entry.copy_stmt.as_deref().expect("its COPY").trim_end().trim_end_matches(';')
    }
}

fn digest_in(server: &Server, database: &str, dump: &Dump, dump_id: i32) -> RowDigest {
    let statement = dump.copy_statement(dump_id).replace("FROM stdin", "TO stdout");
    let mut rows = RowHasher::default();
    rows.update(&server.sql(database, &statement));
    rows.finish().expect("whole rows")
}

fn pg_restore(server: &Server, database: &str, head: &str, section: &str, more: &[&str]) {
    let mut command = server.program("pg_restore");
    command.args(["--exit-on-error", "-d", database, &format!("--section={section}")]).args(more);
    run(command.arg(head));
}

/// Restores as an operator's restore does: structure from the head alone, rows by COPY, the rest by list.
fn restore(server: &Server, dump: &Dump, selection: &Selection, database: &str) {
    server.sql("postgres", &format!("create database {database} template template0"));
    let head = server.write("head", dump.head());
    let ids = |ids: &[i32]| server.write("list", list_file(ids.iter().copied()).as_bytes());
    pg_restore(server, database, &head, "pre-data", &["-L", &ids(&selection.pre_data), "-j", "2"]);
    for id in &selection.table_data {
        let mut psql = server.program("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", dump.copy_statement(*id)]);
        server.feed(psql, &dump.text(*id));
    }
    let mut archive = dump.head().to_vec();
    for span in dump.index.data.iter().filter(|span| span.kind == DataKind::Blobs) {
        archive.extend_from_slice(&dump.bytes[span.start as usize..span.end as usize]);
    }
    let mut command = server.program("pg_restore");
    let list = ids(&selection.other_data);
    command.args(["--exit-on-error", "-d", database, "--section=data", "-L", &list]);
    server.feed(command, &archive);
    pg_restore(server, database, &head, "post-data", &["-L", &ids(&selection.post_data), "-j", "2"]);
}

/// The schema as a script, without the comments and random keys that differ between any two dumps.
fn schema_of(server: &Server, database: &str) -> String {
    let script = run(server.program("pg_dump").args(["--schema-only", database]));
    let script = String::from_utf8(script).expect("UTF-8");
    script
        .lines()
        .filter(|line| !line.starts_with("--") && !line.starts_with('\\'))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn a_database_comes_back_in_pieces() {
    for bin in bin_dirs() {
        let server = Server::start(&bin);
        server.sql("postgres", "create database shop template template0");
        let schema = server.write("shop.sql", SCHEMA.as_bytes());
        run(server.program("psql").args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "shop", "-f", &schema]));
        let dump = dump(&server, "shop");
        let digests = dump.digests();
        assert!(!dump.index.giant_rows.is_empty(), "the test has rows longer than a block");
        let tables = || dump.index.data.iter().filter(|span| span.kind == DataKind::Table).map(|s| s.dump_id);
        assert!(tables().count() > 300);
        restore(&server, &dump, &Selection::everything(&dump.index.toc), "again");
        for id in tables() {
            let expected = digests.get(&id).copied().unwrap_or_default();
            assert_eq!(digest_in(&server, "shop", &dump, id), expected, "{}", dump.copy_statement(id));
            assert_eq!(digest_in(&server, "again", &dump, id), expected, "{}", dump.copy_statement(id));
        }
        assert_eq!(server.sql("again", LARGE_OBJECTS), server.sql("shop", LARGE_OBJECTS));
        assert_eq!(schema_of(&server, "again"), schema_of(&server, "shop"));
        let sequence = "select last_value, is_called from audit.shared";
        assert_eq!(server.sql("again", sequence), server.sql("shop", sequence));
        restore_some(&server, &dump);
    }
}

/// Some tables and a schema, each into its own database.
fn restore_some(server: &Server, dump: &Dump) {
    let relations = "select string_agg(format('%s.%s', n.nspname, c.relname), ' ' order by n.nspname, c.relname) \
        from pg_class c join pg_namespace n on n.oid = relnamespace \
        where nspname in ('sales', 'audit', 'public') and relkind in ('r', 'p', 'v', 'm', 'S')";
    let tables = ["sales.orders", "sales.events"].map(|name| name.parse().expect("a name")).to_vec();
    let filter = Filter { tables, schemas: Vec::new() };
    let selection = Selection::of(&dump.index.toc, &filter).expect("they are there");
    restore(server, dump, &selection, "chosen");
    let expected = "audit.events_1 audit.shared sales.events sales.events_2 sales.events_2a sales.orders \
        sales.orders_id_seq\n";
    assert_eq!(String::from_utf8_lossy(&server.sql("chosen", relations)), expected);
    let facts = "select (select count(*) from sales.orders), (select count(*) from sales.events), \
        (select count(*) from pg_index where indrelid::regclass::text ~ 'orders|events'), \
        (select count(*) from pg_trigger where tgname = 't'), (select count(*) from pg_policy), \
        (select count(*) from pg_constraint where contype = 'f'), obj_description('sales.orders'::regclass)";
    assert_eq!(String::from_utf8_lossy(&server.sql("chosen", facts)), "1000|2|10|1|1|0|o\n");
    assert_eq!(selection.foreign_keys_left_out.len(), 2);

    let filter = Filter { tables: Vec::new(), schemas: vec!["sales".to_owned()] };
    let selection = Selection::of(&dump.index.toc, &filter).expect("it is there");
    restore(server, dump, &selection, "one_schema");
    let views = "select (select count(*) from sales.v), (select count from sales.mv), \
        (select count(*) from pg_constraint where contype = 'f')";
    assert_eq!(String::from_utf8_lossy(&server.sql("one_schema", views)), "1000|1000|1\n");

    let missing = Filter { tables: vec!["sales.nothing".parse().expect("a name")], schemas: Vec::new() };
    assert!(Selection::of(&dump.index.toc, &missing).is_err());
}
