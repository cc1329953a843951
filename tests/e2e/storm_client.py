"""A fleet of paho-mqtt clients: CLIENT PORT PREFIX CLIENTS TOPICS. Each reads all retained topics under PREFIX whenever it is connected, and
connects again by itself. Prints a line when all of them have had all; for each line that it reads, it says `told`, and expects them
to have all once more over new connections."""

import sys
import threading
import time

import paho.mqtt.client as mqtt

PATIENCE = 90


class Reader:
    def __init__(self, port, client_id, prefix, topics):
        self.prefix, self.topics = prefix, topics
        self.heard, self.wrong = set(), []
        self.connection = self.complete = 0
        self.needed = 1
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_message = self.on_message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_async("127.0.0.1", port)
        self.client.loop_start()

    def on_connect(self, client, _data, _flags, code, _properties):
        # While an Envoy that has only just started looks for its broker, it says so.
        if code.value != 0:
            return
        self.heard.clear()
        self.connection += 1
        client.subscribe(f"{self.prefix}/#", 1)

    def on_disconnect(self, *_arguments):
        if self.complete < self.connection:
            self.wrong.append(f"cut off when it had {len(self.heard)} of {self.topics}")

    def on_message(self, _client, _data, message):
        if not message.retain:
            self.wrong.append(f"not retained: {message.topic}")
        if message.topic in self.heard:
            self.wrong.append(f"twice: {message.topic}")
        self.heard.add(message.topic)
        if len(self.heard) == self.topics:
            self.complete = self.connection


def main(port, prefix, clients, topics):
    readers = [Reader(port, f"{prefix}-{n}", prefix, topics) for n in range(clients)]
    while True:
        deadline = time.monotonic() + PATIENCE
        while any(it.complete < it.needed for it in readers) and time.monotonic() < deadline:
            time.sleep(0.05)
        complete = sum(it.complete >= it.needed for it in readers)
        wrong = [line for it in readers for line in it.wrong]
        print(f"{complete} of {clients} have had all of {topics}", *sorted(set(wrong)), sep="; ", flush=True)
        if not sys.stdin.readline():
            break
        for it in readers:
            it.needed = it.connection + 1
        print("told", flush=True)
    for it in readers:
        it.client.disconnect()
        it.client.loop_stop()


main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
