// Draws the page's figures, and draws them again in other colours when the theme changes.
"use strict";

(() => {
  const NAMED = 540; // pixels: names of marks were placed for this width, narrower they would meet

  // Families have a colour for light and one for dark; text and lines are the page's own.
  function coloured(trace, width) {
    const colour = trace.meta?.[window.currentTheme()];
    if (!colour) return trace;
    const painted = { ...trace, cliponaxis: trace.type === "bar" ? undefined : false };
    if (trace.mode === "markers+text" && width < NAMED) painted.mode = "markers";
    if (trace.marker) painted.marker = { ...trace.marker, color: colour };
    if (trace.line) painted.line = { ...trace.line, color: colour };
    return painted;
  }

  // What a line is called ends at it, so that it is not cut off at the plot's edge.
  const inside = (shape) =>
    shape.label ? { ...shape, label: { ...shape.label, xanchor: "right" } } : shape;

  // Bars that stand alone are named on their axis; parts of stacked ones share it.
  function stand(data) {
    const names = data.flatMap((trace) => (trace.type === "bar" ? trace.y : []));
    return names.length > 0 && new Set(names).size === names.length;
  }

  // Lines are named beside the plot where there is room, on a phone only by touch and in the table.
  function named(figure, width) {
    const given = figure.layout;
    const margin = { ...given.margin, t: 30, r: 44 };
    const lines = figure.data.filter((trace) => trace.mode === "lines").length;
    if (lines) {
      const height = Math.max(420, Math.min(640, 80 + 20 * lines));
      const beside = { orientation: "v", x: 1.01, xanchor: "left", y: 1, yanchor: "top" };
      return { margin, height, showlegend: width > 640, legend: { ...beside, font: { size: 11 } } };
    }
    return { margin, shapes: given.shapes?.map(inside), showlegend: !stand(figure.data) };
  }

  function layout(figure, width) {
    const axis = (own) => ({
      ...own,
      title: { ...own.title, standoff: 10 },
      gridcolor: window.colour("--rule"),
      zeroline: false,
    });
    return {
      ...figure.layout,
      ...named(figure, width),
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      font: { color: window.colour("--ink"), family: "system-ui, sans-serif", size: 12 },
    };
  }

  function draw(element) {
    const figure = JSON.parse(element.dataset.plot);
    const width = element.clientWidth;
    const data = figure.data.map((trace) => coloured(trace, width));
    Plotly.react(element, data, layout(figure, width), {
      responsive: true,
      displaylogo: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
    element.dataset.drawn = "1";
  }

  // Figures near the screen come first. The others follow one by one while the page is idle, so that
  // scrolling and printing find them drawn; what a closed fold hides waits until it is opened.
  const waiting = new Set(document.querySelectorAll("[data-plot]"));
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) if (isIntersecting) drawOnce(target);
    },
    { rootMargin: "400px" },
  );

  function drawOnce(element) {
    if (!waiting.delete(element)) return;
    watcher.unobserve(element);
    draw(element);
  }

  const whenIdle = window.requestIdleCallback ?? ((work) => setTimeout(work, 100)); // not in Safari

  function drawTheNext() {
    const element = [...waiting].find((each) => each.clientWidth > 0);
    if (!element) return;
    drawOnce(element);
    whenIdle(drawTheNext);
  }

  for (const element of waiting) watcher.observe(element);
  whenIdle(drawTheNext);
  document.addEventListener("toggle", () => whenIdle(drawTheNext), true);
  document.addEventListener("theme", () => {
    for (const element of document.querySelectorAll("[data-drawn]")) draw(element);
  });
})();
