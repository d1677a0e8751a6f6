//! Many repositories side by side: who is unprotected. Each is read with a deadline of its own, and what could not be read is
//! unknown, never taken for empty.
//!
//! How a source stands is judged as ever ([`crate::survey`]); here its place among all is found, and what lies in a
//! repository without anybody having promised anything of it.

mod document;
mod reading;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use pgproof_policies::PolicyProblems;
use pgproof_policies::names::SourceName;
use pgproof_policies::policy::{self, FleetRepository, GoesBy};
use pgproof_policies::standing::{Finding, Run, State};
use pgproof_repository::ids::RepositoryId;
use pgproof_repository::store::Lock;

use crate::survey::{Standing, Survey};

pub use document::Document;

/// How long one repository may take, unless somebody says otherwise: some hundreds of sources.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);
/// Repositories read at the same time.
const REPOSITORIES_IN_FLIGHT: usize = 8;

/// What is looked at, by the names that lines of the table have.
#[derive(Debug, Clone)]
pub struct Fleet {
    members: BTreeMap<String, FleetRepository>,
}

/// All repositories as they were read at one time.
#[derive(Debug)]
pub struct FleetSurvey {
    pub read_at: Timestamp,
    repositories: Vec<Repository>,
}

#[derive(Debug, Default)]
struct Repository {
    name: String,
    location: Option<String>,
    /// What its marker says; `None` where there is no repository, or none that could be read.
    id: Option<RepositoryId>,
    survey: Option<Survey>,
    kept: BTreeMap<SourceName, Kept>,
    /// Sources that lie there without a word of what is promised of them.
    unnamed: BTreeSet<SourceName>,
    retired: BTreeSet<SourceName>,
    /// Why something of it is not known that no line of a source tells.
    problems: Vec<String>,
    /// What to do where none of it could be read.
    hint: Option<String>,
}

/// What keeps backups of a source from being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Backups that are held; `None` where it could not be found out.
    pub holds: Option<usize>,
    /// The store's own lock on the newest.
    pub lock: Locked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locked {
    Not,
    By(Lock),
    NotKnown,
}

/// One source of the fleet, or what is to be said of a whole repository.
#[derive(Debug)]
pub struct Line<'a> {
    pub repository: &'a str,
    pub location: Option<&'a str>,
    pub source: Option<&'a SourceName>,
    pub state: State,
    /// What is the matter, gravest first; empty where all is well.
    pub reasons: Vec<String>,
    /// What to do about it, where that is known.
    pub hint: Option<&'a str>,
    /// `None` where nobody promised anything of it, and of a whole repository.
    pub standing: Option<Standing<'a>>,
    pub kept: Option<Kept>,
}

impl Fleet {
    /// Reads fleet files, and takes every other file for a policy, whose repository is called by its path. Paths in a fleet
    /// file are meant from its folder.
    ///
    /// # Errors
    /// When a fleet file has a mistake, or two of them give one name. A policy that cannot be read is one repository of
    /// which nothing is known.
    pub fn read(paths: &[PathBuf]) -> Result<Self, FleetError> {
        let mut members = BTreeMap::new();
        for path in paths {
            for (name, member) in read_file(path)? {
                if members.insert(name.clone(), member).is_some() {
                    return Err(FleetError::Twice { name, path: path.clone() });
                }
            }
        }
        Ok(Self { members })
    }

    /// Reads all of them. One that cannot be read keeps no other from being read.
    pub async fn survey(&self, now: Timestamp, deadline: Duration) -> FleetSurvey {
        let read = futures::stream::iter(&self.members)
            .map(|(name, member)| Box::pin(reading::read(name.clone(), member, now, deadline)));
        let mut repositories: Vec<Repository> = read.buffered(REPOSITORIES_IN_FLIGHT).collect().await;
        leave_out_named_elsewhere(&mut repositories);
        FleetSurvey { read_at: now, repositories }
    }
}

impl FleetSurvey {
    /// A line for each source, the gravest first.
    pub fn judge(&self, now: Timestamp) -> Vec<Line<'_>> {
        let mut lines: Vec<Line<'_>> = self.repositories.iter().flat_map(|it| it.judge(now)).collect();
        lines.sort_by(|one, other| {
            (other.state, one.repository, one.source).cmp(&(one.state, other.repository, other.source))
        });
        lines
    }

    pub fn repository_count(&self) -> usize {
        self.repositories.len()
    }
}

impl Line<'_> {
    /// How long a restore takes, by the newest drill that measured it.
    pub fn expected_recovery(&self, now: Timestamp) -> Option<SignedDuration> {
        let drills = self.standing.as_ref()?.facts?.drills.iter();
        let measured = drills.filter(|drill| drill.finished_at <= now && drill.recovery.is_some());
        measured.max_by_key(|drill| drill.finished_at)?.recovery
    }

    /// The newest run that made no backup, of those that were read, and its error.
    pub fn last_failure(&self) -> Option<(&Run, &str)> {
        let runs = &self.standing.as_ref()?.facts?.runs;
        runs.iter().find_map(|run| Some((run, run.error.as_deref()?)))
    }
}

/// The gravest state of all; of nothing, nothing is known.
pub fn worst(lines: &[Line<'_>]) -> State {
    lines.iter().map(|line| line.state).max().unwrap_or(State::Unknown)
}

impl Repository {
    fn judge(&self, now: Timestamp) -> Vec<Line<'_>> {
        let standings = self.survey.iter().flat_map(|survey| survey.judge(now));
        let named = standings.map(|standing| Line {
            source: Some(&standing.source.name),
            state: standing.state(),
            reasons: reasons(&standing.findings),
            kept: self.kept.get(&standing.source.name).copied(),
            standing: Some(standing),
            ..self.line()
        });
        let unnamed = self.unnamed.difference(&self.retired).map(|source| Line {
            source: Some(source),
            hint: Some("add it to a policy, or to `retired` of the repository in the fleet file"),
            reasons: vec![
                "it lies in the repository and no policy names it, so that nothing says how old its backups may be"
                    .to_owned(),
            ],
            ..self.line()
        });
        let whole =
            (!self.problems.is_empty()).then(|| Line { reasons: self.problems.clone(), ..self.line() });
        named.chain(unnamed).chain(whole).collect()
    }

    /// A line of it of which nothing is known yet.
    fn line(&self) -> Line<'_> {
        Line {
            repository: &self.name,
            location: self.location.as_deref(),
            source: None,
            state: State::Unknown,
            reasons: Vec::new(),
            hint: self.hint.as_deref(),
            standing: None,
            kept: None,
        }
    }
}

/// Gravest first.
fn reasons(findings: &[Finding]) -> Vec<String> {
    let mut unwell: Vec<&Finding> = findings.iter().filter(|finding| finding.state != State::Ok).collect();
    unwell.sort_by_key(|finding| std::cmp::Reverse(finding.state));
    unwell.into_iter().map(|finding| format!("{}: {}", finding.aspect, finding.told)).collect()
}

/// Several policies may share a repository: what one of them names, or calls retired, is nothing new in another.
fn leave_out_named_elsewhere(repositories: &mut [Repository]) {
    let mut named: HashMap<RepositoryId, BTreeSet<SourceName>> = HashMap::new();
    for repository in repositories.iter() {
        let Some(id) = &repository.id else { continue };
        let known = named.entry(id.clone()).or_default();
        known.extend(repository.survey.iter().flat_map(Survey::names).cloned());
        known.extend(repository.retired.iter().cloned());
    }
    let mut told = HashSet::new();
    for repository in repositories {
        let Some(id) = &repository.id else { continue };
        let (known, told) = (&named[id], &mut told);
        repository
            .unnamed
            .retain(|source| !known.contains(source) && told.insert((id.clone(), source.clone())));
    }
}

fn read_file(path: &Path) -> Result<BTreeMap<String, FleetRepository>, FleetError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) if policy::Fleet::is_meant_by(&text) => {
            let parsed = policy::Fleet::parse(&text, &name);
            let parsed = parsed.map_err(|source| FleetError::Problems { source })?;
            let folder = path.parent().unwrap_or(Path::new(""));
            Ok(parsed.repositories.into_iter().map(|(name, it)| (name, below(folder, it))).collect())
        }
        _ => {
            let goes_by = GoesBy::Policy(path.to_owned());
            Ok(BTreeMap::from([(name, FleetRepository { goes_by, retired: BTreeSet::new() })]))
        }
    }
}

/// Paths of a member as they are meant in a file of this folder.
fn below(folder: &Path, mut member: FleetRepository) -> FleetRepository {
    match &mut member.goes_by {
        GoesBy::Policy(path) => *path = folder.join(&*path),
        GoesBy::Promise(promise) => promise.trusted_signers = folder.join(&promise.trusted_signers),
    }
    member
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    #[error("fleet file is not usable")]
    Problems {
        #[source]
        source: PolicyProblems,
    },
    #[error("repository {name} is named twice, the second time in {}", path.display())]
    Twice { name: String, path: PathBuf },
}

impl FleetError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Twice { .. } => Some("give each repository a name of its own, and each file once"),
            Self::Problems { .. } => None,
        }
    }
}
