// A broker in a process of its own, on ports that the kernel chooses.

import { spawn, execFile } from "node:child_process";
import { promisify } from "node:util";
import path from "node:path";

const RELEASE = path.resolve(import.meta.dirname, "../../../target/release/ringcast");
export const BINARY = process.env.RINGCAST_BIN || RELEASE;
/** Flags for the configuration that most tests use. */
export const CONFIG = ["--config", path.resolve(import.meta.dirname, "../interop.toml"), "--shards", "2"];
const START_MS = 10_000;

/** Reads the three addresses out of what `serve` prints when it is ready. */
function addressesIn(text) {
  const found = ["clients +ws://", "upstream +", "admin +http://"]
    .map((label) => new RegExp(`^ +${label}([0-9.:]+)`, "m").exec(text)?.[1]);
  return found.every(Boolean) ? { clients: found[0], upstream: found[1], admin: found[2] } : null;
}

export class Broker {
  /** Starts a broker with these flags and waits until it serves. */
  static async start(...flags) {
    const broker = new Broker();
    broker.flags = flags;
    broker.addresses = { clients: "127.0.0.1:0", upstream: "127.0.0.1:0", admin: "127.0.0.1:0" };
    await broker.#spawn();
    return broker;
  }

  get url() {
    return `ws://${this.addresses.clients}/connection/websocket`;
  }

  /** Publishes a JSON document as a service does; returns its offset. */
  publish(channel, value) {
    return this.publishText(channel, JSON.stringify(value));
  }

  /** The same with the text of the document. */
  async publishText(channel, text) {
    const args = ["pub", "--upstream", this.addresses.upstream, channel, text];
    const { stdout } = await promisify(execFile)(BINARY, args);
    return Number(/offset (\d+)/.exec(stdout)[1]);
  }

  /** The metrics page. */
  async metrics() {
    const reply = await fetch(`http://${this.addresses.admin}/metrics`);
    return reply.text();
  }

  /** Drains: SIGTERM, then waits for the end of the process. Returns its exit code. */
  async stop() {
    this.process.kill("SIGTERM");
    return this.ended;
  }

  /** Starts it again at the same addresses. */
  async restart() {
    await this.stop();
    await this.#spawn();
  }

  async #spawn() {
    const { clients, upstream, admin } = this.addresses;
    const args = ["serve", "--listen", clients, "--upstream", upstream, "--admin", admin, ...this.flags];
    const child = spawn(BINARY, args, { stdio: ["ignore", "ignore", "pipe"] });
    this.process = child;
    this.ended = new Promise((resolve) => child.once("exit", (code) => resolve(code)));
    this.addresses = await new Promise((resolve, reject) => {
      let text = "";
      const timer = setTimeout(() => reject(new Error(`not serving in ${START_MS / 1000} s: ${text}`)), START_MS);
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`ended with code ${code}: ${text}`)));
      child.stderr.on("data", (chunk) => {
        text += chunk;
        const addresses = addressesIn(text);
        if (addresses) {
          clearTimeout(timer);
          resolve(addresses);
        }
      });
    });
  }
}
