/* The explorer page: shows what book/explorer.py has computed, and computes nothing itself. */
(() => {
  "use strict";
  const data = window.explorerData;
  const byId = (id) => document.getElementById("explorer-" + id);
  const KINDS = { even: "even", quadratic: "quadratic", dp: "optimal" };
  const LARGEST = data.gaps.dp.length; // one further stands for all steps
  const PICKS = [1, 2, 4, 8, 16, 32, 64, 128, 256, LARGEST + 1];
  const NOISIEST = -10; // the left end of the log SNR axis

  const steps = (budget) => (budget > LARGEST ? data.T : budget);
  const count = (K) => K.toLocaleString("en") + (K === 1 ? " step" : " steps");
  const round = (x) => x.toFixed(2);

  function nodes(kind, budget) {
    const gaps = budget > LARGEST ? Array(data.T).fill(1) : data.gaps[kind][budget - 1];
    const found = [0];
    for (const gap of gaps) found.push(found[found.length - 1] + gap);
    return found;
  }

  const bits = (kind, budget) => (budget > LARGEST ? data.all_bits : data.bits[kind][budget - 1]);

  /* ---- drawing ---- */

  const SVG = "http://www.w3.org/2000/svg";
  function add(parent, name, attributes = {}, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  function picture(id, width, height) {
    const svg = add(byId(id), "svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    return { still: add(svg, "g"), moving: add(svg, "g"), svg };
  }

  const line = (points) => "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L");

  const MAP = { left: 44, top: 8, size: 300 };
  const atT = (t) => MAP.left + (t / data.T) * MAP.size;
  const atS = (s) => MAP.top + MAP.size - (s / data.T) * MAP.size;

  function shades() {
    const { rows } = data.map, cells = rows.length;
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = cells;
    const context = canvas.getContext("2d"), image = context.createImageData(cells, cells);
    rows.forEach((row, i) => [...row].forEach((shade, j) => {
      if (j < cells) image.data.set([88, 122, 170, 7 * parseInt(shade, 36)], 4 * ((cells - 1 - j) * cells + i));
    }));
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  function ticks(group, x, y, values, name, across) {
    for (const value of values) {
      const [px, py] = across ? [x(value), y] : [x, y(value)];
      add(group, "text", across ? { x: px, y: py + 16, "text-anchor": "middle" }
        : { x: px - 6, y: py + 4, "text-anchor": "end" }, value.toLocaleString("en"));
    }
  }

  function drawMapFrame({ still }) {
    const cell = MAP.size / data.map.rows.length;
    const clip = add(add(still, "clipPath", { id: "explorer-clip" }), "polygon", {});
    clip.setAttribute("points", `${atT(0)},${atS(0)} ${atT(data.T)},${atS(0)} ${atT(data.T)},${atS(data.T)}`);
    add(still, "image", {
      href: shades(), x: MAP.left + cell / 2, y: MAP.top + cell / 2, width: MAP.size, height: MAP.size,
      preserveAspectRatio: "none", "clip-path": "url(#explorer-clip)",
    });
    add(still, "path", { d: line([[atT(0), atS(data.T)], [atT(0), atS(0)], [atT(data.T), atS(0)]]), class: "axis" });
    add(still, "path", { d: line([[atT(0), atS(0)], [atT(data.T), atS(data.T)]]), class: "axis" });
    const marks = [0, 1000, 2000, 3000, 4000];
    ticks(still, atT, atS(0), marks, "t", true);
    ticks(still, atT(0), atS, marks.slice(1), "s", false);
    add(still, "text", { x: atT(data.T / 2), y: atS(0) + 34, "text-anchor": "middle" }, "from t");
    add(still, "text", { x: atT(60), y: atS(data.T) + 12 }, "to s");
  }

  function drawMap({ moving, svg }, budget, kinds) {
    moving.replaceChildren();
    const halos = add(moving, "g"); // under all paths, so that none hides another
    for (const kind of kinds) {
      const path = nodes(kind, budget), corners = [[atT(0), atS(0)]];
      for (let i = 1; i < path.length; i++) corners.push([atT(path[i]), atS(path[i - 1])], [atT(path[i]), atS(path[i])]);
      add(halos, "path", { d: line(corners), class: "halo" });
      add(moving, "path", { d: line(corners), class: "stroke " + kind });
      if (path.length > 40) continue;
      for (let i = 1; i < path.length; i++)
        add(moving, "circle", { cx: atT(path[i]), cy: atS(path[i - 1]), r: 3, class: "dot " + kind });
    }
    svg.setAttribute("aria-label", `A triangle of jump costs, faint along the diagonal and strong far from it, with the staircases of the ${
      kinds.map((kind) => KINDS[kind]).join(" and the ")} schedule of ${count(steps(budget))}.`);
  }

  const BITS = { left: 44, right: 344, top: 12, bottom: 308 };
  const highest = Math.max(...Object.values(data.bits).map((curve) => Math.max(...curve)));
  const lowest = Math.floor(data.all_bits * 5) / 5;
  const atK = (K) => BITS.left + (Math.log2(K) / Math.log2(LARGEST)) * (BITS.right - BITS.left - 8);
  // The interesting half of the axis lies near the level of all steps: a logarithmic scale above it.
  const atBits = (b) => BITS.bottom - (Math.log((b - lowest + 0.1) / 0.1) / Math.log((highest - lowest + 0.1) / 0.1)) * (BITS.bottom - BITS.top);

  function drawBitsFrame({ still }) {
    ticks(still, atK, BITS.bottom, [1, 2, 4, 8, 16, 32, 64, 128, 256], "K", true);
    for (const value of [1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8].filter((b) => b >= lowest && b <= highest)) {
      add(still, "path", { d: line([[BITS.left, atBits(value)], [BITS.right, atBits(value)]]), class: "grid" });
      add(still, "text", { x: BITS.left - 6, y: atBits(value) + 4, "text-anchor": "end" }, value.toFixed(1));
    }
    add(still, "path", { d: line([[BITS.left, atBits(data.all_bits)], [BITS.right, atBits(data.all_bits)]]), class: "every" });
    add(still, "text", { x: BITS.left + 6, y: atBits(data.all_bits) - 6 }, `all ${count(data.T)}: ${round(data.all_bits)}`);
    for (const kind of Object.keys(KINDS))
      add(still, "path", { d: line(data.bits[kind].map((b, i) => [atK(i + 1), atBits(b)])), class: "stroke " + kind });
    add(still, "text", { x: (BITS.left + BITS.right) / 2, y: BITS.bottom + 34, "text-anchor": "middle" }, "steps K (network calls)");
    const legend = add(still, "g");
    Object.entries(KINDS).forEach(([kind, name], i) => {
      add(legend, "path", { d: line([[236, 22 + 20 * i], [262, 22 + 20 * i]]), class: "stroke " + kind });
      add(legend, "text", { x: 270, y: 26 + 20 * i }, name);
    });
  }

  function drawBits({ moving, svg }, budget) {
    moving.replaceChildren();
    const K = Math.min(budget, LARGEST), said = Object.keys(KINDS).map((kind) => `${KINDS[kind]} ${round(bits(kind, budget))}`);
    svg.setAttribute("aria-label", `Three falling curves of bits per dimension against the number of steps, the optimal one the lowest. At ${
      count(steps(budget))}: ${said.join(", ")}.`);
    if (budget > LARGEST) return;
    add(moving, "path", { d: line([[atK(K), BITS.top], [atK(K), BITS.bottom]]), class: "cursor" });
    for (const kind of Object.keys(KINDS))
      add(moving, "circle", { cx: atK(K), cy: atBits(bits(kind, budget)), r: 4.5, class: "dot " + kind });
  }

  const LOG = { left: 72, right: window.innerWidth < 720 ? 356 : 712, row: 34, top: 6 };
  const cleanest = data.log_snr[1];
  const atSnr = (x) => LOG.left + ((x - NOISIEST) / (cleanest - NOISIEST)) * (LOG.right - LOG.left);

  function drawStepsFrame({ still }) {
    Object.values(KINDS).forEach((name, row) =>
      add(still, "text", { x: LOG.left - 10, y: LOG.top + LOG.row * row + 20, "text-anchor": "end" }, name));
    const floor = LOG.top + 3 * LOG.row + 4;
    add(still, "path", { d: line([[LOG.left, floor], [LOG.right, floor]]), class: "axis" });
    ticks(still, atSnr, floor, [-10, -5, 0, 5], "log SNR", true);
    add(still, "text", { x: LOG.left, y: floor + 34 }, "◂ noise");
    add(still, "text", { x: (LOG.left + LOG.right) / 2, y: floor + 34, "text-anchor": "middle" }, "log SNR(t)");
    add(still, "text", { x: LOG.right, y: floor + 34, "text-anchor": "end" }, "data ▸");
  }

  function drawSteps({ moving, svg }, budget) {
    moving.replaceChildren();
    const said = [];
    Object.keys(KINDS).forEach((kind, row) => {
      const places = nodes(kind, budget).slice(1).map((t) => data.log_snr[t]).filter((x) => x >= NOISIEST);
      const y = LOG.top + LOG.row * row;
      const d = places.map((x) => `M${atSnr(x).toFixed(1)},${y + 4}v22`).join("");
      add(moving, "path", { d: d || "M0,0", class: "mark " + kind });
      const late = places.filter((x) => x > 0).length;
      said.push(`${KINDS[kind]} ${late} of ${steps(budget)}`);
    });
    svg.setAttribute("aria-label", `Three rows of marks along log SNR. Steps where there is more signal than noise: ${said.join(", ")}.`);
  }

  /* ---- digits and numbers ---- */

  function nearest(budget) {
    return data.sampled.reduce((a, b) => (Math.abs(b - budget) < Math.abs(a - budget) ? b : a));
  }

  function paint(canvas, levels) {
    const digits = levels.length / 64;
    canvas.width = 9 * digits - 1;
    canvas.height = 8;
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, 8);
    [...levels].forEach((level, i) => {
      const x = 9 * Math.floor(i / 64) + (i % 8), y = Math.floor((i % 64) / 8), grey = (255 * parseInt(level, 17)) / 16;
      image.data.set([grey, grey, grey, 255], 4 * (y * canvas.width + x));
    });
    context.putImageData(image, 0, 0);
  }

  const strips = {};
  for (const kind of [...Object.keys(KINDS), "all"]) {
    const row = document.createElement("div"), name = document.createElement("span");
    row.className = "explorer-strip";
    strips[kind] = document.createElement("canvas");
    strips[kind].setAttribute("role", "img");
    name.textContent = KINDS[kind] ?? "all " + data.T.toLocaleString("en");
    row.append(name, strips[kind]);
    byId("samples").append(row);
  }

  function drawSamples(budget, sampler) {
    const drawn = data.samples[sampler], all = budget > LARGEST, K = nearest(budget);
    for (const kind of Object.keys(strips)) {
      const whole = all || kind === "all";
      paint(strips[kind], whole ? drawn.all : drawn[kind][K]);
      strips[kind].setAttribute("aria-label", `Eight digits drawn with ${whole ? "all" : KINDS[kind]} ${count(whole ? data.T : K)}.`);
    }
    byId("note").textContent = all || K === budget ? `Drawn with ${count(steps(budget))}; the last row with all ${data.T.toLocaleString("en")}.`
      : `No digits were drawn with exactly ${count(budget)}: these are of the nearest budget, ${count(K)}.`;
  }

  function fillTable(budget) {
    const rows = Object.keys(KINDS).map((kind) => {
      const fair = budget > LARGEST ? data.held_out.all[data.T] : data.held_out[kind][budget];
      return [KINDS[kind], bits(kind, budget).toFixed(3), "+" + (bits(kind, budget) - data.all_bits).toFixed(3),
        fair ? `${fair[0].toFixed(3)} ± ${fair[1].toFixed(3)}` : "not scored"];
    });
    byId("table").innerHTML = `<table class="table"><caption>Bits/dim with ${count(steps(budget))}</caption><thead><tr>${
      ["schedule", "by the costs", "above all steps", "on held-out digits"].map((name) => `<th scope="col">${name}</th>`).join("")
    }</tr></thead><tbody>${rows.map(([name, ...cells]) =>
      `<tr><th scope="row">${name}</th>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`).join("")}</tbody></table>`;
  }

  /* ---- controls ---- */

  const slider = byId("budget"), form = document.querySelector(".explorer-controls");
  const pictures = { map: picture("map", 364, 348), bits: picture("bits", 364, 348), steps: picture("steps", LOG.right + 8, 150) };
  let speaking;

  function summary(budget) {
    const [even, quadratic, dp] = Object.keys(KINDS).map((kind) => round(bits(kind, budget)));
    if (budget > LARGEST) return `All ${count(data.T)}: ${dp} bits/dim. Nothing is left to choose.`;
    return `${count(budget)}: ${dp} bits/dim on the optimal path, ${even} on the even one, ${quadratic} on the quadratic one. All ${
      count(data.T)}: ${round(data.all_bits)}.`;
  }

  function show() {
    const budget = Number(slider.value), chosen = new FormData(form);
    slider.setAttribute("aria-valuetext", budget > LARGEST ? `all ${count(data.T)}` : count(budget));
    drawMap(pictures.map, budget, [...chosen.getAll("kind"), "dp"]);
    drawBits(pictures.bits, budget);
    drawSteps(pictures.steps, budget);
    drawSamples(budget, chosen.get("sampler"));
    fillTable(budget);
    for (const button of byId("picks").children) button.setAttribute("aria-pressed", String(Number(button.value) === budget));
    clearTimeout(speaking); // a screen reader hears where the slider came to rest
    speaking = setTimeout(() => { byId("summary").textContent = summary(budget); }, 150);
  }

  for (const budget of PICKS) {
    const button = document.createElement("button");
    button.type = "button";
    button.value = budget;
    button.textContent = budget > LARGEST ? "all" : budget;
    button.addEventListener("click", () => { slider.value = budget; show(); });
    byId("picks").append(button);
  }
  drawMapFrame(pictures.map);
  drawBitsFrame(pictures.bits);
  drawStepsFrame(pictures.steps);
  slider.disabled = false;
  slider.max = LARGEST + 1;
  form.addEventListener("input", show);
  show();
})();
