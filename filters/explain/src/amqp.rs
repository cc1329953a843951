//! The bytes between the filter and a broker, of either side.

use leveret::amqp::{
    BrokerMethod, ContentHeader, DecodeError, Decoder, FRAME_OVERHEAD, Item, MethodId, PUBLISH_QOS, RETAINED,
};
use leveret::topic::TopicMapping;
use leveret::wire::{Reader, Truncated};
use leveret::{Config, Error};
use serde_json::{Value, json};

use crate::{MOST, error, incomplete, item, lossy, more, payload};

/// The frames in `bytes`, up to what is none.
pub(crate) fn frames(bytes: &[u8], config: &Config) -> Vec<Value> {
    let (mut frames, mut input) = (Vec::new(), bytes);
    while !input.is_empty() {
        let at = bytes.len() - input.len();
        if frames.len() >= MOST {
            frames.push(more(at, input));
            break;
        }
        // The decoder sees what is unfinished, too: it may be wrong already.
        let whole = length(input).ok().and_then(|length| input.split_at_checked(length));
        let (frame, rest) = whole.unwrap_or((input, &[]));
        match fields(frame, config.topic_mapping) {
            Ok(fields) if whole.is_some() => frames.push(item(at, fields)),
            Ok(_) => frames.push(incomplete(at, input)),
            Err(malformed) => {
                frames.push(error(at, Error::BrokerMalformed(malformed)));
                break;
            }
        }
        input = rest;
    }
    frames
}

/// Bytes of a frame or a protocol header, from its first ones: sections 2.3.5 and 4.2.2.
fn length(input: &[u8]) -> Result<usize, Truncated> {
    let mut reader = Reader::new(input);
    if reader.u8()? == b'A' {
        return Ok(8);
    }
    reader.u16()?; // channel
    Ok((reader.u32()? as usize).saturating_add(FRAME_OVERHEAD as usize))
}

/// Of an unfinished frame only an error says something.
fn fields(frame: &[u8], topics: TopicMapping) -> Result<Value, DecodeError> {
    let (mut decoder, mut input) = (Decoder::default(), frame);
    Ok(match decoder.next(&mut input) {
        Ok(Some(Item::ProtocolHeader)) => {
            // Protocol id and version, section 4.2.2: 0-0-9-1 is ours.
            let version = frame.iter().skip(4).map(u8::to_string).collect::<Vec<_>>().join("-");
            json!({ "frame": "protocol header", "version": version })
        }
        Ok(Some(Item::Method { channel, method })) => {
            json!({ "method": name(frame), "channel": channel, "arguments": arguments(&method, topics) })
        }
        Ok(Some(Item::Header { channel, header })) => content_header(channel, &header, topics),
        Ok(Some(Item::Body { channel, bytes })) => {
            decoder.next(&mut input)?; // the end octet
            json!({ "frame": "body", "channel": channel, "payload": payload(bytes) })
        }
        Ok(Some(Item::Heartbeat)) => json!({ "frame": "heartbeat" }),
        // Of a whole frame: a body of no bytes, of which there is no piece.
        Ok(None) => json!({ "frame": "body", "payload": payload(&[]) }),
        // One that no broker sends is the filter's.
        Err(DecodeError::UnknownMethod) if name(frame).is_some() => sent(frame, topics)?,
        Err(error) => return Err(error),
    })
}

/// The name of a method frame's method, if it is one that we speak.
fn name(frame: &[u8]) -> Option<&'static str> {
    let mut reader = Reader::new(frame.get(METHOD_AT..)?);
    MethodId(reader.u16().ok()?, reader.u16().ok()?).name()
}

/// A method of the filter's, which the core writes and never reads. connection.start-ok holds a password.
fn sent(frame: &[u8], topics: TopicMapping) -> Result<Value, Truncated> {
    let mut r = Reader::new(frame);
    let (_, channel, _) = (r.u8()?, r.u16()?, r.u32()?);
    let id = MethodId(r.u16()?, r.u16()?);
    let arguments = match id {
        MethodId::OPEN => json!({ "vhost": lossy(r.prefixed_u8()?) }),
        MethodId::QUEUE_DECLARE | MethodId::QUEUE_DELETE | MethodId::BASIC_CONSUME => {
            r.u16()?; // reserved
            json!({ "queue": lossy(r.prefixed_u8()?) })
        }
        MethodId::QUEUE_BIND | MethodId::QUEUE_UNBIND => {
            r.u16()?; // reserved
            let [queue, exchange, key] = [r.prefixed_u8()?, r.prefixed_u8()?, r.prefixed_u8()?].map(lossy);
            json!({ "queue": queue, "exchange": exchange, "binding_key": key })
        }
        MethodId::BASIC_PUBLISH => {
            r.u16()?; // reserved
            let (exchange, key) = (r.prefixed_u8()?, r.prefixed_u8()?);
            json!({
                "exchange": lossy(exchange),
                "routing_key": lossy(key),
                "topic": topic(exchange, key, topics),
            })
        }
        _ => json!({}),
    };
    Ok(json!({ "method": id.name(), "channel": channel, "arguments": arguments }))
}

/// Those that the filter goes by.
fn arguments(method: &BrokerMethod<'_>, topics: TopicMapping) -> Value {
    match method {
        BrokerMethod::Start { mechanisms, .. } => json!({ "mechanisms": lossy(mechanisms) }),
        BrokerMethod::Tune { channel_max, frame_max } => {
            json!({ "channel_max": channel_max, "frame_max": frame_max })
        }
        BrokerMethod::Close(reason) | BrokerMethod::ChannelClose(reason) => json!({
            "reply_code": reason.code,
            "reply_text": lossy(reason.text),
            "failed_method": reason.method.name(),
        }),
        BrokerMethod::ChannelFlow { active } => json!({ "active": active }),
        BrokerMethod::QueueDeclareOk { message_count, consumer_count } => {
            json!({ "message_count": message_count, "consumer_count": consumer_count })
        }
        BrokerMethod::BasicCancel { consumer_tag } => json!({ "consumer_tag": lossy(consumer_tag) }),
        BrokerMethod::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => {
            json!({
                "consumer_tag": lossy(consumer_tag),
                "delivery_tag": delivery_tag,
                "redelivered": redelivered,
                "exchange": lossy(exchange),
                "routing_key": lossy(routing_key),
                "topic": topic(exchange, routing_key, topics),
            })
        }
        BrokerMethod::BasicGetOk { delivery_tag } => json!({ "delivery_tag": delivery_tag }),
        BrokerMethod::BasicAck { delivery_tag, multiple } => {
            json!({ "delivery_tag": delivery_tag, "multiple": multiple })
        }
        _ => json!({}),
    }
}

fn content_header(channel: u16, header: &ContentHeader<'_>, topics: TopicMapping) -> Value {
    let retained = header.text(RETAINED.as_bytes()).filter(|key| !key.is_empty());
    json!({
        "frame": "content header",
        "channel": channel,
        "body_size": header.body_size,
        "persistent": header.persistent,
        PUBLISH_QOS: header.integer(PUBLISH_QOS.as_bytes()),
        RETAINED: retained.map(lossy),
        "topic": retained.and_then(|key| topic(RETAINED.as_bytes(), key, topics)),
    })
}

/// The topic that a routing key means. To the default exchange it is the name of a queue.
fn topic(exchange: &[u8], routing_key: &[u8], topics: TopicMapping) -> Option<String> {
    let mut topic = String::new();
    topics.topic_name(routing_key, &mut topic).ok().filter(|()| !exchange.is_empty()).map(|()| topic)
}

/// Where a method frame's class and method are: behind type, channel and size.
const METHOD_AT: usize = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use leveret::amqp::{
        Address, ClientMethod, PROTOCOL_HEADER, Properties, QueueArguments, QueueFlags, ShortStr, body,
        publish,
    };

    fn read(bytes: &[u8]) -> Vec<Value> {
        frames(bytes, &Config::from_json(b"").unwrap())
    }

    #[test]
    fn what_the_filter_sends_is_named_and_no_secret_told() {
        let mut bytes = PROTOCOL_HEADER.to_vec();
        let login = ClientMethod::StartOk {
            connection_name: b"c1",
            properties: &[],
            username: b"u",
            password: b"secret",
        };
        login.encode(&mut bytes, 0);
        let queue = ShortStr::new(b"q").unwrap();
        let (flags, arguments) = (QueueFlags::default(), QueueArguments::default());
        ClientMethod::QueueDeclare { queue, flags, arguments }.encode(&mut bytes, 1);
        let seen = read(&bytes);
        let text = Value::from(seen.clone()).to_string();
        assert!(!text.contains("secret"), "{text}");
        let [header, start_ok, declare] = &seen[..] else { panic!("{text}") };
        assert_eq!(*header, json!({ "at": 0, "frame": "protocol header", "version": "0-0-9-1" }));
        assert_eq!((&start_ok["at"], &start_ok["method"]), (&json!(8), &json!("connection.start-ok")));
        assert_eq!((&declare["method"], &declare["channel"]), (&json!("queue.declare"), &json!(1)));
        assert_eq!(declare["arguments"], json!({ "queue": "q" }));
    }

    #[test]
    fn what_the_filter_publishes_and_binds_is_told_with_keys_and_topics() {
        let short = |text: &'static str| ShortStr::new(text.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let (queue, exchange) = (short("q"), short("amq.topic"));
        ClientMethod::QueueBind { queue, exchange, routing_key: short("a.*") }.encode(&mut bytes, 1);
        let to_all = Address { exchange, routing_key: short("a.b"), mandatory: false };
        publish(&mut bytes, 1, to_all, Properties::default(), 0);
        let retained = Properties { retained: Some(b"c.d"), ..Properties::default() };
        publish(&mut bytes, 1, Address::queue(short("a.queue")), retained, 0);
        let seen = read(&bytes);
        let [bind, to_all, _, to_queue, header] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(bind["arguments"], json!({ "queue": "q", "exchange": "amq.topic", "binding_key": "a.*" }));
        assert_eq!(to_all["arguments"]["topic"], "a/b");
        assert_eq!(
            (&to_queue["method"], &to_queue["arguments"]["topic"]),
            (&json!("basic.publish"), &Value::Null)
        );
        assert_eq!((&header[RETAINED], &header["topic"]), (&json!("c.d"), &json!("c/d")));
    }

    #[test]
    fn what_a_broker_sends_is_told_with_its_arguments() {
        let deliver = b"\x01\0\x01\0\0\0\x1e\0\x3c\0\x3c\x020-\0\0\0\0\0\0\0\x05\x01\x09amq.topic\x03a.b\xce";
        let header = b"\x02\0\x01\0\0\0\x0f\0\x3c\0\0\0\0\0\0\0\0\0\x02\x10\0\x02\xce";
        let close = b"\x01\0\0\0\0\0\x11\0\x0a\0\x32\x01\x93\x06denied\0\x0a\0\x28\xce";
        let mut bytes = [&deliver[..], header].concat();
        body(&mut bytes, 1, 4096, b"hi");
        bytes.extend_from_slice(close);
        let seen = read(&bytes);
        let [deliver, header, body, close] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(
            deliver["arguments"],
            json!({ "consumer_tag": "0-", "delivery_tag": 5, "redelivered": true, "exchange": "amq.topic",
                "routing_key": "a.b", "topic": "a/b" })
        );
        assert_eq!((&header["body_size"], &header["persistent"]), (&json!(2), &json!(true)));
        assert_eq!(body["payload"], json!({ "length": 2, "text": "hi" }));
        assert_eq!(
            close["arguments"],
            json!({ "reply_code": 403, "reply_text": "denied", "failed_method": "connection.open" })
        );
    }

    #[test]
    fn what_is_no_frame_ends_the_list() {
        let heartbeat = b"\x08\0\0\0\0\0\0\xce";
        let after_one = |bytes: &[u8]| read(&[heartbeat, bytes].concat()).split_off(1);
        assert_eq!(after_one(&[]), [Value::Null; 0]);
        assert_eq!(after_one(b"\x03\0\x01\0\0\0\x05ab"), [json!({ "at": 8, "incomplete": 9 })]);
        assert_eq!(after_one(b"\x03\xff"), [json!({ "at": 8, "incomplete": 2 })]);
        let wrong = |at: usize, what: &str| {
            [json!({ "at": at, "error": format!("broker: malformed frame: {what}") })]
        };
        assert_eq!(after_one(b"HTTP/1.1"), wrong(8, "unknown frame type"));
        for frame in [&b"\x08\0\0\0\0\0\0\0"[..], b"\x03\0\x01\0\0\0\x01a\0", b"\x03\0\x01\0\0\0\0\0"] {
            assert_eq!(after_one(frame), wrong(8, "frame end octet is missing"), "{frame:?}");
        }
        let unknown = b"\x01\0\x01\0\0\0\x04\0\xff\0\x01\xce";
        assert_eq!(after_one(unknown), wrong(8, "unknown method"));
        let cut_off = b"\x01\0\x01\0\0\0\x07\0\x3c\0\x28\0\0\x05\xce";
        assert_eq!(after_one(cut_off), wrong(8, "arguments do not add up"));
    }

    #[test]
    fn a_body_frame_may_be_empty() {
        let seen = read(b"\x03\0\x01\0\0\0\0\xce\x08\0\0\0\0\0\0\xce");
        let [body, heartbeat] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!(body["payload"]["length"], 0);
        assert_eq!((&heartbeat["at"], &heartbeat["frame"]), (&json!(8), &json!("heartbeat")));
    }
}
