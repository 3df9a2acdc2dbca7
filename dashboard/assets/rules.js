/* The rules' pages: searching the list, what a replay counted, and the choice of a run. */
(function () {
  "use strict";
  const nothing = () => window.dash_clientside.no_update;

  /* Every word must be somewhere in what an entry says of itself. Called again when the list is drawn anew. */
  function search(text) {
    const words = (text || "").toLowerCase().split(/\s+/).filter(Boolean);
    requestAnimationFrame(() => {
      let shown = 0;
      const entries = document.querySelectorAll("#rules-list .rule-entry");
      entries.forEach((entry) => {
        entry.hidden = !words.every((word) => entry.dataset.words.includes(word));
        shown += entry.hidden ? 0 : 1;
      });
      document.querySelectorAll("#rules-list .rule-topic").forEach((topic) => {
        topic.hidden = !topic.querySelector(".rule-entry:not([hidden])");
      });
      const none = document.getElementById("rules-none");
      if (none) none.hidden = shown > 0;
      window.dash_clientside.set_props("rules-count", {
        children: words.length ? `${shown} of ${entries.length} rules` : `${entries.length} rules`,
      });
    });
  }

  function would(replayed, names) {
    const say = (name) => {
      if (!replayed) return "";
      const found = replayed.fired[name.rule];
      const part = replayed.whole ? "" : " as far as it was replayed";
      if (!found) return `It would not have fired${part}.`;
      const [count, first] = found;
      const step = first.toLocaleString("en");
      if (count === 1) return `It would have fired once${part}, at step ${step}.`;
      return `It would have fired ${count.toLocaleString("en")} times${part}, first at step ${step}.`;
    };
    return names.map(say);
  }

  function choose(run, now) {
    if (run === now || run === null || run === undefined) return nothing();
    return run ? "?run=" + encodeURIComponent(run) : "";
  }

  window.dash_clientside = Object.assign({}, window.dash_clientside, { foreshock_rules: { search, would, choose } });
})();
