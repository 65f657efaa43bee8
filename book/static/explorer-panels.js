/* The explorer's pictures and tables. Each function fills its container from a view:
   {model, results, steps, paths: {kind: nodes, of the kinds that are ticked}, sampler, pick(steps)}. */
((explorer) => {
  "use strict";
  const { KINDS, add, make, picture, line, three, count, Axis, axisAcross } = explorer;
  const named = (kinds) => kinds.map((kind) => KINDS[kind]).join(", ");

  /* ---- where the steps are ---- */

  function steps(container, { model, paths }) {
    const kinds = Object.keys(paths), { svg, width } = picture(container, 26 * kinds.length + 46);
    const axis = new Axis(model.costs, 76, width - 16), said = [];
    kinds.forEach((kind, row) => {
      const y = 4 + 26 * row, inner = paths[kind].slice(1, -1);
      add(svg, "text", { x: 68, y: y + 15, "text-anchor": "end" }, KINDS[kind]);
      add(svg, "path", { d: line([[axis.left, y + 11], [axis.right, y + 11]]), class: "grid" });
      for (const t of paths[kind]) {
        const mark = add(svg, "path", { d: `M${axis.of(t).toFixed(1)},${y + 1}v20`, class: `mark ${kind}` });
        add(mark, "title", {}, t ? `t = ${t}, log SNR ${model.costs.logSnr[t].toFixed(2)}` : "t = 0, the data");
      }
      said.push(`${KINDS[kind]} ${inner.filter((t) => model.costs.logSnr[t] > 0).length} of ${inner.length}`);
    });
    axisAcross(svg, axis, 26 * kinds.length + 6);
    svg.setAttribute("aria-label", `A row of marks along log SNR for each schedule. Inner nodes with more signal than noise: ${said.join("; ")}.`);
  }

  /* ---- bits/dim against the number of steps ---- */

  function curve(container, view) {
    const { model, results, paths } = view, { svg, width } = picture(container, 320), floor = 278, left = 42, right = width - 12;
    const kinds = Object.keys(paths), curves = kinds.filter((kind) => results.bits[kind]);
    const values = curves.flatMap((kind) => results.bits[kind]), most = Math.max(results.bits.dp[0], ...values), least = Math.min(results.all, ...values);
    const soft = 0.06 * (most - least);
    const atK = (K) => left + (Math.log2(K) / Math.log2(results.largest)) * (right - left);
    // Most of what is to be seen lies near the lowest level: a logarithmic scale above it.
    const atBits = (bits) => floor - 14 - (Math.log(1 + (bits - least) / soft) / Math.log(1 + (most - least) / soft)) * (floor - 34);
    const toK = (x) => Math.round(2 ** (((Math.min(Math.max(x, left), right) - left) / (right - left)) * Math.log2(results.largest)));
    for (let K = 1; K <= results.largest; K *= 2) add(svg, "text", { x: atK(K), y: floor + 17, "text-anchor": "middle" }, K);
    add(svg, "text", { x: (left + right) / 2, y: floor + 36, "text-anchor": "middle" }, "steps K (network calls)");
    add(svg, "path", { d: line([[left, floor], [right, floor]]), class: "axis" });
    const size = [0.1, 0.2, 0.5, 1, 2].find((s) => (most - least) / s < 14) ?? 5;
    let low = Infinity;
    for (let bits = Math.ceil(least / size) * size; bits <= most; bits += size) {
      if (low - atBits(bits) < 18) continue;
      low = atBits(bits);
      add(svg, "path", { d: line([[left, low], [right, low]]), class: "grid" });
      add(svg, "text", { x: left - 5, y: low + 4, "text-anchor": "end" }, bits.toFixed(1));
    }
    add(svg, "path", { d: line([[left, atBits(results.all)], [right, atBits(results.all)]]), class: "every" });
    add(svg, "text", { x: left + 4, y: atBits(results.all) - 5 }, `all ${count(model.costs.T)}: ${three(results.all)}`);
    for (const kind of [...curves].reverse())
      add(svg, "path", { d: line(results.bits[kind].map((bits, i) => [atK(i + 1), atBits(bits)])), class: `stroke ${kind}` });
    kinds.forEach((kind, i) => {
      if (kind === "yours") add(svg, "circle", { cx: right - 80, cy: 16 + 19 * i, r: 5, class: "dot yours" });
      else add(svg, "path", { d: line([[right - 92, 16 + 19 * i], [right - 68, 16 + 19 * i]]), class: `stroke ${kind}` });
      add(svg, "text", { x: right - 62, y: 20 + 19 * i }, KINDS[kind]);
    });
    const moving = add(svg, "g"), readout = make(container, "p", { class: "explorer-readout" });
    const show = (K) => {
      moving.replaceChildren();
      add(moving, "path", { d: line([[atK(K), 8], [atK(K), floor]]), class: "cursor" });
      for (const kind of curves) add(moving, "circle", { cx: atK(K), cy: atBits(results.bits[kind][K - 1]), r: 4, class: `dot ${kind}` });
      if (paths.yours && K === view.steps)
        add(moving, "circle", { cx: atK(K), cy: atBits(Math.min(model.costs.score(paths.yours), most)), r: 5, class: "dot yours" });
      readout.textContent = `${count(K)}: ${curves.map((kind) => `${KINDS[kind]} ${three(results.bits[kind][K - 1])}`).join(", ") || "tick a schedule above"}`;
    };
    const place = (event) => toK(((event.clientX - svg.getBoundingClientRect().left) / svg.getBoundingClientRect().width) * width);
    svg.classList.add("pickable");
    svg.addEventListener("pointermove", (event) => show(place(event)));
    svg.addEventListener("pointerleave", () => show(view.steps));
    svg.addEventListener("click", (event) => view.pick(place(event)));
    svg.setAttribute("aria-label", `Bits per dimension against the number of steps: ${named(curves)}. The slider above moves along them; the table below has the numbers.`);
    show(view.steps);
  }

  /* ---- the map of costs ---- */

  const LEAST = -4, SHADES = { light: [[247, 250, 255], [8, 48, 107]], dark: [[20, 26, 36], [150, 205, 255]] };

  /** The costs as a picture of `cells` × `cells`, and a row on top for s = 0; the colour is log10 of bits/dim. */
  function shades(costs, across, up, cells, band, greatest) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [cells, cells + band];
    const context = canvas.getContext("2d"), image = context.createImageData(cells, cells + band);
    const [pale, strong] = SHADES[document.documentElement.dataset.theme === "dark" ? "dark" : "light"];
    const paint = (i, j, bits) => {
      const share = Math.min(Math.max((Math.log10(bits) - LEAST) / (greatest - LEAST), 0), 1);
      image.data.set([...pale.map((from, c) => from + share * (strong[c] - from)), 255], 4 * (j * cells + i));
    };
    for (let i = 0; i < cells; i++) {
      const t = across(i);
      for (let j = 0; j < band - 2; j++) paint(i, j, costs.jumpBits(t, 0));
      for (let j = 0; j < cells; j++) if (up(j) < t) paint(i, j + band, costs.jumpBits(t, up(j)));
    }
    context.putImageData(image, 0, 0);
    return canvas.toDataURL();
  }

  function map(container, { model, results, paths }) {
    const { costs } = model, { svg, width } = picture(container, 10), side = Math.min(width - 56, 460), band = 18, cells = 160;
    const height = side + band + 84, left = 46, top = 8 + band, low = top + side, at = (i) => (i + 0.5) / cells;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const x = new Axis(costs, left, left + side, 0), y = new Axis(costs, low, top, 0);
    const ofS = (s) => (s === 0 ? 8 + band / 3 : y.of(s)), greatest = Math.log10(costs.jumpBits(costs.T, 0)) + 0.3;
    const columns = Array.from({ length: cells }, (_, i) => x.nearest(left + at(i) * side));
    const rows = Array.from({ length: cells }, (_, j) => y.nearest(top + at(j) * side));
    const bandCells = Math.round((band / side) * cells);
    add(svg, "image", { href: shades(costs, (i) => columns[i], (j) => rows[j], cells, bandCells, greatest),
      x: left, y: 8, width: side, height: side + band, preserveAspectRatio: "none" });
    for (const value of x.marks()) {
      const name = String(value).replace("-", "−");
      add(svg, "text", { x: x.ofSnr(value), y: low + 16, "text-anchor": "middle" }, name);
      add(svg, "text", { x: left - 6, y: y.ofSnr(value) + 4, "text-anchor": "end" }, name);
    }
    add(svg, "text", { x: left - 6, y: 8 + band / 2 + 2, "text-anchor": "end" }, "s = 0");
    add(svg, "text", { x: left + side / 2, y: low + 34, "text-anchor": "middle" }, "jump from t, at log SNR …");
    add(svg, "text", { x: 12, y: low - side / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${low - side / 2})` }, "to s, at log SNR …");
    add(svg, "path", { d: line([[left, 8], [left, low], [left + side, low]]), class: "axis" });
    staircases(svg, x, ofS, paths);
    legend(svg, left, low + 48, side, greatest);
    svg.setAttribute("aria-label", `What a jump costs, by where it begins and ends along log SNR: little along the diagonal, much far from it. Staircases: ${named(Object.keys(paths))}.`);
    const readout = make(container, "p", { class: "explorer-readout" }), resting = "Point at a jump to read its cost.";
    readout.textContent = resting;
    svg.addEventListener("pointerleave", () => { readout.textContent = resting; });
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
      const t = x.nearest(px), s = py < top ? 0 : y.nearest(py), inside = px >= left && px <= left + side && py >= 8 && py <= low;
      readout.textContent = inside && s < t ? `From t = ${t} to s = ${s}: ${costs.jumpBits(t, s).toPrecision(3)} bits/dim` : resting;
    });
  }

  function staircases(svg, x, ofS, paths) {
    const halos = add(svg, "g");
    for (const [kind, nodes] of Object.entries(paths).reverse()) {
      const jumps = nodes.slice(1).map((t, i) => [t, nodes[i]]).reverse(), corners = [];
      for (const [t, s] of jumps) corners.push([x.of(t), ofS(t)], [x.of(t), ofS(s)]);
      add(halos, "path", { d: line(corners), class: "halo" });
      add(svg, "path", { d: line(corners), class: `stroke ${kind}` });
      if (nodes.length > 40) continue;
      for (const [t, s] of jumps) add(svg, "circle", { cx: x.of(t), cy: ofS(s), r: 3.5, class: `dot ${kind}` });
    }
  }

  function legend(svg, left, y, side, greatest) {
    const [pale, strong] = SHADES[document.documentElement.dataset.theme === "dark" ? "dark" : "light"].map((rgb) => `rgb(${rgb.join(",")})`);
    const gradient = add(add(svg, "defs"), "linearGradient", { id: "explorer-shades" });
    add(gradient, "stop", { offset: 0, "stop-color": pale });
    add(gradient, "stop", { offset: 1, "stop-color": strong });
    add(svg, "rect", { x: left, y, width: side, height: 8, fill: "url(#explorer-shades)", class: "axis" });
    for (let power = LEAST; power <= greatest; power++) {
      const place = left + ((power - LEAST) / (greatest - LEAST)) * side, name = power < -2 ? `10${power === -4 ? "⁻⁴" : "⁻³"}` : String(10 ** power);
      add(svg, "text", { x: place, y: y + 24, "text-anchor": power === LEAST ? "start" : "middle" }, name);
    }
  }

  /* ---- images and numbers ---- */

  /** The drawn schedule that is nearest to these nodes: [kind, budget]. The distance is the mean one along log SNR. */
  function nearestDrawn({ model, results }, nodes) {
    const drawn = model.data.samples.ancestral, steps = nodes.length - 1;
    const nearer = (a, b) => (Math.abs(Math.log(b / steps)) < Math.abs(Math.log(a / steps)) ? b : a);
    const budget = Object.keys(drawn.dp).map(Number).reduce(nearer), axis = new Axis(model.costs, 0, 1);
    const place = (path, share) => axis.of(path[Math.round(share * (path.length - 1))]);
    const apart = (kind) => nodes.reduce((sum, t, i) => sum + Math.abs(axis.of(t) - place(results.nodes(kind, budget), i / steps)), 0);
    return [["dp", "even", "quadratic"].reduce((a, b) => (apart(b) < apart(a) ? b : a)), budget];
  }

  function images(container, view) {
    const { model, paths, sampler } = view, { samples } = model.data;
    container.replaceChildren();
    if (!samples) return;
    // A strip holds images side by side with one pixel between them, which is left out.
    const pixels = model.costs.about.shape[2], share = (x) => `${(100 * x) / (model.data.images * (pixels + 1) - 1)}%`;
    const gaps = `repeating-linear-gradient(90deg, #000 0 ${share(pixels)}, transparent ${share(pixels)} ${share(pixels + 1)})`;
    const row = (name, note, base64, alt) => {
      const strip = make(container, "div", { class: "explorer-strip" }), label = make(strip, "span", {}, name);
      if (note) make(label, "small", {}, note);
      make(strip, "img", { src: `data:image/png;base64,${base64}`, alt, style: `mask-image: ${gaps}; -webkit-mask-image: ${gaps}` });
    };
    const [, budget] = nearestDrawn(view, view.results.nodes("dp", view.steps));
    for (const [kind, nodes] of Object.entries(paths)) {
      const [of] = kind === "yours" ? nearestDrawn(view, nodes) : [kind];
      const note = kind === "yours" ? `the nearest drawn: ${KINDS[of]}, ${count(budget)}` : budget === view.steps ? "" : count(budget);
      row(KINDS[kind], note, samples[sampler][of][budget], `Images drawn with the ${KINDS[of]} schedule of ${count(budget)}.`);
    }
    if (samples[sampler].all) row(`all ${model.costs.T.toLocaleString("en")}`, "", samples[sampler].all, "Images drawn with all steps.");
    const rule = model.costs.variance === "learned_range" ? "" : " The images were drawn with the learned variance and its schedules.";
    make(container, "p", {}, (budget === view.steps ? `Drawn with ${count(budget)}.`
      : `Nothing was drawn with ${count(view.steps)}: these are of ${count(budget)}.`) + rule);
  }

  function table(container, { model, results, steps: K, paths }) {
    const recorded = model.data.held_out, fair = recorded?.bits[model.costs.variance];
    container.replaceChildren();
    const element = make(container, "table", { class: "table" });
    make(element, "caption", {}, `Bits/dim with ${count(K)}`);
    const head = make(make(element, "thead"), "tr"), body = make(element, "tbody");
    for (const name of ["schedule", "by the costs", "above all steps", ...(fair ? ["on held-out images"] : [])]) make(head, "th", { scope: "col" }, name);
    const row = (name, bits, score) => {
      const cells = make(body, "tr");
      make(cells, "th", { scope: "row" }, name);
      for (const text of [three(bits), `${bits < results.all ? "" : "+"}${three(bits - results.all)}`]) make(cells, "td", {}, text);
      if (fair) make(cells, "td", {}, score ? `${three(score[0])} ± ${three(score[1])}` : "not scored");
    };
    for (const [kind, nodes] of Object.entries(paths)) row(KINDS[kind], model.costs.score(nodes), fair?.[kind]?.[K]);
    row(`all ${model.costs.T.toLocaleString("en")}`, results.all, fair?.all[model.costs.T]);
    if (fair) make(container, "p", {}, `Held out: ${recorded.images} images that nothing was fitted to${
      recorded.images_for_all_steps < recorded.images ? `; all steps were scored on ${recorded.images_for_all_steps} of them` : ""}.`);
  }

  explorer.panels = { steps, curve, map, images, table };
})(globalThis.dpdiffExplorer ??= {});
