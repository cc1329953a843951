//! What `{client_id}` and the like stand for.

use crate::topic::TopicMapping;

/// A fact about a client that a grant or an expression may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Variable {
    /// `{client_id}`.
    ClientId,
    /// `{username}`: as it logs in, without a virtual host.
    Username,
    /// `{vhost}`.
    Vhost,
    /// `{tenant}`.
    Tenant,
    /// `{cert_cn}`.
    CertCn,
    /// `{cert_dn}`.
    CertDn,
    /// `{cert_san}`: the first DNS name, or else the first URI.
    CertSan,
}

impl Variable {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::ClientId,
        Self::Username,
        Self::Vhost,
        Self::Tenant,
        Self::CertCn,
        Self::CertDn,
        Self::CertSan,
    ];

    /// How it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::ClientId => "{client_id}",
            Self::Username => "{username}",
            Self::Vhost => "{vhost}",
            Self::Tenant => "{tenant}",
            Self::CertCn => "{cert_cn}",
            Self::CertDn => "{cert_dn}",
            Self::CertSan => "{cert_san}",
        }
    }
}

/// The values of all variables for one client.
#[derive(Default)]
pub struct Values {
    texts: [Box<str>; Variable::ALL.len()],
    /// As keys have them; `None` where a value is not one word of a key.
    words: [Option<Box<[u8]>>; Variable::ALL.len()],
}

impl Values {
    /// A value for each, in the order of [`Variable::ALL`]; empty where it is not known.
    pub fn new(texts: [&str; Variable::ALL.len()], mapping: TopicMapping) -> Self {
        Self { texts: texts.map(Box::from), words: texts.map(|text| word(text, mapping)) }
    }

    /// As it is.
    pub fn text(&self, variable: Variable) -> &str {
        self.texts.get(variable as usize).map_or("", |text| text)
    }

    /// As one word of a key. `None` where it is none, so that nobody gets at another's topics by a client id such as `a/b` or `+`.
    pub fn word(&self, variable: Variable) -> Option<&[u8]> {
        self.words.get(variable as usize)?.as_deref()
    }
}

fn word(text: &str, mapping: TopicMapping) -> Option<Box<[u8]>> {
    if text.is_empty() || text.contains(['+', '#', '/']) {
        return None;
    }
    let mut key = Vec::new();
    mapping.routing_key(text, &mut key);
    let is_word = !key.contains(&b'.') && !key.contains(&b'*');
    is_word.then(|| key.into())
}
