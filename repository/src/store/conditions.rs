//! Which conditions of a write a store heeds. What it does not heed is looked at before the write instead, which keeps one
//! writer from overwriting and not two at the same moment: those need a lease, and a lease then needs [`crate::lease`]'s
//! election.

use super::PutCondition;

/// The conditions that a store heeds by itself, in one step with the write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conditions {
    /// `If-None-Match: *` of a whole object.
    pub put_if_absent: bool,
    /// The same of the completion of an upload.
    pub complete_if_absent: bool,
    /// `If-Match` of a whole object.
    pub replace_if_unchanged: bool,
}

impl Conditions {
    pub const HONOURED: Self =
        Self { put_if_absent: true, complete_if_absent: true, replace_if_unchanged: true };
    pub const IGNORED: Self =
        Self { put_if_absent: false, complete_if_absent: false, replace_if_unchanged: false };

    /// Whether a lease is one object that is made if absent and replaced if unchanged.
    pub fn keep_leases(self) -> bool {
        self.put_if_absent && self.replace_if_unchanged
    }

    pub fn heeds(self, condition: &PutCondition) -> bool {
        match condition {
            PutCondition::IfAbsent => self.put_if_absent,
            PutCondition::IfVersion(_) => self.replace_if_unchanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    /// Any other lease needs an election.
    #[test]
    fn leases_need_both_conditions_of_a_put() {
        let unchanged = PutCondition::IfVersion(Version("1".to_owned()));
        for (put_if_absent, replace_if_unchanged) in
            [(true, true), (true, false), (false, true), (false, false)]
        {
            let conditions = Conditions { put_if_absent, replace_if_unchanged, complete_if_absent: true };
            assert_eq!(conditions.keep_leases(), put_if_absent && replace_if_unchanged, "{conditions:?}");
            assert_eq!(conditions.heeds(&PutCondition::IfAbsent), put_if_absent);
            assert_eq!(conditions.heeds(&unchanged), replace_if_unchanged);
        }
        assert!(Conditions::HONOURED.keep_leases() && !Conditions::IGNORED.keep_leases());
    }
}
