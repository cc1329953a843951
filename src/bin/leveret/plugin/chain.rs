//! What a filter chain makes of a filter in it: whether client certificates prove anything, since the filter is told a certificate and
//! not whether it was verified, and when its tcp_proxy connects.

use serde_json::{Map, Value};

/// What can be seen of it; nothing, unless something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Why certificates prove nothing.
    pub(crate) doubt: Option<Doubt>,
    /// The tcp_proxy connects when a client does, or when its TLS handshake is done, and reads nothing before.
    pub(crate) connects_at_once: bool,
}

impl Chain {
    pub(super) fn of(chain: &Map<String, Value>) -> Self {
        let filters = field(chain, "filters").and_then(Value::as_array).into_iter().flatten();
        let proxy =
            filters.filter_map(|filter| filter.get("typed_config").or_else(|| filter.get("typedConfig")));
        let proxy = proxy.filter(|it| is_type(Some(it), TCP_PROXY)).find_map(Value::as_object);
        Self { doubt: Doubt::of(chain), connects_at_once: proxy.is_some_and(connects_at_once) }
    }
}

fn connects_at_once(proxy: &Map<String, Value>) -> bool {
    // An enum is a name or a number.
    field(proxy, "upstream_connect_mode").is_none_or(|mode| mode != "ON_DOWNSTREAM_DATA" && mode != 1)
}

/// Why a certificate proves nothing in a filter chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// There are none.
    NoTls,
    /// Nothing says whose are good.
    NoTrustedCa,
    /// Bad ones are let through.
    AcceptUntrusted,
}

impl Doubt {
    /// `None` also for what cannot be seen: what SDS or a validator of its own brings.
    fn of(chain: &Map<String, Value>) -> Option<Self> {
        let Some(socket) = field(chain, "transport_socket") else { return Some(Self::NoTls) };
        let Some(context) = tls_context(socket) else {
            return is_type(socket.get("typed_config"), RAW_BUFFER).then_some(Self::NoTls);
        };
        let common = object(context, "common_tls_context");
        let combined = common.and_then(|common| object(common, "combined_validation_context"));
        let inline = match combined {
            Some(combined) => object(combined, "default_validation_context"),
            None => common.and_then(|common| object(common, "validation_context")),
        };
        // Also what SDS adds does not take this back.
        if inline.is_some_and(accepts_untrusted) {
            return Some(Self::AcceptUntrusted);
        }
        let is_elsewhere = [common, combined].into_iter().flatten().any(|context| {
            ELSEWHERE.iter().any(|key| field(context, &format!("validation_context_{key}")).is_some())
        });
        (!is_elsewhere && !inline.is_some_and(verifies)).then_some(Self::NoTrustedCa)
    }
}

/// The DownstreamTlsContext, also in a socket that wraps one, or in a `TypedStruct`. The parser has bounded the depth.
fn tls_context(value: &Value) -> Option<&Map<String, Value>> {
    match value {
        Value::Object(object) => {
            if field(object, "common_tls_context").is_some() || is_type(Some(value), TLS) {
                // Of a `TypedStruct` it is the value.
                return field(object, "value").map_or(Some(object), Value::as_object);
            }
            object.values().find_map(tls_context)
        }
        Value::Array(array) => array.iter().find_map(tls_context),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn is_type(value: Option<&Value>, name: &str) -> bool {
    let keys = ["@type", "type_url", "typeUrl"];
    value.is_some_and(|value| {
        keys.iter().any(|key| value.get(*key).and_then(Value::as_str).is_some_and(|it| it.ends_with(name)))
    })
}

fn accepts_untrusted(context: &Map<String, Value>) -> bool {
    // An enum is a name or a number.
    field(context, "trust_chain_verification").is_some_and(|it| it == "ACCEPT_UNTRUSTED" || it == 1)
}

fn verifies(context: &Map<String, Value>) -> bool {
    // An empty `inline_string` is no authority.
    let has_authority = object(context, "trusted_ca")
        .is_some_and(|source| source.values().any(|it| it.as_str().is_some_and(|text| !text.is_empty())));
    let has_pins = ["verify_certificate_hash", "verify_certificate_spki"]
        .iter()
        .any(|key| field(context, key).and_then(Value::as_array).is_some_and(|pins| !pins.is_empty()));
    let has_other = ["system_root_certs", "custom_validator_config", "ca_certificate_provider_instance"]
        .iter()
        .any(|key| field(context, key).is_some());
    has_authority || has_pins || has_other
}

fn object<'a>(of: &'a Map<String, Value>, key: &str) -> Option<&'a Map<String, Value>> {
    field(of, key)?.as_object()
}

/// A field by either of the names that it has in JSON; `null` is none.
fn field<'a>(of: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let mut words = key.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at_checked(1).unwrap_or(("", word));
        camel += &first.to_ascii_uppercase();
        camel += rest;
    }
    of.get(key).or_else(|| of.get(&camel)).filter(|value| !value.is_null())
}

const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
/// Where a validation context comes from that is not in the file.
const ELSEWHERE: [&str; 3] = ["sds_secret_config", "certificate_provider", "certificate_provider_instance"];
