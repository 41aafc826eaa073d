// Shows a drawing that Python sends as SVG. Its texts have the color of the page.

function render({ model, el }) {
  const figure = document.createElement("figure");
  figure.className = "labkit-canvas labkit-sketch";
  el.append(figure);

  function draw() {
    const frame = model.get("frame");
    if (!frame.svg) return;
    figure.style.width = `${model.get("width")}px`;
    figure.innerHTML = frame.svg;
    figure.dataset.run = frame.run;
  }

  model.on("change:frame", draw);
  draw();
}

export default { render };
