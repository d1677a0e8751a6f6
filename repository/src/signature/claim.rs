//! Many signatures checked together: a catalog of a hundred thousand manifests is read before each prune.
//!
//! Nearly all of a check is one equation on the curve. That of many signatures at once, each weighted at random, takes a
//! third of the time of one after the other, and fails if any of them is false; then each is checked alone, so that a
//! forged one costs time and nothing else. Nothing is remembered between two runs: no cache can be wrong, and nobody has
//! to be trusted for one.
//!
//! The two ways judge alike but for what the holder of a key can make up: with points of small order, signatures that
//! pass together and not alone. Such a one leads to no restore, which checks alone; and whoever holds a key can sign
//! worse.

use ed25519_dalek::{Signature, Verifier, VerifyingKey, verify_batch};

use super::{SignatureError, Signer};

/// A signature by a known key of which only the equation is still to be checked.
#[derive(Debug)]
pub struct Claim {
    pub(super) key: VerifyingKey,
    /// The principal of the key, for messages.
    pub(super) principal: String,
    /// What SSHSIG signs in place of the bytes: the namespace and their hash.
    pub(super) signed_data: Vec<u8>,
    pub(super) signature: Signature,
    /// Who signed it, or why that key may not sign this.
    pub(super) signer: Result<Signer, SignatureError>,
}

impl Claim {
    /// # Errors
    /// When the equation does not hold, or the key may not sign this.
    pub fn check(self) -> Result<Signer, SignatureError> {
        let holds = self.holds();
        self.concluded(holds)
    }

    fn holds(&self) -> bool {
        self.key.verify(&self.signed_data, &self.signature).is_ok()
    }

    fn concluded(self, holds: bool) -> Result<Signer, SignatureError> {
        if holds { self.signer } else { Err(SignatureError::BadSignature { signer: self.principal }) }
    }
}

/// Checks all of them, with an answer for each in their order.
pub fn check_all(claims: Vec<Claim>) -> Vec<Result<Signer, SignatureError>> {
    let all_hold = hold_together(&claims);
    let concluded = |claim: Claim| {
        let holds = all_hold || claim.holds();
        claim.concluded(holds)
    };
    claims.into_iter().map(concluded).collect()
}

fn hold_together(claims: &[Claim]) -> bool {
    let signed_data: Vec<&[u8]> = claims.iter().map(|claim| claim.signed_data.as_slice()).collect();
    let signatures: Vec<Signature> = claims.iter().map(|claim| claim.signature).collect();
    let keys: Vec<VerifyingKey> = claims.iter().map(|claim| claim.key).collect();
    verify_batch(&signed_data, &signatures, &keys).is_ok()
}
