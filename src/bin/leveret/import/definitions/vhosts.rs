//! Virtual hosts: which client is in which, and what is said of the queues in them.

use regex_lite::Regex;
use serde_json::{Map, Value};

use super::{Definitions, Policy};
use crate::import::Translation;
use crate::import::certificates::ANYBODYS;

/// The two parameters by which RabbitMQ's plugin chooses one.
pub(super) fn mappings(definitions: &Definitions, to: &mut Translation) {
    // RabbitMQ reads the global ones; the others have been seen in exports of old versions.
    for parameter in definitions.parameters.iter().chain(&definitions.global_parameters) {
        let name = parameter.name.as_str();
        if !matches!(name, DEFAULT_VHOSTS | PORTS) {
            continue;
        }
        let Some(mapping) = mapping(&parameter.value) else {
            to.remarks.attend_to(
                name,
                "is not an object of texts, so RabbitMQ finds nothing in it",
                "see what was meant",
            );
            continue;
        };
        if name == DEFAULT_VHOSTS && to.certificates.are_anybodys {
            to.remarks.attend_to(
                name,
                ANYBODYS,
                "it is left out. Set `ssl_options.cacertfile`, and import again",
            );
            continue;
        }
        if name == DEFAULT_VHOSTS && !to.certificates.name_is_the_same {
            to.remarks.attend_to(
                name,
                "Leveret cannot find the certificate's name where RabbitMQ does, and goes by that name here",
                "use `san_to_vhost_mapping`, or have certificates with the name in another place",
            );
            continue;
        }
        let (fit, others): (Map<_, _>, Map<_, _>) =
            mapping.into_iter().partition(|(key, _)| name != PORTS || key.parse::<u16>().is_ok());
        for key in others.keys() {
            to.remarks.attend_to(format_args!("{name}: `{key}`"), "is no port", "see what was meant");
        }
        to.set(name, fit);
    }
}

/// Every virtual host that is named has to be there.
pub(super) fn names(definitions: &Definitions, to: &mut Translation) {
    let there = |name: &str| {
        definitions.vhosts.is_empty() || definitions.vhosts.iter().any(|vhost| vhost.name == name)
    };
    let mut named = vec![("vhost", to.plugin.get("vhost").and_then(Value::as_str).unwrap_or("/").to_owned())];
    for key in [DEFAULT_VHOSTS, PORTS] {
        let mapping = to.plugin.get(key).and_then(Value::as_object).into_iter().flatten();
        named.extend(mapping.filter_map(|(_, vhost)| Some((key, vhost.as_str()?.to_owned()))));
    }
    for (key, name) in named {
        if !there(&name) {
            to.remarks.attend_to(
                key,
                format!("names the virtual host `{name}`, which is not in the definitions"),
                "make it at the broker, or name another",
            );
        }
    }
    for vhost in &definitions.vhosts {
        let of_metadata =
            vhost.metadata.as_ref().and_then(|metadata| metadata.get("default_queue_type")?.as_str());
        let default = vhost.default_queue_type.as_deref().or(of_metadata);
        if let Some(default) =
            default.filter(|kind| !matches!(*kind, "classic" | "undefined" | "rabbit_classic_queue"))
        {
            to.remarks.note_of(
                format_args!("virtual host `{}`", vhost.name),
                format!("its default_queue_type `{default}` is not that of Leveret's queues, which say that they are classic"),
            );
        }
    }
}

/// An exchange of one's own has to be there, and a topic exchange.
pub(super) fn exchange(definitions: &Definitions, to: &mut Translation) {
    let Some(name) =
        to.plugin.get("exchange").and_then(Value::as_str).filter(|name| !name.starts_with("amq."))
    else {
        return;
    };
    let known: Vec<_> = definitions.exchanges.iter().filter(|exchange| exchange.name == name).collect();
    let key = format!("exchange `{name}`");
    if known.is_empty() {
        to.remarks.attend_to(
            key,
            "is not in the definitions",
            "declare it at the broker, as a durable topic exchange",
        );
        return;
    }
    for exchange in known.iter().filter(|exchange| exchange.kind != "topic") {
        to.remarks.attend_to(
            format_args!("{key} in `{}`", exchange.vhost),
            "is not a topic exchange",
            "declare another, and set `exchange` to it",
        );
    }
}

/// Limits and policies that Leveret's queues come under.
pub(super) fn queues(definitions: &Definitions, to: &mut Translation) {
    for parameter in &definitions.parameters {
        match parameter.component.as_str() {
            "vhost-limits" => limits(&parameter.vhost, &parameter.value, to),
            "operator_policy" => {
                let pattern = parameter.value.get("pattern").and_then(Value::as_str).unwrap_or_default();
                let definition = parameter.value.get("definition").and_then(Value::as_object).cloned();
                let key = format!("operator policy `{}` in `{}`", parameter.name, parameter.vhost);
                policy(key, pattern, &definition.unwrap_or_default(), to);
            }
            _ => {}
        }
    }
    for Policy { name, vhost, pattern, definition } in &definitions.policies {
        policy(format!("policy `{name}` in `{vhost}`"), pattern, definition, to);
    }
}

fn limits(vhost: &str, value: &Value, to: &mut Translation) {
    let key = format!("limits of virtual host `{vhost}`");
    let limit = |name| value.get(name).and_then(Value::as_i64).is_some_and(|n| n >= 0);
    if limit("max-connections") {
        to.remarks.note_of(
            &key,
            "max-connections: the broker goes on counting, one AMQP connection for each client",
        );
    }
    if limit("max-queues") {
        to.remarks.attend_to(
            &key,
            "max-queues: a client of Leveret's has up to 5 queues, and there is one for each retained message",
            "count again: docs/broker.md says which queues there are",
        );
    }
}

fn policy(key: String, pattern: &str, definition: &Map<String, Value>, to: &mut Translation) {
    let keys: Vec<_> = definition.keys().map(String::as_str).collect();
    let keys = keys.join(", ");
    match Regex::new(pattern) {
        Err(_) => to.remarks.attend_to(
            key,
            format!("its pattern cannot be read here, so whether Leveret's queues come under it ({keys}) is not known"),
            "see that it does not match the queues in docs/broker.md",
        ),
        Ok(pattern) if QUEUES.iter().any(|queue| pattern.is_match(queue)) => to.remarks.attend_to(
            key,
            format!("Leveret's queues come under it: {keys}"),
            "see that it does not harm them: locks, wills and retained messages are queues too (docs/broker.md)",
        ),
        Ok(_) => {}
    }
}

/// An object, which rabbitmqctl of 3.10 writes as a list of pairs.
fn mapping(value: &Value) -> Option<Map<String, Value>> {
    let pairs: Vec<(&str, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.as_str(), value)).collect(),
        Value::Array(pairs) => pairs
            .iter()
            .map(|pair| match pair.as_array()?.as_slice() {
                [key, value] => Some((key.as_str()?, value)),
                _ => None,
            })
            .collect::<Option<_>>()?,
        _ => return None,
    };
    pairs.into_iter().map(|(key, value)| value.is_string().then(|| (key.to_owned(), value.clone()))).collect()
}

const DEFAULT_VHOSTS: &str = "mqtt_default_vhosts";
const PORTS: &str = "mqtt_port_to_vhost_mapping";

/// One of each kind: see docs/broker.md.
const QUEUES: [&str; 6] = [
    "mqtt-subscription-clientqos0",
    "mqtt-subscription-clientqos1",
    "mqtt-subscription-clientlock",
    "mqtt-subscription-clientwill.AAAAAAAAAAA",
    "mqtt-subscription-group/a.bshare",
    "mqtt-retained-a.b",
];
