//! `ssl_options`: the TLS of RabbitMQ's listeners, MQTT's included.

use serde_json::{Map, Value, json};

use super::Translation;
use super::conf::Setting;
use super::envoy::put;
use crate::Wrong;

/// What they say.
#[derive(Default)]
pub(super) struct Tls {
    certificate: Option<String>,
    key: Option<String>,
    password: Option<String>,
    authorities: Option<String>,
    verify: bool,
    require: bool,
    depth: Option<u64>,
    versions: Vec<Setting>,
    minimum: Option<&'static str>,
    maximum: Option<&'static str>,
    ciphers: Vec<String>,
    clients_order: bool,
    no_resumption: bool,
    handshake_timeout: Option<u64>,
}

impl Tls {
    /// Whether clients are asked for certificates.
    pub(super) const fn verifies_clients(&self) -> bool {
        self.verify
    }

    /// Whether they are, and nothing says whose are good.
    pub(super) const fn takes_anybodys(&self) -> bool {
        self.verify && self.authorities.is_none()
    }

    /// How long the handshake may take, as Envoy writes durations.
    pub(super) fn handshake_timeout(&self) -> Option<String> {
        self.handshake_timeout.map(|ms| format!("{}.{:03}s", ms / 1000, ms % 1000))
    }

    /// Envoy's `transport_socket`.
    pub(super) fn transport_socket(&self) -> Value {
        let file = |path: &String| json!({ "filename": path });
        let mut certificate = Map::new();
        if let Some(path) = &self.certificate {
            certificate.insert("certificate_chain".to_owned(), file(path));
        }
        if let Some(path) = &self.key {
            certificate.insert("private_key".to_owned(), file(path));
        }
        if let Some(password) = &self.password {
            certificate.insert("password".to_owned(), json!({ "inline_string": password }));
        }
        let mut parameters = Map::new();
        parameters.insert("tls_minimum_protocol_version".to_owned(), self.minimum.unwrap_or(TLS_1_2).into());
        parameters.insert("tls_maximum_protocol_version".to_owned(), self.maximum.unwrap_or(TLS_1_3).into());
        if !self.ciphers.is_empty() {
            parameters.insert("cipher_suites".to_owned(), self.ciphers.clone().into());
        }
        let mut common = json!({ "tls_params": parameters, "tls_certificates": [certificate] });
        let mut context = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        });
        if self.verify {
            let mut validation = Map::new();
            if let Some(path) = &self.authorities {
                validation.insert("trusted_ca".to_owned(), file(path));
            }
            if let Some(depth) = self.depth {
                // Erlang counts the certificates between the client's and the root, Envoy the root as well.
                validation.insert("max_verify_depth".to_owned(), depth.saturating_add(1).min(100).into());
            }
            put(&mut common, "validation_context", validation);
            put(&mut context, "require_client_certificate", self.require);
        }
        for (key, on) in [
            ("prefer_client_ciphers", self.clients_order),
            ("disable_stateless_session_resumption", self.no_resumption),
            ("disable_stateful_session_resumption", self.no_resumption),
        ] {
            if on {
                put(&mut context, key, true);
            }
        }
        put(&mut context, "common_tls_context", common);
        json!({ "name": "envoy.transport_sockets.tls", "typed_config": context })
    }
}

pub(super) fn translate(to: &mut Translation, setting: &Setting) -> Result<(), Wrong> {
    let (tls, remarks) = (&mut to.tls, &mut to.remarks);
    match setting.path().as_slice() {
        ["ssl_options", "certfile"] => tls.certificate = Some(setting.text().to_owned()),
        ["ssl_options", "keyfile"] => tls.key = Some(setting.text().to_owned()),
        ["ssl_options", "cacertfile"] => tls.authorities = Some(setting.text().to_owned()),
        ["ssl_options", "password"] if setting.text().starts_with("encrypted:") => remarks.attend(
            setting,
            "RabbitMQ alone can decrypt it",
            "put the key's password into `password.filename` of `tls_certificates`",
        ),
        ["ssl_options", "password"] => tls.password = Some(setting.text().to_owned()),
        ["ssl_options", "verify"] => {
            tls.verify = setting.one_of(&["verify_peer", "verify_none"])? == "verify_peer"
        }
        ["ssl_options", "fail_if_no_peer_cert"] => tls.require = setting.boolean()?,
        ["ssl_options", "depth"] => tls.depth = Some(setting.number()?),
        ["ssl_options", "versions", _] => tls.versions.push(setting.clone()),
        ["ssl_options", "ciphers", _] if CIPHERS.contains(&setting.text()) => {
            tls.ciphers.push(setting.text().to_owned());
        }
        ["ssl_options", "ciphers", _] if setting.text().starts_with("TLS_") => {
            remarks.note(setting, "Envoy always offers TLS 1.3's own ciphers");
        }
        ["ssl_options", "ciphers", _] => remarks.attend(
            setting,
            "Envoy does not have this cipher",
            "nothing, unless a client has none of the others",
        ),
        ["ssl_options", "honor_cipher_order"] => {
            tls.clients_order = !setting.boolean()?;
            remarks.note(setting, "Envoy goes by its own order unless it is told otherwise");
        }
        ["ssl_options", "reuse_sessions"] => {
            tls.no_resumption = !setting.boolean()?;
            remarks.note(setting, "Envoy resumes sessions unless it is told otherwise");
        }
        ["ssl_handshake_timeout"] => tls.handshake_timeout = Some(setting.number()?),
        ["ssl_options", "crl_check" | "crl_sources", ..] if setting.text() != "false" => remarks.attend(
            setting,
            "Envoy reads revocation lists from files only",
            "give them as `crl` in the `validation_context`",
        ),
        ["ssl_options", "cert" | "cacerts" | "key", ..] => remarks.attend(
            setting,
            "Envoy reads certificates and keys as PEM",
            "put it into a file, and name that in `tls_certificates` or `trusted_ca`",
        ),
        ["ssl_options", "psk_identity"] => remarks.attend(
            setting,
            "Envoy has no pre-shared keys",
            "give these clients certificates or passwords",
        ),
        ["ssl_options", "dh" | "dhfile"] => {
            remarks.note(setting, "Envoy has no finite-field Diffie-Hellman; it uses elliptic curves");
        }
        ["ssl_allow_poodle_attack"] | ["ssl_options", "secure_renegotiate" | "client_renegotiation"] => {
            remarks.note(setting, "Envoy neither speaks SSL 3 nor renegotiates");
        }
        ["ssl_options", "honor_ecc_order" | "log_level" | "log_alert" | "bypass_pem_cache" | "crl_check"] => {
            remarks.note(setting, "has no counterpart, and none is missed");
        }
        ["ssl_options"] => remarks.note(setting, "no options"),
        _ => remarks.attend(
            setting,
            "not a TLS option that RabbitMQ has in 3.10 to 4.3",
            "see whether it is misspelt",
        ),
    }
    Ok(())
}

pub(super) fn finish(to: &mut Translation) -> Result<(), Wrong> {
    let (tls, remarks) = (&mut to.tls, &mut to.remarks);
    let mut modern = Vec::new();
    for setting in &tls.versions {
        match setting.text() {
            "tlsv1.2" => modern.push(TLS_1_2),
            "tlsv1.3" => modern.push(TLS_1_3),
            "tlsv1.1" | "tlsv1" | "sslv3" => remarks.attend(
                setting,
                "is broken, and is not offered: TLS 1.2 is the oldest",
                "see that clients speak TLS 1.2 or 1.3",
            ),
            _ => return Err(setting.wrong("expected tlsv1.3, tlsv1.2, tlsv1.1, tlsv1")),
        }
    }
    if !tls.versions.is_empty() {
        tls.minimum = Some(modern.iter().min().unwrap_or(&TLS_1_2));
        tls.maximum = Some(modern.iter().max().unwrap_or(&TLS_1_2));
    }
    if to.listeners.ssl.is_empty() {
        if tls.certificate.is_some() {
            remarks.note_of("ssl_options", "MQTT has no TLS listeners, so they are not used");
        }
        return Ok(());
    }
    for (key, missing) in [
        ("ssl_options.certfile", tls.certificate.is_none()),
        ("ssl_options.keyfile", tls.key.is_none()),
        ("ssl_options.cacertfile", tls.verify && tls.authorities.is_none()),
    ] {
        if missing {
            remarks.attend_to(
                key,
                "is missing, and there are TLS listeners",
                "name the file in `tls_certificates` or `trusted_ca`",
            );
        }
    }
    Ok(())
}

const TLS_1_2: &str = "TLSv1_2";
const TLS_1_3: &str = "TLSv1_3";

/// What BoringSSL has for TLS 1.2, by OpenSSL's names.
const CIPHERS: [&str; 14] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
];
