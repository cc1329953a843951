"""gmqtt, a device: CLIENT PORT CLIENT_ID TOPIC. Prints what it sees, a line each."""

import asyncio
import sys

import gmqtt
from gmqtt.mqtt.constants import MQTTv311

PATIENCE = 30


async def main(port, client_id, topic):
    seen = asyncio.Queue()

    def on_message(_client, topic, payload, qos, _properties):
        seen.put_nowait(f"{topic} {qos} {payload.decode()}")
        return 0

    client = gmqtt.Client(client_id)
    client.on_connect = lambda _client, _flags, code, _properties: seen.put_nowait(f"connected {code}")
    client.on_subscribe = lambda _client, _mid, qos, _properties: seen.put_nowait(f"granted {qos[0]}")
    client.on_message = on_message
    client.on_disconnect = lambda _client, _packet, error=None: seen.put_nowait(f"disconnected {error or 0}")

    async def show():
        print(await asyncio.wait_for(seen.get(), PATIENCE))

    await client.connect("127.0.0.1", port, version=MQTTv311)
    await show()
    client.subscribe(topic, qos=2)
    await show()
    for qos in range(3):
        client.publish(topic, f"sent at {qos}", qos=qos)
        await show()
    await client.disconnect()
    await show()


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
