// A service decides on what clients do and is told of it; tests/interop/service.py is the service.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import path from "node:path";
import { CONFIG } from "./broker.mjs";
import { Client, codeOf, until } from "./sdk.mjs";

const SERVICE = path.resolve(import.meta.dirname, "../service.py");
const HOOKS = ["connect_hook", "rpc_hook", "message_hook", "disconnect_events"].map((key) => `client.${key}=true`);
const OF_CHANNELS = ["subscribe_hook", "publish_hook", "unsubscribe_events"].map((key) => `namespaces.all.${key}=true`);

/** The service in a process of its own, with everything that it is told. */
class Service {
  static async start(broker, rules, methods = []) {
    const service = new Service();
    service.events = [];
    const args = [SERVICE, broker.addresses.upstream, JSON.stringify(rules), JSON.stringify(methods)];
    service.process = spawn("python3", args, { stdio: ["ignore", "pipe", "inherit"] });
    let isReady = false;
    createInterface({ input: service.process.stdout }).on("line", (line) => {
      if (line === "ready") isReady = true;
      else service.events.push(JSON.parse(line));
    });
    await until("the service", () => isReady);
    return service;
  }

  /** Waits for an event of this kind; its data is JSON. */
  async event(kind) {
    const event = () => this.events.find((event) => event.kind === kind);
    await until(`a ${kind} event`, () => event() !== undefined);
    const text = Buffer.from(event().b64data, "base64").toString();
    return { ...event(), data: text === "" ? undefined : JSON.parse(text) };
  }

  close() {
    this.process.kill();
  }
}

const ADMITTED = { kind: "connect", result: { user: "42", info: { name: "Ada" }, data: { hello: 1 } } };

async function cast(scene, rules, { methods = [], settings = [] } = {}) {
  const flags = [...HOOKS, ...OF_CHANNELS, ...settings].flatMap((setting) => ["--set", setting]);
  const broker = await scene.start(...CONFIG, ...flags);
  const service = scene.keep(await Service.start(broker, [...rules, ADMITTED], methods));
  const data = scene.codec.to({ from: "a client" });
  const client = scene.keep(new Client(scene.encoding, broker.url, { data }));
  client.sdk.connect();
  return { broker, service, client };
}

/** The error that a subscription ends with. */
async function refusal(client, name) {
  const subscription = client.sdk.newSubscription(name);
  const end = new Promise((resolve) => subscription.once("unsubscribed", resolve));
  subscription.subscribe();
  return (await end).code;
}

async function a_service_says_who_connects(scene) {
  const { service, client } = await cast(scene, []);
  const connected = await client.event("connected");
  assert.deepEqual(scene.codec.from(connected.data), { hello: 1 });
  assert.deepEqual((await service.event("connect")).data, { from: "a client" });
  const channel = await client.subscribe("all:room");
  const [present] = Object.values((await channel.sdk.presence()).clients);
  assert.deepEqual([present.user, scene.codec.from(present.connInfo)], ["42", { name: "Ada" }]);
}

async function a_service_closes_a_connection_with_a_code_of_its_own(scene) {
  const { client } = await cast(scene, [{ kind: "connect", disconnect: [4501, "not you"] }]);
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [4501, "not you"]);
}

async function a_service_decides_on_subscriptions_and_their_data(scene) {
  const result = { data: { seat: 7 }, info: { role: "host" } };
  const refused = { kind: "subscribe", subject: "all:secret", error: [403, "members only"] };
  const { service, client } = await cast(scene, [refused, { kind: "subscribe", result }]);
  const channel = await client.subscribe("all:room", { data: scene.codec.to({ ticket: 9 }) });
  const subscribed = await channel.event("subscribed");
  assert.deepEqual(scene.codec.from(subscribed.data), { seat: 7 });
  const asked = await service.event("subscribe");
  assert.deepEqual([asked.subject, asked.user, asked.data], ["all:room", "42", { ticket: 9 }]);
  const [present] = Object.values((await channel.sdk.presence()).clients);
  assert.deepEqual(scene.codec.from(present.chanInfo), { role: "host" });
  assert.equal(await refusal(client, "all:secret"), 403);
}

async function a_service_changes_and_refuses_publications(scene) {
  const changed = { kind: "publish", subject: "all:changed", result: { data: { said: "beep" }, tags: { was: "rude" } } };
  const refused = { kind: "publish", subject: "all:refused", error: [406, "mind your words"] };
  const { client } = await cast(scene, [changed, refused]);
  const channel = await client.subscribe("all:changed");
  await channel.publish({ said: "something rude" });
  const { data, tags } = await channel.event("publication");
  assert.deepEqual([scene.codec.from(data), tags], [{ said: "beep" }, { was: "rude" }]);
  assert.equal(await codeOf(client.publish("all:refused", 1)), 406);
}

async function calls_are_answered_by_a_service(scene) {
  const { service, client } = await cast(scene, [{ kind: "rpc", subject: "sum", result: { data: { sum: 3 } } }]);
  await client.event("connected");
  const { data } = await client.sdk.rpc("sum", scene.codec.to([1, 2]));
  assert.deepEqual(scene.codec.from(data), { sum: 3 });
  assert.deepEqual((await service.event("rpc")).data, [1, 2]);
}

async function a_method_that_no_service_has_is_error_104(scene) {
  const { client } = await cast(scene, [], { methods: ["sum"] });
  await client.event("connected");
  assert.equal(await codeOf(client.sdk.rpc("product", scene.codec.to([1, 2]))), 104);
}

async function a_service_that_does_not_answer_is_error_100(scene) {
  const rules = [{ kind: "rpc", silent: true }, { kind: "publish", silent: true }];
  const { client } = await cast(scene, rules, { settings: ["client.hook_timeout=200ms"] });
  await client.event("connected");
  assert.equal(await codeOf(client.sdk.rpc("sum", scene.codec.to(1))), 100);
  assert.equal(await codeOf(client.publish("all:room", 1)), 100);
}

async function a_subscription_that_is_over_before_it_begins_is_error_110(scene) {
  const { client } = await cast(scene, [{ kind: "subscribe", result: { expire_at: 1 } }]);
  assert.equal(await refusal(client, "all:room"), 110);
}

async function a_service_is_told_of_messages_and_of_ends(scene) {
  const { service, client } = await cast(scene, []);
  const channel = await client.subscribe("all:room");
  await client.sdk.send(scene.codec.to({ typing: true }));
  assert.deepEqual((await service.event("message")).data, { typing: true });
  channel.sdk.unsubscribe();
  assert.equal((await service.event("unsubscribe")).subject, "all:room");
  client.sdk.disconnect();
  assert.equal((await service.event("disconnect")).user, "42");
}

async function a_service_that_gives_too_many_channels_closes_with_3505(scene) {
  const result = { user: "42", channels: ["all:1", "all:2", "all:3"] };
  const settings = ["client.channel_limit=2"];
  const { client } = await cast(scene, [{ kind: "connect", result }], { settings });
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3505, "channel limit"]);
}

async function more_commands_than_may_wait_are_closed_with_3013(scene) {
  const settings = ["client.hook_timeout=5s"];
  const { client } = await cast(scene, [{ kind: "rpc", silent: true }], { settings });
  await client.event("connected");
  const call = () => client.sdk.rpc("slow", scene.codec.to("x".repeat(30_000))).catch(() => {});
  for (let n = 0; n < 6; n += 1) call();
  const { code, reason } = await client.event("connecting", 2);
  assert.deepEqual([code, reason], [3013, "too many requests"]);
}

export default {
  a_service_says_who_connects,
  a_service_closes_a_connection_with_a_code_of_its_own,
  a_service_decides_on_subscriptions_and_their_data,
  a_service_changes_and_refuses_publications,
  calls_are_answered_by_a_service,
  a_method_that_no_service_has_is_error_104,
  a_service_that_does_not_answer_is_error_100,
  a_subscription_that_is_over_before_it_begins_is_error_110,
  a_service_is_told_of_messages_and_of_ends,
  a_service_that_gives_too_many_channels_closes_with_3505,
  more_commands_than_may_wait_are_closed_with_3013,
};
