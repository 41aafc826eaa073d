// The page itself: it takes a file, has the worker code or decode it, and shows the result or one line about a problem.

const facts = globalThis.labkitFacts;
const MAGIC = [0x89, 0x4c, 0x4b, 0x43]; // first bytes of an .lkc file
let source = null; // what is open: {name, blob, credit}
let turn = 0; // number of the last job; jobs with other numbers are canceled
let worker = null;
let link = null;

// Files of the page. A script tag works from file://, where browsers refuse to fetch.

const loaded = {};
globalThis.labkitWeights = (lmbda, base64) => (loaded[`weights-${lmbda}`] = base64);
globalThis.labkitPhoto = (name, base64) => (loaded[`photo-${name}`] = base64);

// Return the base64 text that a script gives.
async function load(name) {
  if (!loaded[name]) {
    await new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = `codec/${name}.js`;
      script.onload = resolve;
      script.onerror = () => reject(new Error(`the file codec/${name}.js of this page is missing.`));
      document.head.append(script);
    });
  }
  return loaded[name];
}

// The worker. Ending it is the surest way to cancel: its work stops at once, and its memory is free.

function run(job, transfer, receive) {
  worker ??= new Worker(URL.createObjectURL(new Blob([facts.worker], { type: "text/javascript" })));
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      if (data.error) reject(new Error(data.error));
      else if (data.done) resolve();
      else receive(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      endWorker();
      reject(new Error(`the browser stopped the work: ${event.message || "there may be too little memory"}`));
    };
    worker.postMessage(job, transfer);
  });
}

function endWorker() {
  worker?.terminate();
  worker = null;
}

// Jobs

async function begin(next) {
  if (!get("running").hidden) endWorker();
  const mine = ++turn;
  if (next !== source) get("results").hidden = true;
  source = next;
  get("results").classList.add("stale");
  get("problem").hidden = true;
  get("running").hidden = false;
  get("progress").value = 0;
  say(`Opening ${next.name} …`);
  get("work").scrollIntoView({ block: "nearest" });
  const receive = (data) => mine === turn && show(data);
  try {
    const blob = await next.read();
    const start = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
    const coded = MAGIC.every((byte, i) => byte === start[i]) || /\.lkc$/i.test(next.name);
    const [job, transfer] = await (coded ? codedJob(blob) : photoJob(blob, next.name, start));
    if (mine !== turn) return;
    await run(job, transfer, receive);
    if (mine === turn) say(summary());
  } catch (error) {
    if (mine === turn) fail(`${next.name}: ${error.message}`);
  } finally {
    if (mine === turn) get("running").hidden = true;
  }
}

function cancel() {
  turn++;
  endWorker();
  get("running").hidden = true;
  get("results").hidden = true;
  say("Canceled.");
  get("file").focus(); // the button that had the focus is gone
}

async function photoJob(blob, name, start) {
  const image = await readPhoto(blob, name, start);
  const lmbda = document.querySelector("[name=lmbda]:checked").value;
  get("lmbdas").disabled = false;
  return [{ photo: image, lmbda, weights: await load(`weights-${lmbda}`) }, [image]];
}

// Return the image. Its size is checked before the browser decodes it, because a short file can claim a huge image.
async function readPhoto(blob, name, start) {
  if (blob.size > facts.most_bytes) throw new Error(`the file is larger than ${facts.most_bytes / 2 ** 20} MiB.`);
  const problem = /\.hei[cf]$/i.test(name)
    ? "this browser cannot read HEIC photos. Save it as JPEG or PNG first."
    : "this is no image that this browser can read, and no .lkc file.";
  const element = new Image();
  element.src = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => Object.assign(element, { onload: resolve, onerror: reject }));
    checkSize(element.naturalWidth, element.naturalHeight);
    return await createImageBitmap(blob);
  } catch (error) {
    throw error instanceof SizeError ? error : new Error(problem);
  } finally {
    URL.revokeObjectURL(element.src);
  }
}

class SizeError extends Error {}

function checkSize(width, height) {
  if (width * height > facts.most_pixels || Math.max(width, height) > facts.longest_side) {
    const most = `${facts.most_pixels / 1e6} million pixels and ${bytesText(facts.longest_side)} per side`;
    throw new SizeError(`it has ${bytesText(width)}×${bytesText(height)} pixels; this page takes at most ${most}.`);
  }
}

async function codedJob(blob) {
  if (blob.size > facts.most_bytes) throw new Error(`the file is larger than ${facts.most_bytes / 2 ** 20} MiB.`);
  const file = new Uint8Array(await blob.arrayBuffer());
  let header;
  await run({ inspected: file }, [], (data) => (header = data.header));
  checkSize(header.width, header.height);
  const lmbda = Object.keys(facts.hashes).find((each) => facts.hashes[each] === header.hash);
  if (!lmbda) {
    throw new Error(`it was coded by ${header.network} with weights that this page does not have (hash ${header.hash}).`);
  }
  document.querySelector(`[name=lmbda][value="${lmbda}"]`).checked = true;
  get("lmbdas").disabled = true;
  return [{ file, lmbda, weights: await load(`weights-${lmbda}`) }, []];
}

// Results

let figures = {};

function show({ step, progress, decoded, jpeg }) {
  if (step) say(`${step} …`);
  if (progress) get("progress").value = progress;
  if (decoded) showDecoded(decoded);
  if (jpeg) {
    figures.jpeg = jpeg;
    showJpeg(jpeg, figures.bytes);
    for (const radio of document.querySelectorAll("[value*=jpeg]")) radio.disabled = false;
  }
}

function showDecoded(decoded) {
  const { original, file, psnr, latentsOk } = decoded;
  figures = { bytes: file.length, psnr, latentsOk };
  get("results").hidden = false;
  get("results").classList.remove("stale");
  get("pairs").hidden = !original;
  if (document.querySelector("[name=pair]:checked").value.includes("jpeg")) document.querySelector("[name=pair]").checked = true;
  for (const radio of document.querySelectorAll("[value*=jpeg]")) radio.disabled = true;
  showFile({ bytes: file.length, ...decoded });
  get("credit").textContent = source.credit ?? "";
  offer(file);
}

function offer(file) {
  const name = source.name.replace(/\.[^.]*$/, "").replace(/[^\w.-]+|^[-.]+/g, "_") || "image";
  URL.revokeObjectURL(link);
  link = URL.createObjectURL(new Blob([file]));
  Object.assign(get("download"), { href: link, download: `${name}.lkc`, textContent: `Download ${name}.lkc` });
  get("command").textContent = `labkit decompress ${name}.lkc`;
}

function summary() {
  const { bytes, psnr, jpeg, latentsOk } = figures;
  let text = `${source.name}: ${bytesText(bytes)} bytes, ${((8 * bytes) / (size.width * size.height)).toFixed(3)} bits per pixel`;
  if (psnr !== undefined) text += `, PSNR ${decibels(psnr)}`;
  if (jpeg) text += `. JPEG with ${bytesText(jpeg.bytes)} bytes: ${decibels(jpeg.psnr)}`;
  if (!jpeg) text += `. It was coded with λ = ${document.querySelector("[name=lmbda]:checked").value}`;
  if (!jpeg && latentsOk) text += ". The decoded numbers match the checksum in the file";
  return `${text}.`;
}

function say(text) {
  get("status").textContent = text;
}

function fail(text) {
  get("results").hidden = true;
  say("");
  get("problem").textContent = text;
  get("problem").hidden = false;
  get("work").scrollIntoView({ block: "nearest" });
}

// Input

const opened = (file) => ({ name: file.name || "pasted image", read: async () => file });

function take(transfer) {
  const [file] = transfer?.files ?? [];
  if (file) begin(opened(file));
  else fail("This is text or a link, not a file. Give this page a photo or an .lkc file.");
}

get("file").addEventListener("change", () => {
  if (get("file").files.length) begin(opened(get("file").files[0]));
  get("file").value = ""; // so that the same file can be chosen again
});
for (const button of document.querySelectorAll("[data-photo]")) {
  const { photo } = button.dataset;
  const bytes = async () => Uint8Array.from(atob(await load(`photo-${photo}`)), (character) => character.charCodeAt(0));
  const read = async () => new Blob([await bytes()], { type: "image/webp" });
  const entry = { name: photo, read, credit: facts.credits[photo] };
  button.addEventListener("click", () => begin(entry));
}
get("lmbdas").addEventListener("change", () => source && begin(source));
get("cancel").addEventListener("click", cancel);
addEventListener("dragover", (event) => {
  event.preventDefault();
  get("target").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) get("target").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  get("target").hidden = true;
  take(event.dataTransfer);
});
addEventListener("paste", (event) => event.target.matches("input") || take(event.clipboardData));
if (!globalThis.OffscreenCanvas) fail("This browser is too old for this page: it has no OffscreenCanvas.");
