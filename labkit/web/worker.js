// The worker of the page. This text follows that of codec.js in one classic script, because browsers refuse module
// workers to pages that are opened as files. A job is a photo to code, or a file to inspect or to decode.

const networks = {}; // by λ

onmessage = async ({ data: job }) => {
  try {
    if (job.inspected) postMessage({ header: inspect(job.inspected) });
    else {
      networks[job.lmbda] ??= parseWeights(bytesOfBase64(job.weights).buffer);
      await (job.photo ? codePhoto(job) : decodeFile(job));
    }
    postMessage({ done: true });
  } catch (error) {
    postMessage({ error: String(error?.message || error).split("\n")[0] });
  }
};

function bytesOfBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

// Return a function that reports the fraction of one step as a fraction of the whole job.
function reporter(step, from, to) {
  postMessage({ step });
  return (fraction) => postMessage({ progress: from + (to - from) * fraction });
}

async function codePhoto({ photo, lmbda }) {
  const { width, height } = photo;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff"; // transparent pixels are blended with white, as in labkit
  context.fillRect(0, 0, width, height);
  context.drawImage(photo, 0, 0);
  photo.close();
  const { data: pixels } = context.getImageData(0, 0, width, height);
  const net = networks[lmbda];
  const file = encode(net, { width, height, pixels }, reporter("Compressing", 0, 0.4));
  const decoded = decode(net, file, reporter("Decoding the file", 0.4, 0.7));
  const original = await createImageBitmap(canvas);
  await show(decoded, { file, original, psnr: psnr(pixels, decoded.pixels) }, [original]);
  const jpeg = await jpegOf(canvas, pixels, file.length, reporter("Comparing with JPEG", 0.7, 1));
  postMessage({ jpeg }, [jpeg.image]);
}

async function decodeFile({ file, lmbda }) {
  await show(decode(networks[lmbda], file, reporter("Decoding the file", 0, 1)), { file }, []);
}

async function show({ width, height, pixels, latentsOk, maps }, more, transfer) {
  if (latentsOk === false) throw new Error("the decoded numbers do not match the checksum in the file");
  const data = new ImageData(pixels, width, height);
  const scale = Math.min(1, 1024 / Math.max(width, height));
  const image = await createImageBitmap(data);
  const small = await createImageBitmap(data, {
    resizeWidth: Math.ceil(width * scale),
    resizeHeight: Math.ceil(height * scale),
  });
  const area = maps.rows * maps.columns;
  maps.total = new Float32Array(area); // bits of all channels of a patch
  for (let i = 0; i < maps.bits.length; i++) maps.total[i % area] += maps.bits[i];
  const buffers = ["mu", "sigma", "bits", "symbols", "total"].map((name) => maps[name].buffer);
  const { ledger } = inspect(more.file);
  const decoded = { width, height, image, small, latentsOk, maps, ledger, ...more };
  postMessage({ decoded }, [image, small, ...buffers, ...transfer]);
}

// Return the best JPEG of the browser with at most `bytes` bytes, or the smallest one if all have more.
async function jpegOf(canvas, pixels, bytes, progress) {
  const ofQuality = (quality) => canvas.convertToBlob({ type: "image/jpeg", quality: quality / 100 });
  let [fits, exceeds, best] = [-1, 101, null]; // qualities in percent
  for (let tries = 1; exceeds - fits > 1; tries++) {
    const quality = Math.floor((fits + exceeds) / 2);
    const blob = await ofQuality(quality);
    if (blob.size <= bytes) [fits, best] = [quality, blob];
    else exceeds = quality;
    progress(Math.min(1, tries / 8));
  }
  const blob = best ?? (await ofQuality(0));
  const image = await createImageBitmap(blob);
  const again = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  again.drawImage(image, 0, 0);
  const { data } = again.getImageData(0, 0, image.width, image.height);
  return { image, bytes: blob.size, quality: Math.max(0, fits), psnr: psnr(pixels, data) };
}

// PSNR in dB of two images with red, green, blue and opacity per pixel; the opacity does not count.
function psnr(first, second) {
  let sum = 0;
  for (let i = 0; i < first.length; i += 4) {
    for (let color = i; color < i + 3; color++) sum += (first[color] - second[color]) ** 2;
  }
  return 10 * Math.log10(255 ** 2 / (sum / (0.75 * first.length)));
}
