//! What the module is told of a client that comes with TLS.

use std::io::Write;

use serde_json::{Value, json};
use support::envoy::tls_inspector;
use support::tls::{self, Attribute, Authority, Identity, Name};

use crate::rig::{Mode, Rig};

/// New connections are told of before the handshake, so the certificate is known with the client's first data.
#[test]
fn a_certificate_is_known_with_the_first_data() {
    let house = House::start(|_| ());
    let client = device(&house.authority);
    let _stream = house.connect("broker.example", Some(&client));
    for (callback, mtls, subject, names) in [
        ("connected", r"\x00", " = ", [": NotFound", ": NotFound"]),
        ("client_data", r"\x01", " = CN=device-1,O=Acme", [" = first.example", " = spiffe://acme/first"]),
    ] {
        let property = |name: &str| house.rig.said(&format!("{callback}: property connection.{name}"));
        assert_eq!(property("mtls"), format!(" = {mtls}"));
        assert_eq!(property("subject_peer_certificate"), subject);
        // Of several names the first; there is no way to the others.
        assert_eq!(property("dns_san_peer_certificate"), names[0]);
        assert_eq!(property("uri_san_peer_certificate"), names[1]);
        assert_eq!(property("email_san_peer_certificate"), ": NotFound");
    }
}

/// An empty subject is not a missing certificate: `connection.mtls` says which. In plain TCP there is not even a subject.
#[test]
fn without_a_certificate_mtls_is_false() {
    let house = House::start(|_| ());
    let nameless = house.authority.client(&[], &[]).unwrap();
    for (nth, (client, mtls)) in [(None, r"\x00"), (Some(&nameless), r"\x01")].into_iter().enumerate() {
        let _stream = house.connect("broker.example", client);
        let property =
            |name: &str| house.rig.said_times(&format!("client_data: property connection.{name}"), nth + 1);
        assert_eq!(property("mtls"), format!(" = {mtls}"));
        assert_eq!(property("subject_peer_certificate"), " = ");
        assert_eq!(property("dns_san_peer_certificate"), ": NotFound");
    }
    let plain = House::start(|listener| {
        listener["filter_chains"][0].as_object_mut().unwrap().remove("transport_socket");
        listener["listener_filters"] = json!([]);
    });
    plain.rig.client().write_all(b"x").unwrap();
    assert_eq!(plain.rig.said("client_data: property connection.mtls"), r" = \x00");
    assert_eq!(plain.rig.said("client_data: property connection.subject_peer_certificate"), ": NotFound");
    assert_eq!(plain.rig.said("client_data: property connection.requested_server_name"), " = ");
}

/// A certificate that nobody vouches for does not get through, unless `ACCEPT_UNTRUSTED` lets it; then nothing tells it
/// from a good one.
#[test]
fn mtls_is_true_for_a_certificate_that_was_not_verified() {
    let stranger = device(&Authority::new().unwrap());
    let house = House::start(|_| ());
    let _stream = house.connect("broker.example", Some(&stranger));
    house.rig.said("client_close: by Remote");
    assert!(house.rig.sayings("client_data: ").is_empty());

    let careless = House::start(|listener| {
        let tls = &mut listener["filter_chains"][0]["transport_socket"]["typed_config"];
        tls["common_tls_context"]["validation_context"]["trust_chain_verification"] =
            json!("ACCEPT_UNTRUSTED");
    });
    let _stream = careless.connect("broker.example", Some(&stranger));
    assert_eq!(careless.rig.said("client_data: property connection.mtls"), r" = \x01");
    let subject = careless.rig.said("client_data: property connection.subject_peer_certificate");
    assert_eq!(subject, " = CN=device-1,O=Acme");
}

/// A subject is written as in RFC 4514, from the last part to the first. Only what has to be is escaped with a backslash,
/// and all that is not printable ASCII as hexadecimal digits of its UTF-8.
#[test]
fn a_subject_is_written_as_in_rfc_4514() {
    let cases: [(&[(Attribute, &str)], &str); 4] = [
        (
            &[
                (Attribute::CountryName, "DE"),
                (Attribute::CommonName, " #one "),
                (oid(&[2, 5, 4, 3]), "two=2"),
            ],
            r"CN=two=2,CN=\ #one\ ,C=DE",
        ),
        (&[(Attribute::CommonName, "#a,b+c\"d\\e<f>g;h/i~j")], r#"CN=\#a\,b\+c\"d\\e\<f\>g\;h/i~j"#),
        (&[(Attribute::CommonName, "ö\u{1}\u{7f}€")], r"CN=\C3\B6\01\7F\E2\82\AC"),
        // Names of types are OpenSSL's short ones, and where there is none, the value is its DER.
        (
            &[
                (Attribute::OrganizationalUnitName, "1"),
                (Attribute::LocalityName, "2"),
                (Attribute::StateOrProvinceName, "3"),
                (oid(&[2, 5, 4, 4]), "4"),
                (oid(&[2, 5, 4, 42]), "5"),
                (oid(&[2, 5, 4, 43]), "6"),
                (oid(&[2, 5, 4, 44]), "7"),
                (oid(&[2, 5, 4, 5]), "8"),
                (oid(&[2, 5, 4, 9]), "9"),
                (oid(&[2, 5, 4, 12]), "10"),
                (oid(&[2, 5, 4, 65]), "11"),
                (oid(&[0, 9, 2342, 19200300, 100, 1, 1]), "12"),
                (oid(&[0, 9, 2342, 19200300, 100, 1, 25]), "13"),
                (oid(&[1, 2, 840, 113549, 1, 9, 1]), "14"),
                (oid(&[1, 2, 3, 4]), "15"),
            ],
            "1.2.3.4=#0C023135,emailAddress=14,DC=13,UID=12,pseudonym=11,title=10,street=9,serialNumber=8,\
             generationQualifier=7,initials=6,GN=5,SN=4,ST=3,L=2,OU=1",
        ),
    ];
    let house = House::start(|_| ());
    for (nth, (parts, expected)) in cases.into_iter().enumerate() {
        let client = house.authority.client(parts, &[]).unwrap();
        let _stream = house.connect("broker.example", Some(&client));
        let said =
            house.rig.said_times("client_data: property connection.subject_peer_certificate = ", nth + 1);
        // The probe has escaped backslashes and quotation marks once more.
        assert_eq!(said, expected.as_bytes().escape_ascii().to_string());
    }
}

/// The name that the client asks for is known from the connection's start, but only with the listener filter that looks
/// for it. An IP address is no name.
#[test]
fn a_server_name_is_known_with_the_tls_inspector_only() {
    let blind = |listener: &mut Value| listener["listener_filters"] = json!([]);
    let house = House::start(|_| ());
    for (house, asked, told) in [
        (&house, "broker.example", "broker.example"),
        (&house, "127.0.0.1", ""),
        (&House::start(blind), "broker.example", ""),
    ] {
        let before = house.rig.sayings("requested_server_name = ").len();
        let _stream = house.connect(asked, None);
        for callback in 1..=2 {
            assert_eq!(house.rig.said_times("requested_server_name = ", before + callback), told);
        }
    }
}

/// Of several filter chains the name says which it was, from the connection's start.
#[test]
fn a_filter_chain_is_known_by_its_name() {
    let house = House::start(|listener| {
        let chains = listener["filter_chains"].as_array_mut().unwrap();
        let mut other = chains[0].clone();
        other["name"] = json!("the other");
        other["filter_chain_match"] = json!({ "server_names": ["*.other.example"] });
        chains.push(other);
    });
    for (nth, (asked, chain)) in
        [("broker.example", "the chain"), ("a.other.example", "the other")].into_iter().enumerate()
    {
        let _stream = house.connect(asked, None);
        for callback in ["connected", "client_data"] {
            let told = format!("{callback}: property xds.filter_chain_name = ");
            assert_eq!(house.rig.said_times(&told, nth + 1), chain);
        }
    }
}

/// A probe that tells what it is told of TLS, in front of which clients may bring certificates.
struct House {
    rig: Rig,
    authority: Authority,
}

impl House {
    fn start(change: impl FnOnce(&mut Value)) -> Self {
        let authority = Authority::new().unwrap();
        let server = authority.server(&["broker.example", "*.other.example"]).unwrap();
        let all = PROPERTIES.map(|path| json!({ "property": path }));
        let rig = Rig::with(
            Mode::Eager,
            json!({ "connected": [all], "client_data": [all, []] }),
            |bootstrap, _| {
                let listener = &mut bootstrap["static_resources"]["listeners"][0];
                listener["filter_chains"][0]["transport_socket"] =
                    tls::transport_socket(&server, Some(&authority));
                listener["listener_filters"] = json!([tls_inspector()]);
                change(listener);
            },
        );
        Self { rig, authority }
    }

    /// A client that has sent a byte.
    fn connect(&self, name: &str, client: Option<&Identity>) -> tls::Stream {
        let mut stream = tls::connect(self.rig.address, name, &self.authority, client).unwrap();
        stream.write_all(b"x").unwrap();
        stream
    }
}

fn device(authority: &Authority) -> Identity {
    let subject = [(Attribute::OrganizationName, "Acme"), (Attribute::CommonName, "device-1")];
    let names = [
        Name::Email("mail@acme.example"),
        Name::Dns("first.example"),
        Name::Dns("second.example"),
        Name::Uri("spiffe://acme/first"),
        Name::Uri("spiffe://acme/second"),
    ];
    authority.client(&subject, &names).unwrap()
}

fn oid(numbers: &[u64]) -> Attribute {
    Attribute::CustomDnType(numbers.to_vec())
}

const PROPERTIES: [&str; 7] = [
    "connection.mtls",
    "connection.subject_peer_certificate",
    "connection.dns_san_peer_certificate",
    "connection.uri_san_peer_certificate",
    "connection.email_san_peer_certificate",
    "connection.requested_server_name",
    "xds.filter_chain_name",
];
