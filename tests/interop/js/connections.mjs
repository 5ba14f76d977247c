// Connections: pings, first frames, closes with their codes, a broker that goes and comes back.

import assert from "node:assert/strict";
import WebSocket from "ws";
import { CONFIG } from "./broker.mjs";
import { Client, closes, codeOf, pause, until } from "./sdk.mjs";

/** A ping every second, 500 ms for the answer. */
const FAST_PINGS = ["ping_interval=1s", "pong_timeout=500ms", "hook_timeout=400ms"]
  .flatMap((setting) => ["--set", `client.${setting}`]);

async function connects_and_is_told_its_id(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  assert.match(client.last("connected").client, /./);
  assert.equal(client.sockets.length, 1);
  assert.equal(client.sockets[0].protocol, scene.encoding === "protobuf" ? "centrifuge-protobuf" : "");
}

async function answers_pings_and_stays(scene) {
  const broker = await scene.start(...CONFIG, ...FAST_PINGS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  await pause(3_300);
  assert.equal(client.seen.filter((event) => event.name === "connected").length, 1);
  assert.equal(client.last("disconnected"), undefined);
  assert.equal(client.sockets.length, 1);
}

/** A server that stops sending is noticed by the SDK from the ping interval in the connect reply. */
async function a_frozen_broker_is_noticed_by_its_missing_pings(scene) {
  const broker = await scene.start(...CONFIG, ...FAST_PINGS);
  const options = { maxServerPingDelay: 500 };
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, options));
  broker.process.kill("SIGSTOP");
  try {
    await until("the SDK misses a ping", () => client.last("connecting")?.code === 2);
  } finally {
    broker.process.kill("SIGCONT");
  }
  await client.event("connected", 2);
}

async function a_client_that_answers_no_ping_is_closed_with_3012_and_comes_back(scene) {
  const broker = await scene.start(...CONFIG, ...FAST_PINGS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  client.sockets[0].send = () => {};
  await until("the close", () => client.last("connecting")?.code === 3012);
  assert.equal(client.last("connecting").reason, "no pong");
  await client.event("connected", 2);
}

async function the_first_frame_carries_connect_and_all_subscribes(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(new Client(scene.encoding, broker.url));
  const names = Array.from({ length: 20 }, (_, n) => `all:${n}`);
  const subscriptions = names.map((name) => client.sdk.newSubscription(name));
  subscriptions.forEach((subscription) => subscription.subscribe());
  client.sdk.connect();
  await Promise.all(subscriptions.map((subscription) => subscription.ready(5_000)));
  assert.equal(client.seen.filter((event) => event.name === "error").length, 0);
}

async function nobody_connects_without_a_token_unless_allowed_3501(scene) {
  const broker = await scene.start("--shards", "2");
  const client = scene.keep(new Client(scene.encoding, broker.url));
  client.sdk.connect();
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3501, "bad request"]);
  await pause(300);
  assert.equal(client.sockets.length, 1, "a terminal close is final");
}

async function a_token_that_cannot_be_checked_is_closed_with_3500(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(new Client(scene.encoding, broker.url, { token: "not.a.token" }));
  client.sdk.connect();
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3500, "invalid token"]);
  await pause(300);
  assert.equal(client.sockets.length, 1, "a terminal close is final");
}

async function a_message_that_nobody_takes_is_closed_with_3508(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  await client.sdk.send(scene.codec.to({ typing: true }));
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3508, "not available"]);
}

async function a_message_that_is_too_long_is_terminal(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  const lost = codeOf(client.publish("all:x", "x".repeat(70_000)));
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3, "message size limit exceeded"]);
  await lost;
}

async function a_connection_that_says_nothing_is_closed_with_3502(scene) {
  const broker = await scene.start(...CONFIG);
  assert.deepEqual(await closes(broker.url, [], scene.encoding), [3502, "stale"]);
}

async function rubbish_is_closed_with_3501(scene) {
  const broker = await scene.start(...CONFIG);
  for (const rubbish of ["rubbish", "", "\n", '{"id":1,"subscribe":{"channel":"all:x"}}', "\xff\xff"]) {
    assert.deepEqual(await closes(broker.url, [rubbish], scene.encoding), [3501, "bad request"], rubbish);
  }
}

async function control_pings_are_answered(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  const [socket] = client.sockets;
  const pong = new Promise((resolve) => socket.once("pong", resolve));
  socket.ping("are you there");
  assert.equal((await pong).toString(), "are you there");
}

async function the_format_can_be_asked_for_in_the_query(scene) {
  const broker = await scene.start(...CONFIG);
  const socket = new WebSocket(`${broker.url}?format=${scene.encoding}`);
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  const connect = scene.encoding === "json" ? '{"id":1,"connect":{}}' : Buffer.from("0408012200", "hex");
  const reply = new Promise((resolve) => socket.once("message", (data, isBinary) => resolve([data, isBinary])));
  socket.send(connect);
  const [data, isBinary] = await reply;
  socket.terminate();
  assert.equal(isBinary, scene.encoding === "protobuf");
  if (isBinary) assert.equal(data.subarray(1, 4).toString("hex"), "08012a");
  else assert.equal(JSON.parse(data).id, 1);
}

async function a_drain_closes_with_3001_and_clients_find_the_next_broker(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  const channel = await client.subscribe("all:news");
  assert.equal(await broker.stop(), 0);
  await until("the close", () => client.seen.some((event) => event.name === "connecting" && event.code === 3001));
  const close = client.seen.find((event) => event.name === "connecting" && event.code === 3001);
  assert.equal(close.reason, "shutdown");
  await broker.restart();
  await channel.event("subscribed", 2);
  await broker.publish("all:news", "after the restart");
  await channel.event("publication");
  assert.deepEqual(channel.values, ["after the restart"]);
}

async function a_killed_broker_is_found_again(scene) {
  const broker = await scene.start(...CONFIG);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url));
  const channel = await client.subscribe("all:news", { recoverable: true });
  broker.process.kill("SIGKILL");
  await broker.restart();
  await channel.event("subscribed", 2);
  const { wasRecovering, recovered } = channel.all("subscribed")[1];
  assert.deepEqual([wasRecovering, recovered], [true, false], "an epoch that is gone");
}

export default {
  connects_and_is_told_its_id,
  answers_pings_and_stays,
  a_frozen_broker_is_noticed_by_its_missing_pings,
  a_client_that_answers_no_ping_is_closed_with_3012_and_comes_back,
  the_first_frame_carries_connect_and_all_subscribes,
  nobody_connects_without_a_token_unless_allowed_3501,
  a_token_that_cannot_be_checked_is_closed_with_3500,
  a_message_that_nobody_takes_is_closed_with_3508,
  a_message_that_is_too_long_is_terminal,
  a_connection_that_says_nothing_is_closed_with_3502,
  rubbish_is_closed_with_3501,
  control_pings_are_answered,
  the_format_can_be_asked_for_in_the_query,
  a_drain_closes_with_3001_and_clients_find_the_next_broker,
  a_killed_broker_is_found_again,
};
