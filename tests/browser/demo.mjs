// The demo page in a real browser: two tabs of a running broker see each other and their comments, and
// one that was offline is given what it missed.
//
//   ringcast serve --demo &
//   cd tests/browser && npm ci && node demo.mjs http://127.0.0.1:8000/ [SCREENSHOT.png]
//
// CHROMIUM names the browser, /usr/bin/chromium if unset. Ends with one line and code 0 or 1. A
// message on the console of either page, such as a refused script, is a failure too.

import { chromium } from "playwright-core";

const WITHIN_MS = 5_000;
/** The whole run: a browser that hangs must not hold up what waits for the verdict. */
const RUN_MS = 60_000;

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** Runs `step`; a failure names `promise`. */
async function expect(promise, step) {
  try {
    return await step();
  } catch (error) {
    throw new Error(`${promise}: ${error.message.split("\n")[0]}`);
  }
}

/** Opens the page in its own tab and waits until the broker has let it in. */
async function openTab(context, url, complaints) {
  const tab = await context.newPage();
  tab.setDefaultTimeout(WITHIN_MS);
  tab.on("pageerror", (error) => complaints.push(error.message));
  tab.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  await tab.goto(url);
  await tab.waitForSelector('#state[data-state="connected"]');
  return tab;
}

async function publish(tab, text) {
  // A click into a tab behind another one waits for seconds.
  await tab.bringToFront();
  await tab.fill("#text", text);
  await tab.click("#publish");
}

function comment(tab, text) {
  return tab.locator("#comments .comment .text").filter({ hasText: text }).first();
}

function hasText(tab, selector, text) {
  return tab.locator(selector, { hasText: new RegExp(`^${text}$`) }).waitFor();
}

async function run(browser, url, screenshot) {
  const complaints = [];
  const context = await browser.newContext({ viewport: { width: 1120, height: 995 } });
  const [a, b] = await expect("two tabs connect", () =>
    Promise.all([openTab(context, url, complaints), openTab(context, url, complaints)]));

  // Markup in a comment must arrive as text.
  const text = `<b>from tab A</b> ${Date.now()}`;
  const from = performance.now();
  await expect("a comment can be published", () => publish(a, text));
  await expect("a comment from tab A appears in tab B", () => comment(b, text).waitFor());
  const tookMs = Math.round(performance.now() - from);
  await expect("tab A sees its own comment with its latency", () =>
    a.locator("#comments .comment", { hasText: text }).locator(".latency").waitFor());
  await expect("the field is empty after the reply", () =>
    a.waitForFunction(() => document.getElementById("text").value === ""));

  await expect("the connection count reaches two", () =>
    b.waitForFunction(() => Number(document.getElementById("connections").textContent) >= 2));

  await a.click("#burst");
  await expect("a burst is accepted whole", () =>
    a.locator("#outcome", { hasText: "50 of 50 accepted" }).waitFor());
  await expect("the last comment of a burst appears in tab B", () => comment(b, "Comment 50 of 50").waitFor());

  await expect("both tabs are counted as present", () =>
    Promise.all([a, b].map((tab) => hasText(tab, "#presence-count", "2"))));

  // Offline for a while: three comments are missed, and given again exactly once.
  await b.bringToFront();
  await b.click("#toggle");
  await expect("tab B goes offline", () => b.waitForSelector('#state[data-state="offline"]'));
  await expect("tab A is alone", () => hasText(a, "#presence-count", "1"));
  await expect("tab A is told of the leave", () => a.locator("#comments .event", { hasText: "left" }).first().waitFor());
  const missed = [1, 2, 3].map((n) => `Café number ${n}, while you were away`);
  for (const each of missed) {
    await publish(a, each);
    await comment(a, each).waitFor();
  }
  await b.bringToFront();
  await b.click("#toggle");
  await expect("tab B recovers the three", () => hasText(b, "#recovery", "3 comments recovered"));
  for (const each of missed) {
    await expect("a missed comment is there", () => comment(b, each).waitFor());
    const count = await b.locator("#comments .comment .text").filter({ hasText: each }).count();
    if (count !== 1) throw new Error(`a missed comment is shown once: ${count}`);
  }
  await expect("both tabs are present again", () =>
    Promise.all([a, b].map((tab) => hasText(tab, "#presence-count", "2"))));
  await publish(a, "Welcome back!");
  await expect("a comment after the recovery appears in tab B", () => comment(b, "Welcome back!").waitFor());

  await publish(b, "Thank you, I have read everything.");
  await expect("tab B sees its own comment with its latency", () => b.locator("#comments .latency").first().waitFor());
  await expect("the figures go on after the recovery", () => hasText(b, "#connections", "2"));
  if (screenshot) await b.screenshot({ path: screenshot });
  if (complaints.length > 0) throw new Error(`the console is quiet: ${complaints.join("; ")}`);
  return `comment from tab A in tab B after ${tookMs} ms, burst of 50 delivered, 3 recovered`;
}

async function main() {
  const [url, screenshot] = process.argv.slice(2);
  if (!url) throw new Error("usage: node demo.mjs URL [SCREENSHOT.png]");
  setTimeout(() => {
    console.error(`demo page: FAILED: not finished in ${RUN_MS / 1000} s`);
    process.exit(1);
  }, RUN_MS).unref();
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: FLAGS });
  try {
    return await run(browser, url, screenshot);
  } finally {
    await browser.close();
  }
}

main().then(
  (summary) => console.log(`demo page: ok: ${summary}`),
  (error) => {
    console.error(`demo page: FAILED: ${error.message}`);
    process.exitCode = 1;
  },
);
