//! What a `match` compares facts with: texts with `*`, and ranges of addresses.

use core::net::IpAddr;

/// A text in which `*` stands for any characters, also none.
pub struct Glob(Box<str>);

impl Glob {
    /// Every text is one.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it stands for the whole of `text`.
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(last) = parts.next_back() else { return text == first };
        let Some(rest) = text.strip_prefix(first) else { return false };
        // The earliest place for each part leaves the most room for those behind it.
        let behind = parts.try_fold(rest, |rest, part| rest.split_once(part).map(|(_, behind)| behind));
        behind.is_some_and(|rest| rest.ends_with(last))
    }
}

/// An address, or all that share its first bits, as `192.0.2.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// `None` when `text` is no address and no range in CIDR notation.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let written: IpAddr = address.parse().ok()?;
        let most = if written.is_ipv4() { 32 } else { 128 };
        let bits: u8 = bits.unwrap_or(most);
        // Of an IPv4 address that IPv6 carries, the last 32 bits are told.
        let first = written.to_canonical();
        let told = if first == written { bits } else { bits.checked_sub(96)? };
        (bits <= most).then_some(Self { first, bits: told })
    }

    /// Whether `address` is in it; an IPv4 address is one also where IPv6 carries it.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differ = u32::from(first) ^ u32::from(address);
                differ.leading_zeros() >= self.bits.into()
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differ = u128::from(first) ^ u128::from(address);
                differ.leading_zeros() >= self.bits.into()
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (glob, text) in [
            ("", ""),
            ("a", "a"),
            ("*", ""),
            ("*", "anything"),
            ("*.acme.example", "eu.acme.example"),
            ("a*b*c", "abc"),
            ("a*b*c", "a-b-b-c-c"),
            ("*x*", "x"),
        ] {
            assert!(Glob::new(glob).matches(text), "{glob} {text}");
        }
        for (glob, text) in [
            ("", "a"),
            ("a", "ab"),
            ("a*a", "a"),
            ("*.acme.example", "acme.example"),
            ("*.acme.example", "eu.acme.example.evil"),
            ("a*b*c", "acb"),
            ("ab*bc", "abc"),
        ] {
            assert!(!Glob::new(glob).matches(text), "{glob} {text}");
        }
    }

    #[test]
    fn ranges_of_addresses() {
        let contains =
            |range, address: &str| AddressRange::parse(range).unwrap().contains(address.parse().unwrap());
        assert!(contains("192.0.2.0/24", "192.0.2.255"));
        assert!(contains("192.0.2.0/24", "::ffff:192.0.2.9"));
        assert!(contains("::ffff:192.0.2.0/120", "192.0.2.9"));
        assert!(!contains("::ffff:192.0.2.0/120", "192.0.3.9"));
        assert!(!contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("0.0.0.0/0", "203.0.113.7"));
        assert!(!contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("192.0.2.7", "192.0.2.7"));
        assert!(!contains("192.0.2.7", "192.0.2.6"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::"));
        for text in ["", "a", "192.0.2.0/33", "192.0.2.0/", "2001:db8::/129", "192.0.2/24", "1.2.3.4/-1"] {
            assert_eq!(AddressRange::parse(text), None, "{text}");
        }
    }
}
