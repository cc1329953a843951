//! Packets to a client. Every function appends one whole packet, or the head of a PUBLISH, to `out`.

use super::{ConnectReturnCode, MAX_REMAINING_LENGTH, PacketId, QoS};

/// CONNACK, section 3.2.
pub fn connack(out: &mut Vec<u8>, session_present: bool, code: ConnectReturnCode) {
    out.extend_from_slice(&[0x20, 2, u8::from(session_present), code as u8]);
}

/// The bytes PUBLISH's remaining length counts ahead of the payload.
const fn publish_head_len(topic: &str, has_packet_id: bool) -> usize {
    2 + topic.len() + if has_packet_id { 2 } else { 0 }
}

/// Whether a PUBLISH with this topic and payload can be written: the topic has a length of two bytes, and all of it fits the protocol's
/// largest remaining length.
pub fn publish_fits(topic: &str, has_packet_id: bool, payload_len: u64) -> bool {
    topic.len() <= MAX_STRING
        && payload_len.saturating_add(publish_head_len(topic, has_packet_id) as u64)
            <= u64::from(MAX_REMAINING_LENGTH)
}

/// The most bytes of a string, section 1.5.3.
const MAX_STRING: usize = u16::MAX as usize;

/// What goes into a PUBLISH ahead of its payload, section 3.3.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// QoS, and what goes with it.
    pub delivery: Delivery,
    /// The message is a retained one, sent because of a new subscription.
    pub retain: bool,
    /// At most 65,535 bytes; the caller has asked [`publish_fits`].
    pub topic: &'a str,
    /// Bytes that will follow; the caller has asked [`publish_fits`].
    pub payload_len: u32,
}

/// The QoS at which a message is delivered. Without QoS 2, which no subscription is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0: no packet id, never DUP. [MQTT-2.3.1-5] [MQTT-3.3.1-2]
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce {
        /// For the PUBACK.
        packet_id: PacketId,
        /// Sent before, and perhaps received.
        dup: bool,
    },
}

/// A PUBLISH up to its payload.
pub fn publish(out: &mut Vec<u8>, head: PublishHead<'_>) {
    let (qos, dup, packet_id) = match head.delivery {
        Delivery::AtMostOnce => (QoS::AtMostOnce, false, None),
        Delivery::AtLeastOnce { packet_id, dup } => (QoS::AtLeastOnce, dup, Some(packet_id)),
    };
    out.push(0x30 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(head.retain));
    remaining_length(out, head.payload_len as usize + publish_head_len(head.topic, packet_id.is_some()));
    out.extend_from_slice(&(head.topic.len() as u16).to_be_bytes());
    out.extend_from_slice(head.topic.as_bytes());
    if let Some(id) = packet_id {
        out.extend_from_slice(&id.get().to_be_bytes());
    }
}

/// PUBACK, section 3.4.
pub fn puback(out: &mut Vec<u8>, id: PacketId) {
    acknowledgement(out, 0x40, id);
}

/// PUBREC, section 3.5.
pub fn pubrec(out: &mut Vec<u8>, id: PacketId) {
    acknowledgement(out, 0x50, id);
}

/// PUBCOMP, section 3.7.
pub fn pubcomp(out: &mut Vec<u8>, id: PacketId) {
    acknowledgement(out, 0x70, id);
}

/// SUBACK, section 3.9: one code per filter, in the order of the SUBSCRIBE. [MQTT-3.9.3-1]
pub fn suback(out: &mut Vec<u8>, id: PacketId, codes: impl ExactSizeIterator<Item = u8>) {
    out.push(0x90);
    remaining_length(out, 2 + codes.len());
    out.extend_from_slice(&id.get().to_be_bytes());
    out.extend(codes);
}

/// UNSUBACK, section 3.11.
pub fn unsuback(out: &mut Vec<u8>, id: PacketId) {
    acknowledgement(out, 0xb0, id);
}

/// PINGRESP, section 3.13.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

fn acknowledgement(out: &mut Vec<u8>, first: u8, id: PacketId) {
    out.extend_from_slice(&[first, 2]);
    out.extend_from_slice(&id.get().to_be_bytes());
}

fn remaining_length(out: &mut Vec<u8>, mut n: usize) {
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remaining_lengths_of_table_2_4() {
        for (n, bytes) in [
            (0, &[0][..]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xff, 0xff, 0xff, 0x7f]),
        ] {
            let mut out = Vec::new();
            remaining_length(&mut out, n);
            assert_eq!(out, bytes, "{n}");
        }
    }

    #[test]
    fn a_publish_may_fill_the_largest_packet_and_no_more() {
        let most = u64::from(MAX_REMAINING_LENGTH) - 2 - 1 - 2;
        assert!(publish_fits("t", true, most));
        assert!(!publish_fits("t", true, most + 1));
        assert!(publish_fits("t", false, most + 2));
        assert!(!publish_fits("t", false, u64::MAX));
        assert!(publish_fits(&"t".repeat(65_535), true, 0));
        assert!(!publish_fits(&"t".repeat(65_536), true, 0));
    }
}
