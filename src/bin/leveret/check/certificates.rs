//! What in a plugin configuration goes by client certificates.

use serde_json::Value;

use crate::plugin::Doubt;

/// What an operator should hear of a configuration that the filter has taken, if it goes by certificates.
pub(super) fn warning(json: &str, doubt: Doubt) -> Option<String> {
    let config = serde_json::from_str(json).ok()?;
    let mut keys = Vec::new();
    for (key, source) in [("mqtt_default_vhosts", "certificate"), ("san_to_vhost_mapping", "san")] {
        let is_asked = set(&config, "vhost_from")
            .and_then(Value::as_array)
            .is_none_or(|order| order.iter().any(|it| it == source));
        let has_entries = set(&config, key).and_then(Value::as_object).is_some_and(|map| !map.is_empty());
        keys.extend((is_asked && has_entries).then(|| key.to_owned()));
    }
    keys.extend(set(&config, FROM).map(|_| FROM.to_owned()));
    terms("", &config, &mut keys);
    let tenants = set(&config, "tenants").and_then(Value::as_array).into_iter().flatten();
    for (number, tenant) in tenants.enumerate() {
        let path = format!("tenants[{number}].");
        for key in ["cert_cn", "cert_dn", "cert_san"] {
            if set(tenant, "match").is_some_and(|it| set(it, key).is_some()) {
                keys.push(format!("{path}match.{key}"));
            }
        }
        terms(&path, tenant, &mut keys);
    }
    let keys = (!keys.is_empty()).then(|| keys.join(", "))?;
    Some(match doubt {
        Doubt::NoTls => format!(
            "no client has a certificate, since the filter chain has no TLS, and these go by one: {keys}. \
             Give it a transport_socket of TLS with a trusted_ca"
        ),
        Doubt::NoTrustedCa => format!(
            "anybody's certificate says what it likes, since the filter chain's TLS has no trusted_ca, and these go by it: {keys}. \
             Set trusted_ca in its validation_context"
        ),
        Doubt::AcceptUntrusted => format!(
            "anybody's certificate says what it likes, since the filter chain's TLS has trust_chain_verification ACCEPT_UNTRUSTED, \
             and these go by it: {keys}. Take that out"
        ),
    })
}

/// What a tenant and the top level have.
fn terms(path: &str, of: &Value, keys: &mut Vec<String>) {
    if set(of, LOGIN).is_some_and(|it| it == true) {
        keys.push(format!("{path}{LOGIN}"));
    }
    for key in ["client_id_pattern", "topic_permissions", "publish", "subscribe"] {
        if set(of, key).is_some_and(|it| it.to_string().contains("{cert_")) {
            keys.push(format!("{path}{key}"));
        }
    }
}

/// The value of a key. `null` is none, as it is for the filter.
fn set<'a>(of: &'a Value, key: &str) -> Option<&'a Value> {
    of.get(key).filter(|value| !value.is_null())
}

const LOGIN: &str = "ssl_cert_login";
const FROM: &str = "ssl_cert_client_id_from";
