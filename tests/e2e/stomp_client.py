"""stomp.py, an application at the broker: CLIENT PORT BINDING_KEY REPLY_KEY.

Says "ready", waits for a message, prints it as JSON, and sends its payload in upper case.
"""

import json
import queue
import sys

import stomp

PATIENCE = 30


class Listener(stomp.ConnectionListener):
    def __init__(self):
        self.messages = queue.Queue()
        self.receipts = queue.Queue()

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])


def main(port, binding_key, reply_key):
    listener = Listener()
    connection = stomp.Connection11([("127.0.0.1", port)])
    connection.set_listener("", listener)
    connection.connect("guest", "guest", wait=True)
    connection.subscribe(f"/topic/{binding_key}", id="1", headers={"receipt": "subscribed"})
    assert listener.receipts.get(timeout=PATIENCE) == "subscribed"
    print("ready", flush=True)
    frame = listener.messages.get(timeout=PATIENCE)
    print(json.dumps({"destination": frame.headers["destination"], "payload": frame.body}), flush=True)
    connection.send(f"/topic/{reply_key}", frame.body.upper(), headers={"persistent": "true"}, receipt="sent")
    assert listener.receipts.get(timeout=PATIENCE) == "sent"
    connection.disconnect()


main(int(sys.argv[1]), *sys.argv[2:])
