// Two images of the same subject in one frame: the first one is left of a divider, the second one is right of it. The
// mouse or a finger on the image moves the divider, and so do the arrow keys on the slider below.

function render({ model, el }) {
  const figure = document.createElement("figure");
  figure.className = "labkit-canvas labkit-divider";
  figure.innerHTML = `
    <canvas role="img"></canvas>
    <input type="range" min="0" max="100" step="1" value="50" aria-label="divider between the two images">
    <figcaption></figcaption>`;
  el.append(figure);
  const [canvas, slider, captions] = figure.children;
  let images = [];

  function paint() {
    if (!images.length) return;
    const context = canvas.getContext("2d");
    const at = Math.round((canvas.width * slider.value) / 100);
    context.imageSmoothingEnabled = false;
    context.drawImage(images[0], 0, 0, canvas.width, canvas.height);
    context.save();
    context.beginPath();
    context.rect(at, 0, canvas.width - at, canvas.height);
    context.clip();
    context.drawImage(images[1], 0, 0, canvas.width, canvas.height);
    context.restore();
    context.fillStyle = "#ffffff"; // a white line with dark edges is visible on every image
    context.fillRect(at - 1, 0, 2, canvas.height);
    context.fillStyle = "#000000";
    context.fillRect(at - 2, 0, 1, canvas.height);
    context.fillRect(at + 1, 0, 1, canvas.height);
  }

  function draw() {
    const frame = model.get("frame");
    if (!frame.width) return;
    const wide = model.get("width");
    const scale = window.devicePixelRatio || 1;
    figure.style.width = `${wide}px`;
    canvas.width = Math.round(wide * scale);
    canvas.height = Math.round((wide * scale * frame.height) / frame.width);
    images = [imageOf(frame, frame.first), imageOf(frame, frame.second)];
    paint();
    describe(frame, canvas, captions);
  }

  function follow(event) {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = canvas.getBoundingClientRect();
    slider.value = (100 * (event.clientX - box.left)) / box.width;
    paint();
  }

  slider.addEventListener("input", paint);
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    follow(event);
  });
  canvas.addEventListener("pointermove", follow);
  model.on("change:frame", draw);
  draw();
}

export default { render };
