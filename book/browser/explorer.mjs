// Play with the built book's explorer in headless Chromium, with real mouse, touch and keyboard events, on pages opened
// from the disk. Fails on the first thing that is not as it should be, on an error in a script, and on anything asked of
// the network.
//
//   node explorer.mjs HTML_FOLDER COSTS_FILE [--screenshots FOLDER]

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const [html, costsFile] = process.argv.slice(2, 4).map((name) => path.resolve(name));
const place = process.argv.indexOf("--screenshots"), screenshots = place > 0 ? process.argv[place + 1] : undefined;
if (screenshots) mkdirSync(screenshots, { recursive: true });
const work = mkdtempSync(path.join(tmpdir(), "dpdiff-explorer-"));
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  userDataDir: path.join(work, "profile"),
  protocolTimeout: 600000,
  args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync"],
});
const wrong = [];

async function open(file, { width = 1280, theme = "light", touch = false, hash = "" } = {}) {
  const page = await browser.newPage();
  page.setDefaultTimeout(300000);
  page.on("pageerror", (error) => wrong.push(`${file}: ${error.message}`));
  page.on("request", (request) => /^https?:/.test(request.url()) && wrong.push(`${file} asks for ${request.url()}`));
  await page.setViewport({ width, height: 900, hasTouch: touch, isMobile: touch });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  await page.goto(pathToFileURL(path.join(html, file)).href + hash, { waitUntil: "domcontentloaded", timeout: 300000 });
  await page.evaluate((value) => { document.documentElement.dataset.theme = value; }, theme);
  await page.waitForSelector(".explorer .blocks rect");
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(wide <= 1, `${file} is ${wide} px wider than a window of ${width} px`);
  return page;
}

const text = (page, selector) => page.$eval(selector, (element) => element.textContent);
const score = async (page) => Number(await text(page, ".explorer-score .yours dd"));
const best = async (page) => Number(await text(page, ".explorer-score .dp dd"));
const press = (page, name) => page.locator(`.explorer-buttons ::-p-text(${name})`).click();
const rows = (page, panel) => page.$$eval(`#explorer-${panel} .mark, #explorer-${panel} .stroke, #explorer-${panel} tbody th, #explorer-${panel} span`,
  (found) => [...new Set(found.map((e) => e.getAttribute("class")?.split(" ")[1] ?? e.firstChild.textContent))]);

async function middle(page, selector, index = 0) {
  const handle = (await page.$$(selector))[index];
  await handle.scrollIntoView();
  const box = await handle.boundingBox();
  return [box.x + box.width / 2, box.y + box.height / 2];
}

async function shot(page, name) {
  if (screenshots) await page.screenshot({ path: path.join(screenshots, `${name}.png`), fullPage: true });
}

async function until(page, what, holds) {
  for (let i = 0; i < 600; i++) {
    if (await holds()) return;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.fail(`waited in vain: ${what}`);
}

const plays = {
  async "the welcome page's game is played with a mouse"() {
    const page = await open("book/welcome.html"), before = await score(page);
    assert.equal((await page.$$(".knob")).length, 7);
    const [x, y] = await middle(page, ".knob", 6); // the last but the data
    await page.mouse.move(x, y);
    await page.mouse.down();
    await page.mouse.move(x + 60, y + 5, { steps: 6 });
    await page.mouse.up();
    const [moved] = await middle(page, ".knob", 6);
    assert.ok(Math.abs(moved - x - 60) < 3, `the handle moved by ${moved - x} px instead of 60`);
    const after = await score(page);
    assert.ok(after < before - 0.05, `${before} → ${after}`);
    await page.mouse.move(x - 100, y, { steps: 3 }); // let go: nothing follows
    assert.equal(await score(page), after);
    await press(page, "Show the optimum");
    assert.match(await text(page, ".explorer-said"), /50, 194, 401, 722, 1141, 1645, 2279/);
    assert.ok((await page.$eval("path.stroke.dp", (p) => p.getAttribute("d"))).length > 50);
    await shot(page, "welcome-light-1280");
    await page.close();
  },

  async "by touch, on a dark phone"() {
    const page = await open("book/welcome.html", { width: 390, theme: "dark", touch: true }), before = await score(page);
    const [x, y] = await middle(page, ".knob", 6);
    await page.touchscreen.touchStart(x, y);
    for (let i = 1; i <= 6; i++) await page.touchscreen.touchMove(x + 5 * i, y);
    await page.touchscreen.touchEnd();
    assert.ok((await score(page)) < before - 0.05, `${before} → ${await score(page)}`);
    await shot(page, "welcome-dark-390");
    await page.close();
  },

  async "with the keyboard alone, and with hints to the end"() {
    const page = await open("book/welcome.html"), before = await score(page);
    await page.$eval(".explorer [role='slider']:last-of-type", (handle) => handle.focus());
    const told = () => page.evaluate(() => document.activeElement.getAttribute("aria-valuetext"));
    const first = await told();
    await page.keyboard.down("Shift");
    await page.keyboard.press("ArrowRight");
    await page.keyboard.up("Shift");
    const t = (said) => Number(said.match(/timestep (\d+)/)[1]);
    assert.equal(t(await told()), t(first) - 1);
    for (let i = 0; i < 12; i++) await page.keyboard.press("ArrowRight");
    assert.ok((await score(page)) < before - 0.05);
    await page.keyboard.down("Shift");
    await page.keyboard.press("Tab"); // the handle to the left of it
    await page.keyboard.up("Shift");
    assert.notEqual(t(await told()), t(first));
    assert.match(await told(), /bits per dimension/);
    let last = await score(page);
    for (let i = 0; i < 40; i++, last = await score(page)) {
      await press(page, "Hint");
      assert.ok((await score(page)) <= last, "a hint made it worse");
    }
    assert.ok(last - (await best(page)) < 0.02 && last >= (await best(page)), `${last} after 40 hints`);
    await page.close();
  },

  async "the optimum is known when it is reached"() {
    const page = await open("book/explorer.html", { hash: "#steps=8&yours=49.194.401.722.1141.1645.2279" });
    await page.$eval(".explorer [role='slider']:last-of-type", (handle) => handle.focus());
    await page.keyboard.down("Shift");
    await page.keyboard.press("ArrowLeft"); // from 49 to 50
    await page.keyboard.up("Shift");
    await until(page, "praise", async () => /That is the optimum/.test(await text(page, ".explorer-said")));
    assert.equal(await score(page), await best(page));
    await page.close();
  },

  async "controls of the explorer: slider, number, ticks, sampler"() {
    const page = await open("book/explorer.html"), number = () => page.$eval("#explorer-number", (input) => input.value);
    assert.deepEqual(await rows(page, "steps"), ["yours", "dp", "even"]);
    await page.focus("#explorer-budget");
    await page.keyboard.press("ArrowRight");
    assert.equal(await number(), "9");
    await page.keyboard.press("End");
    assert.equal(await number(), "256");
    assert.match(await text(page, ".explorer-said"), /too many to place by hand/);
    await page.locator("#explorer-picks button[value='16']").click();
    assert.equal(await number(), "16");
    assert.ok(Math.abs((await page.$eval("#explorer-budget", (input) => Number(input.value))) - 4) < 0.01);
    await page.click("input[value='quadratic']");
    await page.click("input[value='even']");
    for (const [panel, extra] of [["steps", []], ["map", []], ["table", ["all 4,000"]], ["images", ["all 4,000"]]]) {
      const names = extra.length ? ["yours", "optimal", "quadratic", ...extra] : ["yours", "dp", "quadratic"];
      assert.deepEqual((await rows(page, panel)).sort(), names.sort(), panel);
    }
    assert.deepEqual((await rows(page, "curve")).sort(), ["dp", "quadratic"]);
    assert.doesNotMatch(await text(page, "#explorer-curve .explorer-readout"), /even/);
    const image = () => page.$eval("#explorer-images img", (img) => img.src), fresh = await image();
    await page.click("input[value='ddim']");
    assert.notEqual(await image(), fresh);
    await shot(page, "explorer-light-1280");
    await page.close();
  },

  async "the curve tells values and is clicked; the map tells costs"() {
    const page = await open("book/explorer.html"), [x, y] = await middle(page, "#explorer-curve svg");
    await page.mouse.move(x + 60, y);
    const told = await text(page, "#explorer-curve .explorer-readout"), K = told.match(/^(\d+) steps/)[1];
    assert.notEqual(K, "8");
    assert.match(told, /optimal \d\.\d{3}, even \d\.\d{3}/);
    await page.mouse.click(x + 60, y);
    assert.equal(await page.$eval("#explorer-number", (input) => input.value), K);
    const [mapX, mapY] = await middle(page, "#explorer-map image");
    await page.mouse.move(mapX - 20, mapY - 20);
    assert.match(await text(page, "#explorer-map .explorer-readout"), /From t = \d+ to s = \d+: [\d.]+ bits\/dim/);
    await page.mouse.move(mapX + 20, (await (await page.$("#explorer-map image")).boundingBox()).y + 4);
    assert.match(await text(page, "#explorer-map .explorer-readout"), / to s = 0: /);
    await page.close();
  },

  async "the address keeps the state"() {
    const hash = "#model=digits&variance=learned_range&steps=4&show=yours.dp&sampler=ddim&yours=100.500.1500";
    const page = await open("book/explorer.html", { hash }), [x, y] = await middle(page, ".knob", 0);
    assert.deepEqual(await rows(page, "steps"), ["yours", "dp"]);
    assert.match(await page.$eval(".explorer [role='slider']:last-of-type", (e) => e.getAttribute("aria-valuetext")), /timestep 100\./);
    await page.mouse.click(x, y);
    await page.keyboard.press("ArrowLeft");
    const scored = await score(page);
    await until(page, "the address", async () => !page.url().includes("100.500.1500"));
    const again = await open("book/explorer.html", { hash: new URL(page.url()).hash });
    assert.equal(await score(again), scored);
    for (const one of [page, again]) await one.close();
  },

  async "fashion, and another variance"() {
    const page = await open("book/explorer.html", { width: 390, theme: "dark" }), digits = await best(page);
    await page.click("input[value='fashion']");
    await until(page, "fashion", async () => (await best(page)) > digits + 1);
    await shot(page, "explorer-fashion-dark-390");
    await page.select("#explorer-variance", "small");
    const learned = await best(page);
    await until(page, "the solver", async () => (await best(page)) !== learned);
    assert.equal(await page.$eval("#explorer-number", (input) => input.max), "64");
    await page.close();
  },

  async "a reader's own file is solved, a wrong one refused, and a schedule taken along"() {
    const page = await open("book/explorer.html"), input = await page.$("#explorer-file");
    const said = () => text(page, "#explorer-file-said"), bundled = await best(page);
    writeFileSync(path.join(work, "wrong.npz"), "this is no zip file, whatever it is called");
    await input.uploadFile(path.join(work, "wrong.npz"));
    await until(page, "a complaint", async () => /wrong.npz cannot be used: it is no .npz file/.test(await said()));
    await input.uploadFile(costsFile);
    await until(page, "the solver", async () => (await said()).includes("4,000 timesteps")
      && (await text(page, "#explorer-status")) === "" && (await page.$eval("#explorer-number", (e) => e.max)) === "64");
    assert.equal(await best(page), bundled); // these are the digits' costs, read, smoothed and solved anew
    assert.equal(await page.$eval("#explorer-timesteps", (e) => e.value), "0, 50, 194, 401, 722, 1141, 1645, 2279, 4000");
    assert.equal(await page.$eval("#explorer-indices", (e) => e.value), "3999, 2278, 1644, 1140, 721, 400, 193, 49");
    const session = await page.createCDPSession();
    await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: work });
    await page.click("#explorer-download");
    await until(page, "the download", async () => readdirSync(work).includes("dp_8.json"));
    const saved = JSON.parse(readFileSync(path.join(work, "dp_8.json"), "utf8"));
    assert.deepEqual([saved.format, saved.version, saved.timesteps[1], saved.timesteps.length], ["dpdiff-schedule", 1, 50, 9]);
    await page.close();
  },
};

try {
  for (const [name, play] of Object.entries(plays)) {
    await play().catch((error) => wrong.push(`${name}: ${error.message}`));
    console.log(`${wrong.length ? "✗" : "✓"} ${name}`);
    if (wrong.length) break;
  }
} finally {
  await browser.close();
  rmSync(work, { recursive: true, force: true });
}
for (const problem of wrong) console.log(`    ${problem}`);
process.exit(wrong.length ? 1 : 0);
