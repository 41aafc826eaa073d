// Draws one frame: an image, scaled without smoothing, then a cloud of dots, then discs. Coordinates run from 0 to 1,
// from the top left corner. Every color must be visible on a light page and on a dark page.

const CLOUD = "rgba(120, 132, 150, 0.8)";
const DISC = "#e8590c";
const RIM = "#ffffff";

function floats(view) {
  if (!view || !view.byteLength) return new Float32Array();
  return new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

function dot(context, x, y, radius) {
  context.moveTo(x + radius, y);
  context.arc(x, y, radius, 0, 2 * Math.PI);
}

function imageOf({ width, height, pixels }) {
  const image = new OffscreenCanvas(width, height);
  const rgba = new Uint8ClampedArray(pixels.buffer.slice(pixels.byteOffset, pixels.byteOffset + pixels.byteLength));
  image.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
  return image;
}

// Sets the text alternative, the captions, and the number of the run that the frame belongs to.
function describe(frame, canvas, captions) {
  canvas.setAttribute("aria-label", frame.label);
  captions.replaceChildren(...frame.captions.map((text) => {
    const caption = document.createElement("span");
    caption.textContent = text;
    return caption;
  }));
  canvas.dataset.run = frame.run;
}

function render({ model, el }) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const captions = document.createElement("figcaption");
  figure.className = "labkit-canvas";
  canvas.setAttribute("role", "img");
  figure.append(canvas, captions);
  el.append(figure);

  function draw() {
    const frame = model.get("frame");
    if (!frame.width) return;
    const wide = model.get("width");
    const high = Math.round((wide * frame.height) / frame.width);
    const scale = window.devicePixelRatio || 1;
    figure.style.width = `${wide}px`;
    canvas.width = Math.round(wide * scale); // this also clears the canvas
    canvas.height = Math.round(high * scale);

    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.imageSmoothingEnabled = false;
    context.drawImage(imageOf(frame), 0, 0, wide, high);

    const cloud = floats(model.get("cloud"));
    context.fillStyle = CLOUD;
    context.beginPath();
    for (let i = 0; i < cloud.length; i += 2) dot(context, cloud[i] * wide, cloud[i + 1] * high, 1);
    context.fill();

    const discs = floats(frame.discs);
    context.fillStyle = DISC;
    context.strokeStyle = RIM;
    context.lineWidth = 1.25;
    for (let i = 0; i < discs.length; i += 3) {
      context.beginPath();
      dot(context, discs[i] * wide, discs[i + 1] * high, discs[i + 2] * wide);
      context.fill();
      context.stroke();
    }

    describe(frame, canvas, captions);
  }

  model.on("change:frame", draw);
  model.on("change:cloud", draw);
  draw();
}

export default { render };
