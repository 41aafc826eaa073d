// What a person at the screen would see, and when. Nothing here asks the kernel: the state is read from the page, and a
// plot has changed when its pixels (canvas) or its paths (plotly) differ from what they were.

window.probe = {
  events: [], // {at, what, run, state}, in the order the page showed them; a test empties it as it likes

  watch(panel) {
    const status = panel.querySelector(".labkit-status");
    const canvas = panel.querySelector(".labkit-canvas canvas");
    const plot = panel.querySelector(".js-plotly-plot");
    const note = (what, element) =>
      this.events.push({ at: performance.now(), what, run: Number(element.dataset.run), state: status.dataset.state });
    const observe = (element, names, callback) =>
      new MutationObserver(callback).observe(element, { attributeFilter: names });
    observe(status, ["data-state", "data-run"], () => note("state", status));
    panel.addEventListener("keydown", () => note("key", status), true);
    panel.addEventListener("click", () => note("click", status), true);

    if (canvas) {
      let pixels = fingerprint(canvas);
      observe(canvas, ["data-run"], () => {
        note("drawn", canvas); // set by every drawing, changed or not
        const now = fingerprint(canvas);
        if (now !== pixels) {
          note("picture", canvas);
          note("change", canvas);
        }
        pixels = now;
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
  const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  let hash = 0;
  for (const word of words) hash = (Math.imul(hash, 31) + word) | 0;
  return hash;
}

function curves(plot) {
  const drawn = plot.querySelectorAll(".scatterlayer path, .barlayer path");
  return [...drawn].map((path) => path.getAttribute("d") + (path.getAttribute("transform") ?? "")).join();
}

probe.watch(document.querySelector(".labkit-panel"));
