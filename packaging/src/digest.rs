//! SHA-256 sums.

use sha2::{Digest as _, Sha256};

/// The SHA-256 of something.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Digest(String);

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(format!("{:x}", Sha256::digest(bytes)))
    }

    /// 64 digits.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    /// As OCI writes it.
    pub(crate) fn oci(&self) -> String {
        format!("sha256:{}", self.0)
    }
}
