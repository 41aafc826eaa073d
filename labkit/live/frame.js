// What the canvas and the divider share; the Python side puts it before each of them.

function imageOf(frame, pixels) {
  const image = new OffscreenCanvas(frame.width, frame.height);
  const rgba = new Uint8ClampedArray(pixels.buffer.slice(pixels.byteOffset, pixels.byteOffset + pixels.byteLength));
  image.getContext("2d").putImageData(new ImageData(rgba, frame.width, frame.height), 0, 0);
  return image;
}

// Texts for whoever cannot see the picture and for whoever can, and the run that it belongs to.
function say(frame, canvas, captions) {
  canvas.setAttribute("aria-label", frame.label);
  captions.replaceChildren(...frame.captions.map((text) => {
    const caption = document.createElement("span");
    caption.textContent = text;
    return caption;
  }));
  canvas.dataset.run = frame.run;
}
