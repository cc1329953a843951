//! Field tables, section 4.2.5.5, with RabbitMQ's value types.
//!
//! The reader never builds a table and never recurses: it steps over values by their length and looks up the one key it is
//! asked for. Whoever may publish to the broker chooses these bytes, and a table nested ten thousand deep costs the same.

use super::DecodeError;
use crate::wire::{Reader, prefix_u32};

/// A borrowed field table.
#[derive(Clone, Copy)]
pub struct Table<'a>(&'a [u8]);

/// A value that [`Table::find`] can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `t`.
    Bool(bool),
    /// Any of the integer types that fits.
    Int(i64),
    /// `S`, and RabbitMQ's byte array `x`.
    Bytes(&'a [u8]),
    /// A nested table, `F`.
    Table(&'a [u8]),
    /// Any other type.
    Other,
}

impl<'a> Table<'a> {
    /// No entries.
    pub const EMPTY: Self = Self(&[]);

    /// A table of these bytes, without the length in front of them.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The first value named `key`.
    ///
    /// # Errors
    /// When the bytes before it, or the value itself, are not a table's. What stands behind it is not looked at.
    pub fn find(self, key: &[u8]) -> Result<Option<Value<'a>>, DecodeError> {
        let mut reader = Reader::new(self.0);
        while !reader.is_empty() {
            let name = reader.prefixed_u8()?;
            let value = value(&mut reader)?;
            if name == key {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<Value<'a>, DecodeError> {
    Ok(match reader.u8()? {
        b't' => Value::Bool(reader.u8()? != 0),
        b'b' => Value::Int(i64::from(reader.u8()? as i8)),
        b'B' => Value::Int(i64::from(reader.u8()?)),
        b's' => Value::Int(i64::from(reader.u16()? as i16)),
        b'u' => Value::Int(i64::from(reader.u16()?)),
        b'I' => Value::Int(i64::from(reader.u32()? as i32)),
        b'i' => Value::Int(i64::from(reader.u32()?)),
        b'l' => Value::Int(reader.u64()? as i64),
        b'S' | b'x' => Value::Bytes(reader.prefixed_u32()?),
        b'F' => Value::Table(reader.prefixed_u32()?),
        b'A' => skip(reader.prefixed_u32()?),
        b'f' => skip(reader.take(4)?),
        b'd' | b'T' => skip(reader.take(8)?),
        b'D' => skip(reader.take(5)?),
        b'V' => Value::Other,
        _ => return Err(DecodeError::Arguments),
    })
}

const fn skip(_: &[u8]) -> Value<'_> {
    Value::Other
}

/// Appends a table's entries. Keys are literals of ours, and short.
pub struct TableWriter<'o>(&'o mut Vec<u8>);

impl<'o> TableWriter<'o> {
    /// Appends a table, length in front, of the entries that `entries` writes.
    pub fn write(out: &'o mut Vec<u8>, entries: impl FnOnce(&mut TableWriter<'_>)) {
        prefix_u32(out, |out| entries(&mut TableWriter(out)));
    }

    /// A boolean.
    pub fn bool(&mut self, key: &'static str, value: bool) -> &mut Self {
        self.key(key, b't');
        self.0.push(u8::from(value));
        self
    }

    /// A signed byte, which RabbitMQ's MQTT plugin looks for: an unsigned one crashes its 3.10.
    pub fn byte(&mut self, key: &'static str, value: i8) -> &mut Self {
        self.key(key, b'b');
        self.0.push(value as u8);
        self
    }

    /// A signed 64-bit integer.
    pub fn long(&mut self, key: &'static str, value: i64) -> &mut Self {
        self.key(key, b'l');
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A long string.
    pub fn string(&mut self, key: &'static str, value: &[u8]) -> &mut Self {
        self.key(key, b'S');
        prefix_u32(self.0, |out| out.extend_from_slice(value));
        self
    }

    /// An array of one long string.
    pub fn array(&mut self, key: &'static str, value: &[u8]) -> &mut Self {
        self.key(key, b'A');
        prefix_u32(self.0, |out| {
            out.push(b'S');
            prefix_u32(out, |out| out.extend_from_slice(value));
        });
        self
    }

    /// A nested table.
    pub fn table(&mut self, key: &'static str, entries: impl FnOnce(&mut TableWriter<'_>)) -> &mut Self {
        self.key(key, b'F');
        TableWriter::write(self.0, entries);
        self
    }

    fn key(&mut self, key: &'static str, tag: u8) {
        super::ShortStr::new(key.as_bytes()).unwrap_or(super::ShortStr::EMPTY).encode(self.0);
        self.0.push(tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(entries: impl FnOnce(&mut TableWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        TableWriter::write(&mut out, entries);
        out.split_off(4)
    }

    #[test]
    fn what_is_written_is_found() {
        let bytes = written(|t| {
            t.bool("a", true).byte("b", -2).long("c", -5).string("d", b"x").table("e", |t| {
                t.bool("f", false);
            });
        });
        let table = Table::new(&bytes);
        assert_eq!(table.find(b"a"), Ok(Some(Value::Bool(true))));
        assert_eq!(table.find(b"b"), Ok(Some(Value::Int(-2))));
        assert_eq!(table.find(b"c"), Ok(Some(Value::Int(-5))));
        assert_eq!(table.find(b"d"), Ok(Some(Value::Bytes(b"x"))));
        assert_eq!(table.find(b"f"), Ok(None), "a nested key is not this table's");
        let Ok(Some(Value::Table(nested))) = table.find(b"e") else { panic!("a table") };
        assert_eq!(Table::new(nested).find(b"f"), Ok(Some(Value::Bool(false))));
    }

    #[test]
    fn depth_costs_nothing_and_nonsense_is_an_error() {
        let mut nested = Vec::new();
        for _ in 0..10_000 {
            let mut outer = vec![1, b'k', b'A'];
            outer.extend_from_slice(&(nested.len() as u32).to_be_bytes());
            outer.append(&mut nested);
            nested = outer;
            nested.truncate(100_000);
        }
        assert!(matches!(Table::new(&nested).find(b"z"), Ok(None) | Err(DecodeError::Arguments)));
        assert_eq!(Table::new(b"\x01kZ").find(b"z"), Err(DecodeError::Arguments));
        assert_eq!(Table::new(b"\x01kS\x00\x00\x00\x05ab").find(b"k"), Err(DecodeError::Arguments));
    }
}
