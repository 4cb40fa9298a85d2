// Live charts of a run page. The page brings the points so far as JSON; run.js brings the rest as
// `points` events. Points are keyed by kind and step and the newest event wins, so a reload, a reconnect or a
// resumed run neither loses nor doubles one.
"use strict";

(() => {
  const page = document.querySelector("[data-run-charts]");
  if (!page || !window.uPlot) return;

  const points = new Map();
  const charts = [];

  const css = (name) => getComputedStyle(page).getPropertyValue(name).trim();

  function take(list) {
    for (const point of list) {
      const key = `${point.kind}:${point.step}`;
      const known = points.get(key);
      if (!known || known.id <= point.id) points.set(key, point);
    }
  }

  function shown(value) {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const size = Math.abs(value);
    return size < 1e-3 || size >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  // One row of numbers a series, over the steps at which any of the chart's series has a value.
  function aligned(series) {
    const steps = new Set();
    for (const point of points.values()) {
      if (series.some((one) => one.kind === point.kind && point[one.key] !== undefined)) steps.add(point.step);
    }
    const xs = [...steps].sort((a, b) => a - b);
    return [xs, ...series.map((one) => xs.map((x) => points.get(`${one.kind}:${x}`)?.[one.key] ?? null))];
  }

  class Chart {
    constructor(figure) {
      this.figure = figure;
      this.plot = figure.querySelector("[data-plot]");
      this.keys = [...figure.querySelectorAll("[data-series]")];
      this.outputs = this.keys.map((key) => key.querySelector("output"));
      this.zoomed = false;
      this.series = this.keys.map((key) => ({ kind: key.dataset.kind, key: key.dataset.series, color: key.dataset.color }));
      this.uplot = new uPlot(this.options(), aligned(this.series), this.plot);
      this.uplot.over.addEventListener("dblclick", () => { this.zoomed = false; });
      new ResizeObserver(() => this.uplot.setSize(this.size())).observe(this.plot);
      this.read(null);
      figure.chart = this;
    }

    size() {
      return { width: Math.max(120, this.plot.clientWidth), height: this.plot.clientHeight };
    }

    options() {
      const ink = () => css("--chart-text");
      const grid = { stroke: () => css("--chart-grid"), width: 1 };
      const font = "11px system-ui, sans-serif";
      const axis = { stroke: ink, grid, ticks: { show: false }, font };
      return {
        ...this.size(),
        legend: { show: false },
        cursor: { sync: { key: "run" }, points: { size: 7 }, drag: { x: true, y: false } },
        hooks: {
          setCursor: [(u) => this.read(u.cursor.idx)],
          setSelect: [(u) => { if (u.select.width > 0) this.zoomed = true; }],
        },
        scales: { x: { time: false, range: (u, low, high) => this.zoomed ? [low, high] : [0, Math.max(high ?? 1, 1)] } },
        axes: [{ ...axis, size: 26, gap: 4 }, { ...axis, size: 56, gap: 4, space: 24, values: (_u, ticks) => ticks.map(shown) }],
        series: [{}, ...this.series.map((one) => ({
          stroke: () => css(one.color),
          width: 2,
          spanGaps: true,
          points: { show: one.kind === "eval" || undefined, size: 6, fill: () => css(one.color) },
        }))],
      };
    }

    // Values at the cursor, or the latest ones while nobody points.
    read(index) {
      const data = this.uplot?.data ?? [[]];
      this.outputs.forEach((output, i) => {
        const row = data[i + 1] ?? [];
        const value = index === null || index === undefined ? row.findLast((one) => one !== null) : row[index];
        output.textContent = shown(value);
      });
    }

    draw() {
      const data = aligned(this.series);
      this.uplot.setData(data, !this.zoomed);
      if (this.zoomed) this.uplot.redraw();
      this.figure.classList.toggle("is-empty", data[0].length === 0);
      this.read(this.uplot.cursor.idx);
    }
  }

  let waiting = false;
  function drawSoon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      charts.forEach((chart) => chart.draw());
      page.dataset.points = String(points.size);
    });
  }

  take(JSON.parse(document.getElementById("run-points").textContent));
  page.querySelectorAll("[data-chart]").forEach((figure) => charts.push(new Chart(figure)));
  drawSoon();

  const stream = document.querySelector("[data-run-stream]");
  stream?.addEventListener("points", (event) => {
    take(event.detail);
    drawSoon();
  });

  const recolour = () => charts.forEach((chart) => chart.uplot.redraw(false, true));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
