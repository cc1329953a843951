//! What must never be shown.

/// A password or token. It has no `Debug`, no `Display` and no `Serialize`: code that would log one does not compile.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes bytes in.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes: to be written to the wire, and nowhere else.
    pub(crate) const fn expose(&self) -> &[u8] {
        &self.0
    }
}
