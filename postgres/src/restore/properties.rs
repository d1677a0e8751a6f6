//! What the cluster's catalog holds of a database: its settings, comment, owner, rights and limit, which no archive does.

mod rights;

use serde::Deserialize;

use super::Restore;
use super::error::RestoreError;
use super::target::{Made, VERSION_WITH_ICU_RULES, open, reason, version};
use crate::connection::{ConnectError, ConnectionSpec, Session};
use crate::quoting::{identifier, literal};
use crate::snapshot::DatabaseSetting;

/// Where a database lies when nobody says otherwise.
const USUAL_TABLESPACE: &str = "pg_default";
/// A database of this limit has none.
const NO_LIMIT: i32 = -1;
/// Classes of SQLSTATE with which a server refuses sessions for its own sake: connections, resources, a shutdown.
const CLASSES_OF_THE_SERVER: [&str; 3] = ["08", "53", "57"];

/// The properties as the backup recorded them; of an imported dump nobody knows them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Properties {
    settings: Vec<DatabaseSetting>,
    comment: Option<String>,
    owner: Option<String>,
    acl: Option<Vec<String>>,
    connection_limit: Option<i32>,
    tablespace: Option<String>,
    icu_rules: Option<String>,
}

impl Properties {
    pub(crate) fn of(facts: &serde_json::Value) -> Result<Self, RestoreError> {
        let Some(recorded) = facts.get("database").or_else(|| facts.pointer("/snapshot/database")) else {
            return Ok(Self::default());
        };
        serde_json::from_value(recorded.clone()).map_err(|error| RestoreError::Inventory {
            why: format!("what it records of the database: {error}"),
        })
    }

    pub(crate) fn icu_rules(&self) -> Option<&str> {
        self.icu_rules.as_deref()
    }

    /// Gives them to the restored database. What this server refuses is answered as a warning.
    ///
    /// A marked database keeps its mark for a comment, and no limit shuts its maker out. One that was there before keeps
    /// its owner, rights and limit.
    pub(crate) async fn apply(&self, restore: &Restore, made: Made) -> Result<Vec<String>, RestoreError> {
        let session = open(&restore.target).await?;
        let database = &restore.database;
        let settings = self.settings(database);
        let mut warnings = carry_out(&session, &settings).await;
        let inside = restore.target.with_database(database);
        warnings.extend(keep_reachable(&session, &inside, &settings).await);
        let mut rest = Vec::new();
        if restore.marker.is_none() {
            rest.extend(self.comment(database));
        }
        match made {
            Made::Before if self.owner.is_some() => warnings.push(
                "the database was there before: its owner, rights and connection limit are not the backup's"
                    .to_owned(),
            ),
            Made::Before => {}
            Made::Here => {
                if restore.marker.is_none() {
                    rest.extend(self.limit(database));
                }
                if !restore.no_owner {
                    rest.extend(self.owner(database));
                }
                // After the owner, who else would take over what was granted to the one before.
                if !restore.no_acl {
                    let (rights, not_understood) = self.rights(database);
                    rest.extend(rights);
                    warnings.extend(not_understood);
                }
            }
        }
        warnings.extend(carry_out(&session, &rest).await);
        warnings.extend(self.not_had_here(version(&session).await?));
        Ok(warnings)
    }

    fn settings(&self, database: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        for setting in &self.settings {
            for (name, value) in setting.assignments.iter().filter_map(|text| text.split_once('=')) {
                let setting = Setting { role: setting.role.clone(), name: name.to_owned() };
                let sql = format!(
                    "{} SET {} = {}",
                    setting.whom(database),
                    setting.parameter(),
                    quoted(name, value)
                );
                steps.push(Step { what: format!("setting {name}"), sql, setting: Some(setting) });
            }
        }
        steps
    }

    fn comment(&self, database: &str) -> Option<Step> {
        let comment = self.comment.as_deref()?;
        let sql = format!("COMMENT ON DATABASE {} IS {}", identifier(database), literal(comment));
        Some(Step::new("the comment", sql))
    }

    fn limit(&self, database: &str) -> Option<Step> {
        let limit = self.connection_limit.filter(|limit| *limit != NO_LIMIT)?;
        let sql = format!("ALTER DATABASE {} CONNECTION LIMIT {limit}", identifier(database));
        Some(Step::new("the connection limit", sql))
    }

    fn owner(&self, database: &str) -> Option<Step> {
        let owner = self.owner.as_deref()?;
        let sql = format!("ALTER DATABASE {} OWNER TO {}", identifier(database), identifier(owner));
        Some(Step::new(&format!("owner {owner:?}"), sql))
    }

    /// Statements for the recorded rights, and warnings about those that are not understood. Without any on record they are
    /// those of every new database.
    fn rights(&self, database: &str) -> (Vec<Step>, Vec<String>) {
        let (mut steps, mut warnings) = (Vec::new(), Vec::new());
        let Some(acl) = &self.acl else { return (steps, warnings) };
        let owner = self.owner.as_deref().unwrap_or_default();
        for statement in rights::revoke_defaults(database, owner) {
            steps.push(Step::new("the withdrawal of default rights", statement));
        }
        for item in acl {
            match rights::Grant::parse(item) {
                Some(grant) => {
                    let statements = grant.statements(database, owner);
                    steps.extend(statements.into_iter().map(|sql| Step::new(&format!("right {item}"), sql)));
                }
                None => warnings.push(format!("right {item} of the database is not understood")),
            }
        }
        (steps, warnings)
    }

    fn not_had_here(&self, version: i32) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(name) = self.tablespace.as_deref().filter(|name| *name != USUAL_TABLESPACE) {
            warnings.push(format!("the database lay in tablespace {name}, and now lies in the default one"));
        }
        if self.icu_rules.is_some() && version < VERSION_WITH_ICU_RULES {
            warnings
                .push("this server knows no ICU rules: text sorts otherwise than in the source".to_owned());
        }
        warnings
    }
}

/// A statement, and what it restores.
#[derive(Debug)]
struct Step {
    what: String,
    sql: String,
    /// What it sets, where it is a setting.
    setting: Option<Setting>,
}

impl Step {
    fn new(what: &str, sql: String) -> Self {
        Self { what: what.to_owned(), sql, setting: None }
    }
}

/// A setting of the database, or of one role in it.
#[derive(Debug)]
struct Setting {
    role: Option<String>,
    name: String,
}

impl Setting {
    fn whom(&self, database: &str) -> String {
        match &self.role {
            Some(role) => format!("ALTER ROLE {} IN DATABASE {}", identifier(role), identifier(database)),
            None => format!("ALTER DATABASE {}", identifier(database)),
        }
    }

    fn parameter(&self) -> String {
        self.name.split('.').map(identifier).collect::<Vec<_>>().join(".")
    }

    /// Whether a server that has not all that the source's had is likely to refuse sessions for it.
    fn loads_libraries(&self) -> bool {
        self.name.ends_with("_preload_libraries")
    }
}

/// Carries all out, one by one, and says what was refused.
async fn carry_out(session: &Session, steps: &[Step]) -> Vec<String> {
    let mut warnings = Vec::new();
    for Step { what, sql, .. } in steps {
        if let Err(error) = session.batch_execute(sql).await {
            warnings.push(format!("{what} of the database was not restored: {}", reason(&error)));
        }
    }
    warnings
}

/// Takes settings back, until a session can be opened in the database, and says which.
async fn keep_reachable(session: &Session, inside: &ConnectionSpec, steps: &[Step]) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(mut refusal) = refusal(inside).await else { return warnings };
    let ours = |setting: &&Setting| setting.role.as_deref().is_none_or(|role| role == inside.user());
    let mut suspects: Vec<&Setting> =
        steps.iter().filter_map(|step| step.setting.as_ref()).filter(ours).collect();
    suspects.sort_by_key(|setting| !setting.loads_libraries());
    for setting in suspects {
        let reset = format!("{} RESET {}", setting.whom(inside.database()), setting.parameter());
        if session.batch_execute(&reset).await.is_err() {
            continue;
        }
        warnings.push(format!(
            "setting {} of the database was not restored: with it no session could be opened: {refusal}",
            setting.name
        ));
        match self::refusal(inside).await {
            Some(next) => refusal = next,
            None => return warnings,
        }
    }
    warnings.push(format!("no session can be opened in the restored database: {refusal}"));
    warnings
}

/// Why the database lets no session in, unless that is the server's own trouble.
async fn refusal(inside: &ConnectionSpec) -> Option<String> {
    match open(inside).await {
        Err(RestoreError::Connect { source: ConnectError::Refused { source, .. } }) => {
            let code = source.code()?.code();
            (!CLASSES_OF_THE_SERVER.iter().any(|class| code.starts_with(class))).then(|| reason(&source))
        }
        _ => None,
    }
}

/// Settings whose value is a list of names: quoted as a whole they would be one name.
const LISTS: [&str; 7] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "shared_preload_libraries",
    "local_preload_libraries",
    "unix_socket_directories",
    "createrole_self_grant",
];

fn quoted(name: &str, value: &str) -> String {
    if !LISTS.contains(&name.to_lowercase().as_str()) {
        return literal(value);
    }
    let items: Vec<String> =
        value.split(',').map(|item| literal(&item.trim().trim_matches('"').replace("\"\"", "\""))).collect();
    items.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(steps: impl IntoIterator<Item = Step>) -> Vec<String> {
        steps.into_iter().map(|step| step.sql).collect()
    }

    #[test]
    fn properties_are_written_for_the_new_name() {
        let facts = serde_json::json!({"database": {
            "comment": "it's", "owner": "o\"x", "connection_limit": 7, "tablespace": "fast", "icu_rules": "&a < g",
            "settings": [
                {"role": null, "assignments": ["work_mem=64MB"]},
                {"role": "app", "assignments": ["my.key=a=b"]},
            ],
            "acl": ["o\"x=CTc/o\"x", "not an item"],
        }});
        let properties = Properties::of(&facts).unwrap();
        assert_eq!(
            sql(properties.settings("n")),
            [
                "ALTER DATABASE \"n\" SET \"work_mem\" = '64MB'",
                "ALTER ROLE \"app\" IN DATABASE \"n\" SET \"my\".\"key\" = 'a=b'",
            ]
        );
        assert_eq!(sql(properties.comment("n")), ["COMMENT ON DATABASE \"n\" IS 'it''s'"]);
        assert_eq!(sql(properties.owner("n")), ["ALTER DATABASE \"n\" OWNER TO \"o\"\"x\""]);
        assert_eq!(sql(properties.limit("n")), ["ALTER DATABASE \"n\" CONNECTION LIMIT 7"]);
        assert_eq!(properties.icu_rules(), Some("&a < g"));
        let warnings = properties.not_had_here(150_000);
        assert!(warnings.len() == 2 && warnings[0].contains("tablespace fast"), "{warnings:?}");
        let (_, warnings) = properties.rights("n");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn what_is_usual_or_not_known_needs_no_statement() {
        let usual = serde_json::json!({"snapshot": {"database": {
            "connection_limit": -1, "tablespace": "pg_default", "acl": null, "comment": null, "settings": []
        }}});
        for facts in [usual, serde_json::Value::Null] {
            let properties = Properties::of(&facts).unwrap();
            assert!(properties.settings("n").is_empty() && properties.comment("n").is_none());
            assert!(properties.owner("n").is_none() && properties.limit("n").is_none());
            let (rights, warnings) = properties.rights("n");
            assert!(rights.is_empty() && warnings.is_empty());
            assert!(properties.not_had_here(150_000).is_empty());
        }
        assert!(Properties::of(&serde_json::json!({"database": {"owner": 7}})).is_err());
    }

    #[test]
    fn lists_of_names_stay_lists() {
        assert_eq!(quoted("search_path", "\"$user\", public"), "'$user', 'public'");
        assert_eq!(quoted("work_mem", "64MB"), "'64MB'");
    }
}
