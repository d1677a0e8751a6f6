//! Which files may hold a secret.

use std::path::Path;

/// Permission bits that let anybody but the owner read or change a file.
const OTHERS_MODE: u32 = 0o077;
/// The same of a file of root's: a service may read it by its group, and never change it.
const OTHERS_MODE_OF_ROOTS: u32 = 0o037;

/// Whether a file with these permission bits and this owner is the owner's alone, or is handed by root to one service.
/// PostgreSQL takes its server's key by the same rule.
pub fn is_private(mode: u32, owner: u32) -> bool {
    let others = if owner == 0 { OTHERS_MODE_OF_ROOTS } else { OTHERS_MODE };
    mode & others == 0
}

/// What to do with a file that is not: `chmod 600` of one that root hands to a service would take it from the service.
pub fn hint(path: &Path) -> String {
    let shown = path.display();
    format!("chmod 600 {shown}; one that is root's and its service's group's may have 640")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_may_hand_a_secret_to_a_group() {
        let owner = 1000;
        assert!(is_private(0o600, owner) && is_private(0o640, 0) && is_private(0o400, 0));
        assert!(!is_private(0o640, owner));
        assert!(!is_private(0o660, 0) && !is_private(0o644, 0) && !is_private(0o604, owner));
    }
}
