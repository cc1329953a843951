//! Who a client is: the steps of a CONNECT, in the order of docs/policy.md.

use std::rc::Rc;

use leveret::error::Error;
use leveret::mqtt::{Connect, ConnectReturnCode};
use leveret::policy::pattern::{AddressRange, Glob};
use leveret::policy::{Admission, NameFrom, Refusal, Tenant, VhostSource};
use leveret::{Config, Event, Gate, Peer};

use super::story::{Aftermath, Steps, Story};
use super::written::{Quote, Written};

/// A CONNECT, and all that it is judged by.
pub(super) struct Case<'a> {
    pub(super) config: &'a Config,
    pub(super) gate: &'a Rc<Gate>,
    pub(super) written: Written,
    pub(super) peer: &'a Peer,
    pub(super) connect: &'a Connect<'a>,
    /// Whether its password is taken to be right.
    pub(super) is_assumed: bool,
    certificate_name: Option<Box<str>>,
    /// `None` for a client that has to be a tenant's and is not.
    tenant: Option<Rc<Tenant>>,
}

/// By what a client says who it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Login {
    Password,
    Certificate,
    Anonymous,
}

impl<'a> Case<'a> {
    pub(super) fn new(
        config: &'a Config,
        gate: &'a Rc<Gate>,
        written: Written,
        peer: &'a Peer,
        connect: &'a Connect<'a>,
        is_assumed: bool,
    ) -> Self {
        let policy = &config.policy;
        let certificate_name = peer.certificate.as_ref().and_then(|it| it.name(policy.login_from));
        let tenant = gate.tenant(peer, connect).ok().cloned();
        let number = tenant
            .as_ref()
            .and_then(|tenant| policy.tenants.iter().position(|(_, other)| Rc::ptr_eq(other, tenant)));
        let written = written.of_tenant(number);
        Self { config, gate, written, peer, connect, is_assumed, certificate_name, tenant }
    }

    /// The steps of a client that is admitted.
    pub(super) fn admitted(&self, admission: &Admission) -> Steps {
        let mut steps = Steps::default();
        self.until_client_id(&mut steps);
        self.login(&mut steps);
        let at_broker = match (self.login_by(), self.written.term("broker_user")) {
            (Login::Anonymous, _) => self.written.term_or("default_user", "guest"),
            (_, Some(account)) => account.to_string(),
            (_, None) => "its own user name and password".to_owned(),
        };
        let at_broker = [at_broker, "the broker's own permissions for this user count as well".to_owned()];
        steps.add("at the broker", &*admission.broker_user, at_broker);
        steps.add("vhost", admission.vhost.as_str(), [self.vhost_rule(admission.vhost_source)]);
        self.permissions(&mut steps, &admission.username, admission.vhost.as_str());
        for (key, is) in [
            ("client_id_pattern", "matches"),
            ("max_connections", "how many there are is known in Envoy only"),
            ("cluster", "the broker's, for this tenant"),
        ] {
            if let Some(quote) = self.written.term(key) {
                steps.add(key, is, [quote.to_string()]);
            }
        }
        steps
    }

    /// The steps up to the one that says no.
    pub(super) fn refused(&self, refusal: Refusal) -> Story {
        let mut steps = Steps::default();
        self.until_client_id(&mut steps);
        if matches!(
            refusal,
            Refusal::NotLoopback
                | Refusal::VhostForeign
                | Refusal::VhostAccess
                | Refusal::ClientIdPattern
                | Refusal::ClientIdUnfit
        ) {
            self.login(&mut steps);
        }
        let code = refusal.return_code();
        let aftermath = Aftermath {
            client_hears: format!(
                "CONNACK {} ({}), and the connection's end",
                code as u8,
                return_code_name(code)
            ),
            log_says: Some(Event::Refused(code, Error::Refused(refusal)).to_string()),
        };
        steps.refused(format!("{refusal}: {}", self.refusal_rule(refusal)), aftermath)
    }

    fn until_client_id(&self, steps: &mut Steps) {
        if self.peer.address.is_none() && self.address_matters() {
            let by =
                "judged as no loopback address, and as in no range of match.address: give it with --address";
            steps.add("address", "not given", [by.to_owned()]);
        }
        let name = match &self.tenant {
            Some(tenant) if !tenant.name.is_empty() => &*tenant.name,
            Some(_) | None => "none",
        };
        steps.add("tenant", name, self.tenant_rules());
        if self.tenant.is_none() {
            return;
        }
        if let Ok(id) = self.gate.client_id(self.peer, self.connect) {
            let of_certificate = self.written.top("ssl_cert_client_id_from");
            let by = match (&of_certificate, self.connect.client_id) {
                (Some(from), _) if self.certificate_client_id().is_some() => from.to_string(),
                (_, "") => "made for it, since it says none".to_owned(),
                _ => "the client's own".to_owned(),
            };
            steps.add("client id", id.as_deref().unwrap_or("of 22 characters"), [by]);
        }
    }

    /// Whether with another address it could be another tenant's, or a loopback user's in place of nobody's.
    fn address_matters(&self) -> bool {
        let tenants = self.written.top("tenants").map(|list| list.each()).unwrap_or_default();
        // Behind the one that fits nobody looks.
        let asked = self.tenant.as_ref().map_or(tenants.len(), |tenant| {
            let others = &self.config.policy.tenants;
            others.iter().position(|(_, other)| Rc::ptr_eq(other, tenant)).unwrap_or(tenants.len())
        });
        let by_address =
            |tenant: &Quote<'_>| tenant.get("match").is_some_and(|it| it.get("address").is_some());
        tenants.iter().take(asked).any(by_address) || self.loopback_rule().is_some()
    }

    /// Each tenant that is passed over and why, and what makes it this one's.
    fn tenant_rules(&self) -> Vec<String> {
        let tenants = self.written.top("tenants").map(|list| list.each()).unwrap_or_default();
        let mut rules = Vec::new();
        for tenant in tenants {
            let facts = tenant.get("match").and_then(|it| Some((it.value.as_object()?, it)));
            let Some((keys, matching)) = facts.filter(|(keys, _)| keys.values().any(|it| !it.is_null()))
            else {
                rules.push(format!("{}.match: none, so everybody is this tenant's", tenant.path));
                return rules;
            };
            let mut fitting = Vec::new();
            let mut other = None;
            for quote in keys.keys().filter_map(|key| matching.get(key)) {
                let key = quote.path.rsplit('.').next().unwrap_or_default();
                let facts = self.facts(key);
                match quote.each().into_iter().find(|entry| facts.iter().any(|fact| fits(key, entry, fact))) {
                    Some(entry) => fitting.push(entry.to_string()),
                    None => other = other.or(Some((quote, facts))),
                }
            }
            let Some((quote, facts)) = other else {
                rules.extend(fitting);
                return rules;
            };
            let facts = match facts.join(", ") {
                none if none.is_empty() => "unknown".to_owned(),
                facts => facts,
            };
            rules.push(format!("{quote}, but the client's is {facts}"));
        }
        rules
    }

    /// What a key of `match` is compared with.
    fn facts(&self, key: &str) -> Vec<String> {
        let certificate = self.peer.certificate.as_ref();
        let name = |from| certificate.and_then(|it| it.name(from)).map(String::from).into_iter().collect();
        match key {
            "port" => self.peer.port.map(|port| port.to_string()).into_iter().collect(),
            "address" => self.peer.address.map(|it| it.ip().to_string()).into_iter().collect(),
            "sni" => vec![self.peer.server_name.to_string()],
            "filter_chain" => vec![self.peer.filter_chain.to_string()],
            "username" => vec![self.connect.username.unwrap_or_default().to_owned()],
            "client_id" => vec![self.connect.client_id.to_owned()],
            "vhost" => vec![self.vhost_of(self.connect.username.unwrap_or_default()).to_owned()],
            "cert_cn" => name(NameFrom::CommonName),
            "cert_dn" => name(NameFrom::DistinguishedName),
            _ => certificate.into_iter().flat_map(|it| it.alternative_names()).map(str::to_owned).collect(),
        }
    }

    fn certificate_client_id(&self) -> Option<Box<str>> {
        self.peer.certificate.as_ref()?.name(self.config.policy.client_id_from?)
    }

    fn login_by(&self) -> Login {
        let has_certificate = self.certificate_name.is_some()
            && self.tenant.as_ref().is_some_and(|tenant| tenant.ssl_cert_login);
        let without_password = self.tenant.as_ref().map_or_else(Default::default, |it| it.without_password);
        match without_password.credentials(self.connect).0 {
            Some(_) => Login::Password,
            None if has_certificate => Login::Certificate,
            None => Login::Anonymous,
        }
    }

    /// The user, as it is given and with a virtual host in front of it, if there is one.
    fn said(&self) -> &str {
        let anonymous = || Some(&*self.tenant.as_ref()?.anonymous.username);
        match self.login_by() {
            Login::Password => self.connect.username.unwrap_or_default(),
            Login::Certificate => self.certificate_name.as_deref().unwrap_or_default(),
            Login::Anonymous => anonymous().unwrap_or_default(),
        }
    }

    fn username(&self) -> &str {
        let policy = &self.config.policy;
        policy.vhosts.choose(self.peer, self.certificate_name.as_deref(), self.said()).username
    }

    /// Where rules for virtual hosts lead, tenants apart.
    fn vhost_of<'t>(&'t self, said: &'t str) -> &'t str {
        let policy = &self.config.policy;
        let choice = policy.vhosts.choose(self.peer, self.certificate_name.as_deref(), said);
        choice.vhost.unwrap_or(policy.vhost.as_str())
    }

    fn login(&self, steps: &mut Steps) {
        let username = self.username();
        let on_list = self.written.entry("users", &[("name", username)]);
        let rule = match (self.login_by(), on_list) {
            (Login::Password, Some(user)) if self.is_assumed => {
                format!("{}, with a password that is taken to be right", user.path)
            }
            (Login::Password, Some(user)) => format!("{}, whose password it is", user.path),
            (Login::Password, None) => "the broker, which verifies the password".to_owned(),
            (Login::Certificate, _) => {
                let from = self.written.top("ssl_cert_login_from").map(|from| format!(", {from}"));
                format!("{}{}", self.written.term_or("ssl_cert_login", "false"), from.unwrap_or_default())
            }
            (Login::Anonymous, _) => {
                format!("{}, since it gives no credentials", self.written.term_or("default_user", "guest"))
            }
        };
        let passed_over = self.connect.username.filter(|_| self.login_by() != Login::Password);
        let passed_over = passed_over.and_then(|_| self.written.term("username_without_password"));
        let passed_over = passed_over.map(|it| it.to_string());
        let loopback = self.loopback_rule().map(|rule| format!("{rule}, and it comes from such an address"));
        let is_local = self.peer.address.is_some_and(|it| it.ip().to_canonical().is_loopback());
        steps.add(
            "user",
            username,
            [rule].into_iter().chain(passed_over).chain(loopback.filter(|_| is_local)),
        );
    }

    fn loopback_rule(&self) -> Option<String> {
        let username = self.username();
        let tenant = self.tenant.as_ref()?;
        if !tenant.loopback_users.contains(username) {
            return None;
        }
        let list = self.written.term("loopback_users").map(|list| list.each()).unwrap_or_default();
        let entry = list.iter().find(|entry| entry.value.as_str() == Some(username));
        Some(entry.map_or_else(|| format!("loopback_users, by default: {username}"), Quote::to_string))
    }

    fn vhost_rule(&self, source: VhostSource) -> String {
        let mapped = |key: &str, name: &str| {
            self.written.top(key).and_then(|map| map.get(name)).map(|quote| quote.to_string())
        };
        let certificate = self.peer.certificate.as_ref();
        let port = self.peer.port.map(|port| port.to_string()).unwrap_or_default();
        let rule = match source {
            VhostSource::Certificate => {
                mapped("mqtt_default_vhosts", self.certificate_name.as_deref().unwrap_or_default())
            }
            VhostSource::Username => Some("the user name, which says `vhost:user`".to_owned()),
            VhostSource::Port => mapped("mqtt_port_to_vhost_mapping", &port),
            VhostSource::San => certificate
                .and_then(|it| it.alternative_names().find_map(|name| mapped("san_to_vhost_mapping", name))),
            VhostSource::Sni => mapped("sni_to_vhost_mapping", &self.peer.server_name),
            VhostSource::FilterChain => mapped("filter_chain_to_vhost_mapping", &self.peer.filter_chain),
            VhostSource::Default => self.written.top("vhost").map(|quote| quote.to_string()),
            VhostSource::Tenant => self.written.own("vhost").map(|quote| quote.to_string()),
        };
        rule.unwrap_or_else(|| match source {
            VhostSource::Default => "vhost, by default: /".to_owned(),
            source => source.name().to_owned(),
        })
    }

    fn permissions(&self, steps: &mut Steps, username: &str, vhost: &str) {
        let of = [("user", username), ("vhost", vhost)];
        if self.written.term("permissions").is_none() {
            steps.add("permissions", "none here: the broker's alone count", []);
        } else if let Some(entry) = self.written.entry("permissions", &of) {
            let by = ["configure", "write", "read"].into_iter().filter_map(|key| entry.get(key));
            steps.add("permissions", "of this user in this vhost", by.map(|quote| quote.to_string()));
        }
        if let Some(entry) = self.topic_permission(username, vhost) {
            let by = ["write", "read"].into_iter().filter_map(|key| entry.get(key));
            steps.add(
                "topic permissions",
                "of this user on this exchange",
                by.map(|quote| quote.to_string()),
            );
        }
    }

    /// The entry of `topic_permissions` that counts.
    pub(super) fn topic_permission(&self, username: &str, vhost: &str) -> Option<Quote<'_>> {
        let exchange = self.tenant.as_ref()?.exchange.as_str();
        let of = [("user", username), ("vhost", vhost), ("exchange", exchange)];
        self.written.entry("topic_permissions", &of)
    }

    /// What makes it so.
    fn refusal_rule(&self, refusal: Refusal) -> String {
        let written = &self.written;
        let quoted = |key: &str, default: &str| written.term_or(key, default);
        let username = self.username();
        let vhost = match &self.tenant {
            Some(tenant) => {
                tenant.vhost.as_ref().map_or_else(|| self.vhost_of(self.said()), |it| it.as_str())
            }
            None => "",
        };
        match refusal {
            Refusal::NoTenant => written.top("require_tenant").map(|it| it.to_string()).unwrap_or_default(),
            Refusal::ClientIdMissing => "MQTT 3.1.1 section 3.1.3.1".to_owned(),
            Refusal::ClientIdForeign => format!(
                "{} says {}",
                written.top("ssl_cert_client_id_from").map(|it| it.to_string()).unwrap_or_default(),
                self.certificate_client_id().unwrap_or_default()
            ),
            Refusal::ClientIdPattern => quoted("client_id_pattern", ""),
            Refusal::ClientIdUnfit => "names of queues have at most 255 bytes".to_owned(),
            Refusal::CredentialsMissing if self.login_by() == Login::Password => {
                format!("{}, and an empty password is none", quoted("username_without_password", "refuse"))
            }
            Refusal::CredentialsMissing => quoted("allow_anonymous", "true"),
            Refusal::CredentialsUnfit => {
                let most = self.config.policy.max_credentials_size;
                format!("max_credentials_size is {most}, and U+0000 is never taken")
            }
            Refusal::Guessing => "max_login_failures_per_address, max_login_failures_per_user".to_owned(),
            Refusal::UnknownUser => {
                let list = written.term("users").map(|list| list.path).unwrap_or_default();
                format!("{list} has no `{username}`")
            }
            Refusal::WrongPassword => {
                let user = written.entry("users", &[("name", username)]).map(|user| user.path);
                format!("{} has another", user.unwrap_or_default())
            }
            Refusal::Unverifiable => quoted("broker_user", "none"),
            Refusal::NotLoopback => {
                let given = if self.peer.address.is_some() { "" } else { ", and no --address is given" };
                format!("{}{given}", self.loopback_rule().unwrap_or_default())
            }
            Refusal::VhostTooLong => "names of virtual hosts have at most 255 bytes".to_owned(),
            Refusal::VhostForeign => match written.own("vhost") {
                Some(own) => own.to_string(),
                None => format!("{}, and no `permissions`", quoted("broker_user", "none")),
            },
            Refusal::VhostAccess => {
                let list = written.term("permissions").map(|list| list.path).unwrap_or_default();
                format!("{list} has nothing of `{username}` in `{vhost}`")
            }
            Refusal::Will(denial) => denial.text().to_owned(),
            Refusal::Connections => quoted("max_connections", "none"),
            Refusal::Memory => quoted("max_memory", "805306368"),
        }
    }
}

/// Whether a value of a key of `match` stands for a fact.
fn fits(key: &str, entry: &Quote<'_>, fact: &str) -> bool {
    match key {
        "port" => entry.value.as_f64() == fact.parse().ok(),
        "address" => {
            let range = entry.value.as_str().and_then(AddressRange::parse);
            range.zip(fact.parse().ok()).is_some_and(|(range, address)| range.contains(address))
        }
        _ => entry.value.as_str().is_some_and(|text| Glob::new(text).matches(fact)),
    }
}

/// Table 3.1 of MQTT 3.1.1.
const fn return_code_name(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Accepted => "accepted",
        ConnectReturnCode::UnacceptableProtocolVersion => "unacceptable protocol version",
        ConnectReturnCode::IdentifierRejected => "identifier rejected",
        ConnectReturnCode::ServerUnavailable => "server unavailable",
        ConnectReturnCode::BadUserNameOrPassword => "bad user name or password",
        ConnectReturnCode::NotAuthorized => "not authorized",
    }
}
