"""paho-mqtt, a device: CLIENT PORT CLIENT_ID TOPIC. Prints what it sees, a line each."""

import queue
import sys

import paho.mqtt.client as mqtt

PATIENCE = 30


def main(port, client_id, topic):
    seen = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id)
    client.on_connect = lambda *args: seen.put(f"connected {args[3].value}")
    client.on_subscribe = lambda *args: seen.put(f"granted {args[3][0].value}")
    client.on_message = lambda _client, _data, m: seen.put(f"{m.topic} {m.qos} {m.payload.decode()}")
    client.on_disconnect = lambda *args: seen.put(f"disconnected {args[3].value}")

    def show():
        print(seen.get(timeout=PATIENCE))

    client.connect("127.0.0.1", port)
    client.loop_start()
    show()
    client.subscribe(topic, 2)
    show()
    for qos in range(3):
        client.publish(topic, f"sent at {qos}", qos).wait_for_publish(PATIENCE)
        show()
    client.disconnect()
    show()
    client.loop_stop()


main(int(sys.argv[1]), *sys.argv[2:])
