//! Bytes as people copy them from Wireshark and from logs.

use core::fmt::{self, Write as _};

/// Why a text is not hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// A character that is neither a digit nor between two bytes, counted in characters from 1.
    Character(usize, char),
    /// A byte of one digit, by its place.
    HalfByte(usize),
}

/// Pairs of digits, with white space, `:`, `,` or nothing between them, each with a `0x` in front of it or not.
///
/// # Errors
/// Says what else there is, and where.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut characters = text.chars().enumerate().peekable();
    while let Some((at, character)) = characters.next() {
        if character.is_whitespace() || matches!(character, ':' | ',') {
            continue;
        }
        let high = character.to_digit(16).ok_or(Error::Character(at + 1, character))?;
        let next = characters.next_if(|(_, next)| next.is_ascii_hexdigit() || (high == 0 && *next == 'x'));
        match next.ok_or(Error::HalfByte(at + 1))? {
            (_, 'x') => {}
            (_, low) => bytes.push((high << 4 | low.to_digit(16).unwrap_or_default()) as u8),
        }
    }
    Ok(bytes)
}

/// Two digits for each byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character(at, character) => {
                write!(f, "character {at}: {character:?} is no hexadecimal digit")
            }
            Self::HalfByte(at) => write!(f, "character {at}: one digit, and a byte has two"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_however_they_are_written() {
        for same in ["c000", "C0 00", "c0:00", "0xc0, 0x00\n", " c0\t00 "] {
            assert_eq!(bytes(same), Ok(vec![0xc0, 0]), "{same}");
        }
        assert_eq!(bytes(" \n"), Ok(vec![]));
        assert_eq!(text(&[0xc0, 0]), "c000");
    }

    #[test]
    fn what_is_no_byte_is_refused_with_its_place() {
        assert_eq!(bytes("c0 g0"), Err(Error::Character(4, 'g')));
        assert_eq!(bytes("c0 0"), Err(Error::HalfByte(4)));
        assert_eq!(bytes("c 0"), Err(Error::HalfByte(1)));
        assert_eq!(bytes("1xc0"), Err(Error::HalfByte(1)));
        assert_eq!(bytes("c0é0"), Err(Error::Character(3, 'é')));
    }
}
