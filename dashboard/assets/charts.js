/* What the scripts of a run's page share: its charts over steps, and a property of a component read and set. */
(function () {
  "use strict";

  /* Whether a chart has drawn something over training steps; an empty window has an axis of steps too. */
  function overSteps(plot) {
    const axis = plot._fullLayout && plot._fullLayout.xaxis;
    return Boolean(axis && axis.visible && axis._length && plot.layout.xaxis && isSteps(plot.layout.xaxis));
  }

  const isSteps = (axis) => axis.title && axis.title.text === "training step";
  const all = () => [...document.querySelectorAll(".graph-frame .js-plotly-plot")];
  const plots = () => all().filter(overSteps);
  const nameOf = (plot) => plot.closest("[data-chart]").dataset.chart;
  const plotOf = (name) => document.querySelector(`[data-chart="${CSS.escape(name)}"] .js-plotly-plot`);

  function get(id, property) {
    const component = window.dash_component_api.getLayout(id);
    return component && component.props ? component.props[property] : undefined;
  }

  function set(id, property, value) {
    window.dash_clientside.set_props(id, { [property]: value });
  }

  /* The chart under the pointer, or that was last. */
  let last = null;
  document.addEventListener("pointerover", (event) => {
    const chart = event.target.closest && event.target.closest("[data-chart]");
    if (chart) last = chart.dataset.chart;
  });
  const pointed = () => (last && plotOf(last) ? last : "loss");

  window.foreshock = Object.assign({}, window.foreshock, { overSteps, plots, nameOf, plotOf, get, set, pointed });
})();
