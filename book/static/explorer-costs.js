/* The cost L(t, s) of every jump, in nats, from what was measured at every timestep: dpdiff.Costs in a browser.
   Lessons 2 and 3 derive the formulas. */
((explorer) => {
  "use strict";

  // The statistic that holds the decoder's costs L(t, 0) under each rule.
  const DECODERS = {
    small: "decoder_fixed", large: "decoder_fixed", optimal: "decoder_optimal", learned_range: "decoder_learned_range",
  };

  /** T, log g² and log SNR on the grid 0 … T, from β_1 … β_T or from log f² and log g² of any other process. */
  function noiseOf({ betas, log_f2, log_g2 }) {
    const T = (betas ?? log_g2).length, logG2 = new Float64Array(T + 1), logSnr = logG2.slice();
    let logF2 = 0;
    logG2[0] = -Infinity;
    logSnr[0] = Infinity;
    for (let t = 1; t <= T; t++) {
      logF2 = betas ? logF2 + Math.log1p(-betas[t - 1]) : log_f2[t - 1];
      logG2[t] = betas ? Math.log(-Math.expm1(logF2)) : log_g2[t - 1];
      logSnr[t] = logF2 - logG2[t];
    }
    return { T, logG2, logSnr };
  }

  /** Values at Chebyshev's nodes, `count` of them a row, turned into coefficients. */
  function coefficientsOf(values, count) {
    const result = new Float64Array(values.length), cosines = new Float64Array(count * count);
    for (let j = 0; j < count; j++)
      for (let i = 0; i < count; i++) cosines[j * count + i] = Math.cos((Math.PI * j * (i + 0.5)) / count) * (j ? 2 : 1) / count;
    for (let row = 0; row < values.length; row += count)
      for (let j = 0; j < count; j++) {
        let sum = 0;
        for (let i = 0; i < count; i++) sum += cosines[j * count + i] * values[row + i];
        result[row + j] = sum;
      }
    return result;
  }

  /** The Chebyshev series with coefficients c[first], … at x, by Clenshaw's recurrence. */
  function series(c, first, count, x) {
    let b1 = 0, b2 = 0;
    for (let j = count - 1; j > 0; j--) {
      const b0 = c[first + j] + 2 * x * b1 - b2;
      b2 = b1;
      b1 = b0;
    }
    return c[first] + x * b1 - b2;
  }

  class Costs {
    /** `about`: shape, variance, provenance. `arrays`: the noise schedule's, mse and the rest, as typed arrays of one number a timestep. */
    constructor(about, arrays) {
      Object.assign(this, noiseOf(arrays));
      this.about = about;
      this.arrays = arrays;
      this.dims = about.shape.reduce((a, b) => a * b, 1);
      this.prior = arrays.prior ? Number(arrays.prior[0]) : 0;
      this.variances = Object.keys(DECODERS).filter((rule) =>
        arrays[DECODERS[rule]] && (rule !== "learned_range" || (arrays.penalty && arrays.error)));
      this.use(this.variances.includes(about.variance) ? about.variance : this.variances[0]);
    }

    /** Read the same measurement under another variance rule. */
    use(variance) {
      this.variance = variance;
      this.decoder = this.arrays[DECODERS[variance]];
      this.jump = this[variance]();
    }

    /** L(t, s) in nats, 0 ≤ s < t. */
    cost(t, s) {
      if (s === 0) return this.decoder[t];
      const { logSnr, logG2 } = this;
      const gap = Math.exp(logSnr[s]) * -Math.expm1(logSnr[t] - logSnr[s]);
      return this.jump(t, gap, logG2[t] - logG2[s]);
    }

    // Each rule is a function of t, of ΔSNR = SNR(s) - SNR(t), and of a = log(g(t)² / g(s)²).
    small() {
      const { mse } = this.arrays;
      return (t, gap) => 0.5 * gap * mse[t];
    }

    large() {
      const { mse } = this.arrays, { dims } = this;
      return (t, gap, a) => 0.5 * (dims * (a + Math.expm1(-a)) + gap * Math.exp(-a) * mse[t]);
    }

    optimal() {
      const { mse } = this.arrays, { dims } = this;
      return (t, gap) => 0.5 * dims * Math.log1p((gap * mse[t]) / dims);
    }

    learned_range() {
      const { logG2, T } = this, count = this.arrays.penalty.length / (T + 1);
      this.learned ??= [coefficientsOf(this.arrays.penalty, count), coefficientsOf(this.arrays.error, count)];
      const [penalty, error] = this.learned;
      return (t, gap, a) => {
        const x = (2 * a) / (logG2[t] - logG2[1]) - 1;
        return 0.5 * (series(penalty, t * count, count, x) + gap * series(error, t * count, count, x));
      };
    }

    /** Nats over a path in bits/dim, with the prior's. */
    bits(nats) {
      return (nats + this.prior) / (this.dims * Math.LN2);
    }

    /** Bits/dim of one jump, without the prior's. */
    jumpBits(t, s) {
      return this.cost(t, s) / (this.dims * Math.LN2);
    }

    /** Bits/dim of the path through nodes 0 … T. */
    score(nodes) {
      let nats = 0;
      for (let i = 1; i < nodes.length; i++) nats += this.cost(nodes[i], nodes[i - 1]);
      return this.bits(nats);
    }

    /** Bits/dim of the path that leaves out nothing. */
    scoreOfAll() {
      return this.score(Array.from({ length: this.T + 1 }, (_, t) => t));
    }
  }

  /** Nodes at T (i/K)^power, rounded, halves up; those that would coincide are pushed up. */
  function spaced(T, steps, power) {
    const scale = steps ** power, nodes = [0];
    for (let i = 1; i <= steps; i++)
      nodes.push(Math.max(Math.floor((2 * T * i ** power + scale) / (2 * scale)), nodes[i - 1] + 1));
    return nodes;
  }

  Object.assign(explorer, { Costs, DECODERS, spaced });
})(globalThis.dpdiffExplorer ??= {});
