/* The comparison of runs without the server: its permalink, and leaving a run out. */
(function () {
  "use strict";
  const all = () => JSON.parse((document.getElementById("compare-page") || { dataset: {} }).dataset.runs || "[]");

  /* Commas between ids stand in the address as such; one within an id does not. */
  function go(how, ids, rest) {
    const runs = ids.length ? ["runs=" + ids.map(encodeURIComponent).join(",")] : [];
    const search = [...runs, rest.toString()].filter(Boolean).join("&");
    history[how](history.state, "", location.pathname + (search ? "?" + search : ""));
  }

  function permalink(signal, module, axis, scale, base) {
    const rest = new URLSearchParams();
    const wanted = { signal, module, x: axis === "step" ? "" : axis, y: scale === "log" ? "log" : "", base };
    Object.entries(wanted).forEach(([name, value]) => value && rest.set(name, value));
    const part = document.getElementById("compare-difference-part");
    if (part) part.hidden = !base;
    go("replaceState", all(), rest);
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest("a.compare-without");
    if (!link) return;
    event.preventDefault();
    const gone = link.dataset.without;
    const rest = new URLSearchParams(location.search);
    rest.delete("runs");
    if (rest.get("base") === gone) rest.delete("base");
    go("pushState", all().filter((id) => id !== gone), rest);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { foreshock_compare: { permalink } });
})();
