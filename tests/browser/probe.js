// Records what a person at the screen sees, and when. Nothing here asks the kernel: the state comes from the page, and a
// plot has changed if its pixels (canvas), its elements (sketch) or its paths (plotly) have changed.

window.probe = {
  events: [], // {at, what, run, state} in the order of the page; tests empty this list

  watch(panel) {
    const status = panel.querySelector(".labkit-status");
    const canvas = panel.querySelector(".labkit-canvas canvas");
    const sketch = panel.querySelector(".labkit-sketch");
    const plot = panel.querySelector(".js-plotly-plot");
    const note = (what, element) =>
      this.events.push({ at: performance.now(), what, run: Number(element.dataset.run), state: status.dataset.state });
    const observe = (element, names, callback) =>
      new MutationObserver(callback).observe(element, { attributeFilter: names });
    observe(status, ["data-state", "data-run"], () => note("state", status));
    panel.addEventListener("keydown", () => note("key", status), true);
    panel.addEventListener("click", () => note("click", status), true);

    for (const [picture, look] of [[canvas, fingerprint], [sketch, (element) => element.innerHTML]]) {
      if (!picture) continue;
      let before = look(picture);
      observe(picture, ["data-run"], () => {
        note("drawn", picture); // every drawing sets the run, even if no pixel changes
        const now = look(picture);
        if (now !== before) {
          note("picture", picture);
          note("change", picture);
        }
        before = now;
      });
    }
    if (plot) {
      let paths = curves(plot);
      plot.on("plotly_afterplot", () => {
        const now = curves(plot);
        if (now !== paths) {
          note("curve", status);
          note("change", status);
        }
        paths = now;
      });
    }
  },
};

function fingerprint(canvas) {
  const pixels = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  let hash = 0;
  for (const pixel of pixels) hash = (Math.imul(hash, 31) + pixel) | 0;
  return hash;
}

function curves(plot) {
  const drawn = plot.querySelectorAll(".scatterlayer path, .barlayer path");
  return [...drawn].map((path) => path.getAttribute("d") + (path.getAttribute("transform") ?? "")).join();
}

probe.watch(document.querySelector(".labkit-panel"));
