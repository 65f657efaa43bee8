/* The whole of the method: the cheapest path from T to 0 with exactly K jumps, for every K at once. */
((explorer) => {
  "use strict";

  /** C[k, t] = min over s < t of C[k - 1, s] + L(t, s), where C[k, t] is the least cost of a path from 0 to t in k jumps.

      `costs` has T and cost(t, s). `progress` is told now and then how much is done; if it answers false, the work stops
      and nothing is returned. Otherwise: one list of nodes 0 … T for each budget 1 … maxSteps, the best there is. */
  async function solve(costs, maxSteps, progress = () => true) {
    const { T } = costs, K = Math.min(maxSteps, T);
    const best = Array.from({ length: K + 1 }, () => new Float64Array(T + 1).fill(Infinity)); // C[k, t]
    const before = Array.from({ length: K + 1 }, () => new Int32Array(T + 1)); // the node that such a path comes from
    const jump = new Float64Array(T); // L(t, s) for one t
    best[0][0] = 0;
    let rested = Date.now();
    for (let t = 1; t <= T; t++) {
      for (let s = 0; s < t; s++) jump[s] = costs.cost(t, s);
      for (let k = 1; k <= K; k++) {
        const shorter = best[k - 1];
        let least = Infinity, from = -1;
        for (let s = t - 1; s >= 0; s--) { // the shortest jump first: it wins a tie
          const total = shorter[s] + jump[s];
          if (total < least) {
            least = total;
            from = s;
          }
        }
        best[k][t] = least;
        before[k][t] = from;
      }
      if (Date.now() - rested > 40) { // let the page live in the meantime
        if (progress((t / T) ** 2) === false) return undefined;
        await new Promise((resolve) => setTimeout(resolve));
        rested = Date.now();
      }
    }
    return Array.from({ length: K }, (_, i) => {
      const nodes = [T];
      for (let k = i + 1; k > 0; k--) nodes.unshift(before[k][nodes[0]]);
      return nodes;
    });
  }

  explorer.solve = solve;
})(globalThis.dpdiffExplorer ??= {});
