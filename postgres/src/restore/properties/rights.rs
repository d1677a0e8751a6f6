//! Rights on a database, as its catalog words them (`grantee=CTc/grantor`) and as SQL gives them.

use crate::quoting::identifier;

/// One entry of a list of rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// `None` is everybody.
    grantee: Option<String>,
    plain: Vec<&'static str>,
    /// Rights that the grantee may pass on.
    to_pass_on: Vec<&'static str>,
    grantor: String,
}

/// Takes away what a new database comes with.
pub(super) fn revoke_defaults(database: &str, owner: &str) -> [String; 2] {
    let revoke = |whom: &str| format!("REVOKE ALL ON DATABASE {} FROM {whom}", identifier(database));
    [revoke("PUBLIC"), revoke(&identifier(owner))]
}

impl Grant {
    /// Reads an entry; `None` for one that holds a right that this does not know.
    pub(super) fn parse(item: &str) -> Option<Self> {
        let (grantee, rest) = name(item)?;
        let mut rest = rest.strip_prefix('=')?;
        let (mut plain, mut to_pass_on) = (Vec::new(), Vec::new());
        while let Some((right, after)) = right(rest) {
            match after.strip_prefix('*') {
                Some(after) => {
                    to_pass_on.push(right);
                    rest = after;
                }
                None => {
                    plain.push(right);
                    rest = after;
                }
            }
        }
        let (grantor, end) = name(rest.strip_prefix('/')?)?;
        let whole = end.is_empty() && !grantor.is_empty();
        whole.then_some(Self {
            grantee: (!grantee.is_empty()).then_some(grantee),
            plain,
            to_pass_on,
            grantor,
        })
    }

    /// What gives these rights. A superuser's grants count as the owner's; those of others are given as they themselves.
    pub(super) fn statements(&self, database: &str, owner: &str) -> Vec<String> {
        let whom = self.grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), identifier);
        let grant = |rights: &[&str], option: &str| {
            let grant =
                format!("GRANT {} ON DATABASE {} TO {whom}{option}", rights.join(", "), identifier(database));
            match self.grantor == owner {
                true => grant,
                false => format!("SET ROLE {}; {grant}; RESET ROLE", identifier(&self.grantor)),
            }
        };
        let mut statements = Vec::new();
        if !self.plain.is_empty() {
            statements.push(grant(&self.plain, ""));
        }
        if !self.to_pass_on.is_empty() {
            statements.push(grant(&self.to_pass_on, " WITH GRANT OPTION"));
        }
        statements
    }
}

fn right(text: &str) -> Option<(&'static str, &str)> {
    [("C", "CREATE"), ("T", "TEMPORARY"), ("c", "CONNECT")]
        .into_iter()
        .find_map(|(letter, right)| text.strip_prefix(letter).map(|after| (right, after)))
}

/// A name, which may be empty or in double quotes, and what follows it.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(['=', '/']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('"')?;
        name.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_given_as_the_catalog_words_them() {
        let given = |item: &str| Grant::parse(item).map(|grant| grant.statements("d", "boss"));
        let one = |statement: &str| Some(vec![statement.to_owned()]);
        assert_eq!(given("=Tc/boss"), one("GRANT TEMPORARY, CONNECT ON DATABASE \"d\" TO PUBLIC"));
        assert_eq!(
            given("boss=CTc/boss"),
            one("GRANT CREATE, TEMPORARY, CONNECT ON DATABASE \"d\" TO \"boss\"")
        );
        let mixed = [
            "GRANT CONNECT ON DATABASE \"d\" TO \"a=\"\"/ b\"",
            "GRANT CREATE ON DATABASE \"d\" TO \"a=\"\"/ b\" WITH GRANT OPTION",
        ];
        assert_eq!(given("\"a=\"\"/ b\"=C*c/boss"), Some(mixed.map(str::to_owned).to_vec()));
        let of_another = "SET ROLE \"ünder\"; GRANT CONNECT ON DATABASE \"d\" TO \"app\"; RESET ROLE";
        assert_eq!(given("app=c/ünder"), one(of_another));
        for bad in ["", "app", "app=c", "app=c/", "app=x/boss", "app=c/boss x=c/boss/", "\"app=c/boss"] {
            assert_eq!(given(bad), None, "{bad}");
        }
        assert_eq!(
            revoke_defaults("d", "boss"),
            ["REVOKE ALL ON DATABASE \"d\" FROM PUBLIC", "REVOKE ALL ON DATABASE \"d\" FROM \"boss\""]
        );
    }
}
