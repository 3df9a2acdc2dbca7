/* Dash's choices by radio buttons call themselves list boxes, and its drop-downs hide a field that the Tab key stops at. Put right. */
(function () {
  "use strict";
  let named = 0;

  function name(list) {
    if (list.hasAttribute("aria-label") || list.hasAttribute("aria-labelledby")) return;
    const group = list.closest("fieldset, [role=group]");
    const legend = group && group.querySelector(":scope > legend");
    if (legend) {
      legend.id = legend.id || "legend-" + ++named;
      list.setAttribute("aria-labelledby", legend.id);
    } else if (group && group.getAttribute("aria-label")) {
      list.setAttribute("aria-label", group.getAttribute("aria-label"));
    }
  }

  function mend() {
    document.querySelectorAll(".dash-radioitems[role=listbox]").forEach((list) => {
      list.setAttribute("role", "radiogroup");
      name(list);
    });
    document.querySelectorAll(".dash-radioitems label[role], .dash-radioitems label[aria-selected]").forEach((label) => {
      label.removeAttribute("role");
      label.removeAttribute("aria-selected");
    });
    document.querySelectorAll(".dash-dropdown-focus-target[tabindex='0']").forEach((field) => field.setAttribute("tabindex", "-1"));
  }

  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      mend();
    });
  };
  new MutationObserver(soon).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributes: true,
    attributeFilter: ["role", "aria-selected"],
  });
})();
