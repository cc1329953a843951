//! The host calls a network filter makes, with the statuses Envoy gives.

use super::{
    ROOT,
    proxy::{Action, Level, LogLine, Metric, Proxy},
};
use wasmtime::{Caller, Extern, Linker, Memory, Result};

/// Every call the module may make.
pub(super) fn define(linker: &mut Linker<Proxy>) -> Result<()> {
    linker.func_wrap("env", "proxy_log", |mut guest: Guest<'_>, level: u32, line: u32, size: u32| {
        call(&mut guest, "proxy_log", |guest| {
            let text = String::from_utf8(read(guest, line, size)).map_err(|_| BAD_ARGUMENT)?;
            let level = *LEVELS.get(level as usize).ok_or(BAD_ARGUMENT)?;
            guest.data_mut().logs.push(LogLine { level, text });
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_get_log_level", |mut guest: Guest<'_>, level: u32| {
        call(&mut guest, "proxy_get_log_level", |guest| {
            let number = guest.data().log_level as u32;
            write(guest, level, &number.to_le_bytes())
        })
    })?;
    linker.func_wrap("env", "proxy_get_current_time_nanoseconds", |mut guest: Guest<'_>, nanos: u32| {
        call(&mut guest, "proxy_get_current_time_nanoseconds", |guest| {
            let now = guest.data().wall_offset + guest.data().nanos;
            write(guest, nanos, &now.to_le_bytes())
        })
    })?;
    linker.func_wrap("env", "proxy_set_tick_period_milliseconds", |mut guest: Guest<'_>, millis: u32| {
        call(&mut guest, "proxy_set_tick_period_milliseconds", |guest| {
            guest.data_mut().set_tick_period(millis);
            Ok(())
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, max: u32, data: u32, size: u32| {
            call(&mut guest, "proxy_get_buffer_bytes", |guest| {
                let buffer = buffer(guest.data_mut(), kind)?.map(|bytes| bytes.clone()).unwrap_or_default();
                let end = start.checked_add(max).ok_or(BAD_ARGUMENT)?.min(buffer.len() as u32);
                hand_over(guest, buffer.get(start as usize..end as usize).unwrap_or_default(), data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_buffer_bytes",
        |mut guest: Guest<'_>, kind: u32, start: u32, max: u32, data: u32, size: u32| {
            call(&mut guest, "proxy_set_buffer_bytes", |guest| {
                let bytes = read(guest, data, size);
                let (start, max) = (start as usize, max as usize);
                if kind == DOWNSTREAM_DATA {
                    return replace_downstream(guest.data_mut(), start, max, bytes);
                }
                // Outside its window a buffer reads as empty, but does not take anything.
                let buffer = buffer(guest.data_mut(), kind)?.ok_or(BAD_ARGUMENT)?;
                let end = start.saturating_add(max).min(buffer.len());
                if start > end {
                    return Err(BAD_ARGUMENT);
                }
                buffer.splice(start..end, bytes);
                Ok(())
            })
        },
    )?;
    linker.func_wrap("env", "proxy_continue_stream", |mut guest: Guest<'_>, stream: u32| {
        call(&mut guest, "proxy_continue_stream", |guest| on_stream(guest, stream, Action::ContinueReading))
    })?;
    linker.func_wrap("env", "proxy_close_stream", |mut guest: Guest<'_>, stream: u32| {
        call(&mut guest, "proxy_close_stream", |guest| on_stream(guest, stream, Action::Close))
    })?;
    linker.func_wrap("env", "proxy_set_effective_context", |mut guest: Guest<'_>, id: u32| {
        call(&mut guest, "proxy_set_effective_context", |guest| {
            if guest.data_mut().set_effective(id) { Ok(()) } else { Err(BAD_ARGUMENT) }
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_get_property",
        |mut guest: Guest<'_>, path: u32, path_size: u32, data: u32, size: u32| {
            call(&mut guest, "proxy_get_property", |guest| {
                let path = read(guest, path, path_size);
                let value = property(guest.data(), &path).ok_or(NOT_FOUND)?;
                hand_over(guest, &value, data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_get_shared_data",
        |mut guest: Guest<'_>, key: u32, key_size: u32, data: u32, size: u32, mark: u32| {
            call(&mut guest, "proxy_get_shared_data", |guest| {
                let key = read(guest, key, key_size);
                let (value, current) = guest.data().shared.get(&key).ok_or(NOT_FOUND)?;
                hand_over(guest, &value, data, size)?;
                write(guest, mark, &current.to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_set_shared_data",
        |mut guest: Guest<'_>, key: u32, key_size: u32, data: u32, size: u32, mark: u32| {
            call(&mut guest, "proxy_set_shared_data", |guest| {
                let (key, value) = (read(guest, key, key_size), read(guest, data, size));
                if guest.data().shared.set(key, value, mark) { Ok(()) } else { Err(CAS_MISMATCH) }
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_register_shared_queue",
        |mut guest: Guest<'_>, name: u32, name_size: u32, queue: u32| {
            call(&mut guest, "proxy_register_shared_queue", |guest| {
                let name = read(guest, name, name_size);
                let number = guest.data().shared.register_queue(name, guest.data().worker);
                write(guest, queue, &(number as u32).to_le_bytes())
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_enqueue_shared_queue",
        |mut guest: Guest<'_>, queue: u32, data: u32, size: u32| {
            call(&mut guest, "proxy_enqueue_shared_queue", |guest| {
                let entry = read(guest, data, size);
                if guest.data().shared.enqueue(queue as usize, entry) { Ok(()) } else { Err(NOT_FOUND) }
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_dequeue_shared_queue",
        |mut guest: Guest<'_>, queue: u32, data: u32, size: u32| {
            call(&mut guest, "proxy_dequeue_shared_queue", |guest| {
                let entry = guest.data().shared.dequeue(queue as usize).ok_or(NOT_FOUND)?;
                hand_over(guest, &entry.ok_or(EMPTY)?, data, size)
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_call_foreign_function",
        |mut guest: Guest<'_>,
         name: u32,
         name_size: u32,
         args: u32,
         args_size: u32,
         _data: u32,
         _size: u32| {
            call(&mut guest, "proxy_call_foreign_function", |guest| {
                let arguments = read(guest, args, args_size);
                match read(guest, name, name_size).as_slice() {
                    b"set_envoy_filter_state" => set_filter_state(guest.data_mut(), &arguments),
                    _ => Err(NOT_FOUND),
                }
            })
        },
    )?;
    linker.func_wrap(
        "env",
        "proxy_define_metric",
        |mut guest: Guest<'_>, kind: u32, name: u32, name_size: u32, id: u32| {
            call(&mut guest, "proxy_define_metric", |guest| {
                let name = String::from_utf8(read(guest, name, name_size)).map_err(|_| BAD_ARGUMENT)?;
                let metrics = &mut guest.data_mut().metrics;
                let index = metrics.iter().position(|metric| metric.name == name).unwrap_or_else(|| {
                    metrics.push(Metric { name, kind, value: 0 });
                    metrics.len() - 1
                });
                assert_eq!(metrics[index].kind, kind, "a metric is of one kind");
                write(guest, id, &(index as u32).to_le_bytes())
            })
        },
    )?;
    linker.func_wrap("env", "proxy_increment_metric", |mut guest: Guest<'_>, id: u32, by: i64| {
        call(&mut guest, "proxy_increment_metric", |guest| {
            let metric = guest.data_mut().metrics.get_mut(id as usize).ok_or(NOT_FOUND)?;
            assert!(metric.kind == GAUGE || metric.kind == COUNTER && by >= 0, "what is counted goes up");
            metric.value = metric.value.checked_add_signed(by).expect("a gauge does not go below zero");
            Ok(())
        })
    })?;
    linker.func_wrap("env", "proxy_record_metric", |mut guest: Guest<'_>, id: u32, value: u64| {
        call(&mut guest, "proxy_record_metric", |guest| {
            let metric = guest.data_mut().metrics.get_mut(id as usize).ok_or(NOT_FOUND)?;
            assert_ne!(metric.kind, COUNTER, "a counter is only added to");
            metric.value = if metric.kind == GAUGE { value } else { metric.value + 1 };
            Ok(())
        })
    })?;
    linker.func_wrap(
        "env",
        "proxy_set_property",
        |mut guest: Guest<'_>, path: u32, path_size: u32, value: u32, size: u32| {
            call(&mut guest, "proxy_set_property", |guest| {
                let path = String::from_utf8(read(guest, path, path_size)).map_err(|_| BAD_ARGUMENT)?;
                let value = String::from_utf8(read(guest, value, size)).map_err(|_| BAD_ARGUMENT)?;
                let proxy = guest.data_mut();
                let context = proxy.context();
                let connection = proxy.connections.get_mut(&context).ok_or(NOT_FOUND)?;
                connection.told.insert(path, value);
                Ok(())
            })
        },
    )?;
    Ok(())
}

type Guest<'a> = Caller<'a, Proxy>;
type Outcome = core::result::Result<(), u32>;

/// Counts a call and gives its status, or the one a test told it to give.
fn call<'a>(guest: &mut Guest<'a>, name: &'static str, act: impl FnOnce(&mut Guest<'a>) -> Outcome) -> u32 {
    guest.data_mut().calls += 1;
    if let Some(&status) = guest.data().failing.get(name) {
        return status;
    }
    match act(guest) {
        Ok(()) => OK,
        Err(status) => status,
    }
}

/// `Ok(None)` outside of the buffer's window.
fn buffer(proxy: &mut Proxy, kind: u32) -> core::result::Result<Option<&mut Vec<u8>>, u32> {
    let context = proxy.context();
    match kind {
        DOWNSTREAM_DATA => Ok(proxy
            .connections
            .get_mut(&context)
            .filter(|connection| connection.downstream_reachable)
            .map(|connection| &mut connection.downstream)),
        UPSTREAM_DATA => {
            Ok(proxy.connections.get_mut(&context).and_then(|connection| connection.upstream_data.as_mut()))
        }
        PLUGIN_CONFIGURATION if proxy.configuring => Ok(Some(&mut proxy.configuration)),
        PLUGIN_CONFIGURATION => Err(NOT_FOUND),
        _ => Err(BAD_ARGUMENT),
    }
}

fn replace_downstream(proxy: &mut Proxy, start: usize, max: usize, bytes: Vec<u8>) -> Outcome {
    let (context, limit) = (proxy.context(), proxy.buffer_limit);
    let connection = proxy.connections.get_mut(&context).ok_or(BAD_ARGUMENT)?;
    if connection.replace(start, max, bytes, limit) { Ok(()) } else { Err(BAD_ARGUMENT) }
}

fn on_stream(guest: &mut Guest<'_>, stream: u32, action: impl FnOnce(u32) -> Action) -> Outcome {
    let proxy = guest.data_mut();
    let context = proxy.context();
    match stream {
        DOWNSTREAM if context != ROOT => {
            proxy.deferred.push_back(action(context));
            Ok(())
        }
        DOWNSTREAM => Ok(()),
        _ => Err(UNIMPLEMENTED),
    }
}

fn property(proxy: &Proxy, path: &[u8]) -> Option<Vec<u8>> {
    let context = proxy.context();
    let parts: Vec<&str> = core::str::from_utf8(path).ok()?.split('\0').collect();
    match parts[..] {
        ["node", "id"] => Some(b"behaving-host".to_vec()),
        ["connection_id"] => Some(u64::from(context).to_le_bytes().to_vec()),
        _ => proxy.connections.get(&context)?.property(&parts),
    }
}

/// Takes `SetEnvoyFilterStateArguments { string path = 1; string value = 2; LifeSpan span = 3; }`.
fn set_filter_state(proxy: &mut Proxy, arguments: &[u8]) -> Outcome {
    let [path, value] = protobuf_strings(arguments).ok_or(BAD_ARGUMENT)?;
    let context = proxy.context();
    let connection = proxy.connections.get_mut(&context).ok_or(NOT_FOUND)?;
    match path.as_str() {
        "envoy.tcp_proxy.cluster" => connection.chosen_cluster = Some(value),
        "envoy.hashable_string" => connection.hash_key = Some(value),
        _ => return Err(NOT_FOUND),
    }
    Ok(())
}

fn protobuf_strings(mut message: &[u8]) -> Option<[String; 2]> {
    let mut fields = [String::new(), String::new()];
    while let Some((&tag, rest)) = message.split_first() {
        let field = fields.get_mut(usize::from(tag >> 3).checked_sub(1)?)?;
        assert_eq!(tag & 7, 2, "a length-delimited field");
        let digits = rest.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (length, rest) = rest.split_at(digits);
        let length = length.iter().rev().fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
        let (text, rest) = rest.split_at_checked(length)?;
        *field = String::from_utf8(text.to_vec()).ok()?;
        message = rest;
    }
    Some(fields)
}

/// Returns bytes in memory from the module's own allocator; nothing at all when there are none.
fn hand_over(guest: &mut Guest<'_>, bytes: &[u8], data: u32, size: u32) -> Outcome {
    if bytes.is_empty() {
        return Ok(());
    }
    let allocate = guest.get_export("malloc").and_then(Extern::into_func).expect("an allocator");
    let allocate = allocate.typed::<u32, u32>(&*guest).expect("an allocator");
    let address = allocate.call(&mut *guest, bytes.len() as u32).expect("memory for what was asked for");
    write(guest, address, bytes)?;
    write(guest, data, &address.to_le_bytes())?;
    write(guest, size, &(bytes.len() as u32).to_le_bytes())
}

fn memory(guest: &mut Guest<'_>) -> Memory {
    guest.get_export("memory").and_then(Extern::into_memory).expect("a memory")
}

/// Panics on an address outside of the module, which no module of ours may ever give.
fn read(guest: &mut Guest<'_>, address: u32, size: u32) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    memory(guest).read(guest, address as usize, &mut bytes).expect("an address inside the module");
    bytes
}

fn write(guest: &mut Guest<'_>, address: u32, bytes: &[u8]) -> Outcome {
    memory(guest).write(guest, address as usize, bytes).expect("an address inside the module");
    Ok(())
}

const LEVELS: [Level; 6] =
    [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Critical];

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const EMPTY: u32 = 7;
const CAS_MISMATCH: u32 = 8;
const UNIMPLEMENTED: u32 = 12;

const DOWNSTREAM_DATA: u32 = 2;
const UPSTREAM_DATA: u32 = 3;
const PLUGIN_CONFIGURATION: u32 = 7;
const DOWNSTREAM: u32 = 2;
const COUNTER: u32 = 0;
const GAUGE: u32 = 1;
