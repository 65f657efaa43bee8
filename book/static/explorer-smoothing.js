/* Averages out the noise between neighbouring timesteps, as dpdiff's Costs.smoothed(0.2) does. */
((explorer) => {
  "use strict";

  /** A straight line around every point of x (rising), near neighbours counting most: as [first neighbour, weights of
      the line's value at the point, weights of the mean]. */
  function neighbourhoods(x, width) {
    const last = x.length - 1, lines = [];
    let first = 0, end = 0;
    for (let i = 0; i <= last; i++) {
      while (x[first] < x[i] - width) first++;
      while (end <= last && x[end] < x[i] + width) end++;
      const from = Math.min(first, Math.max(i - 2, 0)), to = Math.max(end, Math.min(i + 3, last + 1));
      const distances = Array.from(x.subarray(from, to), (place) => place - x[i]);
      const reach = Math.max(width, 1.01 * Math.max(-distances[0], distances[distances.length - 1]));
      const tricube = distances.map((d) => (1 - Math.abs(d / reach) ** 3) ** 3), moments = [0, 0, 0];
      distances.forEach((d, j) => moments.forEach((_, power) => { moments[power] += tricube[j] * d ** power; }));
      const line = tricube.map((w, j) => w * (moments[2] - moments[1] * distances[j]));
      lines.push([from, ...[line, tricube].map((weights) => {
        const sum = weights.reduce((a, b) => a + b);
        return weights.map((w) => w / sum);
      })]);
    }
    return lines;
  }

  /** New costs from the averaged statistics; t = 0, the noise schedule and the prior stay as they are. Squares stay
      positive: where their line falls below zero, the mean stands in for it. */
  function smoothed(costs, width = 0.2) {
    const x = costs.logSnr.slice(1).map((v, i) => 1e-9 * i - Math.max(v, Math.log(1e-12)));
    const near = neighbourhoods(x, width), arrays = { ...costs.arrays };
    for (const [name, values] of Object.entries(arrays)) {
      if (values.length % (costs.T + 1)) continue; // the noise schedule and the prior
      const columns = values.length / (costs.T + 1), smooth = values.slice();
      near.forEach(([from, line, mean], i) => {
        for (let c = 0; c < columns; c++) {
          const average = (weights) => weights.reduce((sum, w, j) => sum + w * values[(from + j + 1) * columns + c], 0);
          const fit = average(line);
          smooth[(i + 1) * columns + c] = fit < 0 && !name.startsWith("decoder") ? average(mean) : fit;
        }
      });
      arrays[name] = smooth;
    }
    return new explorer.Costs({ ...costs.about, variance: costs.variance }, arrays);
  }

  explorer.smoothed = smoothed;
})(globalThis.dpdiffExplorer ??= {});
