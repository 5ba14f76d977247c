// What the server does to a connection, ordered over its HTTP API.

import assert from "node:assert/strict";
import { CONFIG } from "./broker.mjs";
import { Channel, Client, until } from "./sdk.mjs";
import { SECRET, token } from "./tokens.mjs";

const KEY = "key-of-the-tests";

/** A broker with its API, and a client of user 42. */
export async function cast(scene, ...more) {
  const all = [`token.hmac_secrets=${SECRET}`, `api.keys=${KEY}`, ...more];
  const settings = all.flatMap((setting) => ["--set", setting]);
  const broker = await scene.start(...CONFIG, ...settings);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  const order = async (method, body) => {
    const answer = await fetch(`http://${broker.addresses.admin}/api/${method}`, {
      method: "POST",
      headers: { "X-API-Key": KEY },
      body: JSON.stringify(body),
    });
    const { result, error } = await answer.json();
    assert.equal(error, undefined, JSON.stringify(error));
    return result;
  };
  return { broker, client, order };
}

async function a_subscription_that_the_server_ends_is_2000_and_final(scene) {
  const { client, order } = await cast(scene);
  const channel = await client.subscribe("all:room");
  await order("unsubscribe", { user: "42", channel: "all:room" });
  const { code, reason } = await channel.event("unsubscribed");
  assert.deepEqual([code, reason], [2000, "server unsubscribe"]);
}

async function a_connection_that_the_server_ends_is_3503_and_final(scene) {
  const { client, order } = await cast(scene);
  await order("disconnect", { user: "42" });
  const { code, reason } = await client.event("disconnected");
  assert.deepEqual([code, reason], [3503, "force disconnect"]);
}

async function the_server_subscribes_a_connection_that_is_open(scene) {
  const { broker, client, order } = await cast(scene);
  const [subscribed, heard] = [[], []];
  client.sdk.on("subscribed", (context) => subscribed.push(context.channel));
  client.sdk.on("publication", ({ data }) => heard.push(scene.codec.from(data)));
  await order("subscribe", { user: "42", channel: "all:gift" });
  await until("the subscription", () => subscribed.length === 1);
  await broker.publish("all:gift", { n: 1 });
  await until("the publication", () => heard.length === 1);
  assert.deepEqual([subscribed, heard], [["all:gift"], [{ n: 1 }]]);
}

async function publications_of_the_api_have_tags_and_may_be_deltas(scene) {
  const { client, order } = await cast(scene);
  const channel = await client.subscribe("all:doc", { delta: "fossil" });
  const values = [1, 2, 3].map((n) => ({ n, text: "the same long text ".repeat(20) }));
  for (const data of values) await order("publish", { channel: "all:doc", data, tags: { lang: "en" }, delta: true });
  await channel.event("publication", 3);
  assert.deepEqual(channel.values, values);
  assert.deepEqual(channel.all("publication")[2].tags, { lang: "en" });
  assert.equal(channel.sdk.deltaStats().numDeltaPayloads, 2);
}

async function a_subscription_of_the_server_begins_where_the_client_is(scene) {
  const { client, order } = await cast(scene);
  const first = await order("publish", { channel: "all:gift", data: 1 });
  await order("publish", { channel: "all:gift", data: 2 });
  await order("publish", { channel: "all:gift", data: 3 });
  const heard = [];
  client.sdk.on("publication", ({ data, offset }) => heard.push([offset, scene.codec.from(data)]));
  const recover_since = { offset: first.offset, epoch: first.epoch };
  await order("subscribe", { user: "42", channel: "all:gift", recover_since });
  await until("what was missed", () => heard.length === 2);
  await order("publish", { channel: "all:gift", data: 4 });
  await until("the next one", () => heard.length === 3);
  assert.deepEqual(heard, [[2, 2], [3, 3], [4, 4]]);
}

async function the_server_sends_a_message_to_the_connections_of_a_user(scene) {
  const { client, order } = await cast(scene);
  const messages = [];
  client.sdk.on("message", ({ data }) => messages.push(scene.codec.from(data)));
  await order("message", { user: "42", data: { unread: 3 } });
  await until("the message", () => messages.length === 1);
  assert.deepEqual(messages, [{ unread: 3 }]);
}

async function a_refresh_by_the_server_is_told_and_kept_to(scene) {
  const { client, order } = await cast(scene, "client.expired_close_delay=0s");
  const pushed = [];
  client.sockets[0].on("message", (message) => pushed.push(Buffer.from(message).toString("latin1")));
  await order("refresh", { user: "42", expire_at: Math.floor(Date.now() / 1000) + 2 });
  // No SDK has an event for it: JSON names it, Protobuf has it in field 12 of the push.
  const sign = scene.encoding === "json" ? '"refresh":{"expires":true' : "\x62\x04\x08\x01\x10";
  await until("the push", () => pushed.some((message) => message.includes(sign)));
  const { code, reason } = await client.event("connecting", 2);
  assert.deepEqual([code, reason], [3005, "connection expired"]);
}

async function a_subscription_of_the_server_that_expires_closes_with_3006(scene) {
  const { client, order } = await cast(scene, "client.expired_sub_close_delay=0s");
  await order("subscribe", { user: "42", channel: "all:gift", expire_at: Math.floor(Date.now() / 1000) + 1 });
  const { code, reason } = await client.event("connecting", 2);
  assert.deepEqual([code, reason], [3006, "subscription expired"]);
}

async function a_slow_reader_of_a_subscription_of_the_server_is_closed_with_3010(scene) {
  const { broker, client, order } = await cast(scene);
  const gifts = [];
  client.sdk.on("subscribed", (context) => gifts.push(context.channel));
  await order("subscribe", { user: "42", channel: "all:flood" });
  await until("the subscription", () => gifts.length === 1);
  const writer = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "43" }) }));
  client.sockets[0].pause();
  const value = "x".repeat(30_000);
  for (let n = 0; n < 1_000; n += 20) {
    await Promise.all(Array.from({ length: 20 }, () => writer.publish("all:flood", value)));
  }
  client.sockets[0].resume();
  const { code, reason } = await client.event("connecting", 2);
  assert.deepEqual([code, reason], [3010, "insufficient state"]);
}

async function a_channel_too_many_for_a_shard_is_error_111_until_another_is_left(scene) {
  const { broker } = await cast(scene, "shards.channels_per_shard=2");
  // Each shard has two.
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  const channels = Array.from({ length: 12 }, (_, n) => new Channel(client, `all:${n}`));
  channels.forEach((channel) => channel.sdk.subscribe());
  const all = (name) => channels.filter((channel) => channel.all(name).length > 0);
  await until("all answered", () => channels.every((channel) => channel.all("subscribed").length + channel.all("error").length > 0));
  assert.equal(all("subscribed").length, 4);
  const [refused] = all("error");
  assert.equal(refused.all("error")[0].error.code, 111);
  for (const channel of channels) if (channel !== refused) channel.sdk.unsubscribe();
  await refused.event("subscribed");
}

async function an_outdated_version_goes_nowhere(scene) {
  const { client, order } = await cast(scene);
  const channel = await client.subscribe("all:row");
  const publish = (version, version_epoch) =>
    order("publish", { channel: "all:row", data: version, version, version_epoch });
  await publish(7, "a");
  await publish(6, "a");
  await publish(8, "a");
  await publish(1, "b");
  await channel.event("publication", 3);
  assert.deepEqual(channel.values, [7, 8, 1]);
}

async function presence_can_be_left_out_of_one_subscription(scene) {
  const { client, order } = await cast(scene);
  const channel = await client.subscribe("all:room");
  const override = { presence: { value: false }, join_leave: { value: false } };
  const gifts = [];
  client.sdk.on("subscribed", (context) => gifts.push(context.channel));
  await order("subscribe", { user: "42", channel: "all:quiet", override });
  await until("the subscription", () => gifts.length === 1);
  assert.equal((await channel.sdk.presenceStats()).numClients, 1);
  assert.equal((await client.sdk.presenceStats("all:quiet")).numClients, 0);
}

export default {
  a_subscription_that_the_server_ends_is_2000_and_final,
  a_connection_that_the_server_ends_is_3503_and_final,
  the_server_subscribes_a_connection_that_is_open,
  publications_of_the_api_have_tags_and_may_be_deltas,
  a_subscription_of_the_server_begins_where_the_client_is,
  the_server_sends_a_message_to_the_connections_of_a_user,
  a_refresh_by_the_server_is_told_and_kept_to,
  a_subscription_of_the_server_that_expires_closes_with_3006,
  a_slow_reader_of_a_subscription_of_the_server_is_closed_with_3010,
  a_channel_too_many_for_a_shard_is_error_111_until_another_is_left,
  an_outdated_version_goes_nowhere,
  presence_can_be_left_out_of_one_subscription,
};
