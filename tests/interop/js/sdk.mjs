// The SDK in both encodings behind one face, and what tests wait with.

import { Centrifuge as OverJson } from "centrifuge";
import { Centrifuge as OverProtobuf } from "centrifuge/build/protobuf";
import WebSocket from "ws";

export const WITHIN_MS = 5_000;

/** How an encoding carries payloads: JSON as values, Protobuf as bytes. */
export const ENCODINGS = {
  json: { Centrifuge: OverJson, to: (value) => value, from: (data) => data },
  protobuf: {
    Centrifuge: OverProtobuf,
    to: (value) => new TextEncoder().encode(JSON.stringify(value)),
    from: (data) => JSON.parse(new TextDecoder().decode(data)),
  },
};

/** One client of the SDK. `socket` is its current WebSocket, so that a test can cut it. */
export class Client {
  constructor(encoding, url, options = {}) {
    const self = this;
    this.codec = ENCODINGS[encoding];
    this.sockets = [];
    this.seen = [];
    class Socket extends WebSocket {
      constructor(...args) {
        super(...args);
        self.sockets.push(this);
      }
    }
    this.sdk = new this.codec.Centrifuge(url, {
      websocket: Socket,
      minReconnectDelay: 20,
      maxReconnectDelay: 200,
      ...options,
    });
    for (const name of ["connecting", "connected", "disconnected", "error"]) {
      this.sdk.on(name, (context) => this.seen.push({ name, ...context }));
    }
  }

  static async connected(encoding, url, options) {
    const client = new Client(encoding, url, options);
    client.sdk.connect();
    await client.sdk.ready(WITHIN_MS);
    return client;
  }

  /** Subscribes; the `Channel` records what it hears. */
  async subscribe(name, options) {
    const channel = new Channel(this, name, options);
    channel.sdk.subscribe();
    await channel.sdk.ready(WITHIN_MS);
    return channel;
  }

  publish(channel, value) {
    return this.sdk.publish(channel, this.codec.to(value));
  }

  /** Ends the TCP connection without a word; the SDK reconnects by itself. */
  cut() {
    this.sockets.at(-1).terminate();
  }

  /** The last event of this name, or undefined. */
  last(name) {
    return this.seen.findLast((event) => event.name === name);
  }

  /** Waits until events of this name have been seen `count` times; returns the last of them. */
  async event(name, count = 1) {
    const events = () => this.seen.filter((event) => event.name === name);
    await until(`${count} ${name}`, () => events().length >= count);
    return events()[count - 1];
  }

  close() {
    this.sdk.disconnect();
    this.sockets.forEach((socket) => socket.terminate());
  }
}

/** A subscription and everything it has heard, in order. */
export class Channel {
  constructor(client, name, options) {
    this.client = client;
    this.events = [];
    this.sdk = client.sdk.newSubscription(name, { minResubscribeDelay: 20, maxResubscribeDelay: 200, ...options });
    for (const name of ["subscribing", "subscribed", "unsubscribed", "publication", "join", "leave", "error"]) {
      this.sdk.on(name, (context) => this.events.push({ name, ...context }));
    }
  }

  all(name) {
    return this.events.filter((event) => event.name === name);
  }

  /** Payloads of all publications. */
  get values() {
    return this.all("publication").map((event) => this.client.codec.from(event.data));
  }

  get offsets() {
    return this.all("publication").map((event) => event.offset);
  }

  /** Waits until events of this name have been heard `count` times; returns the last of them. */
  async event(name, count = 1) {
    await until(`${count} ${name} in ${this.sdk.channel}`, () => this.all(name).length >= count);
    return this.all(name)[count - 1];
  }

  publish(value) {
    return this.sdk.publish(this.client.codec.to(value));
  }
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Waits until `holds` is true; a failure names `promise`. */
export async function until(promise, holds, withinMs = WITHIN_MS) {
  const end = Date.now() + withinMs;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not in ${withinMs / 1000} s: ${promise}`);
    await pause(5);
  }
}

/** The code that a promise of the SDK fails with. */
export async function codeOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error.code;
  }
  throw new Error("it should have failed");
}

/** A plain WebSocket, for what the SDK never sends. Says the messages and waits for the close. */
export async function closes(url, messages, encoding = "json") {
  const socket = new WebSocket(url, encoding === "protobuf" ? ["centrifuge-protobuf"] : []);
  socket.on("open", () => messages.forEach((message) => socket.send(message)));
  return new Promise((resolve, reject) => {
    socket.on("error", reject);
    socket.on("close", (code, reason) => resolve([code, reason.toString()]));
  });
}
