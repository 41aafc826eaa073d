// A coded file in a notebook. The view is that of the page "Try the codec": Python puts its elements and styles into
// VIEW, and its functions into createView. A shadow root separates their names from those of the notebook.

const array = (Type, { buffer, byteOffset, byteLength }) => new Type(buffer.slice(byteOffset, byteOffset + byteLength));

function render({ model, el }) {
  const frame = model.get("frame");
  const host = document.createElement("div");
  host.className = "labkit-file";
  host.setAttribute("role", "group");
  host.setAttribute("aria-label", frame.label);
  host.dataset.lmSuppressShortcuts = "true"; // keys move the mark, not JupyterLab's selection of a cell
  const root = host.attachShadow({ mode: "open" });
  root.innerHTML = VIEW;
  el.append(host);
  const { width, height, rows, columns, M } = frame;
  const bitmap = (pixels) => {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(new ImageData(array(Uint8ClampedArray, pixels), width, height), 0, 0);
    return canvas.transferToImageBitmap();
  };
  const maps = { rows, columns, M, symbols: array(Int32Array, frame.symbols) };
  for (const name of ["mu", "sigma", "bits", "total"]) maps[name] = array(Float32Array, frame[name]);
  const { get, showFile } = createView(root);
  get("channel").value = frame.channel;
  showFile({
    ...frame,
    maps,
    image: bitmap(frame.image),
    small: bitmap(frame.image),
    original: frame.original && bitmap(frame.original),
    psnr: frame.original ? 10 * Math.log10(255 ** 2 / frame.mse) : undefined,
  });
}

export default { render };
