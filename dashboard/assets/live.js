/* What the page does without the server: count its requests, notice that it is hidden or cut off, go where a click leads. */
(function () {
  "use strict";
  const TAB = Math.random().toString(36).slice(2) + Date.now().toString(36);
  const nothing = () => window.dash_clientside.no_update;

  /* -- the tab's requests: every change of this number makes the live sections ask anew ------------------------------- */
  let number = 0;

  function ticket() {
    number += 1;
    return { tab: TAB, number: number, visible: document.visibilityState !== "hidden" };
  }

  function again() {
    const page = document.querySelector("main[data-live]");
    if (page) window.dash_clientside.set_props(page.id + "-ticket", { data: ticket() });
  }

  document.addEventListener("visibilitychange", again);
  window.foreshock.tab = TAB;
  window.foreshock.again = again;

  /* Without a SharedWorker Dash has no WebSocket: ask again over HTTP. */
  if (typeof SharedWorker === "undefined") {
    setInterval(() => document.visibilityState === "hidden" || again(), 5000);
  }

  /* -- what was drawn: the server sends more only after this answer ----------------------------------------------------- */
  let beat = 0;
  let answering = false;
  const idle = window.requestIdleCallback || ((then) => setTimeout(then, 50));

  function drawn(number) {
    beat = number;
    if (answering) return;
    answering = true;
    /* Two frames: one in which the sections are laid out, one in which plotly has drawn them. Then a moment without work. */
    const answer = () => {
      answering = false;
      window.dash_clientside.set_props("drawn", { data: { tab: TAB, number: beat } });
    };
    requestAnimationFrame(() => requestAnimationFrame(() => idle(answer, { timeout: 3000 })));
    document.dispatchEvent(new Event("foreshock-sent"));
  }

  /* The beat is an attribute: a callback of Dash's would cost more than drawing a small chart. */
  new MutationObserver((_, waiting) => {
    const beating = document.getElementById("beat");
    if (!beating) return;
    waiting.disconnect();
    const told = () => beating.title && drawn(Number(beating.title));
    new MutationObserver(told).observe(beating, { attributes: true, attributeFilter: ["title"] });
    told();
  }).observe(document.documentElement, { childList: true, subtree: true });

  /* -- the connection ------------------------------------------------------------------------------------------------- */
  /* The socket's worker gives up after ten tries; a server that comes back later is met by loading the page again. */
  let misses = 0;
  let looked = Date.now();
  async function look() {
    const pause = Date.now() - looked;
    looked = Date.now();
    if (document.visibilityState === "hidden") return;
    /* The tab stood still (a sleeping laptop, a busy browser), and the server may have taken it for closed. */
    if (pause > 20000) again();
    let reachable = false;
    try {
      reachable = (await fetch("/healthz", { cache: "no-store" })).ok;
    } catch (_) {
      reachable = false;
    }
    misses = reachable ? misses : misses + 1;
    document.documentElement.dataset.connection = reachable ? "on" : "off";
    if (reachable && misses > 40) location.reload();
    if (reachable) misses = 0;
  }
  setInterval(look, 5000);

  /* -- a clicked layer ------------------------------------------------------------------------------------------------ */
  function clicked(first, second, firstFigure, secondFigure) {
    const source = window.dash_clientside.callback_context.triggered_id;
    const [click, figure] = source === "heat-b" ? [second, secondFigure] : [first, firstFigure];
    const point = click && click.points && click.points[0];
    const modules = figure && figure.layout && figure.layout.meta && figure.layout.meta.modules;
    if (!point || !modules) return nothing();
    const row = figure.data[0].y.indexOf(point.y); // labels are escaped names, in the order of the names themselves
    return modules[row] === undefined ? nothing() : modules[row];
  }

  /* -- where the reader is, among the places of the header -------------------------------------------------------------- */
  /* The page of a run belongs to the runs, that of an alert to the alerts. */
  const HOMES = { "": "run", alert: "alerts" };
  const first = (path) => {
    const part = path.split("/")[1] || "";
    return part in HOMES ? HOMES[part] : part;
  };

  function place(path) {
    document.querySelectorAll(".places a").forEach((link) => {
      if (first(new URL(link.href).pathname) === first(path)) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    });
  }

  function title(words) {
    document.title = words ? words + " · foreshock" : "foreshock";
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    foreshock: { ticket, again, clicked, title, place },
  });
})();
