//! The hostcalls a script can make, with the status as Envoy gave it (the SDK panics on most of them).

use std::fmt;
use std::ptr;

/// A hostcall's result, by the name it has in the proxy-wasm ABI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(u32);

impl Status {
    pub(crate) const OK: Status = Status(0);
    pub(crate) const NOT_FOUND: Status = Status(1);
    pub(crate) const CAS_MISMATCH: Status = Status(8);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 13] = [
            "Ok",
            "NotFound",
            "BadArgument",
            "SerializationFailure",
            "ParseFailure",
            "BadExpression",
            "InvalidMemoryAccess",
            "Empty",
            "CasMismatch",
            "ResultMismatch",
            "InternalFailure",
            "BrokenConnection",
            "Unimplemented",
        ];
        let name = usize::try_from(self.0).ok().and_then(|code| NAMES.get(code));
        match name {
            Some(name) => f.write_str(name),
            None => write!(f, "status {}", self.0),
        }
    }
}

/// One of the two directions of a proxied connection, with its ABI numbers.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// What came from the client (on its way to the broker).
    Downstream,
    /// What came from the broker (on its way to the client).
    Upstream,
}

impl Side {
    fn buffer(self) -> u32 {
        match self {
            Side::Downstream => 2,
            Side::Upstream => 3,
        }
    }

    fn stream(self) -> u32 {
        match self {
            Side::Downstream => 2,
            Side::Upstream => 3,
        }
    }
}

/// Replaces the whole buffer of that side by `bytes`.
pub(crate) fn replace_buffer(side: Side, bytes: &[u8]) -> Status {
    Status(unsafe { proxy_set_buffer_bytes(side.buffer(), 0, usize::MAX, bytes.as_ptr(), bytes.len()) })
}

/// Puts bytes before what is in the buffer of that side.
pub(crate) fn prepend_buffer(side: Side, bytes: &[u8]) -> Status {
    Status(unsafe { proxy_set_buffer_bytes(side.buffer(), 0, 0, bytes.as_ptr(), bytes.len()) })
}

/// What is in the buffer of that side.
pub(crate) fn buffer(side: Side) -> Result<Vec<u8>, Status> {
    let (mut data, mut size) = (ptr::null_mut(), 0);
    let status = unsafe { proxy_get_buffer_bytes(side.buffer(), 0, usize::MAX, &mut data, &mut size) };
    given(status, data, size)
}

pub(crate) fn resume(side: Side) -> Status {
    Status(unsafe { proxy_continue_stream(side.stream()) })
}

pub(crate) fn close(side: Side) -> Status {
    Status(unsafe { proxy_close_stream(side.stream()) })
}

/// From here on, hostcalls are about that context.
pub(crate) fn set_effective_context(id: u32) -> Status {
    Status(unsafe { proxy_set_effective_context(id) })
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Status {
    Status(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

/// A property's raw bytes; the path's parts are joined by NUL, as the ABI has it.
pub(crate) fn property(path: &str) -> Result<Vec<u8>, Status> {
    let path = path.replace('.', "\0");
    let (mut data, mut size) = (ptr::null_mut(), 0);
    given(unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) }, data, size)
}

/// A value that the VMs of one `vm_id` share, with its mark: the next change that names another mark is refused.
pub(crate) fn shared(key: &str) -> Result<(Vec<u8>, u32), Status> {
    let (mut data, mut size, mut cas) = (ptr::null_mut(), 0, 0);
    let status = unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), &mut data, &mut size, &mut cas) };
    given(status, data, size).map(|value| (value, cas))
}

/// Changes a shared value if it still has the mark `cas`; 0 is any.
pub(crate) fn share(key: &str, value: &[u8], cas: u32) -> Status {
    Status(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

/// What the host allocated with our allocator (the SDK exports it) and gives away.
fn given(status: u32, data: *mut u8, size: usize) -> Result<Vec<u8>, Status> {
    match Status(status) {
        Status::OK if data.is_null() => Ok(Vec::new()),
        Status::OK => Ok(unsafe { Vec::from_raw_parts(data, size, size) }),
        status => Err(status),
    }
}

/// Envoy's foreign function for filter state that lives as long as the client's connection.
pub(crate) fn set_filter_state(key: &str, value: &str) -> Status {
    const NAME: &str = "set_envoy_filter_state";
    const DOWNSTREAM_CONNECTION: [u8; 2] = [0x18, 2];
    // SetEnvoyFilterStateArguments { path = 1, value = 2, span = 3 }, short enough for one-byte lengths.
    let mut arguments = Vec::new();
    for (tag, text) in [(0x0a, key), (0x12, value)] {
        arguments.extend([tag, text.len() as u8]);
        arguments.extend(text.as_bytes());
    }
    arguments.extend(DOWNSTREAM_CONNECTION);
    let (mut data, mut size) = (ptr::null_mut(), 0);
    Status(unsafe {
        proxy_call_foreign_function(
            NAME.as_ptr(),
            NAME.len(),
            arguments.as_ptr(),
            arguments.len(),
            &mut data,
            &mut size,
        )
    })
}

unsafe extern "C" {
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        size: usize,
        data: *mut *mut u8,
        length: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, size: usize, data: *const u8, length: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_set_effective_context(id: u32) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_property(path: *const u8, length: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_length: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_length: usize,
        value: *const u8,
        value_length: usize,
        cas: u32,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_length: usize,
        arguments: *const u8,
        arguments_length: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
}
