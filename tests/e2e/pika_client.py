"""pika, an application at the broker: CLIENT PORT BINDING_KEY REPLY_KEY.

Says "ready", waits for a message, prints it as JSON, and publishes its payload in upper case.
"""

import json
import sys

import pika

PATIENCE = 30


def main(port, binding_key, reply_key):
    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))
    channel = connection.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, "amq.topic", binding_key)
    print("ready", flush=True)
    method, properties, body = next(channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE))
    assert method, "no message"
    seen = {
        "routing_key": method.routing_key,
        "exchange": method.exchange,
        "delivery_mode": properties.delivery_mode,
        "headers": properties.headers,
        "payload": body.decode(),
    }
    print(json.dumps(seen), flush=True)
    properties = pika.BasicProperties(delivery_mode=2, headers={"from": "pika"})
    channel.basic_publish("amq.topic", reply_key, body.upper(), properties)
    connection.close()


main(int(sys.argv[1]), *sys.argv[2:])
