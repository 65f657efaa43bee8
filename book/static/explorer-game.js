/* The game: place K steps by hand, and compare with the best there is. */
((explorer) => {
  "use strict";
  const { add, make, picture, three, count, Blocks, whenResized } = explorer;
  const HEIGHT = 300;
  const MOVES = { ArrowRight: 0.01, ArrowUp: 0.01, ArrowLeft: -0.01, ArrowDown: -0.01, PageUp: 0.05, PageDown: -0.05, Home: -9, End: 9 };

  /** The move of one node that lowers the cost of the path most: [place in the list, new timestep], or undefined. */
  function bestMove(costs, nodes) {
    let most = 1e-9, best;
    for (let i = 1; i < nodes.length - 1; i++) {
      const [before, own, after] = nodes.slice(i - 1, i + 2), through = (t) => costs.cost(after, t) + costs.cost(t, before);
      const now = through(own);
      for (let t = before + 1; t < after; t++) {
        const gain = now - through(t);
        if (gain > most) [most, best] = [gain, [i, t]];
      }
    }
    return best;
  }

  class Game {
    /** Fill the container. `changed(nodes)` is called after every move. */
    constructor(container, changed = () => {}) {
      this.changed = changed;
      container.replaceChildren();
      this.score = make(container, "dl", { class: "explorer-score" });
      this.canvas = make(container, "div", { class: "explorer-field" });
      this.said = make(container, "p", { class: "explorer-said", "aria-live": "polite" });
      this.buttons = make(container, "div", { class: "explorer-buttons", role: "group", "aria-label": "Moves" });
      this.button("Even", () => this.place(explorer.spaced(this.model.costs.T, this.steps, 1), "Even steps."));
      this.button("Quadratic", () => this.place(explorer.spaced(this.model.costs.T, this.steps, 2), "Quadratic steps."));
      this.button("Hint: best move of one handle", () => this.hint());
      this.reveal = this.button("Show the optimum", () => this.show(!this.shown));
      this.reveal.setAttribute("aria-pressed", "false");
      whenResized(this.canvas, () => this.model && this.draw());
    }

    button(text, action) {
      const element = make(this.buttons, "button", { type: "button" }, text);
      element.addEventListener("click", action);
      return element;
    }

    /** Begin with a model, its results, and a list of nodes. `frozen` says why they cannot be moved, if so it is. */
    play(model, results, nodes, frozen) {
      Object.assign(this, { model, results, nodes: [...nodes], steps: nodes.length - 1, frozen });
      this.draw();
      for (const button of this.buttons.children) button.disabled = Boolean(frozen);
      this.say(frozen ?? (this.steps > 1 ? "Drag a round handle, or move to it with Tab and press the arrow keys; Shift makes them fine."
        : "One step has nothing to place: choose two or more."));
    }

    get optimum() {
      return this.results.nodes("dp", this.steps);
    }

    draw() {
      const { costs } = this.model, { svg, width } = picture(this.canvas, HEIGHT);
      svg.setAttribute("role", "group");
      svg.setAttribute("aria-label", `${count(this.steps)} of yours along log SNR, from noise on the left to data on the right`);
      this.svg = svg;
      this.blocks = new Blocks(svg, costs, width, HEIGHT);
      this.blocks.fit(this.optimum);
      this.pins = add(svg, "g", { class: "pins" });
      for (const t of [costs.T, 0])
        add(this.pins, "rect", { x: this.blocks.axis.of(t) - 5, y: this.blocks.floor - 5, width: 10, height: 10, class: "end" });
      this.handles = this.frozen ? [] : this.nodes.slice(1, -1).map((_, i) => this.handle(i + 1)).reverse();
      for (const handle of this.handles) this.pins.append(handle); // Tab goes from left to right
      this.handles.reverse();
      svg.addEventListener("pointerdown", (event) => this.grab(event));
      svg.addEventListener("pointermove", (event) => this.drag(event));
      for (const name of ["pointerup", "pointercancel"]) svg.addEventListener(name, () => this.drop());
      this.update();
    }

    handle(i) {
      const group = add(this.pins, "g", { role: "slider", tabindex: 0, "aria-orientation": "horizontal",
        "aria-label": `Step ${this.steps - i + 1} of ${this.steps}` });
      add(group, "path", { class: "pin" });
      add(group, "circle", { class: "ring", r: 13 });
      add(group, "circle", { class: "knob", r: 8 });
      group.addEventListener("keydown", (event) => this.key(event, i));
      return group;
    }

    /** Everything that a move changes. */
    update() {
      const { costs } = this.model, { axis, floor, top } = this.blocks, total = costs.score(this.nodes);
      this.blocks.draw(this.nodes);
      this.blocks.compare(this.shown ? this.optimum : undefined);
      this.handles.forEach((handle, index) => {
        const t = this.nodes[index + 1], x = axis.of(t), snr = costs.logSnr[t].toFixed(2);
        handle.querySelector(".pin").setAttribute("d", `M${x.toFixed(1)},${top}V${floor}`);
        for (const circle of handle.querySelectorAll("circle")) {
          circle.setAttribute("cx", x);
          circle.setAttribute("cy", floor);
        }
        handle.setAttribute("aria-valuemin", axis.low.toFixed(2));
        handle.setAttribute("aria-valuemax", axis.high.toFixed(2));
        handle.setAttribute("aria-valuenow", snr);
        handle.setAttribute("aria-valuetext", `log SNR ${snr}, timestep ${t}. In all ${three(total)} bits per dimension`);
      });
      this.tell(total);
    }

    tell(total) {
      const best = this.results.bits.dp[this.steps - 1], entries = [["Yours", total, "yours"], ["Best possible", best, "dp"],
        ["Even", this.results.bits.even[this.steps - 1], "even"], ["Quadratic", this.results.bits.quadratic[this.steps - 1], "quadratic"],
        [`All ${this.model.costs.T.toLocaleString("en")} steps`, this.results.all, "all"]];
      this.score.replaceChildren();
      for (const [name, bits, kind] of this.frozen ? entries.slice(1) : entries) {
        const entry = make(this.score, "div", { class: kind });
        make(entry, "dt", {}, name);
        make(entry, "dd", {}, three(bits));
      }
    }

    /** How the reader stands. */
    standing() {
      const at = (kind) => this.results.bits[kind][this.steps - 1], total = this.model.costs.score(this.nodes), above = total - at("dp");
      if (above < 1e-9) return `That is the optimum. No ${count(this.steps)} do better: this is proven, not guessed.`;
      const beaten = ["even", "quadratic"].filter((kind) => total < at(kind) - 1e-9);
      const so = beaten.length === 2 ? "Better than even and quadratic steps." : beaten.length ? `Better than ${beaten[0]} steps.` : "";
      if (above < 0.0005) return "Equal to the optimum in every digit shown.";
      return `${three(total)} bits/dim, ${three(above)} above the optimum. ${above < 0.01 ? "So close! " : ""}${so}`;
    }

    say(text) {
      clearTimeout(this.speaking);
      this.said.textContent = text;
    }

    place(nodes, why = "") {
      this.nodes = nodes;
      this.update();
      clearTimeout(this.speaking); // a screen reader hears where a handle came to rest
      this.speaking = setTimeout(() => this.say(`${why} ${this.standing()}`.trim()), 120);
      this.changed(this.nodes);
    }

    /** Move node i as near to timestep t as its neighbours allow. */
    move(i, t) {
      const nodes = [...this.nodes];
      nodes[i] = Math.min(Math.max(Math.round(t), nodes[i - 1] + 1), nodes[i + 1] - 1);
      if (nodes[i] !== this.nodes[i]) this.place(nodes);
    }

    at(event) {
      const box = this.svg.getBoundingClientRect();
      return (event.clientX - box.left) * (this.svg.viewBox.baseVal.width / box.width);
    }

    grab(event) {
      const x = this.at(event), away = this.handles.map((_, i) => Math.abs(this.blocks.axis.of(this.nodes[i + 1]) - x));
      const i = away.indexOf(Math.min(...away));
      if (this.frozen || event.button !== 0 || !(away[i] < 28)) return;
      this.svg.setPointerCapture(event.pointerId);
      event.preventDefault();
      this.handles[i].focus({ preventScroll: true });
      this.held = i + 1;
      this.offset = this.blocks.axis.of(this.nodes[i + 1]) - x;
      this.svg.classList.add("held");
    }

    drag(event) {
      if (this.held) this.move(this.held, this.blocks.axis.nearest(this.at(event) + this.offset));
    }

    drop() {
      this.held = undefined;
      this.svg.classList.remove("held");
    }

    key(event, i) {
      const share = MOVES[event.key], { axis } = this.blocks, own = this.nodes[i];
      if (share === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      const one = own - Math.sign(share); // to the right is towards the data
      const far = axis.nearest(axis.of(own) + share * (axis.edge - axis.left));
      this.move(i, event.shiftKey || far === own || Math.sign(far - own) !== -Math.sign(share) ? one : far);
    }

    hint() {
      const best = bestMove(this.model.costs, this.nodes);
      if (!best) {
        const done = this.model.costs.score(this.nodes) - this.results.bits.dp[this.steps - 1] < 1e-9;
        return this.say(done ? this.standing() : `No single handle can do better. ${this.standing()} Two must move together.`);
      }
      const [i, t] = best, nodes = [...this.nodes];
      nodes[i] = t;
      this.handles[i - 1].classList.add("hinted");
      setTimeout(() => this.handles[i - 1]?.classList.remove("hinted"), 900);
      return this.place(nodes, `Step ${this.steps - i + 1} moved to timestep ${t}.`);
    }

    show(shown) {
      this.shown = shown;
      this.reveal.setAttribute("aria-pressed", String(shown));
      this.update();
      if (shown) this.say(`The outline is the optimum, at timesteps ${this.optimum.slice(1, -1).join(", ") || "none"}. ${this.standing()}`);
    }
  }

  /** The game alone, as on the welcome page: <div class="explorer explorer-alone" data-model="digits" data-steps="8">. */
  async function alone(container) {
    const model = await explorer.bundled(container.dataset.model), results = await model.results();
    const nodes = explorer.spaced(model.costs.T, Number(container.dataset.steps), 1);
    new Game(container).play(model, results, nodes);
  }

  Object.assign(explorer, { Game, bestMove });
  for (const container of document.querySelectorAll(".explorer-alone"))
    alone(container).catch((error) => { container.textContent = error.message; });
})(globalThis.dpdiffExplorer ??= {});
