/* Keyboard shortcuts; pages/keys.py lists them. None acts while somebody types, or holds Ctrl, Alt or Meta. */
(function () {
  "use strict";
  const page = window.foreshock;
  const sheet = () => document.getElementById("keys");

  const made = (name, words, ...parts) => {
    const element = document.createElement(name);
    if (words) element.textContent = words;
    element.append(...parts);
    return element;
  };

  function open() {
    const dialog = sheet();
    if (!dialog.firstChild) {
      const close = Object.assign(made("button", "Close"), { type: "button", className: "button", id: "keys-close", title: "Close (Esc)" });
      const title = Object.assign(made("h2", "Keyboard shortcuts"), { className: "card-title", id: "keys-title" });
      const head = Object.assign(made("div", "", title, close), { className: "card-head" });
      const groups = JSON.parse(dialog.dataset.groups).map(([name, rows]) =>
        made("section", "", made("h3", name), made("dl", "", ...rows.flatMap(([keys, words]) => row(keys, words))))
      );
      dialog.append(head, Object.assign(made("div", "", ...groups), { className: "keys-groups" }));
    }
    dialog.showModal();
  }

  function row(keys, words) {
    const term = made("dt", "", ...keys.split(" ").map((one) => made("kbd", one)));
    term.dataset.keys = keys;
    return [term, made("dd", words)];
  }

  const onRun = (action) => () => document.getElementById("run-page") && action();

  function step(id, direction, property = "value") {
    const options = page.get(id, "options") || [];
    const values = options.map((option) => (option && option.value !== undefined ? option.value : option));
    const now = values.indexOf(page.get(id, property));
    const next = values[(now + direction + values.length) % values.length];
    if (values.length > 1) page.set(id, property, next);
  }

  function theme() {
    const choices = [...document.querySelectorAll("button[data-theme-choice]")];
    const now = choices.findIndex((button) => button.getAttribute("aria-pressed") === "true");
    if (choices.length) choices[(now + 1) % choices.length].click();
  }

  function search(event) {
    const field = document.getElementById("run-search");
    if (!field) return false;
    event.preventDefault(); // or the letter would be the first that is searched for
    field.focus();
    return true;
  }

  const go = (label) => () => {
    const link = [...document.querySelectorAll(".places a")].find((one) => one.textContent.trim().startsWith(label));
    if (link) link.click();
  };

  const actions = {
    "?": open,
    t: theme,
    "/": search,
    "g r": go("Runs"),
    "g a": go("Alerts"),
    "g l": go("Rules"),
    z: onRun(() => page.show("")),
    "+": onRun(() => page.scaleWindow(0.5, page.cursor())),
    "-": onRun(() => page.scaleWindow(2, page.cursor())),
    "←": onRun(() => page.moveCursor(-1)),
    "→": onRun(() => page.moveCursor(1)),
    "Shift ←": onRun(() => page.pan(-0.5)),
    "Shift →": onRun(() => page.pan(0.5)),
    l: onRun(() => page.toggleScale(page.pointed())),
    s: onRun(() => step("smoothing", 1)),
    c: onRun(() => page.copy()),
    j: onRun(() => step("module", 1)),
    k: onRun(() => step("module", -1)),
    "]": onRun(() => step("signal", 1)),
    "[": onRun(() => step("signal", -1)),
    "}": onRun(() => step("compare", 1)),
    "{": onRun(() => step("compare", -1)),
  };

  const TYPING = "input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable=true], [role=textbox], [role=searchbox]";
  const OWN_ARROWS = "input[type=radio], [role=combobox], [role=listbox], [role=option], [role=slider], .dash-dropdown, .dash-dropdown-content";

  /* Whether the key belongs to what has the focus. An open list takes letters to find an entry. */
  function taken(event) {
    const focus = event.target;
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || !focus.closest) return true;
    if (focus.closest(TYPING) || document.querySelector("dialog[open]") || document.querySelector(".dash-dropdown-content")) return true;
    return event.key.startsWith("Arrow") && Boolean(focus.closest(OWN_ARROWS));
  }

  const ARROWS = { ArrowLeft: "←", ArrowRight: "→" };
  let pending = ""; // a first key that waits for its second
  let since = 0;

  document.addEventListener("keydown", (event) => {
    if (taken(event)) return;
    const arrow = ARROWS[event.key];
    const key = arrow ? (event.shiftKey ? "Shift " : "") + arrow : event.key;
    const sequence = pending && Date.now() - since < 1500 ? pending + " " + key : key;
    pending = "";
    if (key === "g" && sequence === key) {
      pending = "g";
      since = Date.now();
    } else if (actions[sequence]) {
      if (arrow) event.preventDefault();
      actions[sequence](event);
    }
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("#keys-button")) open();
    else if (event.target.closest("#keys-close") || event.target === sheet()) sheet().close();
  });

  page.shortcuts = Object.keys(actions);
})();
