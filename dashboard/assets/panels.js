/* The panels under the heatmaps: which is open, and what was picked inside them. */
(function () {
  "use strict";
  const set = (id, properties) => window.dash_clientside.set_props(id, properties);
  const nothing = () => window.dash_clientside.no_update;
  const tabs = () => [...document.querySelectorAll("[role=tab][data-panel]")];

  /* -- tabs ------------------------------------------------------------------------------------------------------------ */
  function open(panel) {
    for (const tab of tabs()) {
      const chosen = tab.dataset.panel === panel;
      set(tab.id, { "aria-selected": String(chosen), tabIndex: chosen ? "0" : "-1" });
      set("panel-" + tab.dataset.panel, { hidden: !chosen });
    }
    begin(panel);
  }

  /* The sections of a panel begin when its contents are there: the server sends them when it is first opened. */
  let waiting = null;
  function begin(panel) {
    const place = document.getElementById("panel-" + panel);
    const there = () => place && place.childElementCount > 0;
    if (waiting) waiting.disconnect();
    if (there()) return set("opened", { data: panel });
    waiting = new MutationObserver(() => {
      if (!there()) return;
      waiting.disconnect();
      set("opened", { data: panel });
    });
    if (place) waiting.observe(place, { childList: true });
  }

  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest && event.target.closest("[role=tab][data-panel]");
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!tab || !(event.key in moves)) return;
    event.preventDefault();
    const all = tabs();
    const place = all.indexOf(tab) + moves[event.key];
    const next = Number.isFinite(place) ? all[(place + all.length) % all.length] : place < 0 ? all[0] : all[all.length - 1];
    next.focus();
    set("panel", { data: next.dataset.panel });
  });

  /* -- what is picked: a tab, the order of the heads, a head, a signal to be seen in all layers --------------------------- */
  const picks = {
    panel: (button) => set("panel", { data: button.dataset.panel }),
    sort: (button) => set("heads-sort", { data: { column: button.dataset.sort, descending: button.dataset.descending === "True" } }),
    head: (button) => set("head", { value: button.getAttribute("aria-pressed") === "true" ? null : button.dataset.head }),
    everywhere: (button) => {
      set("compare", { value: button.dataset.everywhere });
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      document.getElementById("heat-b-title").scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
    },
  };

  document.addEventListener("click", (event) => {
    for (const [name, act] of Object.entries(picks)) {
      const button = event.target.closest(`#run-page button[data-${name}]`);
      if (button) return act(button);
    }
  });

  /* -- a clicked cell chooses the step too ---------------------------------------------------------------------------------- */
  function stepped(first, second) {
    const click = window.dash_clientside.callback_context.triggered_id === "heat-b" ? second : first;
    const point = click && click.points && click.points[0];
    return point && Number.isFinite(point.x) ? Math.max(0, Math.round(point.x)) : nothing();
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    foreshock_panels: { open, stepped },
  });
})();
