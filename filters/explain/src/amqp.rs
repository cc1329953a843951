//! The bytes between the filter and a broker, of either side.

use leveret::Config;
use leveret::amqp::{
    BrokerMethod, ContentHeader, DecodeError, Decoder, FRAME_OVERHEAD, Item, MethodId, PUBLISH_QOS,
};
use leveret::topic::TopicMapping;
use leveret::wire::{Reader, Truncated};
use serde_json::{Value, json};

use crate::{item, last, lossy, payload};

/// The frames in `bytes`, up to what is none.
pub(crate) fn frames(bytes: &[u8], config: &Config) -> Vec<Value> {
    let (mut frames, mut input) = (Vec::new(), bytes);
    while !input.is_empty() {
        let at = bytes.len() - input.len();
        // The decoder sees what is unfinished, too: it may be wrong already.
        let whole = length(input).ok().and_then(|length| input.split_at_checked(length));
        let (frame, rest) = whole.unwrap_or((input, &[]));
        match fields(frame, config.topic_mapping) {
            Ok(Some(fields)) if whole.is_some() => frames.push(item(at, fields)),
            ended => {
                frames.push(last(at, input, ended.err().map(|error| error.to_string())));
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

fn fields(mut frame: &[u8], topics: TopicMapping) -> Result<Option<Value>, DecodeError> {
    let method = method(frame);
    Ok(Some(match Decoder::default().next(&mut frame) {
        Ok(Some(Item::ProtocolHeader)) => json!({ "frame": "protocol header" }),
        Ok(Some(Item::Method { channel, method: found })) => {
            json!({ "method": method.map(|(_, name)| name), "channel": channel, "arguments": arguments(&found, topics) })
        }
        Ok(Some(Item::Header { channel, header })) => content_header(channel, &header),
        Ok(Some(Item::Body { channel, bytes })) => {
            json!({ "frame": "body", "channel": channel, "payload": payload(bytes) })
        }
        Ok(Some(Item::Heartbeat)) => json!({ "frame": "heartbeat" }),
        Ok(None) => return Ok(None),
        // One that no broker sends is the filter's.
        Err(error) => match method.filter(|_| error == DecodeError::UnknownMethod) {
            Some((channel, name)) => json!({ "method": name, "channel": channel }),
            None => return Err(error),
        },
    }))
}

/// The channel and name of a method frame's method, if it is one that we speak.
fn method(frame: &[u8]) -> Option<(u16, &'static str)> {
    let mut reader = Reader::new(frame);
    let (_, channel, _) = (reader.u8().ok()?, reader.u16().ok()?, reader.u32().ok()?);
    let id = MethodId(reader.u16().ok()?, reader.u16().ok()?);
    Some((channel, id.name()?))
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
            let mut topic = String::new();
            let is_topic = topics.topic_name(routing_key, &mut topic).is_ok();
            json!({
                "consumer_tag": lossy(consumer_tag),
                "delivery_tag": delivery_tag,
                "redelivered": redelivered,
                "exchange": lossy(exchange),
                "routing_key": lossy(routing_key),
                "topic": is_topic.then_some(topic),
            })
        }
        BrokerMethod::BasicGetOk { delivery_tag } => json!({ "delivery_tag": delivery_tag }),
        BrokerMethod::BasicAck { delivery_tag, multiple } => {
            json!({ "delivery_tag": delivery_tag, "multiple": multiple })
        }
        _ => json!({}),
    }
}

fn content_header(channel: u16, header: &ContentHeader<'_>) -> Value {
    json!({
        "frame": "content header",
        "channel": channel,
        "body_size": header.body_size,
        "persistent": header.persistent,
        PUBLISH_QOS: header.integer(PUBLISH_QOS.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use leveret::amqp::{ClientMethod, PROTOCOL_HEADER, QueueArguments, QueueFlags, ShortStr, body};

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
        assert_eq!(*header, json!({ "at": 0, "frame": "protocol header" }));
        assert_eq!(*start_ok, json!({ "at": 8, "method": "connection.start-ok", "channel": 0 }));
        assert_eq!((&declare["method"], &declare["channel"]), (&json!("queue.declare"), &json!(1)));
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
        assert_eq!(after_one(b"HTTP/1.1"), [json!({ "at": 8, "error": "unknown frame type" })]);
        assert_eq!(
            after_one(b"\x08\0\0\0\0\0\0\0"),
            [json!({ "at": 8, "error": "frame end octet is missing" })]
        );
        let unknown = b"\x01\0\x01\0\0\0\x04\0\xff\0\x01\xce";
        assert_eq!(after_one(unknown), [json!({ "at": 8, "error": "unknown method" })]);
    }
}
