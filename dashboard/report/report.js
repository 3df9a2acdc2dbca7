/* Draws the charts of a report: unpacks plotly and the figures, draws what comes into view, and everything before printing. */
(function () {
  "use strict";
  const CONFIG = {
    displaylogo: false,
    showSendToCloud: false /* plotly would offer to upload the chart */,
    responsive: true,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { scale: 2 },
  };
  const PAPER = 660; /* pixels across a printed page, A4 or Letter, inside its margins */
  const root = document.documentElement;
  const frames = new Map();
  const drawn = new Set();

  async function unpacked(id) {
    const letters = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).text();
  }

  function draw(place) {
    if (drawn.has(place)) return;
    drawn.add(place);
    const figure = frames.get(place);
    window.Plotly.newPlot(place, figure.data, figure.layout, CONFIG);
  }

  /* -- paper: all charts, light, as wide as the page; then back -------------------------------------------------------- */
  let before = null;

  function toPaper() {
    if (before !== null) return;
    before = root.dataset.theme || "";
    root.dataset.theme = "light";
    document.querySelectorAll("details:not([open])").forEach((each) => {
      each.open = true;
      each.dataset.closed = "";
    });
    frames.forEach((figure, place) => {
      draw(place);
      window.Plotly.relayout(place, { width: PAPER, autosize: false });
    });
  }

  function fromPaper() {
    if (before === null) return;
    root.dataset.theme = before;
    before = null;
    document.querySelectorAll("details[data-closed]").forEach((each) => {
      each.open = false;
      delete each.dataset.closed;
    });
    frames.forEach((figure, place) => window.Plotly.relayout(place, { width: null, autosize: true }));
  }

  async function begin() {
    const [source, figures] = await Promise.all([unpacked("packed-plotly"), unpacked("packed-charts")]);
    const script = document.createElement("script");
    script.textContent = source;
    document.head.append(script);
    if (!window.Plotly) throw new Error("the drawing library did not start");
    Object.entries(JSON.parse(figures)).forEach(([id, figure]) => frames.set(document.getElementById(id), figure));
    const watcher = new IntersectionObserver(
      (seen) =>
        seen.forEach((each) => {
          if (!each.isIntersecting) return;
          watcher.unobserve(each.target);
          draw(each.target);
        }),
      { rootMargin: "600px" },
    );
    frames.forEach((figure, place) => watcher.observe(place));
    const paper = window.matchMedia("print");
    paper.addEventListener("change", () => (paper.matches ? toPaper() : fromPaper()));
    window.addEventListener("beforeprint", toPaper);
    window.addEventListener("afterprint", fromPaper);
    root.dataset.charts = "ready";
  }

  begin().catch((error) => {
    const note = document.getElementById("no-charts");
    note.textContent =
      typeof DecompressionStream === "undefined"
        ? "This browser is too old to draw the charts: Chrome 80, Firefox 113 or Safari 16.4, and all later ones, can."
        : "The charts could not be drawn (" + error.message + "). The file may have been cut off on its way here.";
    note.hidden = false;
    root.dataset.charts = "failed";
  });
})();
