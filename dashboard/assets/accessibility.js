/* What Dash's own controls lack for keyboards and screen readers, and what only the laid-out page can tell: mended in place. */
(function () {
  "use strict";

  /* A list of choices is a group of radio buttons, not a list box whose options hold controls of their own. */
  function radios(list) {
    list.setAttribute("role", "radiogroup");
    const group = list.closest("[role=group][aria-label]");
    if (group && !list.hasAttribute("aria-label")) list.setAttribute("aria-label", group.getAttribute("aria-label"));
    list.querySelectorAll("label[role], label[aria-selected]").forEach((label) => {
      label.removeAttribute("role");
      label.removeAttribute("aria-selected");
    });
  }

  /* Dash hands the focus on from a hidden field to the button of a drop-down list: the button can have it by itself. */
  function dropdown(field) {
    const button = field.parentElement.querySelector("button.dash-dropdown");
    if (!button) return;
    if (field.tabIndex !== -1) field.tabIndex = -1;
    if (button.tabIndex !== 0) button.tabIndex = 0;
    const words = button.closest("label") && button.closest("label").querySelector(":scope > span");
    if (!words || !button.id) return;
    words.id = words.id || button.id + "-label";
    const named = button.getAttribute("aria-labelledby") || "";
    if (!named.split(" ").includes(words.id)) button.setAttribute("aria-labelledby", (words.id + " " + named).trim());
  }

  /* What scrolls sideways and holds nothing that takes the focus must take it itself, or a keyboard cannot scroll it. */
  function scrolling(block) {
    const wide = block.scrollWidth > block.clientWidth;
    if (wide && !block.querySelector("a[href], button, input")) block.tabIndex = 0;
    else block.removeAttribute("tabindex");
  }

  function mend() {
    document.querySelectorAll(".dash-radioitems[role]:not([role=radiogroup]), .dash-radioitems:has(label[aria-selected])").forEach(radios);
    document.querySelectorAll(".dash-dropdown-focus-target").forEach(dropdown);
    document.querySelectorAll("pre, .prose table").forEach(scrolling);
  }

  let due = false;
  function soon() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      mend();
    });
  }

  new MutationObserver((changes) => {
    /* Charts are drawn all the time, and hold nothing of this. */
    if (changes.some((change) => !(change.target.closest && change.target.closest(".js-plotly-plot")))) soon();
  }).observe(document.documentElement, {
    childList: true,
    subtree: true,
    attributeFilter: ["aria-selected", "role", "tabindex", "aria-labelledby"],
  });
  window.addEventListener("resize", soon);
})();
