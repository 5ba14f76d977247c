// Fossil deltas, applied by the SDK's own decoder.

import assert from "node:assert/strict";
import { CONFIG } from "./broker.mjs";
import { Client, pause } from "./sdk.mjs";

const ENGLISH = "The quick brown fox jumps over the lazy dog while the band plays on. ".repeat(8);
const MANY = "Съешь же ещё этих мягких французских булок 🦀 да выпей чаю. 速い茶色の狐。 ".repeat(8);

/** `text` with two separate edits, `n` in each. */
function edited(text, n) {
  const characters = [...text];
  const [third, half] = [Math.floor(characters.length / 3), Math.floor(characters.length / 2)];
  characters.splice(half, 1, `«${n}»`);
  characters.splice(third, 1, `ж${n}🦞`);
  return { n, text: characters.join("") };
}

async function cast(scene) {
  const broker = await scene.start(...CONFIG);
  const reader = scene.keep(await Client.connected(scene.encoding, broker.url));
  const writer = scene.keep(await Client.connected(scene.encoding, broker.url));
  return { broker, reader, writer };
}

async function follow(scene, text) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("delta:doc", { delta: "fossil" });
  const expected = Array.from({ length: 20 }, (_, n) => edited(text, n));
  for (const value of expected) await writer.publish("delta:doc", value);
  await channel.event("publication", expected.length);
  assert.deepEqual(channel.values, expected);
  const stats = channel.sdk.deltaStats();
  assert.equal(stats.numFullPayloads, 1, JSON.stringify(stats));
  assert.ok(stats.bytesReceived * 2 < stats.bytesDecoded, `smaller: ${JSON.stringify(stats)}`);
}

async function two_edits_travel_as_a_delta(scene) {
  await follow(scene, ENGLISH);
}

async function deltas_of_other_scripts_stay_whole(scene) {
  await follow(scene, MANY);
}

async function with_and_without_delta_hear_the_same(scene) {
  const { broker, reader, writer } = await cast(scene);
  const other = scene.keep(await Client.connected(scene.encoding === "json" ? "protobuf" : "json", broker.url));
  const channels = [
    await reader.subscribe("delta:same", { delta: "fossil" }),
    await writer.subscribe("delta:same"),
    await other.subscribe("delta:same", { delta: "fossil" }),
  ];
  const values = ["short", edited(MANY, 1), edited(MANY, 2), 7, { a: ["x"] }, edited(MANY, 3), edited(MANY, 4)];
  for (const value of values) await writer.publish("delta:same", value);
  for (const channel of channels) {
    await channel.event("publication", values.length);
    assert.deepEqual(channel.values, values);
  }
}

async function a_recovery_is_followed_by_deltas(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("delta:back", { delta: "fossil" });
  const values = Array.from({ length: 15 }, (_, n) => edited(MANY, n));
  for (const value of values.slice(0, 5)) await writer.publish("delta:back", value);
  await channel.event("publication", 5);
  const back = reader.sdk._endpoint;
  reader.sdk._endpoint = "ws://127.0.0.1:1/";
  reader.cut();
  await reader.event("connecting", 2);
  for (const value of values.slice(5, 10)) await writer.publish("delta:back", value);
  reader.sdk._endpoint = back;
  const { recovered } = await channel.event("subscribed", 2);
  assert.equal(recovered, true);
  for (const value of values.slice(10)) await writer.publish("delta:back", value);
  await channel.event("publication", values.length);
  assert.deepEqual(channel.values, values);
  assert.ok(channel.sdk.deltaStats().numDeltaPayloads >= 8, JSON.stringify(channel.sdk.deltaStats()));
}

async function a_recovery_of_nothing_is_followed_by_what_the_client_can_apply(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("delta:calm", { delta: "fossil" });
  await writer.publish("delta:calm", edited(MANY, 1));
  await channel.event("publication");
  reader.cut();
  await channel.event("subscribed", 2);
  await writer.publish("delta:calm", edited(MANY, 2));
  await writer.publish("delta:calm", edited(MANY, 3));
  await channel.event("publication", 3);
  assert.deepEqual(channel.values, [1, 2, 3].map((n) => edited(MANY, n)));
}

async function a_late_subscriber_begins_with_a_full_one(scene) {
  const { reader, writer } = await cast(scene);
  for (const n of [1, 2, 3]) await writer.publish("delta:late", edited(ENGLISH, n));
  const channel = await reader.subscribe("delta:late", { delta: "fossil" });
  for (const n of [4, 5]) await writer.publish("delta:late", edited(ENGLISH, n));
  await channel.event("publication", 2);
  assert.deepEqual(channel.values, [4, 5].map((n) => edited(ENGLISH, n)));
}

async function history_is_never_a_delta(scene) {
  const { writer, reader } = await cast(scene);
  const channel = await reader.subscribe("all:doc", { delta: "fossil" });
  for (const n of [1, 2]) await writer.publish("all:doc", edited(MANY, n));
  const { publications } = await reader.sdk.history("all:doc", { limit: 10 });
  const values = publications.map((publication) => scene.codec.from(publication.data));
  assert.deepEqual(values, [1, 2].map((n) => edited(MANY, n)));
  await channel.event("publication", 2);
  await pause(20);
  assert.deepEqual(channel.values, values, "without delta_publish nothing is a delta");
}

export default {
  two_edits_travel_as_a_delta,
  deltas_of_other_scripts_stay_whole,
  with_and_without_delta_hear_the_same,
  a_recovery_is_followed_by_deltas,
  a_recovery_of_nothing_is_followed_by_what_the_client_can_apply,
  a_late_subscriber_begins_with_a_full_one,
  history_is_never_a_delta,
};
