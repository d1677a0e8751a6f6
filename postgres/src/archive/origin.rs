//! What an archive says of the database that it is of: all that is known where nobody can ask the server any more.

use jiff::civil::DateTime;
use pgproof_repository::manifest::v1::Server;
use thiserror::Error;

use super::{Toc, TocEntry};
use crate::client::Version;

/// Where a dump comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// But for sizes, which no archive tells.
    pub server: Server,
    pub pg_dump: Option<String>,
    /// In which encoding its rows are.
    pub encoding: String,
    /// When the dump began, by the wall clock of the host that made it.
    pub began: Option<DateTime>,
    pub extensions: Vec<String>,
    /// `ALTER DATABASE … SET`: in the archive, and carried out by `pg_restore --create` alone.
    pub has_settings: bool,
}

/// Why an archive is not the dump of a whole database.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotWhole {
    #[error("the archive does not say which database it is of")]
    NoDatabase,
    #[error("the archive does not say {what}")]
    Unsaid { what: &'static str },
    #[error("the archive holds tables without rows: it was made with --schema-only")]
    NoRows,
    #[error("the archive holds rows without tables: it was made with --data-only")]
    NoTables,
}

impl NotWhole {
    pub fn hint(&self) -> Option<String> {
        Some(
            "only a dump of a whole database can stand for it: pg_dump -Fc DATABASE, and nothing left out"
                .to_owned(),
        )
    }
}

impl Origin {
    /// Reads a head, which must be that of a whole database.
    pub fn of(toc: &Toc) -> Result<Self, NotWhole> {
        let entries = |desc: &'static str| toc.entries.iter().filter(move |entry| entry.desc == desc);
        let (tables, rows) = (entries("TABLE").count(), entries("TABLE DATA").count());
        match (tables, rows) {
            (0, 1..) => return Err(NotWhole::NoTables),
            (1.., 0) => return Err(NotWhole::NoRows),
            _ => {}
        }
        let database = entries("DATABASE").next().ok_or(NotWhole::NoDatabase)?;
        let unsaid = |what| NotWhole::Unsaid { what };
        let version = toc.header.server_version.clone().ok_or(unsaid("of which version its server was"))?;
        let number = version_number(&version).ok_or(unsaid("of which version its server was"))?;
        let name = toc.header.database.clone().unwrap_or_else(|| database.tag.clone());
        Ok(Self {
            server: server(database, name, version, number)
                .ok_or(unsaid("the database's encoding and locale"))?,
            pg_dump: toc.header.dump_version.clone(),
            encoding: encoding(toc).ok_or(unsaid("in which encoding its rows are"))?,
            began: toc.header.created,
            extensions: entries("EXTENSION").map(|entry| entry.tag.clone()).collect(),
            has_settings: entries("DATABASE PROPERTIES").next().is_some(),
        })
    }
}

/// As `server_version_num` has it. Two numbers since PostgreSQL 10.
fn version_number(text: &str) -> Option<u32> {
    let version: Version = text.parse().ok()?;
    (version.major >= 10).then_some(version.major * 10_000 + version.minor)
}

fn encoding(toc: &Toc) -> Option<String> {
    let set = toc.entries.iter().find(|entry| entry.desc == "ENCODING")?.defn.as_deref()?;
    let (_, value) = set.split_once('\'')?;
    value.split('\'').next().map(str::to_owned)
}

/// Reads `CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8';`, in
/// the forms of every version.
fn server(database: &TocEntry, name: String, version: String, version_number: u32) -> Option<Server> {
    let statement = database.defn.as_deref()?;
    let value = |option: &str| option_of(statement, option);
    let locale = value("LOCALE");
    let of_locale = |option: &str| value(option).or_else(|| locale.clone());
    Some(Server {
        version,
        version_number,
        system_identifier: None,
        database: name,
        database_bytes: 0,
        encoding: value("ENCODING")?,
        collate: of_locale("LC_COLLATE")?,
        ctype: of_locale("LC_CTYPE")?,
        locale_provider: Some(value("LOCALE_PROVIDER").unwrap_or_else(|| "libc".to_owned())),
        icu_locale: value("ICU_LOCALE").or_else(|| value("BUILTIN_LOCALE")),
        collation_version: None,
    })
}

/// The value of ` OPTION = value` or ` OPTION = 'value'`.
fn option_of(statement: &str, option: &str) -> Option<String> {
    let (_, rest) = statement.split_once(&format!(" {option} = "))?;
    match rest.strip_prefix('\'') {
        Some(quoted) => quoted.split('\'').next().map(str::to_owned),
        None => rest.split([' ', ';']).next().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Compression;
    use crate::archive::toc::{DataState, FormatVersion, Header, Section};

    fn entry(desc: &str, tag: &str, defn: &str) -> TocEntry {
        TocEntry {
            dump_id: 1,
            had_dumper: false,
            table_oid: 0,
            oid: 0,
            tag: tag.to_owned(),
            desc: desc.to_owned(),
            section: Section::PreData,
            defn: Some(defn.to_owned()),
            drop_stmt: None,
            copy_stmt: None,
            namespace: None,
            tablespace: None,
            table_access_method: None,
            relkind: None,
            owner: None,
            dependencies: Vec::new(),
            data_state: DataState::NoData,
        }
    }

    fn toc(create: &str, more: &[&str]) -> Toc {
        let header = Header {
            version: FormatVersion { major: 1, minor: 14, revision: 0 },
            int_size: 4,
            off_size: 8,
            compression: Compression::Gzip,
            created: None,
            database: Some("app".to_owned()),
            server_version: Some("15.14 (Debian 15.14-0+deb12u1)".to_owned()),
            dump_version: Some("15.14 (Debian 15.14-0+deb12u1)".to_owned()),
        };
        let mut entries = vec![
            entry("ENCODING", "ENCODING", "SET client_encoding = 'LATIN1';\n"),
            entry("DATABASE", "app", create),
        ];
        entries.extend(more.iter().map(|desc| entry(desc, "hstore", "")));
        Toc { header, entries }
    }

    const CREATE: &str = "CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'LATIN1' LOCALE_PROVIDER = libc LOCALE = 'de_DE';\n";

    #[test]
    fn every_versions_statement_is_read() {
        let of = |create: &str| {
            let server = Origin::of(&toc(create, &[])).unwrap().server;
            (
                server.encoding,
                server.collate,
                server.ctype,
                server.locale_provider.unwrap(),
                server.icu_locale,
            )
        };
        let told = |encoding: &str, collate: &str, ctype: &str, provider: &str, icu: Option<&str>| {
            let own = str::to_owned;
            (own(encoding), own(collate), own(ctype), own(provider), icu.map(own))
        };
        assert_eq!(of(CREATE), told("LATIN1", "de_DE", "de_DE", "libc", None));
        let older = "CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8' LC_COLLATE = 'C' LC_CTYPE = 'C.UTF-8';";
        assert_eq!(of(older), told("UTF8", "C", "C.UTF-8", "libc", None));
        let icu = "CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C' ICU_LOCALE = 'sv-SE';";
        assert_eq!(of(icu), told("UTF8", "C", "C", "icu", Some("sv-SE")));
        let builtin = "CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = builtin LOCALE = 'C' BUILTIN_LOCALE = 'C.UTF-8';";
        assert_eq!(of(builtin), told("UTF8", "C", "C", "builtin", Some("C.UTF-8")));
    }

    #[test]
    fn the_server_and_what_else_is_there() {
        let origin = Origin::of(&toc(CREATE, &["EXTENSION", "DATABASE PROPERTIES"])).unwrap();
        assert_eq!((origin.server.version_number, origin.server.database.as_str()), (150_014, "app"));
        assert_eq!((origin.encoding.as_str(), origin.has_settings), ("LATIN1", true));
        assert_eq!(origin.extensions, ["hstore"]);
    }

    #[test]
    fn a_part_of_a_database_does_not_stand_for_it() {
        let mut without = toc(CREATE, &["TABLE", "TABLE DATA"]);
        without.entries.remove(1);
        assert_eq!(Origin::of(&without), Err(NotWhole::NoDatabase));
        assert_eq!(Origin::of(&toc(CREATE, &["TABLE"])), Err(NotWhole::NoRows));
        assert_eq!(Origin::of(&toc(CREATE, &["TABLE DATA"])), Err(NotWhole::NoTables));
        assert!(Origin::of(&toc(CREATE, &[])).is_ok(), "an empty database is one");
    }
}
