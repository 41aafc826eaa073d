// Functions that the canvas and the divider share. The Python side prepends them to both scripts.

function imageOf(frame, pixels) {
  const image = new OffscreenCanvas(frame.width, frame.height);
  const rgba = new Uint8ClampedArray(pixels.buffer.slice(pixels.byteOffset, pixels.byteOffset + pixels.byteLength));
  image.getContext("2d").putImageData(new ImageData(rgba, frame.width, frame.height), 0, 0);
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
