//! The manifests in `envoy/kubernetes/` and the unit `envoy/leveret.service`: against the schemas of what reads them, and
//! the Envoy configuration in them with traffic.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use support::envoy::{self, Envoy, Mode, Options, Shipped, named, parse_yaml};
use support::ports;

use crate::mqtt::{Client, Connect, connack};
use crate::package::{self, packaged_module, run};
use crate::python;
use crate::world::{broker, can_be_lazy, folder, restricted_user, to};

#[test]
fn the_manifests_fit_their_schemas() -> Result<()> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(support::root().join("envoy/kubernetes"))? {
        paths.push(entry?.path().display().to_string());
    }
    paths.sort_unstable();
    let kinds = python::run("schemas.py", &paths.iter().map(String::as_str).collect::<Vec<_>>())?;
    let all = "ConfigMap Deployment Service PodDisruptionBudget Gateway VirtualService WasmPlugin EnvoyFilter Deployment";
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
    let config = config_map()?;
    let module = filter(&mut config.clone())?.pointer("/vm_config/code/local/filename").cloned();
    for (file, containers) in [("gateway", "containers"), ("sidecar", "initContainers")] {
        let deployment = manifest(file, "Deployment")?;
        let container = &deployment["spec"]["template"]["spec"][containers][0];
        let mounted = |name: &str| -> Option<&str> {
            let mounts = container["volumeMounts"].as_array()?;
            mounts.iter().find(|it| it["name"] == name)?["mountPath"].as_str()
        };
        let path = format!("{}/plugin.wasm", mounted("module").context("no module")?);
        assert_eq!(module, Some(json!(path)));

        // Its own arguments, the configuration's path in the pod replaced by the one here.
        let path = format!("{}/envoy.yaml", mounted("config").context("no config")?);
        let folder = folder(&format!("pod-{file}"));
        fs::create_dir_all(&folder)?;
        let here = folder.join("envoy.json");
        fs::write(&here, serde_json::to_vec(&on_this_machine(config.clone())?)?)?;
        let arguments: Vec<String> = serde_json::from_value(container["args"].clone())?;
        assert!(arguments.contains(&path), "{arguments:?}");
        let arguments =
            arguments.into_iter().map(|it| if it == path { here.display().to_string() } else { it });
        run(Command::new(envoy::find()?).args(arguments).args(["--mode", "validate"]))?;

        let mut listeners = config.pointer("/static_resources/listeners").context("no listeners")?.clone();
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
fn the_config_map_serves_clients_and_probes() -> Result<()> {
    if !can_be_lazy() {
        return Ok(());
    }
    let config = on_this_machine(config_map()?)?;
    let envoy = Envoy::start(&folder("config-map"), &config, &Options::default())?;
    serves(&envoy, "mqtt", "config-map")?;

    let monitoring = envoy.address("monitoring")?;
    let ready = get(monitoring, "/ready")?;
    assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains("LIVE"), "{ready}");
    let metrics = get(monitoring, "/stats/prometheus")?;
    assert!(metrics.contains("# TYPE leveret_"), "none of the filter's own metrics");
    for path in ["/", "/quitquitquit", "/config_dump", "/stats", "/ready/../quitquitquit"] {
        let answer = get(monitoring, path)?;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
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
    let configuration = filter(&mut config)?.pointer_mut("/configuration/value").context("no settings")?;
    *configuration = Value::String(settings.to_string());
    let envoy = Envoy::start(&folder("wasm-plugin"), &config, &Options::default())?;
    serves(&envoy, "mqtt", "wasm-plugin")
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
    serves(&envoy, "leveret_mqtt", "envoy-filter")
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
fn serves(envoy: &Envoy, listener: &str, name: &str) -> Result<()> {
    let user = restricted_user(name)?;
    let connect =
        Connect { client_id: name, username: Some(user), password: Some(user), ..Connect::default() };
    package::serves(envoy, listener, &connect)?;

    let mut anonymous = Client::connect(envoy.address(listener)?)?;
    anonymous.send(&Connect { client_id: "anonymous", ..Connect::default() }.bytes())?;
    assert_eq!(anonymous.rest()?, connack(4));
    Ok(())
}

/// The ConfigMap's configuration.
fn config_map() -> Result<Value> {
    let map = manifest("config", "ConfigMap")?;
    parse_yaml(map["data"]["envoy.yaml"].as_str().context("no envoy.yaml")?)
}

/// The same with the addresses and files of the test.
fn on_this_machine(mut config: Value) -> Result<Value> {
    filter(&mut config)?["vm_config"]["code"]["local"]["filename"] = json!(packaged_module());
    let [admin] = ports::free()?;
    let loopback = |port: u16| address(([127, 0, 0, 1], port).into());
    config["admin"]["address"]["socket_address"] = loopback(admin);
    for name in ["mqtt", "monitoring"] {
        let listener = named(&mut config["static_resources"]["listeners"], name).context("no listener")?;
        listener["address"]["socket_address"] = loopback(0);
    }
    for (name, to) in [("admin", loopback(admin)), ("broker", address(broker().amqp_address()))] {
        *endpoint(named(&mut config["static_resources"]["clusters"], name).context("no cluster")?)? = to;
    }
    Ok(config)
}

/// The filter's own configuration.
fn filter(config: &mut Value) -> Result<&mut Value> {
    let listener = named(&mut config["static_resources"]["listeners"], "mqtt").context("no listener")?;
    let filter = named(&mut listener["filter_chains"][0]["filters"], "leveret").context("no filter")?;
    Ok(&mut filter["typed_config"]["config"])
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
