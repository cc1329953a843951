//! What a client's certificate says, and which name is taken from it.

/// The certificate that a client has presented and the host has verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The subject as RFC 4514 writes it, such as `CN=sensor-1,O=acme`.
    pub subject: Box<str>,
    /// The first DNS name among its alternative names; empty when there is none.
    pub dns: Box<str>,
    /// The first URI.
    pub uri: Box<str>,
}

/// Where a name is taken from: RabbitMQ's `ssl_cert_login_from` with its `san_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFrom {
    /// The whole subject.
    DistinguishedName,
    /// Its common name; several are joined by commas.
    CommonName,
    /// The first DNS name.
    Dns,
    /// The first URI.
    Uri,
}

impl Certificate {
    /// `None` where the certificate has no such name.
    pub fn name(&self, from: NameFrom) -> Option<Box<str>> {
        let name = match from {
            NameFrom::DistinguishedName => self.subject.clone(),
            NameFrom::CommonName => common_name(&self.subject),
            NameFrom::Dns => self.dns.clone(),
            NameFrom::Uri => self.uri.clone(),
        };
        (!name.is_empty()).then_some(name)
    }

    /// Its alternative names.
    pub fn alternative_names(&self) -> impl Iterator<Item = &str> {
        [&*self.dns, &*self.uri].into_iter().filter(|name| !name.is_empty())
    }
}

/// The values of `CN` in a distinguished name, joined by commas in the certificate's own order, which RFC 4514 turns round.
fn common_name(subject: &str) -> Box<str> {
    let mut names = Vec::new();
    let mut rest = Some(subject);
    while let Some(text) = rest {
        let (attribute, behind) = split_unescaped(text);
        rest = behind;
        if let Some((kind, value)) = attribute.split_once('=')
            && kind.trim().eq_ignore_ascii_case("CN")
        {
            names.push(unescaped(value));
        }
    }
    names.reverse();
    names.join(",").into()
}

/// Up to the first `,` or `+` that no backslash stands before, and what is behind it. RFC 4514 section 2.4.
fn split_unescaped(text: &str) -> (&str, Option<&str>) {
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' | '+' => {
                let (attribute, behind) = text.split_at(at);
                return (attribute, behind.get(1..));
            }
            _ => {}
        }
    }
    (text, None)
}

/// A backslash stands before a special character or the two hexadecimal digits of a byte.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let hex = |byte: &u8| char::from(*byte).to_digit(16);
        match rest {
            [high, low, behind @ ..] if let (Some(high), Some(low)) = (hex(high), hex(low)) => {
                bytes.push((high << 4 | low) as u8);
                rest = behind;
            }
            [special, behind @ ..] => {
                bytes.push(*special);
                rest = behind;
            }
            [] => {}
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_name_of_a_subject() {
        for (subject, name) in [
            ("O=acme,CN=sensor-1", "sensor-1"),
            ("CN=sensor-1", "sensor-1"),
            ("OU=CN,O=acme", ""),
            ("CN=b,OU=x,CN=a", "a,b"),
            ("O=x+CN=a", "a"),
            (r"CN=a\,b\+c\\d,O=x", r"a,b+c\d"),
            (r"O=evil\,CN=admin,CN=guest", "guest"),
            (r"CN=Z\C3\BCrich", "Zürich"),
            (r"CN=a\", "a"),
            ("", ""),
        ] {
            assert_eq!(&*common_name(subject), name, "{subject}");
        }
    }

    #[test]
    fn each_kind_of_name() {
        let certificate =
            Certificate { subject: "CN=a,O=b".into(), dns: "a.example".into(), uri: Box::default() };
        let name = |from| certificate.name(from).map(String::from);
        assert_eq!(name(NameFrom::DistinguishedName).as_deref(), Some("CN=a,O=b"));
        assert_eq!(name(NameFrom::CommonName).as_deref(), Some("a"));
        assert_eq!(name(NameFrom::Dns).as_deref(), Some("a.example"));
        assert_eq!(name(NameFrom::Uri), None);
        assert_eq!(Certificate::default().name(NameFrom::CommonName), None);
    }
}
