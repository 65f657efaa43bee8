/* The picture behind the game. Every jump is a block over the stretch of log SNR that it covers, and its area is its
   cost; the shaded hill under the blocks is what all steps together cost. What stands out of the hill is lost; a large jump of a model that is not perfect may also
   gain a little, where it lies below. */
((explorer) => {
  "use strict";
  const { add, line, Axis, axisAcross } = explorer;
  const MARGIN = { left: 34, right: 16, top: 16, bottom: 66 };

  class Blocks {
    constructor(svg, costs, width, height) {
      this.costs = costs;
      this.axis = new Axis(costs, MARGIN.left, width - MARGIN.right);
      this.top = MARGIN.top;
      this.floor = height - MARGIN.bottom;
      this.yours = add(svg, "g", { class: "blocks" });
      this.hill = add(svg, "path", { class: "hill" });
      this.numbers = add(svg, "g", { class: "numbers" });
      this.best = add(svg, "path", { class: "stroke dp" });
      this.scale = add(svg, "g");
      axisAcross(svg, this.axis, this.floor + 20);
      this.unitJumps = this.merged();
    }

    /** Jumps of one timestep as [from, to, bits a unit of log SNR], those narrower than two pixels put together. */
    merged() {
      const { axis, costs } = this, blocks = [];
      let from = axis.left, bits = 0;
      for (let t = costs.T; t > 0; t--) {
        bits += costs.jumpBits(t, t - 1);
        const to = axis.of(t - 1);
        if (to - from < 2) continue;
        blocks.push([from, to, (bits / (to - from)) * axis.scale]);
        from = to;
        bits = 0;
      }
      return blocks;
    }

    /** The same for the jumps of a schedule; those that begin and end beyond the left end have no width and no cost. */
    jumps(nodes) {
      const { axis, costs } = this;
      return nodes.slice(1).map((t, i) => {
        const from = axis.of(t), to = axis.of(nodes[i]), bits = costs.jumpBits(t, nodes[i]);
        return [from, to, to - from > 0.01 ? (bits / (to - from)) * axis.scale : 0, bits];
      }).reverse();
    }

    /** Fit the heights to the optimum and the hill: other schedules may stand out at the top. */
    fit(optimum) {
      const highest = (jumps) => Math.max(...jumps.map((jump) => jump[2]));
      this.most = 1.6 * Math.max(highest(this.unitJumps), highest(this.jumps(optimum)));
      this.hill.setAttribute("d", `${this.outline(this.unitJumps)}Z`);
      this.scale.replaceChildren();
      const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((size) => this.most / size < 5) ?? 10;
      for (let value = step; value < this.most; value += step)
        add(this.scale, "text", { x: MARGIN.left - 5, y: this.y(value) + 4, "text-anchor": "end" }, +value.toFixed(2));
      add(this.scale, "text", { x: MARGIN.left + 4, y: MARGIN.top - 4 }, "bits/dim per unit of log SNR");
    }

    y(height) {
      return Math.max(this.floor - (height / this.most) * (this.floor - this.top), this.top);
    }

    outline(jumps) {
      const points = [[jumps[0][0], this.floor]];
      for (const [from, to, height] of jumps) points.push([from, this.y(height)], [to, this.y(height)]);
      return line([...points, [jumps[jumps.length - 1][1], this.floor]]);
    }

    /** Draw a reader's blocks, with what each costs where there is room for the number. */
    draw(nodes) {
      this.yours.replaceChildren();
      this.numbers.replaceChildren();
      for (const [from, to, height, bits] of this.jumps(nodes)) {
        const y = this.y(height), tall = height > this.most;
        add(this.yours, "rect", { x: from, y, width: Math.max(to - from, 0), height: this.floor - y });
        if (to - from < 40) continue;
        add(this.numbers, "text", { x: (from + to) / 2, y: y + (this.floor - y > 22 ? 15 : -5), "text-anchor": "middle" },
          bits.toFixed(bits < 0.0995 ? 3 : 2) + (tall ? " ↑" : ""));
      }
    }

    /** The optimum's outline, or nothing. */
    compare(nodes) {
      this.best.setAttribute("d", nodes ? this.outline(this.jumps(nodes)) : "M0,0");
    }
  }

  explorer.Blocks = Blocks;
})(globalThis.dpdiffExplorer ??= {});
