// MQTT.js, a device: CLIENT 4|5 PORT WHAT ID. Prints what it sees, a line each. The packages are in $NODE_PATH.
"use strict";

const [version, port, what, id] = process.argv.slice(2);
const mqtt = require(`mqtt${version}`);

const connect = (options = {}) =>
  mqtt.connect(`mqtt://127.0.0.1:${port}`, { clientId: id, connectTimeout: 30000, reconnectPeriod: 0, ...options });
const show = (line) => console.log(line);
const fail = (error) => {
  show(`error ${error.code ?? error.message}`);
  process.exitCode = 1;
};

const acts = {
  // The first example of its README: subscribe, and publish in the callback or without waiting for it.
  first() {
    const client = connect();
    client.on("error", fail);
    client.on("close", () => show("closed"));
    client.on("connect", () => {
      client.subscribe(`${id}/presence`);
      client.publish(`${id}/presence`, "Hello mqtt");
    });
    client.on("message", (topic, message) => {
      show(`${topic} ${message}`);
      client.end();
    });
  },

  // An error of the socket is told to whoever listens, even after end().
  end() {
    const client = connect({ will: { topic: `${id}/will`, payload: "gone", qos: 1 } });
    client.on("error", fail);
    client.on("connect", () => {
      client.stream.on("error", fail);
      client.subscribe(`${id}/topic`, { qos: 1 }, () => client.end(() => show("ended")));
    });
  },

  // Its own reconnecting, in a session that is kept: what came meanwhile is there, and nobody subscribes again.
  again() {
    const client = connect({ clean: false, reconnectPeriod: 200, resubscribe: false });
    let times = 0;
    client.on("error", fail);
    client.on("connect", (connack) => {
      times += 1;
      show(`connected ${times}, session present ${connack.sessionPresent}`);
      if (times > 1) return;
      client.subscribe(`${id}/topic`, { qos: 1 }, () => {
        client.stream.destroy();
        const other = connect({ clientId: `${id}-other` });
        other.publish(`${id}/topic`, "meanwhile", { qos: 1 }, () => other.end());
      });
    });
    client.on("message", (topic, message) => show(`${topic} ${message}`));
    // It says PUBACK after the callback: behind DISCONNECT, if that ended it.
    client.on("packetsend", (packet) => packet.cmd === "puback" && setImmediate(() => client.end()));
  },
};

acts[what]();
setTimeout(() => {
  show("nothing happens");
  process.exit(1);
}, 30000).unref();
