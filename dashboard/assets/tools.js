/* The tools of every chart: the scale of its axis, and the menu of ways to take it along. Drawn here and not by the server, because
   every component of Dash's costs the browser a little with every live update. */
(function () {
  "use strict";
  const { plotOf } = window.foreshock;

  function button(words, label, kind, title) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "tool";
    made.textContent = words;
    made.title = title;
    made.dataset.tool = kind;
    made.setAttribute("aria-label", label);
    return made;
  }

  function menu(label, table) {
    const made = document.createElement("details");
    made.className = "export";
    const summary = document.createElement("summary");
    summary.className = "tool";
    summary.textContent = "Export";
    summary.setAttribute("aria-label", "Export: " + label);
    const choices = document.createElement("div");
    choices.className = "export-choices";
    const kinds = [["png", "PNG", "Save a picture"], ["svg", "SVG", "Save a drawing"], ["csv", "CSV", "Save every point of these steps"]];
    for (const [kind, words, title] of kinds) {
      if (kind !== "csv" || table) choices.append(button(words, words + ": " + label, kind, title));
    }
    made.append(summary, choices);
    return made;
  }

  function dress(chart) {
    const tools = chart.querySelector(".graph-tools");
    const frame = chart.querySelector(".graph-frame");
    if (!tools || !frame || tools.firstChild) return;
    const label = frame.getAttribute("aria-label");
    const table = chart.dataset.table === "yes" && Boolean(chart.closest("main[data-tables]"));
    tools.append(button("log", "Logarithmic axis: " + label, "scale", "Logarithmic axis (l)"), menu(label, table));
    tools.firstChild.hidden = true;
  }

  /* The scale can be chosen where the server says that the figure has one. */
  function show(chart) {
    const plot = plotOf(chart.dataset.chart);
    const scale = plot && plot.layout && plot.layout.meta && plot.layout.meta.scale;
    const tool = chart.querySelector('[data-tool="scale"]');
    tool.hidden = !scale;
    tool.setAttribute("aria-pressed", String(scale === "log"));
  }

  document.addEventListener("foreshock-drawn", (event) => {
    const chart = event.detail.closest("[data-chart]");
    if (!chart) return;
    dress(chart);
    show(chart);
  });
})();
