/* Take a chart along: as a picture (plotly draws it in the page's colours), or what it draws as CSV, from the server. */
(function () {
  "use strict";
  const { plotOf } = window.foreshock;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const page = () => document.querySelector("main") || document.body;
  const name = () => page().dataset.name || document.title.replace(/ · foreshock$/, "");

  /* Letters that a file's name may have anywhere. */
  const fileName = (chart) => (name() + "-" + chart).replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 120);

  function save(href, name) {
    const link = document.createElement("a");
    link.href = href;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
  }

  /* The words of a chart take their colours from the page's style sheet, which a picture does not have. */
  function painted(plot) {
    const [card, soft, grid] = ["--card", "--soft", "--grid"].map(colour);
    const layout = JSON.parse(JSON.stringify(plot.layout));
    layout.paper_bgcolor = layout.plot_bgcolor = card;
    layout.font = { ...layout.font, color: soft };
    for (const name of ["xaxis", "yaxis"]) layout[name] = { ...layout[name], gridcolor: grid, range: plot._fullLayout[name].range };
    const section = plot.closest("section");
    const heading = section && section.querySelector(".card-title");
    const title = name() + (heading ? " · " + heading.textContent : "");
    layout.title = { text: title.replace(/&/g, "&amp;").replace(/</g, "&lt;"), font: { size: 14 }, x: 0.02, xanchor: "left" };
    layout.margin = { ...layout.margin, t: 40 + (layout.margin.t || 0) + (barAbove(plot) ? 40 : 0) };
    layout.height = undefined;
    return { data: plot.data, layout, config: {} };
  }

  const barAbove = (plot) => plot.data.some((trace) => trace.colorbar && trace.colorbar.orientation === "h");

  async function picture(plot, format, chart) {
    const size = { width: plot._fullLayout.width, height: plot._fullLayout.height + 40 };
    const url = await window.Plotly.toImage(painted(plot), { format, scale: format === "png" ? 2 : 1, ...size });
    save(url, fileName(chart) + "." + format);
  }

  function exported(button) {
    const chart = button.closest("[data-chart]").dataset.chart;
    const kind = button.dataset.tool;
    if (kind === "csv") save(page().dataset.tables + "/" + chart + ".csv?" + window.foreshock.query(), fileName(chart) + ".csv");
    else picture(plotOf(chart), kind, chart);
  }

  function close(menu, focus) {
    menu.open = false;
    if (focus) menu.querySelector("summary").focus();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-tool]");
    const mine = event.target.closest("details.export");
    if (button && mine) exported(button);
    document.querySelectorAll("details.export[open]").forEach((menu) => {
      if (menu !== mine || button) close(menu, menu === mine);
    });
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.export[open]");
    if (menu) close(menu, true);
  });
})();
