//! Bytes as people copy them from Wireshark, logs and source code.

use core::fmt::{self, Write as _};

/// Why a text is not hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// From 1.
    line: usize,
    problem: Problem,
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// Neither a digit nor what may stand between two bytes.
    Character(char),
    HalfByte,
    /// A dump, whose offsets would be read as bytes.
    Offset,
}

/// Pairs of digits with white space, `:`, `,`, `-` or nothing between them, each with `0x` or `\x` in front of it or not.
///
/// # Errors
/// Says what else there is, and in which line.
pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    for (n, line) in text.lines().enumerate() {
        line_bytes(line, &mut bytes).map_err(|problem| Error { line: n + 1, problem })?;
    }
    Ok(bytes)
}

fn line_bytes(line: &str, bytes: &mut Vec<u8>) -> Result<(), Problem> {
    let line = line.trim_end();
    let first = unmarked(line);
    let behind = first.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    if first.len() - behind.len() >= 4 && (behind.starts_with(": ") || behind.starts_with("  ")) {
        return Err(Problem::Offset);
    }
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ':' | ',' | '-'));
        let Some(character) = rest.chars().next() else { return Ok(()) };
        let digits = unmarked(rest);
        match digits.split_at_checked(2).filter(|(byte, _)| byte.bytes().all(|it| it.is_ascii_hexdigit())) {
            Some((byte, behind)) => {
                bytes.extend(u8::from_str_radix(byte, 16));
                rest = behind;
            }
            None if digits.starts_with(|c: char| c.is_ascii_hexdigit()) => return Err(Problem::HalfByte),
            None => return Err(Problem::Character(character)),
        }
    }
}

/// Behind what marks digits as hexadecimal.
fn unmarked(text: &str) -> &str {
    ["0x", "0X", "\\x"].iter().find_map(|mark| text.strip_prefix(mark)).unwrap_or(text)
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
        write!(f, "line {}: ", self.line)?;
        match self.problem {
            Problem::Character(character) => write!(f, "{character:?} is no hexadecimal digit"),
            Problem::HalfByte => f.write_str("one digit by itself, and a byte has two"),
            Problem::Offset => {
                f.write_str("starts with an offset: leave these out, and the text at the right")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_however_they_are_written() {
        for same in ["c000", "C0 00", "c0:00", "c0-00", "0xc0, 0X00\n", r"\xc0\x00", " c0\r\n\t00 ", "c000  "]
        {
            assert_eq!(bytes(same), Ok(vec![0xc0, 0]), "{same}");
        }
        assert_eq!(bytes("0001 0203"), Ok(vec![0, 1, 2, 3]));
        assert_eq!(bytes(" \n"), Ok(vec![]));
        assert_eq!(text(&[0xc0, 0]), "c000");
    }

    #[test]
    fn what_is_no_byte_is_refused_with_its_line() {
        for (text, line, problem) in [
            ("c0 g0", 1, Problem::Character('g')),
            ("c000\nc0é0", 2, Problem::Character('é')),
            ("c0 +1", 1, Problem::Character('+')),
            ("c0 0x", 1, Problem::Character('0')),
            ("c0 0", 1, Problem::HalfByte),
            ("c 00", 1, Problem::HalfByte),
            ("1xc0", 1, Problem::HalfByte),
            ("0xc", 1, Problem::HalfByte),
            ("0000  10 10", 1, Problem::Offset),
            ("c000\n0x0010:  4500", 2, Problem::Offset),
        ] {
            assert_eq!(bytes(text), Err(Error { line, problem }), "{text}");
        }
    }
}
