//! `mqttbytes`, an independent implementation of MQTT 3.1.1, reads what we write, and we read what it writes.

use bytes::BytesMut;
use leveret::mqtt::encode::{self, Delivery, PublishHead};
use leveret::mqtt::{ConnectReturnCode, PacketId, QoS, SUBACK_FAILURE};
use mqttbytes::QoS as TheirQoS;
use mqttbytes::v4::{self, Packet, SubscribeReasonCode};

use crate::transcript::{Line, Mqtt, listen, said};

const QOS: [(QoS, TheirQoS); 3] = [
    (QoS::AtMostOnce, TheirQoS::AtMostOnce),
    (QoS::AtLeastOnce, TheirQoS::AtLeastOnce),
    (QoS::ExactlyOnce, TheirQoS::ExactlyOnce),
];

fn id(n: u16) -> PacketId {
    PacketId::new(n).unwrap()
}

/// What `mqttbytes` makes of a stream.
fn read(bytes: &[u8]) -> Vec<Packet> {
    let mut stream = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while !stream.is_empty() {
        packets.push(v4::read(&mut stream, usize::MAX).expect("a packet"));
    }
    packets
}

#[test]
fn it_reads_acknowledgements() {
    let mut out = Vec::new();
    encode::puback(&mut out, id(1));
    encode::pubrec(&mut out, id(256));
    encode::pubcomp(&mut out, id(65535));
    encode::suback(&mut out, id(7), [0, 1, 2, SUBACK_FAILURE].into_iter());
    encode::unsuback(&mut out, id(8));
    encode::pingresp(&mut out);
    let codes = QOS.map(|(_, qos)| SubscribeReasonCode::Success(qos));
    let codes = [&codes[..], &[SubscribeReasonCode::Failure]].concat();
    assert_eq!(
        read(&out),
        [
            Packet::PubAck(v4::PubAck::new(1)),
            Packet::PubRec(v4::PubRec::new(256)),
            Packet::PubComp(v4::PubComp::new(65535)),
            Packet::SubAck(v4::SubAck::new(7, codes)),
            Packet::UnsubAck(v4::UnsubAck::new(8)),
            Packet::PingResp,
        ]
    );
}

#[test]
fn it_reads_a_suback_of_any_length() {
    for n in [1, 125, 126, 16_381, 16_382] {
        let mut out = Vec::new();
        encode::suback(&mut out, id(1), vec![1; n].into_iter());
        let codes = vec![SubscribeReasonCode::Success(TheirQoS::AtLeastOnce); n];
        assert_eq!(read(&out), [Packet::SubAck(v4::SubAck::new(1, codes))]);
    }
}

#[test]
fn it_reads_each_connack() {
    use v4::ConnectReturnCode as Theirs;
    for (ours, theirs) in [
        (ConnectReturnCode::Accepted, Theirs::Success),
        (ConnectReturnCode::UnacceptableProtocolVersion, Theirs::RefusedProtocolVersion),
        (ConnectReturnCode::IdentifierRejected, Theirs::BadClientId),
        (ConnectReturnCode::ServerUnavailable, Theirs::ServiceUnavailable),
        (ConnectReturnCode::BadUserNameOrPassword, Theirs::BadUserNamePassword),
        (ConnectReturnCode::NotAuthorized, Theirs::NotAuthorized),
    ] {
        for session_present in [false, true] {
            let mut out = Vec::new();
            encode::connack(&mut out, session_present, ours);
            assert_eq!(read(&out), [Packet::ConnAck(v4::ConnAck::new(theirs, session_present))]);
        }
    }
}

#[test]
fn publishes_both_ways() {
    let topics = ["t", "a/b/c", "é/€/𝄞", &"x".repeat(255)];
    let granted = QOS.into_iter().filter(|&(qos, _)| qos < QoS::ExactlyOnce);
    for ((qos, their_qos), topic) in granted.flat_map(|qos| topics.map(|topic| (qos, topic))) {
        for (size, flag) in
            [(0, false), (1, true), (122, false), (123, true), (16_384, false), (2_097_152, true)]
        {
            let payload: Vec<u8> = (0..size).map(|n: u32| n as u8).collect();
            let packet_id = (qos > QoS::AtMostOnce).then(|| id(0x1234));
            let (dup, retain, payload_len) = (flag && packet_id.is_some(), flag, size);
            let mut ours = Vec::new();
            let delivery = match packet_id {
                None => Delivery::AtMostOnce,
                Some(packet_id) => Delivery::AtLeastOnce { packet_id, dup },
            };
            encode::publish(&mut ours, PublishHead { delivery, retain, topic, payload_len });
            ours.extend_from_slice(&payload);

            let mut theirs = v4::Publish::new(topic, their_qos, payload.clone());
            (theirs.dup, theirs.retain) = (dup, retain);
            theirs.pkid = packet_id.map_or(0, PacketId::get);
            let mut bytes = BytesMut::new();
            theirs.write(&mut bytes).unwrap();

            assert_eq!(ours, bytes, "{topic} at {qos:?} with {size} bytes");
            assert_eq!(read(&ours), [Packet::Publish(theirs)]);
            let head = Line::Said(format!(
                "PUBLISH dup={dup} {qos:?} id={packet_id:?} retain={retain} {topic:?} +{size}"
            ));
            let payload = (size > 0).then_some(Line::Bytes(0, payload));
            let heard = listen(Mqtt::new(), [&bytes[..]]);
            assert_eq!((heard.lines, heard.end), ([head].into_iter().chain(payload).collect(), Ok(0)));
        }
    }
}

#[test]
fn it_logs_in() {
    let mut login = v4::Connect::new("client");
    login.clean_session = false;
    login.keep_alive = 300;
    login.set_login("user", "pass");
    let mut will = v4::Connect::new("");
    will.last_will = Some(v4::LastWill::new("w/t", vec![0, 255], TheirQoS::ExactlyOnce, true));
    for (theirs, text) in [
        (
            login,
            "CONNECT V311 clean=false keep_alive=300 id=\"client\" will=None username=Some(\"user\") \
             password=Some([112, 97, 115, 115])",
        ),
        (
            will,
            "CONNECT V311 clean=true keep_alive=10 id=\"\" will=Some((ExactlyOnce, true, \"w/t\", [0, 255])) \
             username=None password=None",
        ),
    ] {
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let heard = listen(Mqtt::new(), [&bytes[..]]);
        assert_eq!((heard.lines, heard.end), (vec![said(text)], Ok(0)));
    }
}

#[test]
fn it_asks() {
    let filters = QOS.map(|(_, qos)| v4::SubscribeFilter::new("a/+/#".into(), qos));
    let mut subscribe = v4::Subscribe::new_many(filters);
    subscribe.pkid = 9;
    let mut unsubscribe = v4::Unsubscribe::new("a/+");
    unsubscribe.topics.push("#".into());
    unsubscribe.pkid = 10;
    let mut bytes = BytesMut::new();
    subscribe.write(&mut bytes).unwrap();
    unsubscribe.write(&mut bytes).unwrap();
    v4::PubAck::new(1).write(&mut bytes).unwrap();
    v4::PubRec::new(2).write(&mut bytes).unwrap();
    v4::PubRel::new(3).write(&mut bytes).unwrap();
    v4::PubComp::new(4).write(&mut bytes).unwrap();
    v4::PingReq.write(&mut bytes).unwrap();
    v4::Disconnect.write(&mut bytes).unwrap();
    let lines = [
        "SUBSCRIBE 9 [(\"a/+/#\", AtMostOnce), (\"a/+/#\", AtLeastOnce), (\"a/+/#\", ExactlyOnce)]",
        "UNSUBSCRIBE 10 [\"a/+\", \"#\"]",
        "PUBACK 1",
        "PUBREC 2",
        "PUBREL 3",
        "PUBCOMP 4",
        "PINGREQ",
        "DISCONNECT",
    ];
    let heard = listen(Mqtt::new(), [&bytes[..]]);
    assert_eq!((heard.lines, heard.end), (lines.map(said).to_vec(), Ok(0)));
}
