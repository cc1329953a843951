//! Messages far larger than any buffer on their way.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use support::envoy::{Envoy, Mode, Options, Shipped};

use crate::amqp::{Amqp, persistent};
use crate::link::Link;
use crate::mqtt::{Client, head, remaining_length, text};
use crate::world::{PATIENCE, broker, own_envoy_with, to};

#[test]
fn a_100_mb_publish_passes_a_stalled_broker_in_constant_memory() -> Result<()> {
    let link = Link::open((Ipv4Addr::LOCALHOST, 0).into(), broker().amqp_address(), Duration::ZERO)?;
    let mut envoy = large_envoy("large-to-broker", link.address)?;
    let amqp = Amqp::connect()?;
    let queue = amqp.queue("large.publish")?;
    let mut client = Client::login(envoy.address("mqtt")?, "large-publish")?;
    client.0.set_write_timeout(Some(PATIENCE))?;
    let payload = payload();
    let start = Instant::now();
    let (grown, figures) = growth(&mut envoy, |envoy| {
        link.hold();
        let topic = text("large/publish");
        let mut writer = client.0.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                writer.write_all(&head(0x32, topic.len() + 2 + payload.len()))?;
                writer.write_all(&[&topic[..], &[0, 7]].concat())?;
                writer.write_all(&payload)
            });
            envoy.stat_until("tcp.mqtt.downstream_flow_control_paused_reading_total", PATIENCE, |n| n > 0)?;
            ensure!(!writing.is_finished(), "100 MB are on their way to nobody");
            link.release();
            writing.join().expect("no panic")?;
            Ok(())
        })?;
        client.hears(&[0x40, 2, 0, 7])
    })?;
    println!("100 MB MQTT to AMQP: {:?}, {figures}", start.elapsed());
    // Its own frames and buffers among it.
    assert!(grown < 64 * LISTENER_BUFFER, "{grown}");
    let message = queue.next()?.delivery;
    assert!(message.data == payload, "{} bytes arrived, others than were sent", message.data.len());
    Ok(())
}

#[test]
fn a_100_mb_delivery_passes_to_a_client_that_hesitates_in_constant_memory() -> Result<()> {
    let mut envoy = large_envoy("large-to-client", broker().amqp_address())?;
    let mut client = Client::login(envoy.address("mqtt")?, "large-delivery")?;
    client.subscribe("large/delivery", 1)?;
    let payload = payload();
    let start = Instant::now();
    let (grown, figures) = growth(&mut envoy, |envoy| {
        Amqp::connect()?.publish("large.delivery", &payload, persistent())?;
        envoy.stat_until("cluster.broker.upstream_flow_control_paused_reading_total", PATIENCE, |n| n > 0)?;
        let head = client.head()?;
        let topic = text("large/delivery");
        assert_eq!((head[0], remaining_length(&head)), (0x32, topic.len() + 2 + payload.len()));
        let mut body = vec![0; remaining_length(&head)];
        client.0.read_exact(&mut body)?;
        assert!(body.starts_with(&topic) && body[topic.len() + 2..] == payload, "other bytes arrive");
        let packet_id = [body[topic.len()], body[topic.len() + 1]];
        client.send(&[&[0x40, 2][..], &packet_id].concat())?;
        client.ping()
    })?;
    println!("100 MB AMQP to MQTT: {:?}, {figures}", start.elapsed());
    // 2 to 4 of them when this was written.
    assert!(grown < 16 * CLUSTER_BUFFER, "{grown}");
    Ok(())
}

fn large_envoy(name: &str, address: SocketAddr) -> Result<Envoy> {
    let plugin = json!({ "max_packet_size_authenticated": 200_000_000 });
    own_envoy_with(name, &Shipped { plugin, ..to(Mode::Lazy, address) }, &Options::default())
}

/// How much more memory Envoy has, at most, while `act` goes on; with the figures in words.
fn growth(envoy: &mut Envoy, act: impl FnOnce(&Envoy) -> Result<()>) -> Result<(u64, String)> {
    let resident_before = envoy.process().resident_bytes()?;
    let process = PathBuf::from(format!("/proc/{}", envoy.process().id()));
    // From here on the kernel keeps the peak anew: see proc(5).
    fs::write(process.join("clear_refs"), "5")?;
    let envoy = &*envoy;
    let allocated = || envoy.memory().ok()?["allocated"].as_str()?.parse().ok();
    let allocated_before: u64 = allocated().context("Envoy's own figure")?;
    let (allocated_most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                allocated_most.fetch_max(allocated().unwrap_or_default(), Relaxed);
            }
        });
        let outcome = act(envoy);
        done.store(true, Relaxed);
        outcome
    })?;
    let resident = peak_resident(&process)?.saturating_sub(resident_before);
    let allocated = allocated_most.into_inner().saturating_sub(allocated_before);
    Ok((
        resident.max(allocated),
        format!("resident {resident_before} + {resident}, allocated {allocated_before} + {allocated} bytes"),
    ))
}

fn peak_resident(process: &Path) -> Result<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    Ok(peak.context("VmHWM")?.trim().parse::<u64>()? * 1024)
}

/// 100 MB that do not repeat themselves.
fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..100_000_000 / 8).flat_map(|_| next()).collect()
}

/// What Envoy reads of a client at once, with `per_connection_buffer_limit_bytes` of the shipped files.
const LISTENER_BUFFER: u64 = 16_384;
/// The same of the cluster `broker`.
const CLUSTER_BUFFER: u64 = 262_144;
