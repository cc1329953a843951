//! The calls to the proxy, each with its status returned.
//!
//! The SDK panics on a status it does not know, and a panic ends every connection of the worker. Here a
//! status is a value. This is the only file with `unsafe` and the only one that calls the host.
#![allow(unsafe_code, reason = "the proxy is reached through foreign functions")]

use core::ptr::null_mut;

/// Anything but success, by its number in the proxy-wasm ABI (a newer host may know more than we do).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u32);

/// Log levels, by their number in the proxy-wasm ABI.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub(crate) enum Level {
    Debug = 1,
    Info = 2,
    Warn = 3,
    Error = 4,
    Critical = 5,
}

/// The buffers a network filter sees, by their number in the proxy-wasm ABI.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Buffer {
    /// On the way from the client; what is in it when reading continues goes upstream.
    Downstream = 2,
    /// On the way from upstream; reachable only inside `on_upstream_data`.
    Upstream = 3,
    /// The VM configuration; reachable only inside `on_vm_start`.
    VmConfiguration = 6,
    /// The plugin configuration; reachable only inside `on_configure`.
    Configuration = 7,
}

/// Writes a log line; there is nobody to tell when that fails.
pub(crate) fn log(level: Level, line: &str) {
    let _ = unsafe { proxy_log(level as u32, line.as_ptr(), line.len()) };
}

/// The number of the lowest [`Level`] that the proxy writes.
pub(crate) fn log_level() -> Result<u32, Status> {
    let mut level = 0;
    check(unsafe { proxy_get_log_level(&mut level) })?;
    Ok(level)
}

/// The wall clock, in nanoseconds since 1970.
pub(crate) fn wall_clock() -> Result<u64, Status> {
    let mut nanos = 0;
    check(unsafe { proxy_get_current_time_nanoseconds(&mut nanos) })?;
    Ok(nanos)
}

/// Has `on_tick` called every `millis` milliseconds.
pub(crate) fn set_tick_period(millis: u32) -> Result<(), Status> {
    check(unsafe { proxy_set_tick_period_milliseconds(millis) })
}

/// Everything in a buffer.
pub(crate) fn read(buffer: Buffer) -> Result<Vec<u8>, Status> {
    returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer as u32, 0, usize::MAX, data, size) })
}

/// Replaces everything in a buffer.
pub(crate) fn replace(buffer: Buffer, bytes: &[u8]) -> Result<(), Status> {
    check(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, usize::MAX, bytes.as_ptr(), bytes.len()) })
}

/// Puts bytes in front of what is in a buffer.
pub(crate) fn put_back(buffer: Buffer, bytes: &[u8]) -> Result<(), Status> {
    check(unsafe { proxy_set_buffer_bytes(buffer as u32, 0, 0, bytes.as_ptr(), bytes.len()) })
}

/// Passes the downstream buffer on to the next filter, once the current callback is over.
pub(crate) fn resume_downstream() -> Result<(), Status> {
    check(unsafe { proxy_continue_stream(DOWNSTREAM) })
}

/// Closes the client's connection, once the current callback is over.
pub(crate) fn close_downstream() -> Result<(), Status> {
    check(unsafe { proxy_close_stream(DOWNSTREAM) })
}

/// Makes the calls that follow, up to the end of the current callback, be about another connection.
pub(crate) fn set_effective_context(id: u32) -> Result<(), Status> {
    check(unsafe { proxy_set_effective_context(id) })
}

/// A property by its path, whose parts are separated by NUL.
pub(crate) fn property(path: &str) -> Result<Vec<u8>, Status> {
    returned(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// Sends the connection to another cluster; has an effect only before `tcp_proxy` has chosen one.
pub(crate) fn set_cluster(name: &str) -> Result<(), Status> {
    set_filter_state("envoy.tcp_proxy.cluster", name)
}

/// What `tcp_proxy` may have its `hash_policy` look at.
pub(crate) fn set_hash_key(key: &str) -> Result<(), Status> {
    set_filter_state("envoy.hashable_string", key)
}

fn set_filter_state(path: &str, value: &str) -> Result<(), Status> {
    // envoy.source.extensions.common.wasm.SetEnvoyFilterStateArguments { path = 1; value = 2; span = 3 }; a
    // span left out is that of the filter chain, which for a TCP connection is the connection.
    let mut arguments = Vec::new();
    push_protobuf_string(&mut arguments, 1, path);
    push_protobuf_string(&mut arguments, 2, value);
    let function = "set_envoy_filter_state";
    returned(|data, size| unsafe {
        proxy_call_foreign_function(
            function.as_ptr(),
            function.len(),
            arguments.as_ptr(),
            arguments.len(),
            data,
            size,
        )
    })?;
    Ok(())
}

/// What all virtual machines of this one's `vm_id` share under `key`, and its mark, which is another after each change; `None` when
/// nobody has set it.
pub(crate) fn shared_data(key: &str) -> Option<(Vec<u8>, u32)> {
    let mut mark = 0;
    let value = returned(|data, size| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut mark)
    });
    value.ok().map(|value| (value, mark))
}

/// Changes it, if it still has this mark; without a mark, in any case.
pub(crate) fn set_shared_data(key: &str, value: &[u8], mark: Option<u32>) -> Result<(), Status> {
    // No value has the mark 0, which stands for any.
    let mark = mark.unwrap_or(0);
    check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), mark) })
}

/// Makes, or takes over, the queue of this name, whose root context is called as soon as there is something in it.
pub(crate) fn register_shared_queue(name: &str) -> Result<u32, Status> {
    let mut id = 0;
    check(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &mut id) })?;
    Ok(id)
}

/// Puts bytes into a queue.
pub(crate) fn enqueue(id: u32, bytes: &[u8]) -> Result<(), Status> {
    check(unsafe { proxy_enqueue_shared_queue(id, bytes.as_ptr(), bytes.len()) })
}

/// Takes the first bytes out of a queue; an error when there are none.
pub(crate) fn dequeue(id: u32) -> Result<Vec<u8>, Status> {
    returned(|data, size| unsafe { proxy_dequeue_shared_queue(id, data, size) })
}

/// Kinds of metrics, by their number in the proxy-wasm ABI.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum MetricKind {
    Counter = 0,
    Gauge = 1,
    Histogram = 2,
}

/// Defines a metric, or finds the one of that name, and gives its number.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Result<u32, Status> {
    let mut id = 0;
    check(unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) })?;
    Ok(id)
}

/// Adds to a counter, which takes only positive values, or a gauge.
pub(crate) fn increment(metric: u32, by: i64) -> Result<(), Status> {
    check(unsafe { proxy_increment_metric(metric, by) })
}

/// Sets a gauge, or adds a value to a histogram.
pub(crate) fn record(metric: u32, value: u64) -> Result<(), Status> {
    check(unsafe { proxy_record_metric(metric, value) })
}

/// Says something of the connection that access logs can show as `%FILTER_STATE(wasm.<name>:PLAIN)%`.
pub(crate) fn set_property(name: &str, value: &str) -> Result<(), Status> {
    check(unsafe { proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

fn push_protobuf_string(out: &mut Vec<u8>, field: u8, text: &str) {
    const LENGTH_DELIMITED: u8 = 2;
    out.push((field << 3) | LENGTH_DELIMITED);
    let mut rest = text.len();
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
    out.extend_from_slice(text.as_bytes());
}

fn check(status: u32) -> Result<(), Status> {
    if status == OK { Ok(()) } else { Err(Status(status)) }
}

/// Takes over what a call returns in memory that the host got from our allocator.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, Status> {
    let mut data = null_mut();
    let mut size = 0;
    check(call(&mut data, &mut size))?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // The SDK's allocator hands out boxed slices: capacity and length are both the size asked for.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

const OK: u32 = 0;
const DOWNSTREAM: u32 = 2;

// Statuses are read as plain numbers: an enum made from a number it does not have would be undefined.
unsafe extern "C" {
    fn proxy_log(level: u32, line: *const u8, size: usize) -> u32;
    fn proxy_get_log_level(level: *mut u32) -> u32;
    fn proxy_get_current_time_nanoseconds(nanos: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(millis: u32) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(buffer: u32, start: usize, max: usize, data: *const u8, size: usize) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_close_stream(stream: u32) -> u32;
    fn proxy_set_effective_context(id: u32) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        arguments: *const u8,
        arguments_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        mark: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, data: *const u8, size: usize, mark: u32)
    -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_enqueue_shared_queue(id: u32, data: *const u8, size: usize) -> u32;
    fn proxy_dequeue_shared_queue(id: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
}
