//! Another module or configuration while clients are connected: `envoy/ecds.yaml` and what `build.sh swap` does.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::envoy::{self, Envoy, Mode, Options, Shipped};
use support::process::wait_until;
use support::swap::storm::{self, another};
use support::swap::{Change, Discovered};

use crate::mqtt::{ACCEPTED, Client, Connect, Will};
use crate::world::{PATIENCE, broker, can_be_lazy, folder, to};

/// `build.sh swaptest`, small.
#[test]
fn swaps_under_load_lose_nothing() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let options = storm::Options { connections: 100, pause: 1, rate: 5.0 };
    let report = storm::run(&options, &folder("swap-load"), broker().amqp_address())?;
    println!("{report}");
    Ok(())
}

#[test]
fn a_configuration_is_for_new_connections() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let (envoy, filter) = start("swap-configuration")?;
    let address = envoy.address("mqtt")?;
    let mut old = Client::login(address, "swap-old")?;
    filter.swap(&plugin(json!({ "allow_anonymous": false })))?;
    let mut new = Client::connect(address)?;
    new.send(&Connect { client_id: "swap-new", ..Connect::default() }.bytes())?;
    assert_ne!(new.packet()?, ACCEPTED);
    old.ping()?;
    filter.swap(&plugin(json!({})))?;
    Client::login(address, "swap-newer")?.ping()?;
    old.ping()
}

/// It would close all clients.
#[test]
fn an_envoy_that_refuses_its_first_filter_is_not_started() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let shipped = Shipped { plugin: json!({ "prefetch": 0 }), ..to(Mode::Lazy, broker().amqp_address()) };
    let started = Discovered::start(&folder("swap-refused"), &shipped, &Options::default());
    let error = started.err().context("it was started")?.to_string();
    assert!(error.contains("Envoy refuses it: configuration key `prefetch`"), "{error}");
    Ok(())
}

/// `{}` means all defaults. No text at all is a file that was cut off, and would let everybody in.
#[test]
fn an_empty_configuration_is_none() -> Result<()> {
    let folder = folder("swap-empty");
    fs::create_dir_all(&folder)?;
    let file = folder.join("leveret.yaml");
    for (text, is_one) in [("{}", true), ("prefetch: 20", true), ("", false), ("# vhost: a", false)] {
        fs::write(&file, text)?;
        assert_eq!(envoy::read_plugin_configuration(&file).is_ok(), is_one, "{text:?}");
    }
    Ok(())
}

#[test]
fn a_swap_of_an_envoy_that_is_not_there_makes_nothing() -> Result<()> {
    let folder = folder("swap-nobody");
    fs::create_dir_all(&folder)?;
    let file = folder.join("leveret-ecds.yaml");
    fs::copy(support::root().join("envoy/leveret-ecds.yaml"), &file)?;
    let [port] = support::ports::free()?;
    let filter = Discovered { file, admin: format!("127.0.0.1:{port}"), log: None };
    assert!(filter.swap(&Change { module: Some(envoy::module()), ..Change::default() }).is_err());
    assert_eq!(fs::read_dir(folder)?.count(), 1, "the file alone");
    Ok(())
}

/// It can hold passwords, and Envoy may be another user than who swaps.
#[test]
fn a_swap_leaves_the_file_to_those_who_had_it() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let (_envoy, filter) = start("swap-mode")?;
    let seen = || -> Result<_> {
        let file = fs::metadata(&filter.file)?;
        Ok((file.mode() & 0o7777, file.uid(), file.gid()))
    };
    let (mode, uid, gid) = seen()?;
    assert_eq!(mode, 0o600, "a new one");
    fs::set_permissions(&filter.file, Permissions::from_mode(0o640))?;
    // Only root gives files away.
    let (uid, gid) = if uid == 0 { (4321, 4321) } else { (uid, gid) };
    chown(&filter.file, Some(uid), Some(gid))?;
    filter.swap(&plugin(json!({ "prefetch": 20 })))?;
    assert_eq!(seen()?, (0o640, uid, gid));
    Ok(())
}

/// How a build is told from another: in the log, by gauges, and by what `swap --list` shows.
#[test]
fn each_module_counts_its_connections() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let (envoy, filter) = start("swap-version")?;
    let address = envoy.address("mqtt")?;
    let old = Client::login(address, "swap-first")?;
    let first = filter.kept()?.remove(0).hash;
    let second = filter.swap(&module(second("version")?))?.hash;
    let _new = [Client::login(address, "swap-second")?, Client::login(address, "swap-third")?];
    let seen = |expected: [(&str, bool, u64); 2]| {
        wait_until("gauges as expected", PATIENCE, || {
            let kept = filter.kept().ok()?;
            let seen = kept.iter().map(|it| (it.hash.as_str(), it.serves, it.connections));
            seen.eq(expected).then_some(kept)
        })
    };
    let kept = seen([(&second, true, 2), (&first, false, 1)])?;
    let stamp = kept[0].stamp.as_deref().context("no stamp")?;
    assert!(envoy.log().contains(&format!("build {stamp} module {second}")));
    let gauge = |module: &str| format!("wasmcustom.leveret_release.leveret.{stamp}.{module}.serves");
    assert_eq!((envoy.stat(&gauge(&first))?, envoy.stat(&gauge(&second))?), (0, 1));
    let labels = format!(r#"{{filter="leveret",build="{stamp}",module="{second}"}}"#);
    let metrics = envoy.admin("/stats/prometheus")?;
    assert!(metrics.contains(&format!("leveret_release_serves{labels} 1\n")));
    assert!(metrics.contains(&format!("leveret_release_connections{labels} 2\n")));
    old.disconnect()?;
    seen([(&second, true, 2), (&first, false, 0)])?;
    // Back is a swap as any other, to the module that was kept.
    filter.swap(&module(kept[1].path.clone()))?;
    seen([(&first, true, 0), (&second, false, 2)])?;
    Ok(())
}

/// Envoy forgets a metric with the last virtual machine that has defined it, and of many tenants each has its own.
#[test]
fn counters_go_on_when_the_build_that_counted_is_gone() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    const TENANTS: usize = 100;
    let tenant = |number: usize| json!({ "name": format!("t{number}"), "match": { "client_id": format!("c{number}") } });
    let shipped = Shipped {
        plugin: json!({ "tenants": (0..TENANTS).map(tenant).collect::<Vec<_>>() }),
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let (envoy, filter) = Discovered::start(&folder("swap-counters"), &shipped, &Options::default())?;
    let address = envoy.address("mqtt")?;
    for number in 0..TENANTS {
        Client::login(address, &format!("c{number}"))?.disconnect()?;
    }
    let counted = || -> Result<usize> {
        let stats = envoy.admin("/stats?filter=leveret%5C..*connack.accepted")?;
        Ok(stats.lines().filter(|line| line.ends_with(": 1")).count())
    };
    assert_eq!(counted()?, TENANTS);
    let machines = || envoy.stat("wasm.envoy.wasm.runtime.v8.active");
    let before = machines()?;
    filter.swap(&module(second("counters")?))?;
    wait_until("the first build's virtual machines are gone", PATIENCE, || {
        (machines().ok()? == before).then_some(())
    })?;
    assert_eq!(counted()?, TENANTS);
    // And the next one counts on.
    Client::login(address, "c7")?.ping()?;
    assert_eq!(envoy.stat("wasmcustom.leveret.t7.connack.accepted")?, 2);
    Ok(())
}

#[test]
fn what_envoy_refuses_changes_nothing() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let (envoy, filter) = start("swap-refused")?;
    let address = envoy.address("mqtt")?;
    let before = (fs::read(&filter.file)?, filter.kept()?.len());
    let mut old = Client::login(address, "swap-before")?;
    let written = |name: &str, bytes: &[u8]| -> Result<Change> {
        let path = folder("swap-refused").join(name);
        fs::write(&path, bytes)?;
        Ok(module(path))
    };
    for (change, reason) in [
        (written("text.wasm", b"no module")?, "Failed to parse corrupted Wasm module"),
        (written("import.wasm", &wasm::importing("nope"))?, "missing import: env.nope"),
        (written("trap.wasm", &wasm::trapping())?, "unreachable"),
        (plugin(json!({ "prefetch": "many" })), "configuration key `prefetch`: expected a whole number"),
        (plugin(json!({ "prefetsch": 1 })), "configuration key `prefetsch`: is no key"),
        (plugin(json!({ "connect_mode": "eager" })), "connect_mode goes with Envoy's own configuration"),
        (module("nowhere.wasm".into()), "nowhere.wasm"),
    ] {
        let error = filter.swap(&change).err().with_context(|| format!("taken: {reason}"))?;
        assert!(format!("{error:#}").contains(reason), "{error:#}");
        assert!((fs::read(&filter.file)?, filter.kept()?.len()) == before, "{reason}");
        Client::login(address, "swap-between")?.ping()?;
        old.ping()?;
    }
    Ok(())
}

/// The connections of the build before end over the time asked for. That is a server's close: wills are sent, sessions stay.
#[test]
fn a_drain_brings_clients_to_the_new_build() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    const OVER: Duration = Duration::from_secs(2);
    const WILL: Will<'_> = Will { topic: "swap/drain/will", payload: b"gone", qos: 1, retain: false };
    let (envoy, filter) = start("swap-drain")?;
    let address = envoy.address("mqtt")?;
    let mut watcher = Client::login(crate::world::mqtt(Mode::Lazy), "swap-watcher")?;
    watcher.subscribe("swap/drain/will", 1)?;
    let mut with_will = Client::login_as(
        address,
        &Connect { client_id: "swap-will", will: Some(WILL), ..Connect::default() },
    )?;
    let (mut persistent, _) = Client::resume(address, "swap-session")?;
    persistent.subscribe("swap/drain/message", 1)?;
    let start = Instant::now();
    filter.swap(&Change { module: Some(second("drain")?), drain: Some(2), plugin: None })?;
    let mut later = Client::login(address, "swap-later")?;
    assert_eq!(with_will.rest()?, b"");
    assert_eq!(persistent.rest()?, b"");
    assert!(start.elapsed() >= OVER, "{:?}", start.elapsed());
    assert_eq!(watcher.receive()?.payload, b"gone");
    later.publish_safely("swap/drain/message", b"meanwhile")?;
    let (mut persistent, present) = Client::resume(address, "swap-session")?;
    assert!(present);
    assert_eq!(persistent.receive()?.payload, b"meanwhile");
    assert_eq!(envoy.stat("wasmcustom.leveret.none.closed.replaced")?, 2);
    later.ping()
}

/// The two files are `lazy.yaml`, cut in two.
#[test]
fn what_is_discovered_is_what_else_is_in_one_file() -> Result<()> {
    let file = PathBuf::from("leveret-ecds.yaml");
    let (mut discovering, mut resources) = Shipped::default().render_discovered(&file)?;
    let filters = "/static_resources/listeners/0/filter_chains/0/filters/0";
    let filter = &mut resources["resources"][0]["typed_config"];
    let told = filter.pointer_mut("/config/vm_config").and_then(Value::as_object_mut).context("no VM")?;
    told.remove("configuration").context("the module is told nothing")?;
    let whole = json!({ "name": "leveret", "typed_config": filter });
    *discovering.pointer_mut(filters).context("no filter")? = whole;
    discovering.as_object_mut().context("no map")?.remove("node").context("no node")?;
    assert_eq!(discovering, Shipped::default().render()?);
    Ok(())
}

fn start(name: &str) -> Result<(Envoy, Discovered)> {
    Discovered::start(&folder(name), &to(Mode::Lazy, broker().amqp_address()), &Options::default())
}

fn plugin(keys: Value) -> Change {
    Change { plugin: Some(keys), ..Change::default() }
}

fn module(path: PathBuf) -> Change {
    Change { module: Some(path), ..Change::default() }
}

/// A module that does the same as the shipped one and is another.
fn second(name: &str) -> Result<PathBuf> {
    let path = folder(&format!("swap-{name}")).join("second.wasm");
    fs::write(&path, another(&fs::read(envoy::module())?, 2))?;
    Ok(path)
}

/// Modules as small as a proxy looks at.
mod wasm {
    /// Wants a function of the proxy that it does not have.
    pub(super) fn importing(name: &str) -> Vec<u8> {
        let import = [&[1][..], &text("env"), &text(name), &[0, 0]].concat();
        module(&[section(2, &import)], 1, &[])
    }

    /// Traps when it is initialized.
    pub(super) fn trapping() -> Vec<u8> {
        const UNREACHABLE: &[u8] = &[0];
        module(&[], 0, UNREACHABLE)
    }

    /// With two functions of its own, of which the one with this number is `_initialize`, and the other is there for the memory.
    fn module(imports: &[Vec<u8>], function: u8, code: &[u8]) -> Vec<u8> {
        let exported = |(name, number): (&str, u8)| [text(name), vec![0, number]].concat();
        let functions =
            [("_initialize", function), ("proxy_abi_version_0_2_1", function), ("malloc", function + 1)];
        let exports = [&[4][..], &text("memory"), &[2, 0], &functions.map(exported).concat()].concat();
        let body = |code: &[u8]| [&[code.len() as u8 + 2, 0][..], code, &[0x0b]].concat();
        [
            b"\0asm\x01\0\0\0".to_vec(),
            // () -> (), i32 -> i32
            section(1, &[2, 0x60, 0, 0, 0x60, 1, 0x7f, 1, 0x7f]),
            imports.concat(),
            section(3, &[2, 0, 1]),
            section(5, &[1, 0, 1]),
            section(7, &exports),
            section(10, &[&[2][..], &body(code), &body(&[0x20, 0])].concat()),
        ]
        .concat()
    }

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        [&[id, content.len() as u8], content].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [&[text.len() as u8], text.as_bytes()].concat()
    }
}
