// Commands, their results and errors, and the pushes of a subscription.

import assert from "node:assert/strict";
import { CONFIG } from "./broker.mjs";
import { Client, codeOf, pause, until } from "./sdk.mjs";

async function two(scene) {
  const broker = await scene.start(...CONFIG);
  const a = scene.keep(await Client.connected(scene.encoding, broker.url));
  const b = scene.keep(await Client.connected(scene.encoding, broker.url));
  return { broker, a, b };
}

async function one(scene) {
  const broker = await scene.start(...CONFIG);
  return { broker, a: scene.keep(await Client.connected(scene.encoding, broker.url)) };
}

async function a_publication_reaches_its_publisher_and_others_with_info(scene) {
  const { a, b } = await two(scene);
  const [own, other] = [await a.subscribe("all:chat"), await b.subscribe("all:chat")];
  await own.publish({ text: "grüße 🦀", lines: "a\nb" });
  for (const channel of [own, other]) {
    const { info, offset } = await channel.event("publication");
    assert.deepEqual(channel.values, [{ text: "grüße 🦀", lines: "a\nb" }]);
    assert.equal(info.client, a.last("connected").client);
    assert.equal(info.user, "");
    assert.equal(offset, 1);
  }
}

async function every_json_value_is_a_payload(scene) {
  const { a } = await one(scene);
  const channel = await a.subscribe("all:values");
  const values = [0, -1.5, "", "x", true, false, [], {}, [1, [2]], { deep: { er: null } }];
  for (const value of values) await channel.publish(value);
  await channel.event("publication", values.length);
  assert.deepEqual(channel.values, values);
}

async function a_service_s_publication_has_no_info(scene) {
  const { broker, a } = await one(scene);
  const channel = await a.subscribe("all:news");
  assert.equal(await broker.publish("all:news", { n: 1 }), 1);
  const { info, offset } = await channel.event("publication");
  assert.deepEqual([info ?? null, offset, channel.values], [null, 1, [{ n: 1 }]]);
}

async function a_payload_over_several_lines_does_not_break_the_frame(scene) {
  const { broker, a } = await one(scene);
  const channel = await a.subscribe("all:lines");
  await broker.publishText("all:lines", '{\n  "a": [\r\n 1 ]\n}');
  await channel.event("publication");
  assert.deepEqual(channel.values, [{ a: [1] }]);
  assert.equal(a.sockets.length, 1);
}

async function subscribing_ten_times_leaves_one_presence(scene) {
  const { a, b } = await two(scene);
  const channel = await a.subscribe("all:loop");
  for (let n = 0; n < 10; n += 1) {
    channel.sdk.unsubscribe();
    channel.sdk.subscribe();
  }
  await channel.sdk.ready(5_000);
  const present = async (client) => Object.keys((await client.sdk.presence("all:loop")).clients);
  assert.deepEqual(await present(a), [a.last("connected").client], "its own later commands see it");
  assert.deepEqual(await present(b), [a.last("connected").client]);
  channel.sdk.unsubscribe();
  await until("nobody is left", async () => (await b.sdk.presenceStats("all:loop")).numClients === 0);
  assert.equal(a.sockets.length, 1);
}

async function presence_lists_clients_and_stats_count_them(scene) {
  const { a, b } = await two(scene);
  const empty = await a.sdk.presenceStats("all:room");
  assert.deepEqual([empty.numClients, empty.numUsers], [0, 0]);
  assert.deepEqual((await a.sdk.presence("all:room")).clients, {});
  const [own, other] = [await a.subscribe("all:room"), await b.subscribe("all:room")];
  const ids = [a, b].map((client) => client.last("connected").client).sort();
  // A client sees itself from its subscribe reply on, others a moment later.
  assert.ok((await other.sdk.presence()).clients[b.last("connected").client]);
  const { clients } = await own.sdk.presence();
  assert.deepEqual(Object.keys(clients).sort(), ids);
  assert.deepEqual(Object.values(clients).map((info) => info.client).sort(), ids);
  const stats = await other.sdk.presenceStats();
  assert.deepEqual([stats.numClients, stats.numUsers], [2, 1]);
  b.cut();
  b.close();
  await until("the other is gone", async () => (await own.sdk.presenceStats()).numClients === 1);
}

async function joins_and_leaves_are_told_to_those_that_ask(scene) {
  const { a, b } = await two(scene);
  const asking = await a.subscribe("all:door", { joinLeave: true });
  const own = await asking.event("join");
  assert.equal(own.info.client, a.last("connected").client, "its own join comes first");
  const silent = await b.subscribe("all:door");
  const joined = await asking.event("join", 2);
  assert.equal(joined.info.client, b.last("connected").client);
  silent.sdk.unsubscribe();
  const left = await asking.event("leave");
  assert.equal(left.info.client, b.last("connected").client);
  await silent.client.subscribe("all:other");
  assert.equal(silent.all("join").length + silent.all("leave").length, 0, "who did not ask hears nothing");
}

async function joins_and_leaves_can_be_forced_by_the_namespace(scene) {
  const { a, b } = await two(scene);
  const channel = await a.subscribe("lively:door");
  await channel.event("join");
  await b.subscribe("lively:door");
  await channel.event("join", 2);
  b.cut();
  b.close();
  const left = await channel.event("leave");
  assert.equal(left.info.client, b.last("connected").client);
}

async function history_pages_forward_and_backward(scene) {
  const { a } = await one(scene);
  const channel = await a.subscribe("all:past");
  const none = await channel.sdk.history({ limit: 10 });
  assert.deepEqual([none.publications, none.offset], [[], 0]);
  for (let n = 1; n <= 10; n += 1) await channel.publish(n);
  const offsets = async (options) => (await channel.sdk.history(options)).publications.map((each) => each.offset);
  const top = await channel.sdk.history({ limit: 0 });
  assert.deepEqual([top.publications.length, top.offset], [0, 10]);
  const { epoch } = top;
  assert.match(epoch, /./);
  assert.deepEqual(await offsets({ limit: -1 }), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  assert.deepEqual(await offsets({ limit: 3 }), [1, 2, 3]);
  assert.deepEqual(await offsets({ limit: 3, reverse: true }), [10, 9, 8]);
  assert.deepEqual(await offsets({ limit: 3, since: { offset: 4, epoch } }), [5, 6, 7]);
  assert.deepEqual(await offsets({ limit: 3, since: { offset: 4, epoch }, reverse: true }), [3, 2, 1]);
  assert.deepEqual(await offsets({ limit: -1, since: { offset: 10, epoch } }), []);
  const [first] = (await channel.sdk.history({ limit: 1 })).publications;
  assert.equal(scene.codec.from(first.data), 1);
  assert.equal(first.info.client, a.last("connected").client);
}

async function a_page_of_history_holds_at_most_300(scene) {
  const { broker, a } = await one(scene);
  await publishMany(a, "all:long", 350);
  const { publications, offset } = await a.sdk.history("all:long", { limit: -1 });
  assert.deepEqual([publications.length, offset], [300, 350]);
  assert.ok(broker);
}

/** Publishes 1, 2, … and waits for all replies. */
async function publishMany(client, channel, count) {
  for (let n = 1; n <= count; ) {
    const batch = [];
    for (; n <= count && batch.length < 50; n += 1) batch.push(client.publish(channel, n));
    await Promise.all(batch);
  }
}

async function errors_of_commands_have_their_codes(scene) {
  const { a } = await one(scene);
  const data = scene.codec.to({ n: 1 });
  const epoch = (await a.sdk.history("all:codes", { limit: 0 })).epoch;
  const table = [
    [102, a.sdk.publish("nowhere:x", data)],
    [103, a.sdk.publish("plain:x", data)],
    [103, a.sdk.presence("closed:x")],
    [103, a.sdk.presenceStats("closed:x")],
    [103, a.sdk.history("closed:x", { limit: 1 })],
    [107, a.sdk.publish(`all:${"x".repeat(256)}`, data)],
    [107, a.sdk.history("all:codes", { limit: 1, since: { offset: 0, epoch }, reverse: true })],
    [108, a.sdk.presence("plain:x")],
    [108, a.sdk.presenceStats("plain:x")],
    [108, a.sdk.history("plain:x", { limit: 1 })],
    [108, a.sdk.rpc("sum", data)],
    [112, a.sdk.history("all:codes", { limit: 1, since: { offset: 0, epoch: "wrong" } })],
  ];
  for (const [index, [code, promise]] of table.entries()) assert.equal(await codeOf(promise), code, `row ${index}`);
  assert.equal(a.sockets.length, 1, "the session goes on");
}

async function refused_subscriptions_have_their_codes_and_are_final(scene) {
  const { a } = await one(scene);
  const table = [
    [102, "nowhere:x"],
    [103, "denied"],
    [103, "$all:private"],
    [103, "all:dialog#41,42"],
    [107, `all:${"x".repeat(256)}`],
  ];
  for (const [code, name] of table) {
    const subscription = a.sdk.newSubscription(name);
    const end = new Promise((resolve) => subscription.once("unsubscribed", resolve));
    subscription.subscribe();
    assert.equal((await end).code, code, name);
  }
  const withToken = a.sdk.newSubscription("all:token", { token: "not.a.token" });
  const end = new Promise((resolve) => withToken.once("unsubscribed", resolve));
  withToken.subscribe();
  assert.equal((await end).code, 103);
}

/** What is not offered is refused, and not left out in silence. */
async function other_kinds_of_subscriptions_and_filters_are_error_108(scene) {
  const { a } = await one(scene);
  const filter = { key: "lang", cmp: "eq", val: "en" };
  for (const subscription of [a.sdk.newSubscription("all:filter", { tagsFilter: filter }), a.sdk.newMapSubscription("all:map")]) {
    const end = new Promise((resolve) => subscription.once("unsubscribed", resolve));
    subscription.subscribe();
    assert.equal((await end).code, 108);
  }
}

async function insecure_grants_everything_that_is_on(scene) {
  const broker = await scene.start(...CONFIG, "--set", "client.insecure=true", "--set", "client.allow_anonymous=false");
  const a = scene.keep(await Client.connected(scene.encoding, broker.url));
  const channel = await a.subscribe("$closed:private");
  await channel.publish(1);
  await channel.event("publication");
  assert.equal((await channel.sdk.presenceStats()).numClients, 1);
  assert.equal((await channel.sdk.history({ limit: 1 })).publications.length, 1);
  await a.subscribe("plain:x");
  assert.equal(await codeOf(a.sdk.presence("plain:x")), 108, "what is off stays off");
}

async function one_channel_too_many_is_error_106(scene) {
  const broker = await scene.start(...CONFIG, "--set", "client.channel_limit=3");
  const a = scene.keep(await Client.connected(scene.encoding, broker.url));
  for (const n of [1, 2, 3]) await a.subscribe(`all:${n}`);
  const fourth = a.sdk.newSubscription("all:4");
  const end = new Promise((resolve) => fourth.once("unsubscribed", resolve));
  fourth.subscribe();
  assert.equal((await end).code, 106);
}

async function a_binary_payload_is_base64_text_for_json(scene) {
  const { broker, a } = await one(scene);
  const publisher = scene.keep(await Client.connected("protobuf", broker.url));
  const channel = await a.subscribe("all:bytes");
  const bytes = Uint8Array.from([0, 255, 10, 128, 34]);
  await publisher.sdk.publish("all:bytes", bytes);
  await publisher.sdk.publish("all:bytes", new TextEncoder().encode('{"n":1}'));
  await channel.event("publication", 2);
  const [first, second] = channel.all("publication").map((event) => event.data);
  if (scene.encoding === "json") assert.equal(first, Buffer.from(bytes).toString("base64"));
  else assert.deepEqual(Uint8Array.from(first), bytes);
  assert.deepEqual(scene.codec.from(second), { n: 1 });
  assert.equal(a.sockets.length, 1);
}

async function what_is_no_json_is_refused_where_only_json_is_allowed(scene) {
  const { broker, a } = await one(scene);
  const publisher = scene.keep(await Client.connected("protobuf", broker.url));
  assert.equal(await codeOf(publisher.sdk.publish("strict:x", Uint8Array.from([255]))), 107);
  await a.publish("strict:x", { n: 1 });
}

async function many_publishers_are_heard_by_all_in_one_order(scene) {
  const { broker, a, b } = await two(scene);
  const mixed = scene.keep(await Client.connected(scene.encoding === "json" ? "protobuf" : "json", broker.url));
  const channels = [await a.subscribe("all:order"), await b.subscribe("all:order"), await mixed.subscribe("all:order")];
  await Promise.all([a, b, mixed].map((client) => publishMany(client, "all:order", 100)));
  for (const channel of channels) {
    await channel.event("publication", 300);
    assert.deepEqual(channel.offsets, Array.from({ length: 300 }, (_, n) => n + 1));
    assert.deepEqual(channel.values, channels[0].values);
  }
}

async function after_unsubscribe_nothing_is_heard(scene) {
  const { a, b } = await two(scene);
  const channel = await a.subscribe("all:quiet");
  channel.sdk.unsubscribe();
  const own = await b.subscribe("all:quiet");
  await own.publish(1);
  await own.event("publication");
  await pause(50);
  assert.deepEqual(channel.values, []);
}

export default {
  a_publication_reaches_its_publisher_and_others_with_info,
  every_json_value_is_a_payload,
  a_service_s_publication_has_no_info,
  a_payload_over_several_lines_does_not_break_the_frame,
  subscribing_ten_times_leaves_one_presence,
  presence_lists_clients_and_stats_count_them,
  joins_and_leaves_are_told_to_those_that_ask,
  joins_and_leaves_can_be_forced_by_the_namespace,
  history_pages_forward_and_backward,
  a_page_of_history_holds_at_most_300,
  errors_of_commands_have_their_codes,
  refused_subscriptions_have_their_codes_and_are_final,
  other_kinds_of_subscriptions_and_filters_are_error_108,
  insecure_grants_everything_that_is_on,
  one_channel_too_many_is_error_106,
  a_binary_payload_is_base64_text_for_json,
  what_is_no_json_is_refused_where_only_json_is_allowed,
  many_publishers_are_heard_by_all_in_one_order,
  after_unsubscribe_nothing_is_heard,
};
