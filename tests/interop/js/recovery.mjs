// What a client is given again after a lost connection, and what it is told when that cannot be.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { CONFIG } from "./broker.mjs";
import { Client, pause } from "./sdk.mjs";

/** A broker, a client that is to lose its connection, and another one that publishes meanwhile. */
async function cast(scene, ...flags) {
  const broker = await scene.start(...CONFIG, ...flags);
  const reader = scene.keep(await Client.connected(scene.encoding, broker.url));
  const writer = scene.keep(await Client.connected(scene.encoding, broker.url));
  return { broker, reader, writer };
}

/** Cuts the client off, does `meanwhile` and lets it come back. */
async function away(reader, meanwhile) {
  const [back, count] = [reader.sdk._endpoint, reader.seen.filter((event) => event.name === "connected").length];
  reader.sdk._endpoint = "ws://127.0.0.1:1/";
  reader.cut();
  await reader.event("connecting", count + 1);
  await meanwhile();
  reader.sdk._endpoint = back;
  await reader.event("connected", count + 1);
}

/** Publishes the numbers `from` to `to`, one after another. */
async function publish(writer, channel, from, to) {
  for (let n = from; n <= to; n += 1) await writer.publish(channel, n);
}

function numbers(from, to) {
  return Array.from({ length: to - from + 1 }, (_, n) => from + n);
}

function outcome({ wasRecovering, recovered }) {
  return { wasRecovering, recovered };
}

const RECOVERED = { wasRecovering: true, recovered: true };
const LOST = { wasRecovering: true, recovered: false };

async function everything_missed_is_given_again_exactly_once(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:news", { recoverable: true });
  const first = channel.all("subscribed")[0];
  assert.deepEqual([first.recoverable, first.positioned], [true, true]);
  assert.deepEqual(outcome(first), { wasRecovering: false, recovered: false });
  await publish(writer, "all:news", 1, 5);
  await channel.event("publication", 5);
  for (const round of [1, 2, 3]) {
    await away(reader, () => publish(writer, "all:news", round * 10 - 4, round * 10 + 5));
    const subscribed = await channel.event("subscribed", 1 + round);
    assert.deepEqual(outcome(subscribed), RECOVERED);
    assert.equal(subscribed.hasRecoveredPublications, true);
  }
  await publish(writer, "all:news", 36, 40);
  await channel.event("publication", 40);
  assert.deepEqual(channel.values, numbers(1, 40));
  assert.deepEqual(channel.offsets, numbers(1, 40));
}

async function nothing_missed_is_recovered_too(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:calm", { recoverable: true });
  await away(reader, async () => {});
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), RECOVERED);
  await publish(writer, "all:calm", 1, 1);
  await channel.event("publication");
  await away(reader, async () => {});
  const subscribed = await channel.event("subscribed", 3);
  assert.deepEqual([outcome(subscribed), subscribed.hasRecoveredPublications], [RECOVERED, false]);
  assert.deepEqual(channel.values, [1]);
}

async function a_socket_cut_under_load_loses_nothing(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:load", { recoverable: true });
  for (let n = 1; n <= 600; n += 20) {
    await Promise.all(numbers(n, n + 19).map((value) => writer.publish("all:load", value)));
    if (n % 100 === 1) reader.cut();
    await pause(5);
  }
  await channel.event("publication", 600);
  assert.deepEqual(channel.offsets, numbers(1, 600));
  assert.ok(channel.all("subscribed").slice(1).every((event) => event.recovered), "every recovery");
  assert.ok(channel.all("subscribed").length > 3, "there were recoveries");
}

async function three_hundred_are_recovered_and_one_more_is_not(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:much", { recoverable: true });
  await away(reader, () => publish(writer, "all:much", 1, 300));
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), RECOVERED);
  await channel.event("publication", 300);
  await away(reader, () => publish(writer, "all:much", 301, 601));
  const lost = await channel.event("subscribed", 3);
  assert.deepEqual(outcome(lost), LOST);
  assert.equal(lost.streamPosition.offset, 601);
  await publish(writer, "all:much", 602, 602);
  await channel.event("publication", 301);
  assert.deepEqual(channel.values, [...numbers(1, 300), 602], "no part of what was missed");
}

async function what_the_history_no_longer_holds_is_not_recovered(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("delta:short");
  await away(reader, () => publish(writer, "delta:short", 1, 101));
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), LOST);
  assert.deepEqual(channel.values, []);
}

async function an_unknown_epoch_is_not_recovered(scene) {
  const { reader, writer } = await cast(scene);
  await publish(writer, "all:epoch", 1, 3);
  const channel = await reader.subscribe("all:epoch", { recoverable: true, since: { offset: 1, epoch: "wrong" } });
  const subscribed = channel.all("subscribed")[0];
  assert.deepEqual(outcome(subscribed), LOST);
  assert.equal(subscribed.streamPosition.offset, 3);
  assert.notEqual(subscribed.streamPosition.epoch, "wrong");
}

async function a_position_of_the_application_is_a_place_to_begin(scene) {
  const { reader, writer } = await cast(scene);
  await publish(writer, "all:since", 1, 5);
  const { epoch } = await writer.sdk.history("all:since", { limit: 0 });
  const channel = await reader.subscribe("all:since", { recoverable: true, since: { offset: 2, epoch } });
  assert.deepEqual(outcome(channel.all("subscribed")[0]), RECOVERED);
  await channel.event("publication", 3);
  assert.deepEqual(channel.values, [3, 4, 5]);
}

async function state_is_fetched_again_when_its_position_is_unrecoverable_112(scene) {
  const { reader, writer } = await cast(scene);
  await publish(writer, "all:state", 1, 5);
  const { epoch } = await writer.sdk.history("all:state", { limit: 0 });
  const positions = [{ offset: 5, epoch: "wrong" }, { offset: 3, epoch }];
  let asked = 0;
  const getState = async () => positions[asked++];
  const channel = await reader.subscribe("all:state", { recoverable: true, getState });
  assert.equal(asked, 2, "error 112 made the SDK ask again");
  assert.deepEqual(outcome(channel.all("subscribed")[0]), RECOVERED);
  await channel.event("publication", 2);
  assert.deepEqual(channel.values, [4, 5]);
}

async function a_positioned_subscription_names_its_position_and_recovers_nothing(scene) {
  const { broker, reader } = await cast(scene);
  await broker.publish("positioned:x", 1);
  const channel = await reader.subscribe("positioned:x", { recoverable: true });
  const { positioned, recoverable } = channel.all("subscribed")[0];
  assert.deepEqual([positioned, recoverable], [true, false]);
  await away(reader, () => broker.publish("positioned:x", 2));
  await channel.event("subscribed", 2);
  await broker.publish("positioned:x", 3);
  await channel.event("publication");
  assert.deepEqual(channel.values, [3]);
}

async function without_history_there_is_nothing_to_recover(scene) {
  const { reader } = await cast(scene);
  const channel = await reader.subscribe("plain:x", { recoverable: true, positioned: true });
  const { positioned, recoverable, streamPosition } = channel.all("subscribed")[0];
  assert.deepEqual([positioned, recoverable, streamPosition ?? null], [false, false, null]);
}

async function a_cache_gives_only_the_newest_again(scene) {
  const { broker, reader } = await cast(scene);
  const channel = await reader.subscribe("cache:rate");
  await broker.publish("cache:rate", 1);
  await channel.event("publication");
  await away(reader, async () => {
    for (const n of [2, 3, 4]) await broker.publish("cache:rate", n);
  });
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), RECOVERED);
  await channel.event("publication", 2);
  assert.deepEqual([channel.values, channel.offsets], [[1, 4], [1, 4]]);
  await away(reader, async () => {});
  const same = await channel.event("subscribed", 3);
  assert.deepEqual([outcome(same), same.hasRecoveredPublications], [RECOVERED, false]);
}

async function a_cache_can_greet_fresh_subscriptions(scene) {
  const { broker, reader } = await cast(scene);
  for (const n of [1, 2]) await broker.publish("auto:rate", n);
  const channel = await reader.subscribe("auto:rate");
  await channel.event("publication");
  assert.deepEqual([channel.values, channel.offsets], [[2], [2]]);
  await broker.publish("auto:rate", 3);
  await channel.event("publication", 2);
  assert.deepEqual(channel.values, [2, 3]);
}

async function an_unsubscribed_channel_recovers_when_it_is_subscribed_again(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:pause", { recoverable: true });
  await publish(writer, "all:pause", 1, 2);
  await channel.event("publication", 2);
  channel.sdk.unsubscribe();
  await publish(writer, "all:pause", 3, 4);
  channel.sdk.subscribe();
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), RECOVERED);
  await channel.event("publication", 4);
  assert.deepEqual(channel.values, [1, 2, 3, 4]);
}

/** A reader that stops reading falls behind what is kept for it: it is told, and asks again by itself. */
async function a_slow_reader_is_told_with_2500_and_subscribes_again(scene) {
  const { reader, writer } = await cast(scene);
  const channel = await reader.subscribe("all:flood", { recoverable: true });
  const [socket] = reader.sockets;
  socket.pause();
  const value = "x".repeat(30_000);
  for (let n = 0; n < 1_000; n += 20) {
    await Promise.all(Array.from({ length: 20 }, () => writer.publish("all:flood", value)));
  }
  socket.resume();
  const subscribed = await channel.event("subscribed", 2);
  const { code, reason } = channel.all("subscribing")[1];
  assert.deepEqual([code, reason], [2500, "insufficient state"]);
  assert.deepEqual(outcome(subscribed), LOST, "1 MiB of history does not hold it");
  assert.equal(reader.sockets.length, 1, "the connection stays");
  const heard = channel.offsets;
  assert.deepEqual(heard, numbers(1, heard.length), "without a gap up to there");
  await writer.publish("all:flood", "the end");
  await channel.event("publication", heard.length + 1);
  assert.equal(channel.values.at(-1), "the end");
}

async function positions_and_histories_outlive_a_restart_with_a_state_file(scene) {
  const folder = await mkdtemp(path.join(tmpdir(), "ringcast-"));
  const { broker, reader, writer } = await cast(scene, "--set", `state.file=${path.join(folder, "state")}`);
  const channel = await reader.subscribe("all:kept", { recoverable: true });
  await publish(writer, "all:kept", 1, 3);
  await channel.event("publication", 3);
  await away(reader, async () => {
    await publish(writer, "all:kept", 4, 6);
    await broker.restart();
  });
  assert.deepEqual(outcome(await channel.event("subscribed", 2)), RECOVERED);
  assert.equal(await broker.publish("all:kept", 7), 7);
  await channel.event("publication", 7);
  assert.deepEqual([channel.values, channel.offsets], [numbers(1, 7), numbers(1, 7)]);
  await rm(folder, { recursive: true });
}

export default {
  everything_missed_is_given_again_exactly_once,
  nothing_missed_is_recovered_too,
  a_socket_cut_under_load_loses_nothing,
  three_hundred_are_recovered_and_one_more_is_not,
  what_the_history_no_longer_holds_is_not_recovered,
  an_unknown_epoch_is_not_recovered,
  a_position_of_the_application_is_a_place_to_begin,
  state_is_fetched_again_when_its_position_is_unrecoverable_112,
  a_positioned_subscription_names_its_position_and_recovers_nothing,
  without_history_there_is_nothing_to_recover,
  a_cache_gives_only_the_newest_again,
  a_cache_can_greet_fresh_subscriptions,
  an_unsubscribed_channel_recovers_when_it_is_subscribed_again,
  a_slow_reader_is_told_with_2500_and_subscribes_again,
  positions_and_histories_outlive_a_restart_with_a_state_file,
};
