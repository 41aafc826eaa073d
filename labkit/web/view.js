// What is shown of a coded file: two images with a divider, tables of figures and bytes, and maps of the bits. The
// elements are those of view.html in `root`: the document of the page, or the shadow root of a widget in a notebook.

const get = (id) => root.getElementById(id);
const bytesText = (count) => count.toLocaleString("en-US");
const decibels = (value) => (value === Infinity ? "no error" : `${value.toFixed(2)} dB`);
const NAMES = { original: "Original", labkit: "labkit", jpeg: "JPEG" };
const PARTS = {
  header: "Size of the image, name of the network, and checksums that detect damage",
  "section headers": "Length and checksum of each of the two parts that follow",
  z: "A rough description of the image, from which μ and σ are computed",
  y: "The numbers of every patch",
  flush: "Last bytes of the entropy coder, which turns numbers into bits",
};
const SEQUENTIAL = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const DIVERGING = ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"];
const GRADIENTS = { mu: DIVERGING };

// Images

const canvases = Object.fromEntries([...root.querySelectorAll("[data-image]")].map((each) => [each.dataset.image, each]));
let size = { width: 1, height: 1 };
let alone = true; // whether there is only the decoded image

// Show a decoded file. `bytes` is its length; `small` is a copy of the image that may be smaller.
function showFile({ width, height, image, small, original, bytes, psnr, ledger, maps }) {
  size = { width, height };
  alone = !original;
  showBitmap(canvases.labkit, image);
  if (original) showBitmap(canvases.original, original);
  showPair();
  showSize();
  showFigures(bytes, psnr);
  showLedger(ledger);
  showMaps(maps, small);
}

function showBitmap(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("bitmaprenderer").transferFromImageBitmap(image);
}

function showPair() {
  const [left, right] = alone ? ["labkit", "labkit"] : root.querySelector("[name=pair]:checked").value.split(" ");
  for (const [name, canvas] of Object.entries(canvases)) {
    canvas.hidden = name !== left && name !== right;
    canvas.classList.toggle("right", name === right && !alone);
  }
  get("stage").append(canvases[right], get("line"));
  get("line").hidden = get("divider").hidden = get("names").hidden = alone;
  get("left-name").textContent = `← ${NAMES[left]}`;
  get("right-name").textContent = `${NAMES[right]} →`;
  moveDivider();
}

function showSize() {
  const actual = get("actual").checked;
  const stage = get("stage");
  stage.style.aspectRatio = `${size.width} / ${size.height}`;
  stage.style.width = actual ? `${size.width / devicePixelRatio}px` : "100%";
  get("frame").style.maxWidth = actual ? "100%" : `min(${(75 * size.width) / size.height}vh, ${4 * size.width}px)`;
  stage.classList.toggle("actual", actual);
  moveDivider();
}

// The divider has a place in the visible part of the images, so it stays in view while they scroll.
function moveDivider() {
  const visible = Math.min(get("window").clientWidth, get("stage").clientWidth);
  const at = get("window").scrollLeft + (visible * get("divider").value) / 100;
  get("stage").style.setProperty("--at", `${at}px`);
}

function dragDivider(event) {
  const touchScrolls = event.pointerType === "touch" && get("actual").checked;
  if (get("divider").hidden || touchScrolls || (event.type === "pointermove" && !event.buttons)) return;
  if (event.type === "pointerdown") get("stage").setPointerCapture(event.pointerId);
  const box = get("window").getBoundingClientRect();
  const visible = Math.min(get("window").clientWidth, get("stage").clientWidth);
  get("divider").value = (100 * (event.clientX - box.left)) / visible;
  moveDivider();
}

get("stage").addEventListener("pointerdown", dragDivider);
get("stage").addEventListener("pointermove", dragDivider);
get("window").addEventListener("scroll", moveDivider);
get("divider").addEventListener("input", moveDivider);
get("pairs").addEventListener("change", showPair);
get("actual").addEventListener("change", showSize);
new ResizeObserver(showSize).observe(get("window"));

// Tables

function row(cells, numbers) {
  const line = document.createElement("tr");
  cells.forEach((text, place) => {
    const cell = document.createElement(place ? "td" : "th");
    if (!place) cell.scope = "row";
    if (numbers.includes(place)) cell.className = "number";
    cell.textContent = text;
    line.append(cell);
  });
  return line;
}

function figuresRow(name, bytes, decibelsText) {
  return row([name, bytesText(bytes), ((8 * bytes) / (size.width * size.height)).toFixed(3), decibelsText], [1, 2, 3]);
}

function showFigures(bytes, psnr) {
  const rows = [figuresRow("labkit", bytes, psnr === undefined ? "unknown without the original" : decibels(psnr))];
  if (psnr !== undefined) rows.push(figuresRow("Uncompressed", 3 * size.width * size.height, "no error"));
  get("figures").tBodies[0].replaceChildren(...rows);
}

function showJpeg({ image, bytes, quality, psnr }, limit) {
  const name = bytes > limit ? "Smallest JPEG of this browser" : `JPEG, quality ${quality}`;
  get("figures").tBodies[0].rows[0].after(figuresRow(name, bytes, decibels(psnr)));
  showBitmap(canvases.jpeg, image);
}

function showLedger(ledger) {
  const all = ledger.reduce((sum, part) => sum + part.bytes, 0);
  const share = (bytes) => `${((100 * bytes) / all).toFixed(1)}%`;
  get("ledger").tBodies[0].replaceChildren(
    ...ledger.map(({ part, bytes }) => {
      const line = row([part, bytesText(bytes), share(bytes)], [1, 2]);
      const meaning = document.createElement("small");
      meaning.textContent = PARTS[part] ?? "";
      line.cells[0].dataset.part = part;
      line.cells[0].append(meaning);
      return line;
    }),
  );
  get("ledger").tFoot.replaceChildren(row(["whole file", bytesText(all), "100%"], [1, 2]));
  get("bar").replaceChildren(
    ...ledger.map(({ part, bytes }) => {
      const piece = document.createElement("span");
      piece.dataset.part = part;
      piece.style.flexGrow = bytes;
      return piece;
    }),
  );
}

// Maps

let maps = null;
let place = { row: 0, column: 0 };
const offset = () => ({ x: (16 * maps.columns - size.width) >> 1, y: (16 * maps.rows - size.height) >> 1 });

function showMaps(decodedMaps, small) {
  maps = decodedMaps;
  place = { row: maps.rows >> 1, column: maps.columns >> 1 };
  get("channels").textContent = maps.M;
  get("channel").max = maps.M - 1;
  showBitmap(get("base"), small);
  for (const view of root.querySelectorAll(".view")) {
    view.style.aspectRatio = `${size.width} / ${size.height}`;
    view.style.maxWidth = `${(60 * size.width) / size.height}vh`;
  }
  putAt(get("cells"), -offset().x, -offset().y, 16 * maps.columns, 16 * maps.rows);
  showMap();
}

// Place an element of a view at pixels of the image, which fills the view.
function putAt(element, left, top, width, height) {
  element.style.left = `${(100 * left) / size.width}%`;
  element.style.top = `${(100 * top) / size.height}%`;
  element.style.width = `${(100 * width) / size.width}%`;
  element.style.height = `${(100 * height) / size.height}%`;
}

const channel = () => Math.min(maps.M - 1, Math.max(0, Math.floor(get("channel").value) || 0));

function showMap() {
  const kind = get("kind").value;
  const area = maps.rows * maps.columns;
  get("channel-label").hidden = kind === "total";
  const values = kind === "total" ? maps.total : maps[kind].subarray(channel() * area, (channel() + 1) * area);
  const finite = values.filter(Number.isFinite);
  const high = finite.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  const low = kind === "mu" ? -high : 0;
  const colors = GRADIENTS[kind] ?? SEQUENTIAL;
  paint(get("cells"), maps.columns, maps.rows, colors, (i) => (values[i] - low) / (high - low));
  paint(get("scale"), 256, 1, colors, (i) => i / 255);
  const unit = kind === "total" || kind === "bits" ? " bits" : "";
  get("low").textContent = `${short(low)}${unit}`;
  get("high").textContent = `${short(high)}${unit}`;
  markPlace();
}

const short = (value) => (Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1)).replace(/\.0+$/, "").replace("-", "−");

function paint(canvas, columns, rows, colors, fractionOf) {
  const stops = colors.map((color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16)));
  const image = new ImageData(columns, rows);
  for (let i = 0; i < columns * rows; i++) {
    const at = Math.min(1, Math.max(0, fractionOf(i) || 0)) * (stops.length - 1);
    const below = Math.min(stops.length - 2, Math.floor(at));
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = stops[below][c] + (at - below) * (stops[below + 1][c] - stops[below][c]);
    image.data[4 * i + 3] = 255;
  }
  [canvas.width, canvas.height] = [columns, rows];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function markPlace() {
  for (const mark of root.querySelectorAll(".mark")) {
    putAt(mark, 16 * place.column - offset().x, 16 * place.row - offset().y, 16, 16);
  }
  const area = maps.rows * maps.columns;
  const cell = place.row * maps.columns + place.column;
  let text = `Patch in row ${place.row + 1}, column ${place.column + 1}: ${short(maps.total[cell])} bits in all channels.`;
  if (get("kind").value !== "total") {
    const i = channel() * area + cell;
    const [mu, sigma, bits] = [maps.mu[i], maps.sigma[i], maps.bits[i]];
    text += ` Channel ${channel()}: predicted μ = ${short(mu)}, σ = ${short(sigma)}; decoded ${short(mu + maps.symbols[i])}`;
    text += ` for ${short(bits)} bits.`;
  }
  get("value").textContent = text;
}

function pointAt(event) {
  const box = event.currentTarget.getBoundingClientRect();
  const at = (part, start, length, pixels) => ((part - start) / length) * pixels;
  moveTo(
    (at(event.clientY, box.top, box.height, size.height) + offset().y) >> 4,
    (at(event.clientX, box.left, box.width, size.width) + offset().x) >> 4,
  );
}

function moveTo(row, column) {
  const within = (value, count) => Math.min(count - 1, Math.max(0, value));
  place = { row: within(row, maps.rows), column: within(column, maps.columns) };
  markPlace();
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
get("map").addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  moveTo(place.row + step[0], place.column + step[1]);
});
for (const view of root.querySelectorAll(".view")) {
  view.addEventListener("pointermove", pointAt);
  view.addEventListener("pointerdown", pointAt);
}
get("kind").addEventListener("change", showMap);
get("channel").addEventListener("input", showMap);
