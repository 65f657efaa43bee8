/* What all pictures share: SVG elements, the log SNR axis, and how numbers and kinds of schedule are named. */
((explorer) => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const KINDS = { yours: "yours", dp: "optimal", even: "even", quadratic: "quadratic" };
  const NOISIEST = -10; // the left end of the log SNR axis: what lies beyond has no signal worth the name

  function add(parent, name, attributes = {}, text) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  function make(parent, name, attributes = {}, text) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent?.append(element);
    return element;
  }

  /** An empty picture, one unit a pixel, in place of what the container holds. */
  function picture(container, height, label) {
    const width = Math.max(280, Math.floor(container.clientWidth));
    container.replaceChildren();
    const svg = add(container, "svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
    if (label) svg.setAttribute("aria-label", label);
    return { svg, width };
  }

  const line = (points) => "M" + points.map((p) => p.map((v) => v.toFixed(1)).join(",")).join("L");
  const three = (x) => x.toFixed(3).replace("-", "−");
  const count = (K) => K.toLocaleString("en") + (K === 1 ? " step" : " steps");

  /** Places of timesteps along log SNR: noise at `left`, data at `right`, and t = 0, which has none, in a slot of its own. */
  class Axis {
    constructor(costs, left, right, slot = 0.08) {
      Object.assign(this, { costs, left, right });
      this.low = Math.max(NOISIEST, costs.logSnr[costs.T]);
      this.high = costs.logSnr[1];
      this.edge = right - slot * (right - left); // t = 1
      this.scale = (this.edge - left) / (this.high - this.low); // pixels a unit, negative if the axis points up
    }

    ofSnr(value) {
      return this.left + (Math.max(value, this.low) - this.low) * this.scale;
    }

    of(t) {
      return t === 0 ? this.right : this.ofSnr(this.costs.logSnr[t]);
    }

    /** The timestep 1 … T whose place is nearest. */
    nearest(place) {
      const { logSnr, T } = this.costs, wanted = (place - this.left) / this.scale + this.low;
      let above = 1, below = T; // logSnr falls with t
      while (below - above > 1) {
        const middle = (above + below) >> 1;
        if (logSnr[middle] >= wanted) above = middle; else below = middle;
      }
      return logSnr[above] - wanted < wanted - logSnr[below] ? above : below;
    }

    /** Round values of log SNR for marks. */
    marks() {
      const step = Math.abs(this.scale) < 14 ? 5 : 2, ticks = [];
      for (let value = Math.ceil(this.low / step) * step; value <= this.high; value += step) ticks.push(value);
      return ticks;
    }
  }

  /** The line, marks and names of a horizontal log SNR axis at height y. */
  function axisAcross(group, axis, y) {
    add(group, "path", { d: line([[axis.left, y], [axis.right, y]]), class: "axis" });
    for (const value of axis.marks()) {
      add(group, "path", { d: line([[axis.ofSnr(value), y], [axis.ofSnr(value), y + 4]]), class: "axis" });
      add(group, "text", { x: axis.ofSnr(value), y: y + 17, "text-anchor": "middle" }, String(value).replace("-", "−"));
    }
    const middle = (axis.edge + axis.right) / 2;
    add(group, "text", { x: middle, y: y + 17, "text-anchor": "middle" }, "t = 0");
    add(group, "text", { x: axis.left, y: y + 34 }, "◂ noise");
    add(group, "text", { x: (axis.left + axis.right) / 2, y: y + 34, "text-anchor": "middle" }, "log SNR");
    add(group, "text", { x: axis.right, y: y + 34, "text-anchor": "end" }, "data ▸");
  }

  /** Call `draw` now, and again whenever the container's width changes. */
  function whenResized(container, draw) {
    let width = container.clientWidth;
    new ResizeObserver(() => {
      if (container.clientWidth === width) return;
      width = container.clientWidth;
      draw();
    }).observe(container);
  }

  Object.assign(explorer, { KINDS, add, make, picture, line, three, count, Axis, axisAcross, whenResized });
})(globalThis.dpdiffExplorer ??= {});
