// The status line: the state of the newest run, its present work, its progress, a note if the screens are out of date,
// and the results. The style sheet and the browser tests read `data-state` and `data-run` of the root.

// Jupyter's sliders have no name, and tell a screen reader the index of an option instead of its value. The arrow keys
// select another cell, or nothing in Notebook 7, unless the focused element itself asks to suppress shortcuts.
function labelSliders(panel) {
  for (const handle of panel?.querySelectorAll(".noUi-handle") ?? []) {
    const slider = handle.closest(".widget-slider");
    handle.setAttribute("aria-label", slider.querySelector(".widget-label").textContent);
    handle.setAttribute("data-lm-suppress-shortcuts", "true");
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
    const state = part("strong");
    if (state.textContent !== status.state) state.textContent = status.state; // a screen reader announces changes only
    part(".text").textContent = status.text;
    part(".stale").textContent = status.stale;
    part("progress").value = status.progress;
    part(".result").textContent = status.result;
    part(".before").textContent = status.before;
    requestAnimationFrame(() => labelSliders(root.closest(".labkit-panel"))); // after the sliders update their readouts
  }

  // Plotly takes a while to load and to draw, and drops updates until then. Ask for them when the plot is there, and
  // again later, because a busy machine may take seconds to draw it.
  const refreshed = new WeakSet();
  const watch = setInterval(() => {
    if (!root.isConnected) return;
    for (const plot of root.closest(".labkit-panel")?.querySelectorAll(".js-plotly-plot") ?? []) {
      if (!plot.calcdata || refreshed.has(plot)) continue;
      refreshed.add(plot);
      for (const delay of [500, 3000, 10000]) setTimeout(() => root.isConnected && model.send({ kind: "drawn" }), delay);
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
