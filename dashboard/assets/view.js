/* The view of a run's charts: one window of steps for all of them, their scales, and the address that holds it all. */
(function () {
  "use strict";
  const { plots, overSteps, nameOf, plotOf, get, set, pointed } = window.foreshock;
  const QUIET = { smoothing: "0", panel: "layer" }; // values that an address need not tell
  const EMPTY = { window: "", smoothing: "0", scales: "", panel: "layer", head: "", step: "" }; // what these are where an address says nothing

  /* -- the address ---------------------------------------------------------------------------------------------------- */
  let kept = {}; // component id -> [property, value]
  let place = null; // path of the run's page that is shown

  const query = (changes) => {
    const found = new URLSearchParams();
    for (const [id, [, value]] of Object.entries(kept)) {
      const now = changes && id in changes ? changes[id] : value;
      if ((now || now === 0) && now !== QUIET[id]) found.set(id, now);
    }
    return found.toString();
  };
  const address = (changes) => location.pathname + "?" + query(changes);

  function permalink() {
    const context = window.dash_clientside.callback_context;
    const first = place !== location.pathname;
    kept = Object.fromEntries(context.inputs_list.map((one) => [one.id, [one.property, one.value]]));
    place = location.pathname;
    if (!first && location.pathname + location.search !== address()) history.replaceState(history.state, "", address());
  }

  /* Back and forward within a page: the view changes, the page stays. Dash would build it anew. */
  window.addEventListener("popstate", (event) => {
    if (location.pathname !== place || !document.getElementById("run-page")) return;
    event.stopImmediatePropagation();
    const wanted = new URLSearchParams(location.search);
    for (const [id, [property, value]] of Object.entries(kept)) {
      const then = wanted.get(id) === null ? EMPTY[id] : wanted.get(id);
      if (then !== undefined && then !== (value || "")) set(id, property, then);
    }
  });

  async function copy() {
    const link = location.origin + address();
    let words = "Copied.";
    try {
      await navigator.clipboard.writeText(link);
    } catch (_) {
      words = copiedByHand(link) ? words : link;
    }
    set("copied", "children", words);
    setTimeout(() => document.getElementById("copied") && set("copied", "children", ""), words === link ? 30000 : 2500);
  }

  /* Where a page may not use the clipboard: it is no secure context. */
  function copiedByHand(text) {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }

  /* -- the window ------------------------------------------------------------------------------------------------------- */
  const parts = (text) => (text || "").split("-").map(Number);

  function zoom(first, last) {
    const low = Math.max(0, Math.round(Math.min(first, last)));
    const high = Math.max(low + 1, Math.round(Math.max(first, last)));
    show(low + "-" + high);
  }

  function show(text) {
    if ((get("window", "data") || "") === text) return;
    /* A step that Back takes back. */
    history.pushState(history.state, "", address({ window: text }));
    set("window", "data", text);
  }

  /* What is shown now: the window, or else as far as the widest chart reaches. */
  function shown() {
    const text = get("window", "data");
    if (text) return parts(text);
    const ranges = plots().map((plot) => plot._fullLayout.xaxis.range.map(Number));
    if (!ranges.length) return null;
    return [Math.max(0, Math.min(...ranges.map((range) => range[0]))), Math.max(...ranges.map((range) => range[1]))];
  }

  /* By half around the step cursor (or the middle), or out by as much. */
  function scaleWindow(factor, around) {
    const now = shown();
    if (!now) return;
    const middle = around === null || around < now[0] || around > now[1] ? (now[0] + now[1]) / 2 : around;
    if (!get("window", "data") && factor > 1) return;
    zoom(middle - (middle - now[0]) * factor, middle + (now[1] - middle) * factor);
  }

  function pan(share) {
    const now = shown();
    if (!now || !get("window", "data")) return;
    const by = Math.max(share * (now[1] - now[0]), -now[0]);
    zoom(now[0] + by, now[1] + by);
  }

  function dragged(plot, change) {
    const ends = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (overSteps(plot) && ends[0] !== undefined && ends[1] !== undefined) zoom(...ends);
  }

  function doubled(plot) {
    const rows = plot._fullLayout.yaxis;
    if (!rows.fixedrange) window.Plotly.relayout(plot, { "yaxis.autorange": rows.type === "category" ? "reversed" : true });
    if (overSteps(plot)) show("");
  }

  /* Plotly tells by events of its own; whoever drags begins by touching the chart. */
  document.addEventListener(
    "pointerdown",
    (event) => {
      const plot = event.target.closest && event.target.closest(".graph-frame .js-plotly-plot");
      if (!plot || !plot.on || plot.foreshockHeard) return;
      plot.foreshockHeard = true;
      plot.on("plotly_relayout", (change) => dragged(plot, change));
      plot.on("plotly_doubleclick", () => doubled(plot));
    },
    true
  );

  const told = (step) => step.toLocaleString("en");

  function windowWords(text) {
    if (!text) return ["all", true];
    const [first, last] = parts(text);
    return [told(first) + " to " + told(last), false];
  }

  /* -- scales ----------------------------------------------------------------------------------------------------------- */
  const scaleOf = (plot) => plot && plot.layout && plot.layout.meta && plot.layout.meta.scale;

  function toggleScale(name) {
    const scale = scaleOf(plotOf(name));
    if (!scale) return;
    const others = (get("scales", "data") || "").split(",").filter((one) => one && !one.startsWith(name + ":"));
    set("scales", "data", [...others, name + ":" + (scale === "log" ? "linear" : "log")].sort().join(","));
  }

  function drawn() {
    requestAnimationFrame(() =>
      document.querySelectorAll('[data-tool="scale"]').forEach((button) => {
        const scale = scaleOf(plotOf(button.closest("[data-chart]").dataset.chart));
        button.hidden = !scale;
        button.setAttribute("aria-pressed", String(scale === "log"));
      })
    );
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.id === "window-reset") show("");
    if (button.id === "copy-link") copy();
    if (button.dataset.tool === "scale") toggleScale(button.closest("[data-chart]").dataset.chart);
  });

  Object.assign(window.foreshock, { query, copy, zoom, show, scaleWindow, pan, toggleScale, shown });
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    foreshock_view: { permalink, window: windowWords, drawn },
  });
})();
