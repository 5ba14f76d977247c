// Subscriptions that want the publications only whose tags match a filter.

import assert from "node:assert/strict";
import { cast } from "./orders.mjs";
import { codeOf } from "./sdk.mjs";

const ENGLISH = { key: "lang", cmp: "eq", val: "en" };

async function a_filter_by_tags_wants_some_publications(scene) {
  const { client, order } = await cast(scene);
  const english = await client.subscribe("tagged:news", { tagsFilter: ENGLISH });
  const publish = (data, tags) => order("publish", { channel: "tagged:news", data, tags });
  await publish(1, { lang: "en" });
  await publish(2, { lang: "de" });
  await publish(3, {});
  await publish(4, { lang: "en", price: "9.5" });
  await english.event("publication", 2);
  assert.deepEqual(english.values, [1, 4]);
  assert.deepEqual(english.offsets, [1, 4]);
}

async function a_recovery_is_filtered_too(scene) {
  const { client, order } = await cast(scene);
  const dear = { op: "and", nodes: [ENGLISH, { key: "price", cmp: "gte", val: "10" }] };
  const channel = await client.subscribe("tagged:news", { tagsFilter: dear });
  const publish = (data, price) => order("publish", { channel: "tagged:news", data, tags: { lang: "en", price } });
  await publish(1, "10.00");
  await channel.event("publication");
  channel.sdk.unsubscribe();
  await publish(2, "9.99");
  await publish(3, "11");
  channel.sdk.subscribe();
  const again = await channel.event("subscribed", 2);
  await publish(4, "1");
  await publish(5, "100");
  await channel.event("publication", 3);
  assert.equal(again.recovered, true);
  assert.deepEqual(channel.values, [1, 3, 5]);
}

async function a_filter_that_is_none_is_error_107(scene) {
  const { client } = await cast(scene);
  for (const tagsFilter of [{ key: "lang", cmp: "like", val: "e%" }, { op: "not" }]) {
    const subscription = client.sdk.newSubscription(`tagged:${JSON.stringify(tagsFilter).length}`, { tagsFilter });
    const end = new Promise((resolve) => subscription.once("unsubscribed", resolve));
    subscription.subscribe();
    assert.equal((await end).code, 107);
  }
  assert.equal(await codeOf(client.sdk.presence("tagged:news")), 108, "the connection goes on");
}

export default {
  a_filter_by_tags_wants_some_publications,
  a_recovery_is_filtered_too,
  a_filter_that_is_none_is_error_107,
};
