/* The step under the pointer, or moved by key, marked in every chart over steps with the value that each has there. */
(function () {
  "use strict";
  const { plots, overSteps, set } = window.foreshock;
  const EDGE = 110; // pixels that the words need
  let step = null;

  /* -- the value of a chart at a step ------------------------------------------------------------------------------------ */
  function nearest(xs, wanted) {
    let low = 0;
    let high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] <= wanted) low = middle;
      else high = middle;
    }
    return Math.abs(xs[high] - wanted) < Math.abs(xs[low] - wanted) ? high : low;
  }

  const short = (value) => (value === null ? "no number" : String(Number(value.toPrecision(4))));

  /* Of several lines the lowest and the highest value. A restarted run's newer line hides what it repeats. */
  function valueAt(plot, wanted) {
    const found = new Map();
    for (const trace of plot.data || []) {
      const line = trace.type === "scatter" && trace.yaxis !== "y2" && trace.mode && trace.mode.startsWith("lines");
      if (!line || !trace.x.length || trace.name.endsWith(", smoothed")) continue;
      if (wanted < trace.x[0] || wanted > trace.x[trace.x.length - 1]) continue;
      found.set(trace.name.replace(/, after restart \d+$/, ""), trace.y[nearest(trace.x, wanted)]);
    }
    const values = [...found.values()];
    if (values.length <= 1) return values.length ? short(values[0]) : "";
    const known = values.filter((value) => value !== null);
    return known.length ? short(Math.min(...known)) + " … " + short(Math.max(...known)) : "no number";
  }

  /* -- the mark ----------------------------------------------------------------------------------------------------------- */
  function mark(plot) {
    const frame = plot.closest(".graph-frame");
    let cursor = frame.querySelector(":scope > .step-cursor");
    const { xaxis, yaxis } = plot._fullLayout;
    const along = step === null ? -1 : xaxis.d2p(step);
    if (!(along >= 0 && along <= xaxis._length)) {
      if (cursor) cursor.hidden = true;
      return;
    }
    if (!cursor) {
      cursor = document.createElement("div");
      cursor.className = "step-cursor";
      cursor.setAttribute("aria-hidden", "true");
      frame.append(cursor);
    }
    const inside = plot.getBoundingClientRect();
    const outside = frame.getBoundingClientRect();
    const value = valueAt(plot, step);
    cursor.hidden = false;
    cursor.dataset.step = Math.round(step).toLocaleString("en");
    cursor.dataset.value = value ? " · " + value : "";
    cursor.classList.toggle("flipped", along > xaxis._length - EDGE);
    cursor.style.left = inside.left - outside.left + xaxis._offset + along + "px";
    cursor.style.top = inside.top - outside.top + (yaxis._length ? yaxis._offset : 0) + "px";
    cursor.style.height = yaxis._length + "px";
  }

  const markAll = () => plots().forEach(mark);

  let pointer = null;
  function point() {
    const plot = pointer && pointer.target.closest && pointer.target.closest(".graph-frame .js-plotly-plot");
    step = null;
    if (plot && overSteps(plot)) {
      const axis = plot._fullLayout.xaxis;
      const along = pointer.clientX - plot.getBoundingClientRect().left - axis._offset;
      if (along >= 0 && along <= axis._length) step = axis.p2d(along);
    }
    markAll();
    pointer = null;
  }

  document.addEventListener("mousemove", (event) => {
    if (!pointer) requestAnimationFrame(point);
    pointer = event;
  });

  /* By a hundredth of what is shown, a step at least; from the middle where there is no cursor yet. */
  function move(direction) {
    const now = window.foreshock.shown();
    if (!now) return;
    const by = Math.max(1, Math.round((now[1] - now[0]) / 100));
    const from = step === null ? (now[0] + now[1]) / 2 - direction * by : step;
    step = Math.round(Math.min(now[1], Math.max(now[0], from + direction * by)));
    markAll();
    const loss = document.querySelector('[data-chart="loss"] .js-plotly-plot');
    const value = loss && overSteps(loss) ? valueAt(loss, step) : "";
    set("step-words", "children", "Step " + step.toLocaleString("en") + (value ? ", loss " + value : ""));
  }

  Object.assign(window.foreshock, { moveCursor: move, cursor: () => step });
})();
