/* The view of a run's charts: one window of steps for all of them, their scales, and the address that holds it all. */
(function () {
  "use strict";
  const { plots, overSteps, nameOf, plotOf, get, set } = window.foreshock;
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
    return window.dash_clientside.no_update;
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
    /* The server first: Dash comes to what follows from the window in its own time. */
    tell([text, get("smoothing", "value"), get("scales", "data")]);
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

  /* On other pages a chart is zoomed by itself. */
  const linked = (plot) => Boolean(plot.closest("#run-page")) && overSteps(plot);

  function dragged(plot, change) {
    const ends = change["xaxis.range"] || [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (linked(plot) && ends[0] !== undefined && ends[1] !== undefined) zoom(...ends);
  }

  function doubled(plot) {
    const rows = plot._fullLayout.yaxis;
    const whole = rows.fixedrange ? {} : { "yaxis.autorange": rows.type === "category" ? "reversed" : true };
    if (linked(plot)) show("");
    else whole["xaxis.autorange"] = true;
    if (Object.keys(whole).length) window.Plotly.relayout(plot, whole);
  }

  /* Plotly tells by events of its own. Dash would keep every hovered point and every dragged axis as a property of the chart's: each
     costs a round through all components of the page, and a drag a second drawing. Nothing here needs them. */
  function hear(plot) {
    if (plot.foreshockHeard || !plot.removeAllListeners) return;
    plot.foreshockHeard = true;
    for (const name of ["plotly_relayout", "plotly_restyle", "plotly_hover", "plotly_unhover"]) plot.removeAllListeners(name);
    plot.on("plotly_relayout", (change) => (drag && drag.asked ? null : dragged(plot, change)));
    plot.on("plotly_doubleclick", () => doubled(plot));
    plot.on("plotly_afterplot", () => document.dispatchEvent(new CustomEvent("foreshock-drawn", { detail: plot })));
    document.dispatchEvent(new CustomEvent("foreshock-drawn", { detail: plot }));
  }

  /* Graphs come with their page, and plotly makes charts of them in its own time. */
  let listening = 0;
  function listen() {
    clearTimeout(listening);
    const graphs = [...document.querySelectorAll(".graph-frame .js-plotly-plot")];
    graphs.forEach(hear);
    const waiting = document.querySelectorAll(".graph-frame").length > graphs.filter((plot) => plot.foreshockHeard).length;
    if (waiting) listening = setTimeout(listen, 200);
  }

  document.addEventListener("foreshock-sent", listen);

  let drag = null;
  document.addEventListener(
    "pointerdown",
    (event) => {
      const plot = event.target.closest && event.target.closest(".graph-frame .js-plotly-plot");
      drag = null;
      if (!plot || !plot.on) return;
      acted = nameOf(plot);
      if (event.target.closest(".nsewdrag") && !event.shiftKey && event.button === 0) drag = { plot, from: event.clientX, asked: false };
      hear(plot);
    },
    true
  );

  /* Asked for before plotly has drawn what it has of these steps: the answer is under way meanwhile. */
  const LEAST = 24; // pixels; of shorter drags plotly decides whether they are one
  document.addEventListener(
    "pointerup",
    (event) => {
      if (!drag || Math.abs(event.clientX - drag.from) < LEAST || !linked(drag.plot)) return;
      const axis = drag.plot._fullLayout.xaxis;
      const left = drag.plot.getBoundingClientRect().left + axis._offset;
      const step = (x) => axis.p2d(Math.min(axis._length, Math.max(0, x - left)));
      drag.asked = true;
      zoom(step(drag.from), step(event.clientX));
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
    acted = name;
    const others = (get("scales", "data") || "").split(",").filter((one) => one && !one.startsWith(name + ":"));
    set("scales", "data", [...others, name + ":" + (scale === "log" ? "linear" : "log")].sort().join(","));
  }

  /* -- telling the server ------------------------------------------------------------------------------------------------ */
  let acted = "loss"; // the chart that the reader last did something to: its answer comes first

  let asked = ""; // what the server was last told

  function tell(looks) {
    asked = JSON.stringify(looks);
    set("looking", "data", { tab: window.foreshock.tab, first: acted, looks });
  }

  function looking(...looks) {
    /* Without a SharedWorker there is no socket on which an answer could come by itself. */
    if (typeof SharedWorker === "undefined") window.foreshock.again();
    if (JSON.stringify(looks) !== asked) tell(looks);
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
    foreshock_view: { permalink, window: windowWords, looking },
  });
})();
