//! What the policy includes and excludes.
//!
//! A pattern without a slash is for names, wherever they are; one with a slash is for whole paths. What is excluded
//! is not entered. With `include`, only files that match it, or lie in a folder that does, are taken.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::path::StoredPath;

/// The policy's patterns, ready to be asked.
#[derive(Debug, Clone)]
pub struct Filter {
    include: Option<Patterns>,
    exclude: Patterns,
}

#[derive(Debug, Clone)]
struct Patterns {
    names: GlobSet,
    paths: GlobSet,
}

#[derive(Debug, thiserror::Error)]
#[error("pattern {pattern:?} cannot be used")]
pub struct FilterError {
    pattern: String,
    #[source]
    source: globset::Error,
}

impl Filter {
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, FilterError> {
        let include = match include {
            [] => None,
            patterns => Some(Patterns::new(patterns)?),
        };
        Ok(Self { include, exclude: Patterns::new(exclude)? })
    }

    /// Whether nothing at this path can be taken: it or a folder that it lies in is excluded.
    pub fn leaves_out(&self, path: &StoredPath) -> bool {
        path.and_folders().any(|path| self.excludes(&path))
    }

    pub(crate) fn excludes(&self, path: &StoredPath) -> bool {
        self.exclude.matches(path)
    }

    /// Whether a file is wanted, given whether its folder was.
    pub(crate) fn includes(&self, path: &StoredPath, folder_is_included: bool) -> bool {
        folder_is_included || self.include.as_ref().is_none_or(|include| include.matches(path))
    }
}

impl Patterns {
    fn new(patterns: &[String]) -> Result<Self, FilterError> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let trimmed = pattern.trim_end_matches('/');
            let error = |source| FilterError { pattern: pattern.clone(), source };
            let build = |text: &str| GlobBuilder::new(text).literal_separator(true).build().map_err(error);
            match (trimmed.contains('/'), trimmed.starts_with('/')) {
                (false, _) => names.add(build(trimmed)?),
                (true, true) => paths.add(build(trimmed)?),
                // Below any folder, as people expect of `cache/*.tmp`.
                (true, false) => paths.add(build(&format!("**/{trimmed}"))?),
            };
        }
        let built = |set: GlobSetBuilder| {
            set.build().map_err(|source| FilterError { pattern: patterns.join(", "), source })
        };
        Ok(Self { names: built(names)?, paths: built(paths)? })
    }

    fn matches(&self, path: &StoredPath) -> bool {
        let name = path.names().last().unwrap_or_default();
        if self.names.is_match(Path::new(OsStr::from_bytes(name))) {
            return true;
        }
        !self.paths.is_empty() && {
            let absolute = [b"/", path.as_bytes()].concat();
            self.paths.is_match(Path::new(OsStr::from_bytes(&absolute)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).unwrap()
    }

    fn path(text: &str) -> StoredPath {
        StoredPath::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_pattern_without_a_slash_is_for_names_and_others_are_for_paths() {
        let filter = filter(&[], &["*.tmp", "node_modules/", "/srv/*/cache", "logs/*.gz"]);
        for excluded in ["a.tmp", "x/y/a.tmp", "x/node_modules", "srv/a/cache", "x/logs/1.gz"] {
            assert!(filter.excludes(&path(excluded)), "{excluded}");
        }
        for kept in ["a.tmp2", "srv/a/b/cache", "x/logs/y/1.gz", "tmp"] {
            assert!(!filter.excludes(&path(kept)), "{kept}");
        }
    }

    #[test]
    fn what_lies_in_an_excluded_folder_is_left_out() {
        let filter = filter(&[], &["/srv/backups"]);
        assert!(filter.leaves_out(&path("srv/backups/a/b")));
        assert!(!filter.leaves_out(&path("srv/other/backups")));
    }

    #[test]
    fn an_included_folder_includes_what_is_in_it() {
        let filter = filter(&["*.log", "/srv/all"], &[]);
        assert!(filter.includes(&path("srv/x/a.log"), false));
        assert!(!filter.includes(&path("srv/x/a.txt"), false));
        assert!(filter.includes(&path("srv/all"), false));
        assert!(filter.includes(&path("srv/all/a.txt"), true));
    }
}
