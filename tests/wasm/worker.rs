//! What one worker does for thousands of connections at once, and what it does not for one that takes too much.

use super::*;

/// Each close that a callback asks for runs inside the one before, and so many of them end V8's stack.
#[test]
fn thousands_of_connections_that_time_out_at_once_are_closed_a_few_at_a_time() {
    let mut host = host(r#"{"login_timeout": 1000}"#);
    let bystander = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, bystander, &mut broker, CONNECT);
    let silent: Vec<_> = (0..5_000).map(|_| host.connect(peer())).collect();
    host.advance(1_200);
    assert!(silent.iter().all(|&client| host.closed(client)));
    assert_eq!(host.counters()["leveret.none.closed.timed_out"], 5_000);
    assert_eq!(converse(&mut host, bystander, &mut broker, PINGREQ), [0xd0, 0]);
    assert!(host.deepest() <= 40, "{}", host.deepest());
}

#[test]
fn thousands_of_refusals_at_once_are_closed_a_few_at_a_time() {
    let mut host = host(r#"{"local_reply_cluster": "refusals"}"#);
    let clients: Vec<_> = (0..3_000).map(|_| host.connect(peer())).collect();
    for &client in &clients {
        host.client_sends(client, UNSUPPORTED_CONNECT);
        let echo = host.take_to_broker(client);
        host.broker_sends(client, &echo);
    }
    host.advance(100);
    for &client in &clients {
        assert_eq!(host.take_to_client(client), [0x20, 2, 0, 1]);
        assert!(host.closed(client));
    }
    assert!(host.deepest() <= 40, "{}", host.deepest());
}

/// What is written in a callback is what its client cost the others.
#[test]
fn a_flood_is_read_in_turns() {
    const MESSAGES: usize = 3_000;
    let mut host = host("{}");
    let client = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, client, &mut broker, CONNECT);
    converse(&mut host, client, &mut broker, PUBLISH_QOS_0);
    let before = host.fuel_used();
    converse(&mut host, client, &mut broker, PUBLISH_QOS_0);
    let one = host.fuel_used() - before;
    host.client_sends(client, &PUBLISH_QOS_0.repeat(MESSAGES));
    broker.answer(&host.take_to_broker(client));
    assert_eq!(host.counters()["leveret.none.messages.published.qos0"], 2 + MESSAGES as u64);
    let most = host.costliest_call();
    println!("a callback of a flood: {most} fuel at most, of {one} for one message");
    assert!(most < 200 * one, "{most}, one is {one}");
}

/// Also where each read is one piece, and what is put back is beyond the proxy's limit.
#[test]
fn nothing_of_a_flood_is_lost_nor_reordered() {
    for limit in [1, 16_384, 262_144] {
        let mut host = host("{}");
        host.set_buffer_limit(limit);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let client = host.connect(peer());
            let mut broker = Broker::default();
            converse(&mut host, client, &mut broker, CONNECT);
            clients.push((client, broker));
        }
        let sent: Vec<u8> = (0..2_000_u32).flat_map(numbered).collect();
        for (client, _) in &clients {
            host.client_sends(*client, &sent);
        }
        // Something of the broker's in between.
        for (client, broker) in &mut clients {
            converse(&mut host, *client, broker, PINGREQ);
        }
        for (client, broker) in &mut clients {
            broker.answer(&host.take_to_broker(*client));
            assert!(!host.closed(*client), "{limit}: {:?}", host.logs().last());
            assert_eq!(broker.body_bytes(), 2_000 * 4, "{limit}");
        }
    }
}

/// A PUBLISH at QoS 0 with a payload of four bytes.
fn numbered(n: u32) -> Vec<u8> {
    [b"\x30\x09\0\x03a/b".as_slice(), &n.to_be_bytes()].concat()
}

/// By the allocator's count: what the module has once taken from the proxy it keeps.
#[test]
fn above_max_memory_nobody_new_is_let_in_and_who_adds_to_it_is_not_read_from() {
    const MARK: usize = 4 << 20;
    const HOARDERS: usize = 110;
    let mut host = host(r#"{"max_memory": 4194304, "packet_timeout": 5000}"#);
    let bystander = host.connect(peer());
    let mut broker = Broker::default();
    converse(&mut host, bystander, &mut broker, CONNECT);
    host.set_buffer_limit(16 << 10);
    let unfinished = unfinished_subscribe();
    // Nobody holds more than its share, but there are many.
    let (share, rest) = unfinished.split_at(45_000);
    let hoarders: Vec<_> = (0..HOARDERS)
        .map(|_| {
            let client = host.connect(peer());
            assert_eq!(log_in(&mut host, client), ACCEPTED);
            client
        })
        .collect();
    hoarders.iter().for_each(|&client| host.client_sends(client, share));
    let before = host.memory_bytes();
    assert!(before > MARK, "{before}");
    let newcomer = host.connect(peer());
    host.client_sends(newcomer, CONNECT);
    let echo = host.take_to_broker(newcomer);
    host.broker_sends(newcomer, &echo);
    assert_eq!(host.take_to_client(newcomer), [0x20, 2, 0, 3]);
    assert_eq!(host.counters()["leveret.none.refused.by.memory"], 1);
    hoarders.iter().for_each(|&client| host.client_sends(client, rest));
    let grown = host.memory_bytes() - before;
    assert!(grown < HOARDERS * (64 << 10), "{grown}: they are not read from");
    assert_eq!(converse(&mut host, bystander, &mut broker, PINGREQ), [0xd0, 0], "others are served");
    host.advance(1_000);
    let warnings =
        host.logs().iter().filter(|line| line.text.contains("max_memory)") && line.level == Level::Warn);
    assert_eq!(warnings.count(), 1);
    // Nobody finishes: the deadline of a packet ends them, patience with the broker's goodbye included, and there is room again.
    host.advance(15_000);
    assert_eq!(host.counters()["leveret.none.closed.unfinished"], HOARDERS as u64);
    let later = host.connect(peer());
    assert_eq!(log_in(&mut host, later), ACCEPTED);
}

#[test]
fn a_burst_of_lines_is_cut_off_and_told() {
    let mut host = host("{}");
    for _ in 0..1_000 {
        let client = host.connect(peer());
        host.client_sends(client, &[0xc0, 0]);
    }
    let said = |host: &Host, what: &str| host.logs().iter().filter(|line| line.text.contains(what)).count();
    assert_eq!(said(&host, "first packet is not CONNECT"), 100);
    assert_eq!(host.counters()["leveret.none.closed.misbehaved"], 1_000);
    host.advance(1_100);
    assert_eq!(said(&host, "900 lines were left out"), 1);
}

/// A broker's reset has the proxy close the client's connection, and say of it only that it was itself.
#[test]
fn the_broker_s_end_is_not_the_client_s() {
    for (by_broker, counter) in [(true, "broker_gone"), (false, "client_gone")] {
        let mut host = host("{}");
        let client = host.connect(peer());
        log_in(&mut host, client);
        if by_broker {
            host.broker_resets(client);
        } else {
            host.client_vanishes(client);
        }
        let counters = host.counters();
        let closed: Vec<_> = counters.keys().filter(|name| name.contains(".closed.")).collect();
        assert_eq!(closed, [&format!("leveret.none.closed.{counter}")]);
    }
}

/// All but the last byte of a SUBSCRIBE of 256 KiB.
fn unfinished_subscribe() -> Vec<u8> {
    let mut packet = vec![0x82, 0x80, 0x80, 0x10];
    packet.resize(4 + (256 << 10) - 1, 0);
    packet
}
