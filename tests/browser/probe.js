// What a person at the screen would see, and when. Nothing here asks the kernel: the state is read from the page, and a
// plot has changed when its pixels (canvas) or its curve's path (plotly) differ from what they were.

window.probe = {
  events: [], // {at, what, run, state}, in the order the page showed them; a test empties it as it likes

  watch(panel) {
    const status = panel.querySelector(".labkit-status");
    const canvas = panel.querySelector(".labkit-canvas canvas");
    const note = (what, element) =>
      this.events.push({ at: performance.now(), what, run: Number(element.dataset.run), state: status.dataset.state });
    const observe = (element, names, callback) =>
      new MutationObserver(callback).observe(element, { attributeFilter: names });
    observe(status, ["data-state", "data-run"], () => note("state", status));
    panel.addEventListener("keydown", () => note("key", status), true);
    panel.addEventListener("click", () => note("click", status), true);

    let pixels = fingerprint(canvas);
    observe(canvas, ["data-run"], () => {
      note("drawn", canvas); // set by every drawing, changed or not
      const now = fingerprint(canvas);
      if (now !== pixels) note("picture", canvas);
      pixels = now;
    });
    let path = curve(panel);
    panel.querySelector(".js-plotly-plot").on("plotly_afterplot", () => {
      const now = curve(panel);
      if (now !== path) note("curve", status);
      path = now;
    });
  },
};

function fingerprint(canvas) {
  const words = new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  let hash = 0;
  for (const word of words) hash = (Math.imul(hash, 31) + word) | 0;
  return hash;
}

function curve(panel) {
  return [...panel.querySelectorAll(".scatterlayer path.js-line")].map((path) => path.getAttribute("d")).join();
}

probe.watch(document.querySelector(".labkit-panel"));
