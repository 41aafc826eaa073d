// The status line: a word for the state, what is being done, how far it is, whether what is shown is out of date, and
// the results. `data-state` and `data-run` on the root carry colors in the style sheet; the browser tests watch them.

// Jupyter's sliders do not say what they are, and tell a screen reader the number of an option instead of its value.
function nameSliders(panel) {
  for (const handle of panel?.querySelectorAll(".noUi-handle") ?? []) {
    const slider = handle.closest(".widget-slider");
    handle.setAttribute("aria-label", slider.querySelector(".widget-label").textContent);
    handle.setAttribute("aria-valuetext", slider.querySelector(".widget-readout").textContent);
  }
}

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "labkit-status";
  root.innerHTML = `
    <div><strong role="status"></strong> <span class="text"></span> <em class="stale"></em></div>
    <progress max="1" aria-label="progress of the run"></progress>
    <p class="result"></p>
    <p class="before"></p>`;
  el.append(root);
  const part = (name) => root.querySelector(name);

  function update() {
    const status = model.get("status");
    root.dataset.state = status.state;
    root.dataset.run = status.run;
    root.dataset.stale = status.stale !== "";
    const word = part("strong");
    if (word.textContent !== status.state) word.textContent = status.state; // said aloud only when it changes
    part(".text").textContent = status.text;
    part(".stale").textContent = status.stale;
    part("progress").value = status.progress;
    part(".result").textContent = status.result;
    part(".before").textContent = status.before;
    requestAnimationFrame(() => nameSliders(root.closest(".labkit-panel"))); // after the sliders have written theirs
  }

  // Plotly takes a while to load and to draw, and loses what is sent meanwhile: ask for it when it is there.
  const asked = new WeakSet();
  const watch = setInterval(() => {
    if (!root.isConnected) return;
    for (const plot of root.closest(".labkit-panel")?.querySelectorAll(".js-plotly-plot") ?? []) {
      if (!plot.calcdata || asked.has(plot)) continue;
      asked.add(plot);
      setTimeout(() => model.send({ kind: "drawn" }), 500);
    }
  }, 250);

  model.on("change:status", update);
  update();
  return () => {
    clearInterval(watch);
    model.off("change:status", update);
  };
}

export default { render };
