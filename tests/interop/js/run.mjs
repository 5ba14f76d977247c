// The real JavaScript SDK against the broker, over JSON and over Protobuf.
//
//   cargo build --release && cd tests/interop/js && npm ci && node run.mjs [PART OF A NAME]
//
// RINGCAST_BIN names the broker, target/release/ringcast if unset. Prints a line for each test that
// fails and `N passed, N failed` at the end; the exit code is 0 or 1.

import { existsSync } from "node:fs";
import { BINARY, Broker } from "./broker.mjs";
import { ENCODINGS } from "./sdk.mjs";
import commands from "./commands.mjs";
import connections from "./connections.mjs";
import delta from "./delta.mjs";
import filters from "./filters.mjs";
import hooks from "./hooks.mjs";
import orders from "./orders.mjs";
import recovery from "./recovery.mjs";
import tokens from "./tokens.mjs";

const TEST_MS = 20_000;

/** Fails when the test hangs. */
function bounded(work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished in ${TEST_MS / 1000} s`)), TEST_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/**
 * What a test is given: `start(...flags)` for a broker, `client` for a connected client, both ended
 * with the test.
 */
class Scene {
  constructor(encoding) {
    this.encoding = encoding;
    this.codec = ENCODINGS[encoding];
    this.toEnd = [];
  }

  async start(...flags) {
    const broker = await Broker.start(...flags);
    this.toEnd.push(() => broker.stop());
    return broker;
  }

  /** Ends `client` with the test. */
  keep(client) {
    this.toEnd.push(() => client.close());
    return client;
  }

  async end() {
    for (const end of this.toEnd.reverse()) await end();
  }
}

if (!existsSync(BINARY)) {
  console.log(`there is no ${BINARY}: cargo build --release, or name a broker with RINGCAST_BIN`);
  process.exit(1);
}
const tests = { ...connections, ...commands, ...recovery, ...delta, ...tokens, ...orders, ...filters, ...hooks };
const part = process.argv[2] ?? "";
let passed = 0;
let failed = 0;
for (const [name, test] of Object.entries(tests)) {
  for (const encoding of Object.keys(ENCODINGS)) {
    const title = `${name} (${encoding})`;
    if (!title.includes(part)) continue;
    const scene = new Scene(encoding);
    try {
      await bounded(test(scene));
      passed += 1;
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${title}: ${error.stack ?? error}`);
    } finally {
      await scene.end();
    }
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
