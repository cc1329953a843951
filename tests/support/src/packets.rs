//! MQTT 3.1.1 packets for conversations, written out byte for byte: the core's own encoder is under test.

/// CONNECT: clean session, keep-alive 60 s, user `u`, password `p`.
pub fn connect(client_id: &str) -> Vec<u8> {
    connect_with(0xc2, 60, &[client_id, "u", "p"])
}

/// CONNECT of a client whose session is to be kept.
pub fn connect_kept(client_id: &str) -> Vec<u8> {
    connect_with(0xc0, 60, &[client_id, "u", "p"])
}

/// CONNECT of the client `c`, clean session, keep-alive off, with a will.
pub fn connect_will(qos: u8, topic: &str, payload: &str) -> Vec<u8> {
    connect_with(0xc6 | qos << 3, 0, &["c", topic, payload, "u", "p"])
}

/// CONNECT with these connect flags, keep-alive and payload fields.
pub fn connect_with(flags: u8, keep_alive: u16, fields: &[&str]) -> Vec<u8> {
    let mut body = [&text("MQTT")[..], &[4, flags], &keep_alive.to_be_bytes()].concat();
    body.extend(fields.iter().flat_map(|field| text(field)));
    packet(0x10, &body)
}

/// CONNACK.
pub fn connack(code: u8) -> Vec<u8> {
    vec![0x20, 2, 0, code]
}

/// CONNACK of a session that was kept.
pub const PRESENT: [u8; 4] = [0x20, 2, 1, 0];

/// PUBLISH at a QoS; without a packet id at QoS 0.
pub fn publish(qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    publish_flags(qos << 1, id, topic, payload)
}

/// PUBLISH with all four flags of its header: DUP, QoS, RETAIN.
pub fn publish_flags(flags: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if flags & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// PUBACK.
pub fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

/// PUBREC.
pub fn pubrec(id: u16) -> Vec<u8> {
    packet(0x50, &id.to_be_bytes())
}

/// PUBREL.
pub fn pubrel(id: u16) -> Vec<u8> {
    packet(0x62, &id.to_be_bytes())
}

/// PUBCOMP.
pub fn pubcomp(id: u16) -> Vec<u8> {
    packet(0x70, &id.to_be_bytes())
}

/// SUBSCRIBE.
pub fn subscribe(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let entries = filters.iter().flat_map(|(filter, qos)| [text(filter), vec![*qos]].concat());
    packet(0x82, &[&id.to_be_bytes()[..], &entries.collect::<Vec<_>>()].concat())
}

/// SUBACK.
pub fn suback(id: u16, codes: &[u8]) -> Vec<u8> {
    packet(0x90, &[&id.to_be_bytes()[..], codes].concat())
}

/// UNSUBSCRIBE.
pub fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let entries = filters.iter().flat_map(|filter| text(filter));
    packet(0xa2, &[&id.to_be_bytes()[..], &entries.collect::<Vec<_>>()].concat())
}

/// UNSUBACK.
pub fn unsuback(id: u16) -> Vec<u8> {
    packet(0xb0, &id.to_be_bytes())
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// PINGRESP.
pub const PINGRESP: [u8; 2] = [0xd0, 0];
/// DISCONNECT.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// A packet of any first byte and body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    while left > 0x7f {
        packet.push(left as u8 | 0x80);
        left >>= 7;
    }
    packet.push(left as u8);
    packet.extend(body);
    packet
}

/// A string with its length in front.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}
