// Look at the built book in headless Chromium, as its readers do: every page, light on a wide window and
// dark on a phone's. Fails on what axe-core calls serious or critical, on a page wider than its window, on an
// error in a script, and on anything asked of the network.
//
//   node check.mjs HTML_FOLDER [--pages book/explorer.html,…] [--screenshots FOLDER]

import { execFileSync } from "node:child_process";
import { mkdtempSync, mkdirSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import puppeteer from "puppeteer-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const VIEWS = [["light", 1280], ["dark", 390]];
const SKIP = /^(genindex|py-modindex|index)\.html$|^_/; // lists made by Sphinx, and a redirection

function chromium() {
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const name of names) {
    try {
      return execFileSync("which", [name], { encoding: "utf8" }).trim();
    } catch {
      // the next one, then
    }
  }
  console.error(`Chromium is missing (looked for ${names.join(", ")}). Install it, or set CHROMIUM to its path.`);
  process.exit(2);
}

function option(name) {
  const place = process.argv.indexOf(name);
  return place < 0 ? undefined : process.argv[place + 1];
}

async function problemsOf(browser, file, html, theme, width, screenshots) {
  const found = [], page = await browser.newPage();
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    const outside = /^https?:/.test(request.url());
    if (outside) found.push(`asks the network for ${request.url()}`);
    if (outside) request.abort(); else request.continue();
  });
  page.on("pageerror", (error) => found.push(`script error: ${error.message}`));
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme },
    { name: "prefers-reduced-motion", value: "reduce" }]);
  await page.goto(pathToFileURL(path.join(html, file)).href, { waitUntil: "load" });
  await page.evaluate((value) => { document.documentElement.dataset.theme = value; }, theme);
  await new Promise((resolve) => setTimeout(resolve, 400)); // transitions, MathJax
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  if (wide > 1) found.push(`is ${wide} px wider than the window`);
  if (screenshots) {
    const name = `${file.replaceAll("/", "_").replace(".html", "")}-${theme}-${width}.png`;
    await page.screenshot({ path: path.join(screenshots, name), fullPage: true });
  }
  await page.evaluate(AXE);
  const { violations } = await page.evaluate((tags) => window.axe.run({ runOnly: tags, resultTypes: ["violations"] }), RULES);
  for (const { impact, id, help, nodes } of violations) {
    if (impact !== "serious" && impact !== "critical") continue;
    const where = nodes.slice(0, 4).map((node) => `      ${node.target.join(" ")}\n        ${
      node.failureSummary.split("\n").slice(1, 3).join(" ").trim()}`);
    found.push(`${impact}: ${id} (${help}), ${nodes.length} times\n${where.join("\n")}`);
  }
  await page.close();
  return found;
}

const html = path.resolve(process.argv[2] ?? "../../_build/html");
const screenshots = option("--screenshots");
if (screenshots) mkdirSync(screenshots, { recursive: true });
const files = option("--pages")?.split(",")
  ?? readdirSync(html, { recursive: true }).filter((f) => f.endsWith(".html") && !SKIP.test(f)).sort();
const profile = mkdtempSync(path.join(tmpdir(), "dpdiff-browser-"));
const browser = await puppeteer.launch({
  executablePath: chromium(),
  userDataDir: profile,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync"],
});
let bad = 0;
try {
  for (const file of files) {
    const seen = new Map(); // the same finding is told once a page, with the views that show it
    for (const [theme, width] of VIEWS)
      for (const problem of await problemsOf(browser, file, html, theme, width, screenshots))
        seen.set(problem, [...(seen.get(problem) ?? []), `${theme} ${width}`]);
    bad += seen.size;
    console.log(`${seen.size ? "✗" : "✓"} ${file}`);
    for (const [problem, views] of seen) console.log(`    [${views.join(", ")}] ${problem}`);
  }
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(bad ? `\n${bad} problems.` : `\n${files.length} pages, each light and wide, dark and narrow: no serious problem.`);
process.exit(bad ? 1 : 0);
