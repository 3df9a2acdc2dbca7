/* Where our own addresses begin: below the path under which a reverse proxy shows the dashboard. The one place that knows it. */
(function () {
  "use strict";
  const named = document.querySelector('meta[name="foreshock-prefix"]');
  const PREFIX = named ? named.content : "";

  /* A path of ours, as the browser must ask for it. */
  const under = (path) => PREFIX + path;

  /* A path of the address bar, without the prefix. */
  const inner = (path) => (PREFIX && (path + "/").startsWith(PREFIX + "/") ? path.slice(PREFIX.length) || "/" : path);

  window.foreshock = Object.assign({}, window.foreshock, { under, inner });
})();
