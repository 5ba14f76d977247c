// Connection and subscription tokens: users, infos, expiry and refresh, private and personal channels.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { CONFIG } from "./broker.mjs";
import { Client, until } from "./sdk.mjs";

export const SECRET = "a secret of the tests that is long enough to be one";
const WITH_TOKENS = [...CONFIG, "--set", `token.hmac_secrets=${SECRET}`];
const QUICK = ["expired_close_delay", "expired_sub_close_delay"].flatMap((key) => ["--set", `client.${key}=0s`]);

export function token(claims, secret = SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

function inSeconds(seconds) {
  return Math.floor(Date.now() / 1000) + seconds;
}

const never = () => new Promise(() => {});

async function a_token_names_its_user_and_info(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const options = { token: token({ sub: "42", info: { name: "Ada" } }) };
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, options));
  const channel = await client.subscribe("all:room");
  await channel.publish("hello");
  const { info } = await channel.event("publication");
  assert.deepEqual([info.user, scene.codec.from(info.connInfo)], ["42", { name: "Ada" }]);
  const [present] = Object.values((await channel.sdk.presence()).clients);
  assert.deepEqual([present.user, scene.codec.from(present.connInfo)], ["42", { name: "Ada" }]);
}

async function a_forged_token_is_closed_with_3500(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(new Client(scene.encoding, broker.url, { token: token({ sub: "42" }, "another secret") }));
  client.sdk.connect();
  assert.equal((await client.event("disconnected")).code, 3500);
}

async function an_expired_token_is_error_109_and_the_sdk_fetches_another(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  let asked = 0;
  const getToken = async () => (asked += 1) && token({ sub: "42", exp: inSeconds(60) });
  const options = { token: token({ sub: "42", exp: inSeconds(-60) }), getToken };
  const client = scene.keep(new Client(scene.encoding, broker.url, options));
  client.sdk.connect();
  await client.event("connected");
  assert.equal(client.last("error").error.code, 109);
  assert.equal(asked, 1);
}

async function a_connection_is_refreshed_and_stays(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  let asked = 0;
  const getToken = async () => (asked += 1) && token({ sub: "42", exp: inSeconds(3) });
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { getToken }));
  await until("a refresh", () => asked >= 3, 10_000);
  assert.equal(client.sockets.length, 1);
}

async function a_connection_that_is_not_refreshed_is_closed_with_3005(scene) {
  const broker = await scene.start(...WITH_TOKENS, ...QUICK);
  const options = { token: token({ sub: "42", exp: inSeconds(2) }), getToken: never };
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, options));
  await until("the close", () => client.last("connecting")?.code === 3005);
  assert.equal(client.last("connecting").reason, "connection expired");
}

async function a_private_channel_opens_with_its_token(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  const getToken = async ({ channel }) => token({ sub: "42", channel, info: { seat: 7 } });
  const channel = await client.subscribe("$all:private", { getToken });
  await channel.publish(1);
  const { info } = await channel.event("publication");
  assert.deepEqual(scene.codec.from(info.chanInfo), { seat: 7 });
}

async function a_token_of_another_channel_is_closed_with_3500(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  client.sdk.newSubscription("$all:a", { token: token({ sub: "42", channel: "$all:b" }) }).subscribe();
  assert.equal((await client.event("disconnected")).code, 3500);
}

async function a_subscription_is_refreshed_and_stays(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  let asked = 0;
  const getToken = async ({ channel }) => (asked += 1) && token({ sub: "42", channel, exp: inSeconds(3) });
  const channel = await client.subscribe("$all:private", { getToken });
  await until("a refresh", () => asked >= 3, 10_000);
  assert.equal(channel.all("subscribed").length, 1);
}

async function a_subscription_that_is_not_refreshed_ends_with_2501(scene) {
  const broker = await scene.start(...WITH_TOKENS, ...QUICK);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  let asked = 0;
  const getToken = ({ channel }) => {
    asked += 1;
    return asked === 1 ? Promise.resolve(token({ sub: "42", channel, exp: inSeconds(2) })) : never();
  };
  const channel = await client.subscribe("$all:private", { getToken });
  const { code, reason } = await channel.event("subscribing", 2);
  assert.deepEqual([code, reason], [2501, "subscription expired"]);
  assert.equal(client.sockets.length, 1, "the connection stays");
}

async function an_expired_subscription_token_is_error_109_and_the_sdk_fetches_another(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  const expired = token({ sub: "42", channel: "$all:p", exp: inSeconds(-60) });
  const getToken = async ({ channel }) => token({ sub: "42", channel });
  const channel = await client.subscribe("$all:p", { token: expired, getToken });
  assert.equal(channel.all("error")[0].error.code, 109);
}

async function a_user_limited_channel_is_for_its_users(scene) {
  const broker = await scene.start(...WITH_TOKENS);
  const client = scene.keep(await Client.connected(scene.encoding, broker.url, { token: token({ sub: "42" }) }));
  await client.subscribe("all:dialog#41,42");
  const foreign = client.sdk.newSubscription("all:dialog#41,43");
  const end = new Promise((resolve) => foreign.once("unsubscribed", resolve));
  foreign.subscribe();
  assert.equal((await end).code, 103);
}

async function server_side_subscriptions_deliver_and_recover(scene) {
  const personal = ["client.subscribe_to_user_personal_channel=true", "channels.history_size=10",
    "channels.history_ttl=10m", "channels.force_recovery=true"].flatMap((setting) => ["--set", setting]);
  const broker = await scene.start(...WITH_TOKENS, ...personal);
  const options = { token: token({ sub: "42", channels: ["all:news"] }) };
  const client = scene.keep(new Client(scene.encoding, broker.url, options));
  const [subscribed, heard] = [[], []];
  client.sdk.on("subscribed", (context) => subscribed.push(context));
  client.sdk.on("publication", ({ channel, data }) => heard.push([channel, scene.codec.from(data)]));
  client.sdk.connect();
  await client.event("connected");
  await until("both channels", () => subscribed.length === 2);
  assert.deepEqual(subscribed.map((context) => context.channel).sort(), ["#42", "all:news"]);
  await broker.publish("#42", 1);
  await broker.publish("all:news", 2);
  await until("both", () => heard.length === 2);
  const back = client.sdk._endpoint;
  client.sdk._endpoint = "ws://127.0.0.1:1/";
  client.cut();
  await client.event("connecting", 2);
  await broker.publish("#42", 3);
  client.sdk._endpoint = back;
  await until("what was missed", () => heard.length === 3);
  assert.deepEqual(heard, [["#42", 1], ["all:news", 2], ["#42", 3]]);
}

async function one_connection_of_a_user_too_many_is_closed_with_3504(scene) {
  const broker = await scene.start(...WITH_TOKENS, "--set", "client.user_connection_limit=2");
  const options = { token: token({ sub: "42" }) };
  for (const _ of [1, 2]) scene.keep(await Client.connected(scene.encoding, broker.url, options));
  const third = scene.keep(new Client(scene.encoding, broker.url, options));
  third.sdk.connect();
  assert.equal((await third.event("disconnected")).code, 3504);
}

export default {
  a_token_names_its_user_and_info,
  a_forged_token_is_closed_with_3500,
  an_expired_token_is_error_109_and_the_sdk_fetches_another,
  a_connection_is_refreshed_and_stays,
  a_connection_that_is_not_refreshed_is_closed_with_3005,
  a_private_channel_opens_with_its_token,
  a_token_of_another_channel_is_closed_with_3500,
  a_subscription_is_refreshed_and_stays,
  a_subscription_that_is_not_refreshed_ends_with_2501,
  an_expired_subscription_token_is_error_109_and_the_sdk_fetches_another,
  a_user_limited_channel_is_for_its_users,
  server_side_subscriptions_deliver_and_recover,
  one_connection_of_a_user_too_many_is_closed_with_3504,
};
