// What the server does to a connection, ordered over its HTTP API.

import assert from "node:assert/strict";
import { CONFIG } from "./broker.mjs";
import { Client, until } from "./sdk.mjs";
import { SECRET, token } from "./tokens.mjs";

const KEY = "key-of-the-tests";

/** A broker with its API, and a client of user 42. */
export async function cast(scene) {
  const settings = [`token.hmac_secrets=${SECRET}`, `api.keys=${KEY}`].flatMap((setting) => ["--set", setting]);
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
  an_outdated_version_goes_nowhere,
  presence_can_be_left_out_of_one_subscription,
};
