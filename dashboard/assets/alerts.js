/* What the inbox and the pages of runs and alerts do without the server: select, ask for confirmation, send what is asked, say what became of it. */
(function () {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const set = (id, data) => window.dash_clientside.set_props(id, { data: data });

  /* -- selecting: the rows come and go under the selection, so it is kept here and shown on whatever rows there are ---- */
  const picked = new Set();
  const picks = () => [...document.querySelectorAll("[data-pick]")];
  const rowOf = (pick) => pick.parentElement.querySelector(".inbox-alert");
  const pickable = (pick) => rowOf(pick) && rowOf(pick).dataset.state !== "resolved";

  const put = (element, name, value) => element.getAttribute(name) === value || element.setAttribute(name, value);

  function showPicks() {
    const bar = byId("inbox-bar");
    if (!bar) {
      picked.clear();
      return;
    }
    const there = picks();
    const allowed = new Set(there.filter(pickable).map((pick) => pick.dataset.pick));
    picked.forEach((id) => allowed.has(id) || picked.delete(id));
    there.forEach((pick) => {
      put(pick, "aria-checked", String(picked.has(pick.dataset.pick)));
      put(pick, "aria-disabled", String(!allowed.has(pick.dataset.pick)));
    });
    const all = document.querySelector("[data-pick-all]");
    if (all) {
      const state = !picked.size ? "false" : picked.size === allowed.size ? "true" : "mixed";
      put(all, "aria-checked", state);
      put(all, "aria-disabled", String(!allowed.size));
    }
    const words = picked.size ? picked.size.toLocaleString("en") + " selected" : "";
    if (byId("inbox-picked").textContent !== words) byId("inbox-picked").textContent = words;
    bar.hidden = !picked.size;
  }

  function pick(button) {
    const id = button.dataset.pick;
    if (!picked.delete(id) && pickable(button)) picked.add(id);
    showPicks();
  }

  function pickAll() {
    const ids = picks().filter(pickable).map((pick) => pick.dataset.pick);
    const full = ids.every((id) => picked.has(id));
    ids.forEach((id) => (full ? picked.delete(id) : picked.add(id)));
    showPicks();
  }

  /* -- asking -------------------------------------------------------------------------------------------------------- */
  const VERBS = { acknowledged: "Acknowledge", silenced: "Silence", resolved: "Resolve", firing: "Take back", end: "End" };
  const WAIT = 15000;
  let number = 0;
  let asking = null; // what the open dialog is about
  let waiting = null; // what was sent and not answered: {number, timer, comment, dialog}
  let draft = null; // {text, id} of a comment: sent twice, it is kept once

  const plural = (count, one, many) => count.toLocaleString("en") + " " + (count === 1 ? one : many);

  function chosen(button) {
    if (button.dataset.alert) return { [button.dataset.alert]: button.dataset.seen || null };
    const found = picks().filter((pick) => picked.has(pick.dataset.pick));
    return Object.fromEntries(found.map((pick) => [pick.dataset.pick, rowOf(pick).dataset.state]));
  }

  function what(button, alerts) {
    if (button.dataset.about) return button.dataset.about;
    const counts = {};
    picks()
      .filter((pick) => pick.dataset.pick in alerts)
      .forEach((pick) => (counts[rowOf(pick).dataset.severity] = (counts[rowOf(pick).dataset.severity] || 0) + 1));
    const said = ["critical", "warning", "info"].filter((severity) => counts[severity]);
    return said.map((severity) => counts[severity].toLocaleString("en") + " " + severity).join(", ");
  }

  function tomorrow() {
    const day = new Date(Date.now() + 86400000);
    const two = (part) => String(part).padStart(2, "0");
    return day.getFullYear() + "-" + two(day.getMonth() + 1) + "-" + two(day.getDate()) + " 09:00";
  }

  function open(button) {
    const action = button.dataset.ask;
    const alerts = action === "end" ? {} : chosen(button);
    const count = Object.keys(alerts).length;
    if (action !== "end" && !count) return;
    const title = action === "end" ? "End this silence" : VERBS[action] + " " + plural(count, "alert", "alerts");
    asking = { action: action, alerts: alerts, silence: button.dataset.silence };
    byId("asking-title").textContent = title + "?";
    const final = action === "resolved" ? " What is resolved cannot be opened again." : "";
    byId("asking-what").textContent = what(button, alerts) + final;
    byId("asking-error").textContent = "";
    byId("asking-comment").value = "";
    byId("asking-why").hidden = action === "end";
    byId("asking-silence").hidden = action !== "silenced";
    byId("asking-time").value = "3600";
    byId("asking-scope").value = "alert";
    byId("asking-scope").options[0].textContent = count > 1 ? "these alerts only" : "this alert only";
    byId("asking-until").value = tomorrow();
    byId("asking-until-field").hidden = true;
    const confirm = byId("asking-confirm");
    confirm.textContent = title;
    confirm.disabled = false;
    byId("asking").showModal();
  }

  function until() {
    const time = byId("asking-time").value;
    if (time === "") return null;
    if (time !== "until") return Date.now() / 1000 + Number(time);
    const text = byId("asking-until").value.trim();
    const match = /^(\d{4})-(\d{1,2})-(\d{1,2})[ T](\d{1,2}):(\d{2})$/.exec(text);
    const parts = match && match.slice(1).map(Number);
    const at = parts && new Date(parts[0], parts[1] - 1, parts[2], parts[3], parts[4]);
    /* A 31st of November would become a 1st of December. */
    const meant = at && at.getMonth() === parts[1] - 1 && at.getDate() === parts[2] && at.getHours() === parts[3];
    if (!meant || parts[4] > 59) throw new Error("“" + text + "” is no time such as " + tomorrow() + ".");
    if (at.getTime() <= Date.now()) throw new Error("That time is over: a silence must end in the future.");
    return at.getTime() / 1000;
  }

  function confirm() {
    if (!asking || waiting) return;
    const request = Object.assign({ comment: byId("asking-comment").value }, asking);
    try {
      if (request.action === "silenced") Object.assign(request, { scope: byId("asking-scope").value, until: until() });
    } catch (error) {
      byId("asking-error").textContent = error.message;
      return;
    }
    byId("asking-confirm").disabled = true;
    send(request, true);
  }

  function comment(button) {
    const field = byId("comment-text");
    if (waiting) return;
    if (!field.value.trim()) {
      say("Write something first: a comment needs words.");
      field.focus();
      return;
    }
    if (!draft || draft.text !== field.value) draft = { text: field.value, id: identity() };
    send({ action: "comment", alerts: { [button.dataset.alert]: null }, comment: field.value, id: draft.id }, false);
  }

  function identity() {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  function send(request, dialog) {
    number += 1;
    const timer = setTimeout(() => {
      waiting = null;
      if (byId("asking-confirm")) byId("asking-confirm").disabled = false;
      const words = "The dashboard has not answered: it is not known whether this was saved.";
      if (dialog && byId("asking").open) byId("asking-error").textContent = words;
      else say(words);
    }, WAIT);
    waiting = { number: number, timer: timer, comment: request.action === "comment", dialog: dialog };
    set("asked", Object.assign({ number: number }, request));
  }

  function answered(answer) {
    if (!answer || !waiting || answer.number !== waiting.number) return;
    const { dialog, comment, timer } = waiting;
    clearTimeout(timer);
    waiting = null;
    if (dialog && !answer.ok) {
      byId("asking-error").textContent = answer.text;
      byId("asking-confirm").disabled = false;
      return;
    }
    if (dialog) byId("asking").close();
    if (answer.ok && comment && byId("comment-text")) {
      byId("comment-text").value = "";
      draft = null;
    }
    if (answer.ok && dialog) picked.clear();
    showPicks();
    say(answer.text);
  }

  /* -- saying what became of it ---------------------------------------------------------------------------------------- */
  let hush = null;
  function say(words) {
    const said = byId("said");
    if (!said) return;
    byId("said-text").textContent = words;
    said.hidden = false;
    clearTimeout(hush);
    hush = setTimeout(() => (said.hidden = true), 12000);
  }

  /* -- what the reader touches ---------------------------------------------------------------------------------------- */
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button || button.disabled) return;
    if (button.dataset.pick) pick(button);
    else if (button.dataset.pickAll) pickAll();
    else if (button.dataset.sift) toggle(button);
    else if (button.dataset.page) turn(Number(button.dataset.page));
    else if (button.id === "inbox-clear") {
      picked.clear();
      showPicks();
    } else if (button.id === "asking-cancel") byId("asking").close();
    else if (button.id === "asking-confirm") confirm();
    else if (button.id === "said-close") byId("said").hidden = true;
    else if (button.id === "comment-add") comment(button);
    else if (button.dataset.ask && button.dataset.now) {
      if (!waiting) send({ action: button.dataset.ask, alerts: chosen(button), comment: "" }, false);
    } else if (button.dataset.ask) open(button);
  });

  document.addEventListener("change", (event) => {
    if (event.target.id === "asking-time") byId("asking-until-field").hidden = event.target.value !== "until";
  });

  document.addEventListener("keydown", (event) => {
    const send = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (send && event.target.id === "comment-text") byId("comment-add").click();
    else if (send && event.target.closest && event.target.closest("#asking")) byId("asking-confirm").click();
    else if (event.key === "Enter" && event.target.id === "asking-until") {
      event.preventDefault();
      byId("asking-confirm").click();
    }
  });

  /* -- what the list shows: the address keeps it -------------------------------------------------------------------------- */
  const PARTS = ["state", "severity", "run", "project", "rule", "cause", "text", "by", "page"];
  let sieve = {};
  let sievesPage = null;

  /* Whatever the server draws anew, the controls show what is chosen. */
  function showSieve() {
    const page = byId("inbox");
    if (!page) sievesPage = null;
    if (!page || !byId("inbox-text")) return;
    if (page !== sievesPage) {
      sievesPage = page;
      const given = new URLSearchParams(location.search);
      sieve = Object.fromEntries(PARTS.filter((part) => given.get(part)).map((part) => [part, given.get(part)]));
    }
    page.querySelectorAll("select[data-sift]").forEach((list) => {
      const value = sieve[list.dataset.sift] || "";
      if (list.value !== value) list.value = value;
    });
    page.querySelectorAll("button[data-sift]").forEach((toggle) => {
      const { sift: part, value } = toggle.dataset;
      const chosen = part === "state" ? (sieve.state || "open") === value : (sieve[part] || "").split(",").includes(value);
      put(toggle, "aria-pressed", String(chosen));
    });
  }

  function sift(part, value) {
    if (value && !(part === "state" && value === "open")) sieve[part] = value;
    else delete sieve[part];
    if (part !== "page") delete sieve.page;
    showSieve();
    const query = Object.assign({}, sieve);
    const search = new URLSearchParams(query).toString();
    history.replaceState(history.state, "", location.pathname + (search ? "?" + search : ""));
    set("sieve", query);
  }

  function toggle(button) {
    const { sift: part, value } = button.dataset;
    if (part === "state") return sift(part, value);
    const chosen = (sieve[part] || "").split(",").filter(Boolean);
    return sift(part, (chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value]).join(","));
  }

  let typed = null;
  document.addEventListener("input", (event) => {
    if (event.target.id !== "inbox-text") return;
    clearTimeout(typed);
    typed = setTimeout(() => sift("text", event.target.value), 350);
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-sift]")) sift(event.target.dataset.sift, event.target.value);
  });

  function turn(page) {
    picked.clear();
    sift("page", page > 1 ? String(page) : "");
    window.scrollTo(0, 0);
  }

  new MutationObserver(() => {
    showPicks();
    showSieve();
  }).observe(document.documentElement, { childList: true, subtree: true });

  window.dash_clientside = Object.assign({}, window.dash_clientside, { foreshock_alerts: { answered } });
})();
