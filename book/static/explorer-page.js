/* The explorer page: its controls, the state that the URL keeps, and a reader's own file. */
((explorer) => {
  "use strict";
  const { KINDS, make, count, three, Game, Model, panels } = explorer;
  const byId = (id) => document.getElementById(`explorer-${id}`);
  const form = byId("controls");
  if (!form) return;

  const MOST_HANDLES = 32;
  const PICKS = [1, 2, 4, 8, 16, 32, 64, 128, 256];
  const RULES = { small: "small (β̃)", large: "large (β)", learned_range: "learned", optimal: "optimal (one scalar a jump)" };
  const NOTCHES = [...new Set(Array.from({ length: 81 }, (_, i) => Math.round(2 ** (i / 10))))]; // where arrow keys stop

  const state = { model: "digits", variance: undefined, steps: 8, show: ["yours", "dp", "even"], sampler: "ancestral", yours: undefined };
  let own, model, results, asked = 0;

  /* ---- the URL ---- */

  function readUrl() {
    const told = new URLSearchParams(location.hash.slice(1)), list = (name) => told.get(name)?.split(".").filter(Boolean);
    if (["digits", "fashion"].includes(told.get("model"))) state.model = told.get("model");
    if (RULES[told.get("variance")]) state.variance = told.get("variance");
    if (Number(told.get("steps")) >= 1) state.steps = Math.min(Math.round(Number(told.get("steps"))), 256);
    if (told.has("show")) state.show = list("show").filter((kind) => KINDS[kind]);
    if (["ancestral", "ddim"].includes(told.get("sampler"))) state.sampler = told.get("sampler");
    if (told.has("yours")) state.yours = list("yours").map(Number);
  }

  let writing;
  function writeUrl() {
    clearTimeout(writing); // browsers forbid more than a few changes a second
    writing = setTimeout(() => {
      const inner = state.yours?.slice(1, -1).join(".");
      const parts = { ...(model === own ? {} : { model: state.model }), variance: state.variance, steps: state.steps,
        show: state.show.join("."), sampler: state.sampler, ...(inner && state.show.includes("yours") ? { yours: inner } : {}) };
      history.replaceState(null, "", `#${new URLSearchParams(parts)}`);
    }, 250);
  }

  /** The reader's nodes from the URL, if they are a schedule of so many steps. */
  function given(T) {
    const nodes = [0, ...(state.yours ?? []), T];
    const rising = nodes.every((t, i) => Number.isInteger(t) && (i === 0 || t > nodes[i - 1]));
    return rising && nodes.length === state.steps + 1 ? nodes : undefined;
  }

  /* ---- showing ---- */

  const game = new Game(byId("game"), (nodes) => {
    state.yours = nodes;
    refresh();
  });

  function view() {
    const paths = {};
    for (const kind of Object.keys(KINDS)) {
      if (!state.show.includes(kind)) continue;
      if (kind !== "yours") paths[kind] = results.nodes(kind, state.steps);
      else if (state.yours) paths.yours = state.yours;
    }
    return { model, results, paths, steps: state.steps, sampler: state.sampler, pick: setSteps };
  }

  function refresh() {
    const shown = view();
    for (const [name, panel] of Object.entries(panels)) panel(byId(name), shown);
    fillSteps();
    writeUrl();
  }

  /** After a change of model, rule or budget: the reader's schedule begins anew, unless one was given that fits. */
  function begin(nodes) {
    const { costs } = model, byHand = state.steps <= MOST_HANDLES;
    state.steps = Math.min(state.steps, results.largest);
    state.yours = byHand ? nodes ?? explorer.spaced(costs.T, state.steps, 1) : undefined;
    if (byHand) game.play(model, results, state.yours);
    else game.play(model, results, results.nodes("dp", state.steps), `${count(state.steps)} are too many to place by hand: these blocks are the optimal ones. Choose at most ${MOST_HANDLES} to play.`);
    byId("budget").max = Math.log2(results.largest);
    byId("budget").value = Math.log2(state.steps);
    byId("budget").setAttribute("aria-valuetext", count(state.steps));
    byId("number").value = state.steps;
    byId("number").max = results.largest;
    for (const button of byId("picks").children) {
      button.hidden = Number(button.value) > results.largest;
      button.setAttribute("aria-pressed", String(Number(button.value) === state.steps));
    }
    byId("images").parentElement.hidden = !model.data.samples;
    refresh();
  }

  function setSteps(steps) {
    if (!results || !(steps >= 1)) return;
    state.steps = Math.min(Math.round(steps), results.largest);
    begin();
  }

  /** Load or solve for what the state asks for; a later wish ends an earlier one. */
  async function load() {
    const wish = ++asked, say = (text) => { byId("status").textContent = text; };
    const wanted = state.model === "own" ? own : await explorer.bundled(state.model);
    if (wish !== asked) return;
    const rules = wanted.costs.variances;
    if (!rules.includes(state.variance)) state.variance = rules.includes(wanted.costs.about.variance) ? wanted.costs.about.variance : rules[0];
    wanted.costs.use(state.variance);
    say("");
    const solved = await wanted.results((share) => {
      if (wish === asked) say(`Solving for all budgets … ${Math.round(100 * share)} %`);
      return wish === asked;
    });
    if (wish !== asked || !solved) return;
    say("");
    [model, results] = [wanted, solved];
    form.elements.variance.replaceChildren();
    for (const rule of rules) make(form.elements.variance, "option", { value: rule }, RULES[rule]);
    form.elements.variance.value = state.variance;
    begin(given(model.costs.T));
  }

  const fail = (error) => { byId("status").textContent = error.message; };

  /* ---- the steps, to take along ---- */

  function fillSteps() {
    const nodes = results.nodes("dp", state.steps), { costs } = model;
    byId("timesteps").value = nodes.join(", ");
    byId("indices").value = nodes.slice(1).map((t) => t - 1).reverse().join(", ");
    byId("taken").textContent = `${count(state.steps)}, ${RULES[costs.variance]} variance, ${three(results.bits.dp[state.steps - 1])} bits/dim`;
  }

  function download() {
    const nodes = results.nodes("dp", state.steps), { about, variance } = model.costs;
    const text = explorer.scheduleFile(nodes, { ...about.provenance, variance, chosen_by: "explorer" });
    const link = make(document.body, "a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `dp_${state.steps}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
    link.remove();
  }

  /* ---- a reader's own model ---- */

  async function open(file) {
    const said = byId("file-said");
    said.textContent = `Reading ${file.name} …`;
    try {
      let costs = await explorer.readCosts(new Uint8Array(await file.arrayBuffer()));
      await new Promise((resolve) => setTimeout(resolve, 20)); // show the line above first
      if (byId("smooth").checked && !costs.about.provenance?.smoothing_width) costs = explorer.smoothed(costs);
      own = new Model("own", costs, { what: file.name });
      said.textContent = `${file.name}: ${costs.T.toLocaleString("en")} timesteps, images of ${costs.about.shape.join(" × ")}.`;
      byId("own").hidden = false;
      form.querySelector("input[value='own']").checked = true;
      Object.assign(state, { model: "own", yours: undefined });
      await load();
    } catch (error) {
      said.textContent = `${file.name} cannot be used: ${error.message}.`;
    }
  }

  /* ---- controls ---- */

  function reflect() {
    for (const input of form.querySelectorAll("input[name='show']")) input.checked = state.show.includes(input.value);
    for (const name of ["model", "sampler"])
      for (const input of form.querySelectorAll(`input[name='${name}']`)) input.checked = input.value === state[name];
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const chosen = new FormData(form), { name } = event.target;
    if (name === "show" || name === "sampler") {
      Object.assign(state, { show: chosen.getAll("show"), sampler: chosen.get("sampler") });
      if (results) refresh();
    } else if (name === "model" || name === "variance") {
      Object.assign(state, { [name]: chosen.get(name) });
      load().catch(fail);
    } else if (name === "number") setSteps(Number(event.target.value));
  });
  byId("budget").addEventListener("input", (event) => {
    const steps = Math.round(2 ** event.target.value);
    if (steps !== state.steps) setSteps(steps);
  });
  byId("budget").addEventListener("keydown", (event) => {
    const up = ["ArrowRight", "ArrowUp"].includes(event.key), down = ["ArrowLeft", "ArrowDown"].includes(event.key);
    if (!up && !down) return; // a logarithmic slider, on which each press is another number
    event.preventDefault();
    setSteps(up ? NOTCHES.find((K) => K > state.steps) ?? state.steps : NOTCHES.findLast((K) => K < state.steps) ?? 1);
  });
  byId("file").addEventListener("change", (event) => { if (event.target.files[0]) open(event.target.files[0]); });
  byId("download").addEventListener("click", download);
  for (const budget of PICKS) {
    const button = make(byId("picks"), "button", { type: "button", value: budget }, budget);
    button.addEventListener("click", () => setSteps(budget));
  }
  window.addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return; // a link to a heading
    readUrl();
    reflect();
    load().catch(fail);
  });
  new MutationObserver(() => { if (results) refresh(); }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  explorer.whenResized(byId("steps"), () => { if (results) refresh(); });

  if (location.hash.includes("=")) readUrl();
  reflect();
  for (const field of form.querySelectorAll("fieldset, input, select")) field.disabled = false;
  load().catch(fail);
})(globalThis.dpdiffExplorer ??= {});
