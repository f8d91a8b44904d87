// Two quantities of the reader's choice against each other, and the frontier of these two.
"use strict";

(() => {
  const EPSILON = 1e-9; // as in analysis.frontiers

  const MANY = 12; // names that a sentence takes
  const LETTER_PX = 6.4; // of a name beside its mark
  const LINE_PX = 13;

  const number = (text) => (text === null ? NaN : Number(text));

  // Methods that no other equals or beats on both axes while it beats them on one.
  function frontier(points, signs) {
    const gain = (a, b) => [signs[0] * (a.x - b.x), signs[1] * (a.y - b.y)];
    return points.filter((point) => {
      if (!Number.isFinite(point.x) || !Number.isFinite(point.y)) return false;
      return !points.some((other) => {
        const [x, y] = gain(other, point);
        return x >= -EPSILON && y >= -EPSILON && (x > EPSILON || y > EPSILON);
      });
    });
  }

  class Axes {
    constructor(root) {
      this.root = root;
      this.data = JSON.parse(document.getElementById(root.dataset.source).textContent);
      this.plot = root.querySelector("[data-part=plot]");
      this.selects = ["x", "y"].map((axis) => root.querySelector(`[data-part=${axis}]`));
      for (const select of this.selects) select.addEventListener("change", () => this.draw());
      document.addEventListener("theme", () => this.draw());
      root.hidden = false;
      this.draw();
    }

    draw() {
      const [x, y] = this.selects.map((each) => this.data.quantities[each.value]);
      const points = this.data.methods
        .map((each) => ({ ...each, x: number(each.values[x.name]), y: number(each.values[y.name]) }))
        .filter((each) => Number.isFinite(each.x) && Number.isFinite(each.y));
      const signs = [x, y].map((each) => (each.better === "higher" ? 1 : -1));
      const best = frontier(points.filter((each) => !each.again), signs);
      best.sort((a, b) => signs[0] * (b.x - a.x));
      this.say(x, y, points, best);
      const traces = [...this.families(points), this.line(best)];
      Plotly.react(this.plot, traces, this.layout(x, y, points), {
        responsive: true,
        displaylogo: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      }).then(() => Plotly.relayout(this.plot, { annotations: this.names(best, points) }));
    }

    families(points) {
      const names = [...new Set(points.map((each) => each.family))];
      return names.map((family) => {
        const own = points.filter((each) => each.family === family);
        const hollow = (each) => (each.again ? "-open" : "");
        const look = this.data.looks[window.currentTheme()][own[0].reference ? "reference" : family];
        return {
          type: "scatter",
          mode: "markers",
          name: escaped(family),
          x: own.map((each) => each.x),
          y: own.map((each) => each.y),
          text: own.map((each) => escaped(each.name)),
          hovertemplate: "<b>%{text}</b><br>%{x:.4~g}, %{y:.4~g}<extra></extra>",
          marker: { size: 11, color: look.colour, symbol: own.map((each) => look.marker + hollow(each)), line: { width: 1, color: ink() } },
        };
      });
    }

    line(best) {
      return {
        type: "scatter",
        mode: "lines",
        name: "frontier",
        x: best.map((each) => each.x),
        y: best.map((each) => each.y),
        line: { width: 1.5, color: ink(), dash: "dot" },
        hoverinfo: "skip",
      };
    }

    // Above its mark or below it, as far as there is room; the others are named on hover.
    names(best, points) {
      const { xaxis, yaxis } = this.plot._fullLayout;
      const named = [...points.filter((each) => each.reference), ...best];
      const taken = points.map((each) => box(xaxis.d2p(each.x), yaxis.d2p(each.y), 12, 12));
      const found = [];
      for (const each of new Set(named)) {
        const [across, down] = [xaxis.d2p(each.x), yaxis.d2p(each.y)];
        const yshift = [15, -15].find((shift) => {
          const own = box(across, down - shift, LETTER_PX * each.name.length, LINE_PX);
          return !taken.some((other) => meet(own, other));
        });
        if (yshift === undefined) continue;
        taken.push(box(across, down - yshift, LETTER_PX * each.name.length, LINE_PX));
        found.push({ x: each.x, y: each.y, text: escaped(each.name), showarrow: false, yshift });
      }
      return found.map((each) => ({ ...each, font: { size: 11, color: ink() } }));
    }

    layout(x, y, points) {
      const axis = (quantity) => ({
        title: { text: `${quantity.heading} (${quantity.better} is better)` },
        gridcolor: window.colour("--rule"),
        zeroline: false,
        automargin: true,
      });
      const base = points.find((each) => each.reference);
      const cross = base && [
        { type: "line", xref: "paper", x0: 0, x1: 1, y0: base.y, y1: base.y },
        { type: "line", yref: "paper", y0: 0, y1: 1, x0: base.x, x1: base.x },
      ];
      return {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: ink(), family: "system-ui, sans-serif", size: 12 },
        margin: { l: 60, r: 20, t: 10, b: 50 },
        xaxis: axis(x),
        yaxis: axis(y),
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        hovermode: "closest",
        shapes: (cross || []).map((each) => ({
          ...each,
          line: { dash: "dot", width: 1, color: window.colour("--faint") },
        })),
      };
    }

    say(x, y, points, best) {
      const more = best.length - MANY;
      const names =
        best.slice(0, MANY).map((each) => each.name).join(", ") +
        (more > 0 ? ` and ${more} more` : "");
      const said = points.length
        ? `On the frontier of ${x.heading} and ${y.heading}: ${names}.`
        : `No method has both ${x.heading} and ${y.heading}.`;
      const left = this.data.methods.length - points.length;
      this.root.querySelector("[data-part=said]").textContent =
        left ? `${said} Without a value: ${left} of ${this.data.methods.length}.` : said;
      this.plot.setAttribute("aria-label", `${y.heading} over ${x.heading}, a mark a method. ${said}`);
      const body = this.root.querySelector("tbody");
      this.root.querySelector("[data-part=x-title]").textContent = x.heading;
      this.root.querySelector("[data-part=y-title]").textContent = y.heading;
      body.replaceChildren(...points.map((each) => row(each, best.includes(each))));
    }
  }

  // A box around a place, and whether two share any of it.
  const box = (x, y, width, height) => [x - width / 2, y - height / 2, x + width / 2, y + height / 2];
  const meet = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

  // Plotly reads some HTML in texts.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

  function row(point, isBest) {
    const line = document.createElement("tr");
    const format = (value) => String(Number(value.toPrecision(5)));
    for (const text of [point.name, format(point.x), format(point.y), isBest ? "yes" : ""]) {
      line.insertCell().textContent = text;
    }
    return line;
  }

  const ink = () => window.colour("--ink");

  for (const root of document.querySelectorAll(".axes")) new Axes(root);
})();
