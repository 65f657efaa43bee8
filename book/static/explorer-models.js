/* The models that can be looked at: the two bundled ones, each in a script of its own, and the reader's. */
((explorer) => {
  "use strict";
  const HERE = document.currentScript.src.replace(/[^/]*$/, "");
  const LARGEST = 64; // budgets solved for in the browser

  /** Costs, and what is known of them: curves and paths by variance rule, worked out when they are first asked for. */
  class Model {
    constructor(name, costs, data = {}) {
      Object.assign(this, { name, costs, data, what: data.what ?? name });
      this.known = {};
    }

    /** Paths, scores of all budgets and of all steps under the rule in force; undefined if `progress` answered false. */
    async results(progress) {
      const { costs, data } = this, rule = costs.variance;
      if (this.known[rule]) return this.known[rule];
      const learned = rule === "learned_range" && data.gaps;
      const paths = learned ? data.gaps.map(pathOf) : await explorer.solve(costs, LARGEST, progress);
      if (!paths) return undefined;
      const nodes = (kind, steps) => (kind === "dp" ? paths[steps - 1] : explorer.spaced(costs.T, steps, kind === "even" ? 1 : 2));
      const bits = Object.fromEntries(["dp", "even", "quadratic"].map((kind) =>
        [kind, paths.map((_, i) => costs.score(nodes(kind, i + 1)))]));
      this.known[rule] = { largest: paths.length, nodes, bits, all: costs.scoreOfAll() };
      return this.known[rule];
    }
  }

  function pathOf(gaps) {
    const nodes = [0];
    for (const gap of gaps) nodes.push(nodes[nodes.length - 1] + gap);
    return nodes;
  }

  const waiting = {};

  /** A bundled model, whose script is loaded when it is first wanted. A page opened from a disk may load scripts, not fetch. */
  function bundled(name) {
    waiting[name] ??= new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `${HERE}explorer-${name}.js`;
      script.addEventListener("error", () => reject(new Error(`The data of ${name} cannot be loaded.`)));
      script.addEventListener("load", async () => {
        const data = globalThis.dpdiffModels[name];
        resolve(new Model(name, await explorer.unpackCosts(data.costs), data));
      });
      document.head.append(script);
    });
    return waiting[name];
  }

  Object.assign(explorer, { Model, bundled });
})(globalThis.dpdiffExplorer ??= {});
