/* The colour theme, set before the first paint: what the reader chose, or what the system says. */
(function () {
  "use strict";
  const KEY = "foreshock-theme";
  const root = document.documentElement;

  function stored() {
    try {
      return localStorage.getItem(KEY) || "system";
    } catch (_) {
      return "system";
    }
  }

  function apply(choice) {
    const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = choice === "system" ? (dark ? "dark" : "light") : choice;
    root.dataset.themeChoice = choice;
    document.querySelectorAll("[data-theme-choice]").forEach((button) => {
      if (button !== root) button.setAttribute("aria-pressed", String(button.dataset.themeChoice === choice));
    });
  }

  apply(stored());
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(stored()));
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-theme-choice]");
    if (!button) return;
    try {
      localStorage.setItem(KEY, button.dataset.themeChoice);
    } catch (_) {
      /* a browser without storage keeps the choice until the next load */
    }
    apply(button.dataset.themeChoice);
  });
  new MutationObserver((_, observer) => {
    if (!document.querySelector("button[data-theme-choice]")) return;
    apply(stored());
    observer.disconnect();
  }).observe(root, { childList: true, subtree: true });
})();
