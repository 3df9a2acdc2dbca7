/* The list of runs without the server: its address, following links to other views of it, and which runs are selected. */
(function () {
  "use strict";
  const PICKED = "foreshock-picked";
  const MOST = 12;
  const nothing = () => window.dash_clientside.no_update;
  const set = (id, props) => window.dash_clientside.set_props(id, props);
  const here = () => document.getElementById("overview");

  /* -- the address and the list show the same ---------------------------------------------------------------------------- */
  const CONTROLS = [
    ["run-search", "q", false],
    ["filter-state", "state", true],
    ["filter-alerts", "alerts", false],
    ["filter-project", "project", true],
    ["filter-tag", "tag", true],
  ];
  const listed = (value) => (Array.isArray(value) ? value : value ? [value] : []);
  const same = (one, other) => JSON.stringify([...one]) === JSON.stringify([...other]);

  function view(...values) {
    const before = new URLSearchParams(location.search);
    const after = new URLSearchParams(location.search);
    const group = listed(values.pop()).length > 0;
    let narrowed = false;
    CONTROLS.forEach(([, name], place) => {
      let wanted = listed(values[place]);
      /* An address may hold a longer search than the box does: it is left alone until the box is changed. */
      if (name === "q" && before.get("q") && wanted[0] === before.get("q").slice(0, 200)) wanted = [before.get("q")];
      if (same(wanted, before.getAll(name))) return;
      narrowed = true;
      after.delete(name);
      wanted.forEach((value) => after.append(name, value));
    });
    if (group !== before.has("group")) {
      narrowed = true;
      after.delete("flip");
      after.delete("group");
      if (group) after.set("group", "open");
    }
    if (!narrowed) return nothing();
    after.delete("page");
    const search = after.size ? "?" + after.toString() : "";
    history.replaceState(history.state, "", location.pathname + search);
    shown = search;
    return search;
  }

  let shown = location.search;

  function show(search) {
    const query = new URLSearchParams(search);
    shown = search;
    set("runs-search", { data: search });
    CONTROLS.forEach(([id, name, several]) => {
      const value = several ? query.getAll(name) : query.get(name);
      set(id, { value: name === "q" ? (value || "").slice(0, 200) : value });
    });
    set("group-runs", { value: query.has("group") ? ["open"] : [] });
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("a.view-link");
    if (!link || !here() || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const search = new URL(link.href).search;
    history.pushState({}, "", location.pathname + search);
    show(search);
    if (link.closest(".pager")) document.getElementById("runs").scrollIntoView({ block: "start" });
  });

  function follow() {
    if (here() && location.search !== shown) show(location.search);
  }
  window.addEventListener("popstate", follow);
  window.addEventListener("_dashprivate_pushstate", follow);

  /* -- the table: text and addresses from the server, made into elements here, never read as HTML -------------------------- */
  const SVG = "http://www.w3.org/2000/svg";

  function element(name, className, ...children) {
    const made = document.createElement(name);
    if (className) made.className = className;
    made.append(...children);
    return made;
  }

  function named(made, attributes) {
    Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
    return made;
  }

  const hidden = (className, text) => named(element("span", className, text || ""), { "aria-hidden": "true" });
  const dot = (kind, one) => element("span", kind + " life-" + one.life, hidden("dot"), one.words);

  function badge(one) {
    const label = one.count + " " + one.severity;
    const made = element("span", "badge severity-" + one.severity, hidden("icon", one.icon), String(one.count));
    return named(made, { role: "img", title: label, "aria-label": label });
  }

  function spark(loss) {
    const picture = document.createElementNS(SVG, "svg");
    const line = document.createElementNS(SVG, "polyline");
    named(line, { points: loss.points });
    named(picture, { class: "spark", viewBox: "0 0 120 28", role: "img", "aria-label": "Loss over time, now " + loss.words });
    picture.append(line);
    return picture;
  }

  const FILLS = {
    state: (one) => [dot("pill", one)],
    alerts: (all) => (all.length ? all.map(badge) : [element("span", "quiet", "none")]),
    loss: (one) => [...(one.points ? [spark(one)] : []), element("span", "figure", one.words)],
    started: ([at, lasted]) => [element("div", "", at), ...(lasted ? [element("div", "quiet small", lasted)] : [])],
    project: (name) => [named(element("div", "", name), { dir: "auto" })],
  };

  function viewLink(label, href, attributes, className) {
    return named(element("a", ("view-link " + (className || "")).trim(), ...[].concat(label)), { href, ...attributes });
  }

  function nameCell(line) {
    const link = named(element("a", "run-link", line.name), { href: line.href, dir: "auto", id: "open-" + line.id });
    const tags = line.tags.map((tag) => named(element("span", "tag", tag), { dir: "auto" }));
    return element("td", "col-name", link, ...(tags.length ? [element("div", "tags", ...tags)] : []));
  }

  function pickCell(line) {
    const box = named(element("button", "pick", element("span", "box")), {
      type: "button",
      role: "checkbox",
      id: "pick-" + line.id,
      "aria-checked": "false",
      "aria-label": "Select " + line.name + " to compare",
      "data-pick": line.run,
    });
    return element("td", "col-pick", box);
  }

  function groupHead(line, span) {
    const toggle = viewLink(
      [hidden("fold", line.closed ? "▸" : "▾"), named(element("span", "", line.name), { dir: "auto" })],
      line.href,
      { id: "fold-" + line.id, "aria-expanded": String(!line.closed) },
      "group-name"
    );
    if (line.continued) toggle.append(element("span", "quiet", " (continued)"));
    const states = element("span", "states", ...line.states.map((one) => dot("count", one)));
    const badges = element("span", "", ...line.alerts.map(badge));
    const head = element("div", "group-head", toggle, element("span", "quiet", line.runs), states, badges);
    return named(element("th", "", head), { colspan: span, scope: "rowgroup" });
  }

  /* What each line says now, so that only cells whose words changed are made anew. */
  let drawn = new Map();

  function fill(row, line, columns) {
    const before = drawn.get(line.id) || { cells: {} };
    drawn.set(line.id, line);
    if (!line.cells) {
      row.className = "group";
      if (JSON.stringify(before) !== JSON.stringify(line)) row.replaceChildren(groupHead(line, columns.length + 1));
      return row;
    }
    if (!row.firstChild) {
      row.append(pickCell(line), nameCell(line));
      columns.slice(1).forEach((column) => {
        row.append(named(element("td", "col-" + column.name), { "data-label": column.heading }));
      });
    }
    columns.slice(1).forEach((column, place) => {
      const said = line.cells[column.name];
      if (JSON.stringify(said) === JSON.stringify(before.cells[column.name])) return;
      row.children[place + 2].replaceChildren(...(FILLS[column.name] || ((text) => [text]))(said));
    });
    return row;
  }

  function heading(column) {
    const arrow = hidden("arrow", { ascending: "↑", descending: "↓", none: "" }[column.sort]);
    const link = viewLink([column.heading, arrow], column.href, { title: column.title, id: "sort-" + column.name });
    return named(element("th", "col-" + column.name, link), { scope: "col", "aria-sort": column.sort });
  }

  function pager(ways) {
    const way = (one) =>
      one.href
        ? viewLink(one.label, one.href, { id: "page-" + one.name }, "button")
        : named(element("span", "button off", one.label), { "aria-disabled": "true" });
    const parts = [...ways.before.map(way), element("span", "quiet", ways.words), ...ways.after.map(way)];
    return named(element("nav", "pager", ...parts), { "aria-label": "Pages of the list of runs" });
  }

  let columns = [];

  function table(data) {
    const place = document.getElementById("runs-list");
    if (!place) return 0;
    const focused = place.contains(document.activeElement) ? document.activeElement.id : "";
    const scrolled = place.firstChild ? place.firstChild.scrollLeft : 0;
    const rows = new Map([...place.querySelectorAll("tbody tr")].map((row) => [row.id, row]));
    if (!data || JSON.stringify(columns.map((one) => one.name)) !== JSON.stringify(data.columns.map((one) => one.name))) rows.clear();
    if (!rows.size) drawn = new Map();
    columns = data ? data.columns : [];
    if (!data) {
      place.replaceChildren();
      return 0;
    }
    const corner = named(element("th", "col-pick", element("span", "visually-hidden", "Compare")), { scope: "col" });
    const head = element("thead", "", element("tr", "", corner, ...columns.map(heading)));
    const lines = data.lines.map((line) => {
      if (!rows.has(line.id)) drawn.delete(line.id);
      return fill(rows.get(line.id) || named(element("tr"), { id: line.id }), line, columns);
    });
    const region = element("div", "scroll", element("table", "runs", head, element("tbody", "", ...lines)));
    named(region, { tabindex: "0", role: "region", "aria-label": "Table of runs" });
    place.replaceChildren(region, ...(data.pager ? [pager(data.pager)] : []));
    region.scrollLeft = scrolled;
    const again = focused && document.getElementById(focused);
    if (again) again.focus({ preventScroll: true });
    mark();
    return data.lines.length;
  }

  function changed(data) {
    (data ? data.lines : []).forEach((line) => {
      const row = document.getElementById(line.id);
      if (row && drawn.has(line.id)) fill(row, line, columns);
    });
  }

  /* As a link of Dash's does it: to a run without loading the application again. */
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("#runs-list a.run-link");
    if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    history.pushState({}, "", link.href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  });

  /* -- selected runs, kept in this tab over pages, filters and visits to a run --------------------------------------------- */
  function picked() {
    try {
      return JSON.parse(sessionStorage.getItem(PICKED)) || [];
    } catch (_) {
      return [];
    }
  }

  function keep(ids) {
    try {
      sessionStorage.setItem(PICKED, JSON.stringify(ids));
    } catch (_) {
      /* a browser without storage forgets the selection with the page */
    }
    mark();
  }

  function words(count) {
    if (count === 1) return "1 run selected. Select another one to compare it with.";
    if (count > MOST) return count + " runs selected. The first " + MOST + " are compared.";
    return count + " runs selected.";
  }

  function mark() {
    const bar = document.getElementById("selection");
    if (!bar) return;
    const ids = picked();
    document.querySelectorAll("#runs button[data-pick]").forEach((box) => {
      const checked = String(ids.includes(box.dataset.pick));
      if (box.getAttribute("aria-checked") !== checked) box.setAttribute("aria-checked", checked);
    });
    bar.hidden = !ids.length;
    bar.dataset.count = ids.length;
    set("picked-words", { children: words(ids.length) });
    set("compare-link", {
      children: "Compare (" + ids.length + ")",
      href: bar.dataset.compare + "?runs=" + ids.map(encodeURIComponent).join(","),
    });
  }

  document.addEventListener("click", (event) => {
    const target = event.target.closest ? event.target : null;
    const box = target && target.closest("button[data-pick]");
    if (box) {
      const ids = picked().filter((id) => id !== box.dataset.pick);
      keep(box.getAttribute("aria-checked") === "true" ? ids : [...ids, box.dataset.pick]);
    } else if (target && target.closest("#picked-clear")) {
      keep([]);
    }
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { foreshock_runs: { view, table, changed } });
})();
