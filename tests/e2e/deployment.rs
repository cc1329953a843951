//! The manifests in `envoy/kubernetes/` and the unit `envoy/leveret.service`: against the schemas of what reads them, and
//! the Envoy configuration in them with traffic.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::envoy::{self, Envoy, Mode, Options, Shipped, named, parse_yaml};
use support::ports;
use support::process::wait_until;
use support::tls::{Authority, Identity};

use crate::mqtt::{Client, Connect, connack};
use crate::package::{self, packaged_module, run};
use crate::python;
use crate::world::{PATIENCE, broker, can_be_lazy, folder, restricted_user, to};

#[test]
fn the_manifests_fit_their_schemas() -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(support::root().join("envoy/kubernetes"))? {
        paths.push(entry?.path().display().to_string());
    }
    paths.sort_unstable();
    let kinds = python::run("schemas.py", &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
    let all = "ConfigMap Deployment Service PodDisruptionBudget Gateway VirtualService WasmPlugin EnvoyFilter \
               EnvoyFilter ConfigMap Deployment";
    assert_eq!(kinds.join(" "), all);

    // The check itself.
    let folder = folder("manifests");
    fs::create_dir_all(&folder)?;
    let mut paths = Vec::new();
    for (name, kind, right, wrong) in [
        ("gateway", "Deployment", "replicas:", "replicaz:"),
        ("sidecar", "Deployment", "pullPolicy:", "pullPolitics:"),
        ("istio-gateway", "WasmPlugin", "NETWORK", "NETWERK"),
        ("istio-gateway", "VirtualService", "gateways:", "gatewayz:"),
        ("istio-sidecar", "EnvoyFilter", "applyTo: CLUSTER", "applyTo: CLUTTER"),
        ("istio-sidecar", "EnvoyFilter", "workloadSelector:", "workloadSelecta:"),
    ] {
        let changed = manifest_text(name, kind)?.replace(right, wrong);
        assert!(changed.contains(wrong), "{name} has no {right}");
        let path = folder.join(format!("{wrong}.yaml").replace([':', ' '], ""));
        fs::write(&path, changed)?;
        paths.push(path.display().to_string());
    }
    let wrong = python::run("schemas.py", &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
    assert_eq!(wrong.len(), paths.len());
    assert!(wrong.iter().all(|it| it.contains(": ")), "{wrong:#?}");
    Ok(())
}

#[test]
fn the_pods_start_envoy_with_what_is_mounted() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    for (file, containers, mounts) in
        [("gateway", "containers", &MOUNTS[..]), ("sidecar", "initContainers", &MOUNTS[..2])]
    {
        let deployment = manifest(file, "Deployment")?;
        let spec = &deployment["spec"]["template"]["spec"];
        let container = &spec[containers][0];
        let mounted: Vec<_> = container["volumeMounts"].as_array().context("no mounts")?.iter().collect();
        assert_eq!(mounted.iter().map(|it| &it["mountPath"]).collect::<Vec<_>>(), mounts);
        let config_map =
            spec["volumes"].as_array().context("no volumes")?.iter().find(|it| it["name"] == "config");
        let map = manifest(file, "ConfigMap")?;
        assert_eq!(config_map.context("no config")?["configMap"]["name"], map["metadata"]["name"]);

        // Its own arguments, the configuration's path in the pod replaced by the one here.
        let pod = Pod::new(file, &format!("pod-{file}"))?;
        let here = pod.folder.join("envoy.json");
        fs::write(&here, serde_json::to_vec(&pod.config)?)?;
        let arguments: Vec<String> = serde_json::from_value(container["args"].clone())?;
        let path = "/etc/leveret/envoy.yaml";
        assert!(arguments.iter().any(|it| it == path), "{arguments:?}");
        let arguments =
            arguments.into_iter().map(|it| if it == path { here.display().to_string() } else { it });
        run(Command::new(envoy::find()?).args(arguments).args(["--mode", "validate"]))?;

        let shipped = parse_yaml(map["data"]["envoy.yaml"].as_str().context("no envoy.yaml")?)?;
        let mut listeners = shipped["static_resources"]["listeners"].clone();
        for port in container["ports"].as_array().context("no ports")? {
            let name = port["name"].as_str().context("a port without a name")?;
            let listener = named(&mut listeners, name).context("a port without a listener")?;
            assert_eq!(listener["address"]["socket_address"]["port_value"], port["containerPort"]);
        }
        let probes = ["startupProbe", "readinessProbe"].map(|it| &container[it]["httpGet"]);
        for probe in probes.into_iter().filter(|it| !it.is_null()) {
            assert_eq!(*probe, json!({ "path": "/ready", "port": "monitoring" }));
        }
    }
    Ok(())
}

#[test]
fn the_sidecar_serves_its_pod_and_probes() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let pod = Pod::new("sidecar", "sidecar")?;
    let envoy = Envoy::start(&pod.folder, &pod.config, &Options::default())?;
    let address = envoy.address("mqtt")?;
    serves(|| Client::connect(address), "sidecar")?;

    let monitoring = envoy.address("monitoring")?;
    let ready = get(monitoring, "/ready")?;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains("LIVE"), "{ready}");
    let metrics = get(monitoring, "/stats/prometheus")?;
    assert!(metrics.contains("leveret_connack{tenant=\"none\",code=\"accepted\"}"), "no labels: {metrics}");
    for path in ["/", "/quitquitquit", "/config_dump", "/stats", "/ready/../quitquitquit"] {
        let answer = get(monitoring, path)?;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    Ok(())
}

#[test]
fn the_gateway_serves_over_tls_and_takes_on_a_renewed_certificate() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let pod = Pod::new("gateway", "gateway")?;
    let envoy = Envoy::start(&pod.folder, &pod.config, &Options::default())?;
    let address = envoy.address("mqtts")?;
    let name = "mqtt.example";
    serves(|| Client::connect_tls(address, name, &pod.authority, None), "gateway")?;

    // Clients do not notice; new ones see the new certificate.
    let user = restricted_user("gateway")?;
    let connect =
        Connect { client_id: "before", username: Some(user), password: Some(user), ..Connect::default() };
    let mut before = Client::connect_tls(address, name, &pod.authority, None)?.admitted(&connect)?;
    let renewed = Authority::new()?;
    mount_certificate(&pod.folder, &renewed.server(&[name])?)?;
    let after = wait_until("the new certificate", PATIENCE, || {
        let mut client = Client::connect_tls(address, name, &renewed, None).ok()?;
        client.send(&Connect { client_id: "after", ..connect }.bytes()).ok()?;
        (client.packet().ok()? == [0x20, 2, 0, 0]).then_some(client)
    })?;
    after.disconnect()?;
    before.ping()
}

#[test]
fn a_gateway_that_is_full_is_ready_and_seen_and_takes_nobody_more() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let mut pod = Pod::new("gateway", "gateway-full")?;
    let monitors =
        pod.config["overload_manager"]["resource_monitors"].as_array_mut().context("no monitors")?;
    let connections =
        monitors.iter_mut().find_map(|it| it["typed_config"].get_mut("max_active_downstream_connections"));
    *connections.context("no limit")? = json!(2);
    let envoy = Envoy::start(&pod.folder, &pod.config, &Options::default())?;
    // Long before the handshake's timeout ends one that is in.
    let is_in = |stream: &mut TcpStream| -> Result<bool> {
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock))
    };
    let device = || TcpStream::connect(envoy.address("mqtts")?).context("no listener");
    let mut devices = [device()?, device()?];
    assert!(!is_in(&mut device()?)?, "a third");
    for device in &mut devices {
        assert!(is_in(device)?);
    }
    for path in ["/ready", "/stats/prometheus"] {
        let answer = get(envoy.address("monitoring")?, path)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    Ok(())
}

/// Istio hands `pluginConfig` on as a text of JSON, to a filter before a `tcp_proxy` of its own.
#[test]
fn the_wasm_plugin_is_configured_for_istios_own_proxy() -> Result<()> {
    let plugin = manifest("istio-gateway", "WasmPlugin")?;
    let settings = plugin["spec"]["pluginConfig"].clone();
    let shipped = Shipped {
        module: packaged_module(),
        plugin: settings.clone(),
        ..to(Mode::Eager, broker().amqp_address())
    };
    let mut config = shipped.render()?;
    let listener = named(&mut config["static_resources"]["listeners"], "mqtt").context("no listener")?;
    let filter = named(&mut listener["filter_chains"][0]["filters"], "leveret").context("no filter")?;
    let path = "/typed_config/config/configuration/value";
    let configuration = filter.pointer_mut(path).context("no settings")?;
    *configuration = Value::String(settings.to_string());
    let envoy = Envoy::start(&folder("wasm-plugin"), &config, &Options::default())?;
    let address = envoy.address("mqtt")?;
    serves(|| Client::connect(address), "wasm-plugin")
}

/// Istio adds the patches' values to what it has of each kind, and its agent puts a file in the place of the image.
#[test]
fn the_envoy_filter_serves_clients() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let patches = manifest("istio-sidecar", "EnvoyFilter")?;
    let patches = patches["spec"]["configPatches"].as_array().context("no patches")?.clone();
    let values = |kind: &str| -> Vec<Value> {
        let of_kind = patches.iter().filter(|it| it["applyTo"] == kind);
        of_kind.map(|it| it["patch"]["value"].clone()).collect()
    };
    let mut discovered = values("EXTENSION_CONFIG").pop().context("no filter")?;
    let code = discovered.pointer_mut("/typed_config/config/vm_config/code").context("no code")?;
    *code = json!({ "local": { "filename": packaged_module() } });

    let shipped = to(Mode::Lazy, broker().amqp_address()).render()?;
    let mut config = json!({
        "static_resources": { "listeners": values("LISTENER"), "clusters": values("CLUSTER") },
        "bootstrap_extensions": shipped["bootstrap_extensions"], // Istio has it, too
        "admin": shipped["admin"],
    });
    config
        .as_object_mut()
        .context("no map")?
        .append(values("BOOTSTRAP").pop().as_mut().and_then(Value::as_object_mut).context("no bootstrap")?);
    let listener =
        named(&mut config["static_resources"]["listeners"], "leveret_mqtt").context("no listener")?;
    listener["address"]["socket_address"] = address(([127, 0, 0, 1], 0).into());
    let filter = named(&mut listener["filter_chains"][0]["filters"], "leveret").context("no filter")?;
    assert_eq!(filter["config_discovery"]["type_urls"], json!([discovered["typed_config"]["@type"]]));
    *filter = discovered;
    let cluster =
        named(&mut config["static_resources"]["clusters"], "leveret_broker").context("no broker")?;
    *endpoint(cluster)? = address(broker().amqp_address());
    let envoy = Envoy::start(&folder("envoy-filter"), &config, &Options::default())?;
    let address = envoy.address("leveret_mqtt")?;
    serves(|| Client::connect(address), "envoy-filter")?;
    let metrics = envoy.admin("/stats/prometheus")?;
    assert!(metrics.contains("leveret_connack{tenant=\"none\",code=\"accepted\"}"), "{metrics}");
    Ok(())
}

/// As far as that can be seen where systemd does not run.
#[test]
fn the_unit_is_one_of_systemds_and_hardened() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let folder = folder("unit");
    fs::create_dir_all(&folder)?;
    let unit = folder.join("leveret.service");
    let program = envoy::find()?.display().to_string();
    let text = read("leveret.service")?;
    fs::write(&unit, text.replace("/usr/local/bin/envoy", &program))?;
    let systemd = || Command::new("systemd-analyze");
    run(systemd().arg("verify").arg(&unit))?;
    run(systemd().args(["security", "--offline=yes", "--threshold=20"]).arg(&unit))?;

    let command = text
        .lines()
        .find_map(|it| it.strip_prefix("ExecStart=/usr/local/bin/envoy "))
        .context("ExecStart")?;
    let config = folder.join("envoy.yaml");
    let shipped = Shipped { module: packaged_module(), ..Shipped::default() }.render()?;
    fs::write(&config, serde_json::to_vec(&shipped)?)?;
    let command = command.replace("${CREDENTIALS_DIRECTORY}", &folder.display().to_string());
    run(Command::new(program).args(command.split(' ')).args(["--mode", "validate"]))?;
    Ok(())
}

/// A message there and back for who has credentials, and a no for who has none.
fn serves<S: Read + Write>(dial: impl Fn() -> Result<Client<S>>, name: &str) -> Result<()> {
    let user = restricted_user(name)?;
    let connect =
        Connect { client_id: name, username: Some(user), password: Some(user), ..Connect::default() };
    package::serves(&dial, &connect)?;

    let mut anonymous = dial()?;
    anonymous.send(&Connect { client_id: "anonymous", ..Connect::default() }.bytes())?;
    assert_eq!(anonymous.rest()?, connack(4));
    Ok(())
}

/// Where the pods have their files: the configuration, the module, and the gateway's certificate.
const MOUNTS: [&str; 3] = ["/etc/leveret", "/leveret", "/tls"];

/// A manifest's Envoy configuration, with the addresses and files of this machine.
struct Pod {
    folder: PathBuf,
    config: Value,
    /// Who vouches for the certificate that is mounted.
    authority: Authority,
}

impl Pod {
    fn new(file: &str, name: &str) -> Result<Self> {
        let folder = folder(name);
        fs::create_dir_all(&folder)?;
        let authority = Authority::new()?;
        mount_certificate(&folder, &authority.server(&["mqtt.example"])?)?;
        let [etc, module, tls] = MOUNTS;
        let map = manifest(file, "ConfigMap")?;
        let here = |key: &str| -> Option<String> {
            let text = map["data"][key].as_str()?;
            let text = text
                .replace(&format!(" {module}/plugin.wasm "), &format!(" {} ", packaged_module().display()));
            let text = text.replace(&format!(" {etc}/"), &format!(" {}/", folder.display()));
            Some(text.replace(&format!(" {tls}"), &format!(" {}", folder.join("tls").display())))
        };
        if let Some(certificate) = here("certificate.yaml") {
            fs::write(folder.join("certificate.yaml"), certificate)?;
        }
        let mut config = parse_yaml(&here("envoy.yaml").context("no envoy.yaml")?)?;
        let [admin] = ports::free()?;
        let loopback = |port: u16| address(([127, 0, 0, 1], port).into());
        config["admin"]["address"]["socket_address"] = loopback(admin);
        for listener in config["static_resources"]["listeners"].as_array_mut().context("no listeners")? {
            if let Some(address) = listener.pointer_mut("/address/socket_address") {
                *address = loopback(0);
            }
        }
        for (name, to) in [("admin", loopback(admin)), ("broker", address(broker().amqp_address()))] {
            *endpoint(named(&mut config["static_resources"]["clusters"], name).context("no cluster")?)? = to;
        }
        Ok(Self { folder, config, authority })
    }
}

/// A Secret as the kubelet mounts it, or renews it: the files are links into a folder that a link names, and that link is
/// replaced by a rename.
fn mount_certificate(folder: &Path, server: &Identity) -> Result<()> {
    let mount = folder.join("tls");
    fs::create_dir_all(&mount)?;
    let versions = fs::read_dir(&mount)?.count();
    let version = format!("..{versions}");
    fs::create_dir(mount.join(&version))?;
    for (name, pem) in [("tls.crt", server.pem()), ("tls.key", server.key_pem())] {
        fs::write(mount.join(&version).join(name), pem)?;
        if !mount.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), mount.join(name))?;
        }
    }
    symlink(&version, mount.join("..data_tmp"))?;
    Ok(fs::rename(mount.join("..data_tmp"), mount.join("..data"))?)
}

/// The only endpoint of a cluster.
fn endpoint(cluster: &mut Value) -> Result<&mut Value> {
    let path = "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/socket_address";
    cluster.pointer_mut(path).context("no endpoint")
}

fn address(address: SocketAddr) -> Value {
    json!({ "address": address.ip().to_string(), "port_value": address.port() })
}

/// The only document of a kind.
fn manifest(file: &str, kind: &str) -> Result<Value> {
    parse_yaml(&manifest_text(file, kind)?)
}

fn manifest_text(file: &str, kind: &str) -> Result<String> {
    let text = read(&format!("kubernetes/{file}.yaml"))?;
    let mut documents = text.split("\n---\n");
    let document = documents.find(|it| it.contains(&format!("\nkind: {kind}\n")));
    Ok(document.with_context(|| format!("no {kind} in {file}.yaml"))?.to_owned())
}

fn read(path: &str) -> Result<String> {
    let path = support::root().join("envoy").join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
