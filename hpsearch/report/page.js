"use strict";
(async () => {
  const read = (id) => document.getElementById(id).textContent;
  const holders = [...document.querySelectorAll(".plot")];
  const fail = (why) => holders.forEach((holder) => { holder.textContent = why; });

  // The library is unpacked into a script element, which the page's policy admits by its hash.
  if (typeof DecompressionStream === "undefined") {
    return fail("The figures need a browser of 2023 or later.");
  }
  const bytes = Uint8Array.from(atob(read("library")), (c) => c.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const library = document.createElement("script");
  library.textContent = await new Response(unpacked).text();
  document.head.append(library);

  const figures = JSON.parse(read("figures"));
  const templates = JSON.parse(read("templates"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };
  const template = () => (dark.matches ? templates.dark : templates.light);
  const drawn = () => holders.filter((holder) => holder.dataset.drawn);

  const draw = (holder) => {
    if (holder.dataset.drawn) return;
    holder.dataset.drawn = "yes";
    const { data, layout } = figures[holder.dataset.figure];
    Plotly.newPlot(holder, data, { ...layout, template: template() }, config);
  };

  // A long page opens at once: a figure is drawn when it comes near the window.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    }
  }, { rootMargin: "600px" });
  holders.forEach((holder) => watcher.observe(holder));

  dark.addEventListener("change", () => drawn().forEach((holder) => Plotly.relayout(holder, { template: template() })));

  // On paper every figure is there, dark on white and as wide as the sheet.
  addEventListener("beforeprint", () => {
    for (const holder of holders) {
      if (!holder.checkVisibility()) continue;
      draw(holder);
      Plotly.relayout(holder, { template: templates.light, width: Math.min(holder.clientWidth, holder.dataset.paper) });
    }
  });
  addEventListener("afterprint", () => {
    drawn().forEach((holder) => Plotly.relayout(holder, { template: template(), width: null, autosize: true }));
  });
})();
