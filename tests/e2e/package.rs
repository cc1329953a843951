//! The package: what `build.sh package` makes, as those take it who are to use it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use support::envoy::{Envoy, Mode, Options, Shipped, named};
use support::process::wait_until;

use crate::mqtt::{Client, Connect};
use crate::python;
use crate::world::{PATIENCE, broker, folder, to};

#[test]
fn the_checksum_is_that_of_the_module() -> Result<()> {
    let answer =
        run(Command::new("sha256sum").current_dir(package()).args(["--check", "leveret.wasm.sha256"]))?;
    assert_eq!(answer, "leveret.wasm: OK\n");
    Ok(())
}

/// The bill names what Cargo itself says the module depends on, and besides that only the standard library.
#[test]
fn the_bill_of_materials_is_that_of_the_module() -> Result<()> {
    let file = package().join("leveret.cdx.json");
    assert_eq!(python::run("schemas.py", &[&file.display().to_string()])?, ["CycloneDX"]);
    let bill: Value = serde_json::from_slice(&fs::read(&file)?)?;
    assert_eq!(bill.pointer("/metadata/component/hashes/0/content"), Some(&json!(checksum()?)));

    let listed = bill["components"].as_array().context("no components")?.iter();
    let listed: BTreeSet<String> = listed.filter_map(|it| it["purl"].as_str().map(str::to_owned)).collect();
    let tree = run(Command::new(env!("CARGO"))
        .current_dir(support::root())
        .args(["tree", "--locked", "--package", "leveret-mqtt-amqp", "--target", "wasm32-unknown-unknown"])
        .args(["--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "pkg:cargo/{p}"]))?;
    let mut linked: BTreeSet<String> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name}@{}", rest.split(' ').next().unwrap_or_default()))
        .filter(|it| !it.starts_with("pkg:cargo/leveret-mqtt-amqp@"))
        .collect();
    let standard = listed.iter().find(|it| it.starts_with("pkg:generic/rust-std@")).context("no rust-std")?;
    linked.insert(standard.clone());
    assert_eq!(listed, linked);
    Ok(())
}

/// A node has an image for its own architecture, and all hold the module and nothing else.
#[test]
fn the_image_is_taken_by_tools_and_is_the_module() -> Result<()> {
    let [layout, archive] = ["oci:leveret-oci", "oci-archive:leveret-oci.tar"]
        .map(|it| it.replacen(':', &format!(":{}/", package().display()), 1));
    for architecture in ["amd64", "arm64"] {
        let inspected = skopeo(&["--override-arch", architecture, "inspect", &layout])?;
        let inspected: Value = serde_json::from_str(&inspected)?;
        assert_eq!((&inspected["Architecture"], &inspected["Os"]), (&json!(architecture), &json!("linux")));

        let image = folder(&format!("image-{architecture}"));
        let to = format!("dir:{}", image.display());
        skopeo(&["--override-arch", architecture, "--insecure-policy", "copy", &archive, &to])?;
        let manifest: Value = serde_json::from_slice(&fs::read(image.join("manifest.json"))?)?;
        assert_eq!(manifest["annotations"]["module.wasm.image/variant"], "compat");
        let layers = manifest["layers"].as_array().context("no layers")?;
        let [layer] = layers.as_slice() else { panic!("{manifest}") };
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let digest =
            layer["digest"].as_str().and_then(|it| it.strip_prefix("sha256:")).context("no digest")?;
        let blob = image.join(digest);
        assert_eq!(run(Command::new("tar").arg("-tzf").arg(&blob))?, "plugin.wasm\n");
        run(Command::new("tar").arg("-xzf").arg(&blob).arg("-C").arg(&image))?;
        ensure!(fs::read(image.join("plugin.wasm"))? == fs::read(packaged_module())?, "another module");
    }
    Ok(())
}

#[test]
fn envoy_serves_the_packaged_module_from_a_file() -> Result<()> {
    let shipped = Shipped { module: packaged_module(), ..to(Mode::Lazy, broker().amqp_address()) };
    let envoy = Envoy::start(&folder("package-local"), &shipped.render()?, &Options::default())?;
    let address = envoy.address("mqtt")?;
    serves(|| Client::connect(address), &Connect { client_id: "package-local", ..Connect::default() })
}

#[test]
fn envoy_serves_the_packaged_module_from_a_server_if_its_checksum_is_right() -> Result<()> {
    let server = http_server(fs::read(packaged_module())?)?;
    let envoy = Envoy::start(&folder("package-remote"), &remote(server, &checksum()?)?, &Options::default())?;
    let address = envoy.address("mqtt")?;
    serves(|| Client::connect(address), &Connect { client_id: "package-remote", ..Connect::default() })?;

    let wrong = "0".repeat(64);
    let envoy = Envoy::start(&folder("package-wrong"), &remote(server, &wrong)?, &Options::default())?;
    let mut client = Client::connect(envoy.address("mqtt")?)?;
    client.send(&Connect { client_id: "package-wrong", ..Connect::default() }.bytes())?;
    assert_eq!(client.rest()?, b"");
    Ok(())
}

/// The shipped file with the module to be fetched from there.
fn remote(server: SocketAddr, sha256: &str) -> Result<Value> {
    let mut config = to(Mode::Lazy, broker().amqp_address()).render()?;
    let clusters = config.pointer_mut("/static_resources/clusters").context("no clusters")?;
    let endpoint = json!({ "address": { "socket_address": {
        "address": server.ip().to_string(), "port_value": server.port() } } });
    clusters.as_array_mut().context("no clusters")?.push(json!({
        "name": "modules",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "modules",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": endpoint }] }],
        },
    }));
    let listener = config.pointer_mut("/static_resources/listeners").and_then(|it| named(it, "mqtt"));
    let filters = listener.and_then(|it| it.pointer_mut("/filter_chains/0/filters"));
    let filter = filters.and_then(|it| named(it, "leveret")).context("no filter")?;
    let vm = filter.pointer_mut("/typed_config/config/vm_config").context("no VM")?;
    vm["code"] = json!({ "remote": {
        "http_uri": { "uri": format!("http://{server}/leveret.wasm"), "cluster": "modules", "timeout": "10s" },
        "sha256": sha256,
        "retry_policy": { "num_retries": 0 },
    } });
    Ok(config)
}

/// A message there and back, on a connection that is made so.
pub(crate) fn serves<S: Read + Write>(
    dial: impl Fn() -> Result<Client<S>>,
    connect: &Connect<'_>,
) -> Result<()> {
    let topic = connect.client_id;
    // To a worker of Envoy's, a broker may still be one that is not there when the first client comes: CONNACK 3.
    let mut client = wait_until("service", PATIENCE, || dial().ok()?.admitted(connect).ok())?;
    client.subscribe(topic, 1)?;
    client.publish(topic, b"packaged")?;
    assert_eq!(client.receive()?.text(), "packaged");
    client.disconnect()
}

/// Gives everyone this file.
fn http_server(file: Vec<u8>) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answer = move |mut client: TcpStream| -> std::io::Result<()> {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            request.extend(byte);
        }
        write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len())?;
        client.write_all(&file)
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // Who hangs up meanwhile has not got it, and that is what the test sees.
            let _ = answer(client);
        }
    });
    Ok(address)
}

/// Where the package is that `build.sh` has made.
fn package() -> PathBuf {
    let made = || support::root().join("target/package");
    std::env::var_os("LEVERET_PACKAGE").map_or_else(made, PathBuf::from)
}

/// The module in it.
pub(crate) fn packaged_module() -> PathBuf {
    package().join("leveret.wasm")
}

fn checksum() -> Result<String> {
    let line = fs::read_to_string(package().join("leveret.wasm.sha256"))?;
    Ok(line.split(' ').next().context("an empty checksum file")?.to_owned())
}

fn skopeo(arguments: &[&str]) -> Result<String> {
    run(Command::new("skopeo").current_dir(Path::new("/")).args(arguments))
}

/// What a program prints.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
