"use strict";
(async () => {
  const read = (id) => document.getElementById(id).textContent;
  const holders = [...document.querySelectorAll(".plot")];
  const fail = (why) => holders.forEach((holder) => { holder.textContent = why; });

  // The library is unpacked into a script element, which the page's policy admits by its hash.
  if (typeof DecompressionStream === "undefined") {
    return fail("The figures need a browser of 2023 or later.");
  }
  const unpack = (id) => {
    const bytes = Uint8Array.from(atob(read(id)), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const library = document.createElement("script");
  library.textContent = await unpack("library");
  document.head.append(library);

  const { words, figures } = JSON.parse(await unpack("figures"));
  for (const { data } of Object.values(figures)) {
    for (const trace of data) {
      if (Array.isArray(trace.text)) trace.text = trace.text.map((number) => words[number]);
    }
  }
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
