//! Users and their passwords' hashes, in the form in which RabbitMQ exports them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Sha256, Sha512};
use subtle::ConstantTimeEq as _;

/// Users by name.
#[derive(Default)]
pub struct Users(BTreeMap<Box<str>, Option<PasswordHash>>);

/// A salt, and the hash of it and the password. No `Debug`: it helps to guess.
pub struct PasswordHash {
    algorithm: Algorithm,
    salt: [u8; 4],
    hash: Box<[u8]>,
}

/// RabbitMQ's `hashing_algorithm`, less those that nobody should use any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// `rabbit_password_hashing_sha256`.
    #[default]
    Sha256,
    /// `rabbit_password_hashing_sha512`.
    Sha512,
}

impl Users {
    /// Adds a user; one without a hash has no password that would let it in. `false` when there is one of that name.
    pub fn add(&mut self, name: &str, hash: Option<PasswordHash>) -> bool {
        self.0.insert(name.into(), hash).is_none()
    }

    /// Whether there is such a user and this is its password. Takes as long for a user that does not exist as for one with a SHA-256 hash.
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        let nobody = PasswordHash { algorithm: Algorithm::default(), salt: [0; 4], hash: Box::default() };
        let hash = self.0.get(name).and_then(Option::as_ref);
        // RabbitMQ lets nobody in without a password, whatever is exported.
        hash.unwrap_or(&nobody).verify(password) && hash.is_some() && !password.is_empty()
    }

    /// Whether there is such a user.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl PasswordHash {
    /// From base64, as it is exported; `None` when it is none, or too short or long for the algorithm.
    pub fn parse(base64: &str, algorithm: Algorithm) -> Option<Self> {
        let bytes = STANDARD.decode(base64).ok()?;
        let (salt, hash) = bytes.split_first_chunk()?;
        (hash.len() == algorithm.size()).then(|| Self { algorithm, salt: *salt, hash: hash.into() })
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self.algorithm {
            Algorithm::Sha256 => self.is_hash(&digest::<Sha256>(&self.salt, password)),
            Algorithm::Sha512 => self.is_hash(&digest::<Sha512>(&self.salt, password)),
        }
    }

    fn is_hash(&self, hash: &[u8]) -> bool {
        self.hash.ct_eq(hash).into()
    }
}

impl Algorithm {
    /// By RabbitMQ's name for it.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "rabbit_password_hashing_sha256" => Some(Self::Sha256),
            "rabbit_password_hashing_sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Bytes of its hash.
    const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

fn digest<D: sha2::Digest>(salt: &[u8], password: &[u8]) -> Box<[u8]> {
    D::new().chain_update(salt).chain_update(password).finalize().as_slice().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RabbitMQ's documentation of password hashes has this one, of the password `test12`.
    const DOCUMENTED: &str = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR";

    #[test]
    fn a_hash_as_rabbitmq_documents_it() {
        let mut users = Users::default();
        assert!(users.add("u", PasswordHash::parse(DOCUMENTED, Algorithm::Sha256)));
        assert!(users.verify("u", b"test12"));
        for (name, password) in [("u", "test13"), ("u", ""), ("v", "test12"), ("", "")] {
            assert!(!users.verify(name, password.as_bytes()), "{name} {password}");
        }
        assert!(!users.add("u", None), "a second time");
    }

    #[test]
    fn a_user_without_a_hash_has_no_password() {
        let mut users = Users::default();
        users.add("u", None);
        assert!(users.knows("u") && !users.verify("u", b""));
    }

    #[test]
    fn the_hash_of_a_blank_password_lets_nobody_in() {
        let mut users = Users::default();
        let blank = [&[1, 2, 3, 4][..], &digest::<Sha512>(&[1, 2, 3, 4], b"")].concat();
        users.add("u", PasswordHash::parse(&STANDARD.encode(blank), Algorithm::Sha512));
        assert!(!users.verify("u", b""));
    }

    #[test]
    fn what_is_no_hash() {
        for text in ["", "x", "AAAA", "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2PO!"] {
            assert!(PasswordHash::parse(text, Algorithm::Sha256).is_none(), "{text}");
        }
        assert!(PasswordHash::parse(DOCUMENTED, Algorithm::Sha512).is_none());
    }
}
