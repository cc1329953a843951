//! Reading and writing big-endian bytes: what the two codecs share, and all they share.

/// A read ran past the end of the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

/// A cursor over borrowed bytes. A failed read leaves it where it was.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `n` bytes.
    pub const fn take(&mut self, n: usize) -> Result<&'a [u8], Truncated> {
        match self.0.split_at_checked(n) {
            Some((head, tail)) => {
                self.0 = tail;
                Ok(head)
            }
            None => Err(Truncated),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (head, tail) = self.0.split_first_chunk().ok_or(Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.array().map(u8::from_be_bytes)
    }

    /// Two bytes, big-endian.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }

    /// Bytes behind a one-byte length.
    pub fn prefixed_u8(&mut self) -> Result<&'a [u8], Truncated> {
        self.prefixed(|r| r.u8().map(usize::from))
    }

    /// Bytes behind a two-byte length.
    pub fn prefixed_u16(&mut self) -> Result<&'a [u8], Truncated> {
        self.prefixed(|r| r.u16().map(usize::from))
    }

    /// Bytes behind a four-byte length.
    pub fn prefixed_u32(&mut self) -> Result<&'a [u8], Truncated> {
        self.prefixed(|r| r.u32().map(|n| n as usize))
    }

    fn prefixed(
        &mut self,
        length: impl Fn(&mut Self) -> Result<usize, Truncated>,
    ) -> Result<&'a [u8], Truncated> {
        let mut ahead = *self;
        let n = length(&mut ahead)?;
        let bytes = ahead.take(n)?;
        *self = ahead;
        Ok(bytes)
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends what `body` writes, with its length as a big-endian `u32` in front.
///
/// The length stands at `u32::MAX` while `body` runs, so that an encoding which is cut off cannot be read as a short one.
pub fn prefix_u32(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0xff; 4]);
    body(out);
    let written = out.len() - at - 4;
    if let (Some(slot), Ok(length)) = (out.get_mut(at..at + 4), u32::try_from(written)) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
}

/// Bytes that have arrived and are not parsed yet: an unfinished packet or frame head, or what has to wait.
#[derive(Default)]
pub struct RecvBuffer {
    bytes: Vec<u8>,
    /// How many of them are parsed.
    parsed: usize,
}

impl RecvBuffer {
    /// Adds what just arrived; an empty buffer adopts it without a copy.
    pub fn push(&mut self, bytes: Vec<u8>) {
        if self.bytes.is_empty() {
            self.bytes = bytes;
        } else {
            self.bytes.drain(..self.parsed);
            self.bytes.extend_from_slice(&bytes);
        }
        self.parsed = 0;
    }

    /// Whether there is something that is not parsed yet.
    pub const fn has_unparsed(&self) -> bool {
        self.bytes.len() > self.parsed
    }

    /// Everything that is not parsed yet.
    pub fn unparsed(&self) -> &[u8] {
        self.bytes.get(self.parsed..).unwrap_or_default()
    }

    /// Forgets all but the last `n` bytes, and gives back memory that they do not need.
    ///
    /// Bytes are moved only once half of those that are there are parsed, so however little is parsed at a time, each is moved
    /// about once.
    pub fn keep_last(&mut self, n: usize) {
        self.parsed = self.bytes.len().saturating_sub(n);
        if n == 0 {
            self.bytes = Vec::new();
            self.parsed = 0;
        } else if self.parsed > self.bytes.len() / 2 {
            self.bytes = self.bytes.split_off(self.parsed);
            self.parsed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_read_moves_nothing() {
        let mut r = Reader::new(&[0, 5, 1, 2]);
        assert_eq!(r.prefixed_u16(), Err(Truncated));
        assert_eq!(r.u64(), Err(Truncated));
        assert_eq!(r.rest(), &[0, 5, 1, 2]);
        assert_eq!(r.u16(), Ok(5));
        assert_eq!(r.take(2), Ok(&[1, 2][..]));
        assert!(r.is_empty());
    }

    #[test]
    fn a_length_is_patched_in_once_it_is_known() {
        let mut out = vec![9];
        prefix_u32(&mut out, |out| {
            assert_eq!(out, &[9, 0xff, 0xff, 0xff, 0xff], "poisoned meanwhile");
            out.extend_from_slice(b"abc");
        });
        assert_eq!(out, b"\x09\x00\x00\x00\x03abc");
    }

    #[test]
    fn the_buffer_keeps_what_is_unparsed() {
        let mut b = RecvBuffer::default();
        b.push(vec![1, 2, 3]);
        b.keep_last(1);
        b.push(vec![4]);
        assert_eq!(b.unparsed(), &[3, 4]);
        b.push(vec![5, 6, 7]);
        b.keep_last(4);
        assert_eq!(b.unparsed(), &[4, 5, 6, 7]);
        b.push(vec![8]);
        assert_eq!(b.unparsed(), &[4, 5, 6, 7, 8]);
        b.keep_last(0);
        assert!(b.unparsed().is_empty());
    }

    /// What is left is moved when it is less than what has gone, so each byte is as good as once.
    #[test]
    fn the_buffer_seldom_moves_what_is_unparsed() {
        let mut b = RecvBuffer::default();
        b.push(vec![7; 10_000]);
        let mut moves = 0;
        for left in (1..10_000).rev() {
            let before = b.bytes.as_ptr();
            b.keep_last(left);
            moves += usize::from(before != b.bytes.as_ptr());
            assert!(b.bytes.len() <= 2 * left + 1);
            assert_eq!(b.unparsed().len(), left);
        }
        assert!(moves < 20, "{moves}");
    }
}
