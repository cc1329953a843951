//! Users who may only come from this machine. The broker is beside Envoy and would let them in from anywhere, so it is up to the
//! filter to see where a client is.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use serde_json::json;
use support::elsewhere::Elsewhere;
use support::envoy::{Chain, Listener, Mode, Options, Shipped};

use super::{DEFAULT_VHOST, PASSWORD, anonymous, code, make_account, with};
use crate::mqtt::Client;
use crate::world::{broker, folder, own_envoy_with, to};

#[test]
fn loopback_users_are_refused_from_another_machine() -> Result<()> {
    let other = make_account("loopback-other", DEFAULT_VHOST)?;
    let elsewhere = Elsewhere::new(&folder("elsewhere"))?;
    let (there, here) = (IpAddr::from(elsewhere.here()), IpAddr::from([127, 0, 0, 1]));
    let listener = |name: &str, address: IpAddr, loopback_users: Option<&[&str]>| {
        let plugin = loopback_users.map(|users| ("loopback_users".to_owned(), json!(users)));
        let chain = Chain { plugin: plugin.into_iter().collect(), ..Chain::default() };
        Listener { name: name.to_owned(), address: SocketAddr::new(address, 0), chains: vec![chain] }
    };
    let shipped = Shipped {
        listeners: vec![
            listener("default-there", there, None),
            listener("default-here", here, None),
            listener("other-there", there, Some(&[other])),
            listener("other-here", here, Some(&[other])),
        ],
        ..to(Mode::Lazy, broker().amqp_address())
    };
    let envoy = own_envoy_with("loopback", &shipped, &Options::default())?;
    let guest = with("loopback", "guest", "guest");
    let in_a_vhost = with("loopback", "/:guest", "guest");
    let (nobody, other) = (anonymous("loopback"), with("loopback", other, PASSWORD));
    // By default `guest` and so who says nothing; by configuration others, and then not `guest`.
    for (entry, local) in [("default", [true, true, true, false]), ("other", [false, false, false, true])] {
        let from_there = envoy.address(&format!("{entry}-there"))?;
        let from_here = envoy.address(&format!("{entry}-here"))?;
        for (connect, is_local) in [&guest, &in_a_vhost, &nobody, &other].into_iter().zip(local) {
            let answer = elsewhere.run(|| code(Client::connect(from_there)?, connect))?;
            assert_eq!(answer, if is_local { 5 } else { 0 }, "{entry} {:?}", connect.username);
            assert_eq!(code(Client::connect(from_here)?, connect)?, 0, "{entry} {:?}", connect.username);
        }
    }
    let from_there = envoy.address("default-there")?;
    let client = elsewhere.run(|| Client::login_as(from_there, &other))?;
    assert_eq!(client.0.local_addr()?.ip(), elsewhere.there());
    client.disconnect()
}
