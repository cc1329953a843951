//! What a client certificate says: who the client is, and which client id it has.

use super::Translation;
use super::conf::Setting;
use crate::Wrong;

/// The settings that are about certificates.
#[derive(Default)]
pub(super) struct Certificates {
    /// `mqtt.ssl_cert_login`.
    pub(super) login: Option<(Setting, bool)>,
    /// Where the name is.
    pub(super) name: Source,
    /// Where the client id is.
    pub(super) client_id: Source,
    /// Whether Leveret finds the same name in a certificate as RabbitMQ; if not, nothing that hangs on it is carried over.
    pub(super) name_is_the_same: bool,
    /// Whether anybody's certificate would be taken for a good one; then nothing that hangs on any is carried over.
    pub(super) are_anybodys: bool,
}

/// A place in a certificate.
#[derive(Default)]
pub(super) struct Source {
    pub(super) from: Option<Setting>,
    pub(super) san_type: Option<Setting>,
    pub(super) san_index: Option<Setting>,
}

pub(super) fn finish(to: &mut Translation) -> Result<(), Wrong> {
    let Certificates { login, name, client_id, .. } = std::mem::take(&mut to.certificates);
    let froms = ["distinguished_name", "common_name", "subject_alternative_name", "subject_alt_name"];
    to.certificates.are_anybodys = to.tls.takes_anybodys();
    if to.certificates.are_anybodys {
        if let Some((_, false)) = login {
            to.set("ssl_cert_login", false);
        }
        let login = login.as_ref().filter(|(_, on)| *on).map(|(setting, _)| setting);
        for setting in login.into_iter().chain(name.settings()).chain(client_id.settings()) {
            to.remarks.attend(
                setting,
                ANYBODYS,
                "it stays off, as all that goes by certificates, so a client with one and no credentials is anonymous, if that is allowed. \
                 Set `ssl_options.cacertfile`, and import again",
            );
        }
        return Ok(());
    }
    to.certificates.name_is_the_same = name.translate(to, "ssl_cert_login", &froms)?;
    client_id.translate(to, "ssl_cert_client_id", &["distinguished_name", "subject_alternative_name"])?;

    let Some((setting, on)) = login else { return Ok(()) };
    if on && !to.certificates.name_is_the_same {
        to.remarks.attend(
            &setting,
            "Leveret cannot find the user's name where RabbitMQ does",
            "`ssl_cert_login` stays off, so such a client is anonymous, if that is allowed. Have certificates with the name in the subject, \
             or as their first DNS or URI name",
        );
        return Ok(());
    }
    if on && !to.plugin.contains_key("broker_user") {
        to.remarks.attend(
            &setting,
            "a client that logs in by certificate has no password, and AMQP wants one",
            "`ssl_cert_login` stays off, so such a client is anonymous, if that is allowed. Make an account at the broker for all clients that the edge has verified, and import again \
             with --broker-user and --broker-pass-file",
        );
        return Ok(());
    }
    to.set("ssl_cert_login", on);
    if on && !to.tls.verifies_clients() {
        to.remarks.attend(
            &setting,
            "without `ssl_options.verify = verify_peer` clients are not asked for a certificate",
            "set it, with `ssl_options.cacertfile`, and import again",
        );
    }
    Ok(())
}

impl Source {
    fn settings(&self) -> impl Iterator<Item = &Setting> {
        [&self.from, &self.san_type, &self.san_index].into_iter().flatten()
    }

    /// Sets `<key>_from`, `<key>_san_type` and `<key>_san_index`, if Envoy tells what stands there.
    fn translate(&self, to: &mut Translation, key: &str, froms: &[&str]) -> Result<bool, Wrong> {
        let from = match &self.from {
            Some(setting) => setting.one_of(froms)?.replace("alt_", "alternative_"),
            None => String::new(),
        };
        let san_type = match &self.san_type {
            Some(setting) => setting.one_of(&["dns", "uri", "ip", "email", "other_name"])?,
            None => "dns",
        };
        let san_index = self.san_index.as_ref().map_or(Ok(0), Setting::number)?;
        if from == "subject_alternative_name" && (san_index != 0 || !matches!(san_type, "dns" | "uri")) {
            for setting in self.settings() {
                to.remarks.attend(
                    setting,
                    "of alternative names Envoy tells the first DNS and the first URI name, and no others",
                    "nothing is taken from there. Have certificates with the name in one of these places",
                );
            }
            return Ok(false);
        }
        if !from.is_empty() {
            to.set(&format!("{key}_from"), from.clone());
        }
        if from == "subject_alternative_name" {
            if self.san_type.is_some() {
                to.set(&format!("{key}_san_type"), san_type);
            }
            if self.san_index.is_some() {
                to.set(&format!("{key}_san_index"), san_index);
            }
        } else {
            for setting in [&self.san_type, &self.san_index].into_iter().flatten() {
                to.remarks.note(setting, "means nothing unless the name comes from subject_alternative_name");
            }
        }
        Ok(true)
    }
}

/// Why nothing is taken from certificates.
pub(super) const ANYBODYS: &str = "`ssl_options.verify = verify_peer` is there without `ssl_options.cacertfile`, so Envoy would take anybody's certificate, whatever it says";
