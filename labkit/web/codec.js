/**
 * labkit's codec in plain JavaScript: reads, checks, decodes and writes `.lkc` files of version 2.
 *
 * It follows labkit/files/FORMAT.md, has no dependencies, and touches neither the page nor the network, so it runs in a
 * page, in a worker and in node. It knows the networks patch_hyperprior and patch_linear.
 *
 * A latent at (channel, row, column) has the index (channel · rows + row) · columns + column, as in Python. Activations
 * of a row of patches are position-major: all channels of a position are neighbors, as products need them.
 */

const MAGIC = [0x89, 0x4c, 0x4b, 0x43, 0x0d, 0x0a, 0x1a, 0x0a];
const VERSION = 2;
const HEADER_BYTES = 42;
const SECTION_BYTES = 8;
const FLUSH_BYTES = 8; // the coder's last state, with which each string begins
const NETWORKS = ["factorized_prior", "scale_hyperprior", "mean_scale_hyperprior", "joint_autoregressive",
  "cheng2020_anchor", "cheng2020_attention", "elic", "channel_autoregressive", "patch_linear", "patch_mlp",
  "patch_hyperprior", "patch_context"];
const SIZES = ["custom", "tiny", "small", "paper"];
const STRINGS = { patch_linear: ["y"], patch_hyperprior: ["y", "z"] }; // the latent in each string
const MAX_PIXELS = 100_000_000;
const MAX_BYTES = 2 ** 26;
const PATCH = 16; // pixels of a latent's side
const UNIT = 2 ** 14; // weights and activations of the hyper-synthesis are multiples of 1 / UNIT
const LIMIT = 2 ** 13; // they and coded symbols are clamped to or limited by ±LIMIT
const WORD = 2 ** 32;
const FIRST_STATE = 2 ** 31;

// ---- Checksums ----

const CRC_TABLE = new Int32Array(256).map((_, byte) => {
  let remainder = byte;
  for (let bit = 0; bit < 8; bit++) remainder = remainder & 1 ? (remainder >>> 1) ^ 0xedb88320 : remainder >>> 1;
  return remainder;
});

/** Returns the CRC-32 of bytes; `before` is the CRC-32 of the bytes in front of them. */
function crc32(bytes, before = 0) {
  let crc = ~before;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** Returns the bytes of a typed array, which are little-endian on every machine that runs a browser. */
const bytesOf = (array) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

const littleEndian = (value) => Uint8Array.of(value, value >>> 8, value >>> 16, value >>> 24);

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

const counted = (number) => number.toLocaleString("en-US");

// ---- The container ----

/** Checks everything in a file that can be checked without weights, and returns its fields and strings. */
function unpack(bytes) {
  if (!bytes.length) throw new Error("The file is empty.");
  if (bytes.length > MAX_BYTES) {
    throw new Error(`The file is longer than ${counted(MAX_BYTES)} bytes, longer than any coded image.`);
  }
  checkMagic(bytes);
  const version = bytes.length > MAGIC.length ? bytes[MAGIC.length] : VERSION;
  if (version > VERSION) {
    throw new Error(`A newer labkit wrote the file: its format has version ${version}, and this page reads version 2.`);
  }
  if (version < VERSION) {
    throw new Error(`The file has format version ${version}, which decodes only on similar processors. Run ` +
      "`labkit decompress` on the computer that wrote it.");
  }
  if (bytes.length < HEADER_BYTES) {
    throw new Error(`The file is cut off: it ends after ${bytes.length} bytes, inside its header.`);
  }
  const view = viewOf(bytes);
  const checksum = crc32(bytes.subarray(0, HEADER_BYTES - 4));
  if (checksum !== view.getUint32(HEADER_BYTES - 4, true)) {
    throw new Error("The file is damaged: its header does not match its checksum.");
  }
  const file = readHeader(view, bytes);
  file.strings = readSections(bytes, view, view.getUint8(27), checksum);
  if (file.strings.length !== STRINGS[file.network].length) {
    throw new Error(`The file has another number of strings, ${file.strings.length}, than ${file.network} writes.`);
  }
  return file;
}

function checkMagic(bytes) {
  if (MAGIC.every((value, i) => i >= bytes.length || bytes[i] === value)) return;
  if ([1, 2, 3].every((i) => bytes[i] === MAGIC[i]) || String.fromCharCode(...bytes.subarray(3, 6)) === "LKC") {
    throw new Error("The file is damaged: its first bytes have changed, as in a transfer in text mode.");
  }
  throw new Error("This is not an .lkc file: its first bytes are different.");
}

function readHeader(view, bytes) {
  const [network, size] = [NETWORKS[view.getUint8(9)], SIZES[view.getUint8(10)]];
  const [verified, arithmetic] = [view.getUint8(28), view.getUint8(33)];
  const [imageChecksum, latentsChecksum] = [view.getUint32(29, true), view.getUint32(34, true)];
  if (arithmetic > 1) throw new Error("A newer labkit wrote the file: its arithmetic is unknown.");
  if (arithmetic !== 1 || verified > 1 || ((imageChecksum || latentsChecksum) && !verified)) {
    throw new Error("The header of the file has values that labkit never writes.");
  }
  if (!network || !size) throw new Error("A newer labkit wrote the file: its network or size is unknown.");
  if (!STRINGS[network]) {
    throw new Error(`The file was coded with ${network}. This page decodes only patch_hyperprior and patch_linear; ` +
      "use `labkit decompress`.");
  }
  const file = { network, size, N: view.getUint16(11, true), M: view.getUint16(13, true),
    hash: Array.from(bytes.subarray(15, 23), (byte) => byte.toString(16).padStart(2, "0")).join(""),
    width: view.getUint16(23, true), height: view.getUint16(25, true), verified: verified === 1, imageChecksum,
    latentsChecksum };
  if (!file.N || !file.M || !file.width || !file.height) throw new Error("The header of the file claims a size of 0.");
  checkPixels(file.width, file.height);
  return file;
}

function checkPixels(width, height) {
  if (width * height > MAX_PIXELS) {
    throw new Error(`The image has ${width}×${height} pixels, but a file holds at most ${counted(MAX_PIXELS)}.`);
  }
}

function readSections(bytes, view, count, checksum) {
  const strings = [];
  let end = HEADER_BYTES;
  for (let number = 1; number <= count; number++) {
    const start = end + SECTION_BYTES;
    const name = `string ${number} of ${count}`;
    if (start > bytes.length) {
      throw new Error(`The file is cut off: it ends after ${counted(bytes.length)} bytes, before ${name}.`);
    }
    const length = view.getUint32(end, true);
    if (start + length > bytes.length) {
      throw new Error(`The file is cut off or damaged: ${name} claims ${counted(length)} bytes, more than are left.`);
    }
    const string = bytes.subarray(start, start + length);
    checksum = crc32(string, crc32(littleEndian(length), checksum));
    if (checksum !== view.getUint32(end + 4, true)) {
      throw new Error(`The file is damaged: ${name} does not match its checksum.`);
    }
    if (length % 4 || length < FLUSH_BYTES) {
      throw new Error(`A string must have 8, 12, 16, … bytes, but ${name} has ${length}.`);
    }
    strings.push(string);
    end = start + length;
  }
  if (end !== bytes.length) {
    throw new Error(`The file is damaged: ${counted(bytes.length - end)} bytes follow its last string.`);
  }
  return strings;
}

function pack(net, width, height, strings, imageChecksum, latentsChecksum) {
  const total = strings.reduce((sum, string) => sum + SECTION_BYTES + string.length, HEADER_BYTES);
  if (total > MAX_BYTES) throw new Error(`The coded image has ${counted(total)} bytes, but a file holds ${MAX_BYTES}.`);
  const bytes = new Uint8Array(total);
  const view = viewOf(bytes);
  bytes.set(MAGIC);
  bytes.set([VERSION, NETWORKS.indexOf(net.network), SIZES.indexOf(net.size)], 8);
  view.setUint16(11, net.N, true);
  view.setUint16(13, net.M, true);
  for (let i = 0; i < 8; i++) bytes[15 + i] = parseInt(net.hash.slice(2 * i, 2 * i + 2), 16);
  view.setUint16(23, width, true);
  view.setUint16(25, height, true);
  bytes.set([strings.length, 1], 27);
  view.setUint32(29, imageChecksum, true);
  view.setUint8(33, 1);
  view.setUint32(34, latentsChecksum, true);
  let checksum = crc32(bytes.subarray(0, HEADER_BYTES - 4));
  view.setUint32(HEADER_BYTES - 4, checksum, true);
  let end = HEADER_BYTES;
  for (const string of strings) {
    checksum = crc32(string, crc32(littleEndian(string.length), checksum));
    view.setUint32(end, string.length, true);
    view.setUint32(end + 4, checksum, true);
    bytes.set(string, end + SECTION_BYTES);
    end += SECTION_BYTES + string.length;
  }
  return bytes;
}

/**
 * Checks a file as far as possible without weights, before anything of the image's size is allocated.
 *
 * @param {Uint8Array} bytes The file.
 * @returns {object} What the header says: network, size, N, M, hash, width, height and verified. The ledger says where
 *   every byte goes: [{part, bytes}, …].
 * @throws {Error} With one line that says what is wrong.
 */
export function inspect(bytes) {
  const { network, size, N, M, hash, width, height, verified, strings } = unpack(bytes);
  const ledger = [{ part: "header", bytes: HEADER_BYTES }];
  STRINGS[network].forEach((part, i) => ledger.push({ part, bytes: strings[i].length - FLUSH_BYTES }));
  ledger.push({ part: "section headers", bytes: SECTION_BYTES * strings.length });
  ledger.push({ part: "flush", bytes: FLUSH_BYTES * strings.length });
  return { network, size, N, M, hash, width, height, verified, ledger };
}

// ---- Weights ----

/**
 * Reads a file of weights that `labkit.web.weights.pack` wrote.
 *
 * @param {ArrayBuffer} buffer The file.
 * @returns {object} The network: network, size, lmbda, hash, N, M, and its weights in further fields.
 * @throws {Error} If it is not such a file.
 */
export function parseWeights(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);
  if (bytes.length < 16 || String.fromCharCode(...bytes.subarray(0, 8)) !== "LKCNET1\n") {
    throw new Error("This is not a file of weights for this page: its first bytes are different.");
  }
  if (crc32(bytes.subarray(0, -4)) !== view.getUint32(bytes.length - 4, true)) {
    throw new Error("The file of weights is damaged: it does not match its checksum.");
  }
  let end = 12 + view.getUint32(8, true);
  const { parts, ...net } = JSON.parse(new TextDecoder().decode(bytes.subarray(12, end)));
  if (!STRINGS[net.network]) throw new Error(`The weights are of ${net.network}, which this page cannot evaluate.`);
  const values = {};
  for (const [name, type, shape] of parts) {
    if (type === "tables") {
      values[name] = readTables(bytes.subarray(end, end + shape[1]), shape[0]);
      end += shape[1];
    } else {
      const array = new Float64Array(shape.reduce((total, side) => total * side, 1));
      for (let i = 0; i < array.length; i++) {
        array[i] = type === "f16" ? float16(view.getUint16(end + 2 * i, true)) : view.getFloat32(end + 4 * i, true);
      }
      values[name] = array;
      end += (type === "f16" ? 2 : 4) * array.length;
    }
  }
  return { ...net, ...arranged(net, values) };
}

const POWERS = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25));

/** Returns the number that 16 bits stand for in half precision. */
function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1024 + fraction) * POWERS[exponent];
}

/** Returns coder tables: for each row the smallest value (offset) and the cumulative frequencies, up to 65536. */
function readTables(bytes, rows) {
  let place = 0;
  const next = () => {
    let [value, shift, byte] = [0, 0, 128];
    while (byte & 128) {
      byte = bytes[place++];
      value |= (byte & 127) << shift;
      shift += 7;
    }
    return value;
  };
  return Array.from({ length: rows }, () => {
    const cumulative = new Int32Array(next() + 1);
    const offset = next();
    for (let i = 1; i < cumulative.length; i++) cumulative[i] = cumulative[i - 1] + next();
    if (cumulative.at(-1) !== 65536) throw new Error("The file of weights has a coder table that does not add up.");
    return { offset: offset & 1 ? -(offset + 1) / 2 : offset / 2, cumulative };
  });
}

/** Returns the weights as matrices in the layout in which they are multiplied. */
function arranged({ network, N, M }, values) {
  const layer = (name) => matrix(values[`${name}.weight`], values[`${name}.bias`]);
  const residuals = (transform, first) => {
    const layers = [];
    for (let i = first; values[`${transform}.${i}.inner.weight`]; i++) {
      layers.push({ inner: layer(`${transform}.${i}.inner`), outer: layer(`${transform}.${i}.outer`) });
    }
    return layers;
  };
  const analysis = residuals("g_a", 1);
  const synthesis = residuals("g_s", 0);
  const colors = values[`g_s.${synthesis.length}.bias`];
  const pixels = transposed(values[`g_s.${synthesis.length}.weight`], M, 3 * PATCH * PATCH);
  const bias = Float64Array.from({ length: 3 * PATCH * PATCH }, (_, i) => colors[Math.floor(i / (PATCH * PATCH))]);
  const net = { medians: values.medians, tables: values.tables, analysis, synthesis,
    fromPixels: layer("g_a.0"), toPixels: matrix(pixels, bias) };
  if (network === "patch_linear") return net;
  const z = values.medians.length;
  return { ...net, scales: values.scales, gaussianTables: values.gaussian_tables,
    hyperAnalysis: [layer("h_a.0"), matrix(tapsFirst(values["h_a.2.weight"], z, N), values["h_a.2.bias"])],
    hyperSynthesis: hyperSynthesis(values, z, N) };
}

/** Returns a matrix with one output per row. */
const matrix = (weights, bias) => ({ weights, bias, outputs: bias.length, inputs: weights.length / bias.length });

function transposed(values, rows, columns) {
  const result = new Float64Array(values.length);
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) result[column * rows + row] = values[i++];
  }
  return result;
}

/** Moves the 25 taps of 5×5 convolutions of shape (outputs, inputs, 25) in front of the inputs. */
function tapsFirst(values, outputs, inputs) {
  const result = new Float64Array(values.length);
  for (let output = 0; output < outputs; output++) {
    const block = [output * inputs * 25, (output + 1) * inputs * 25];
    result.set(transposed(values.subarray(...block), inputs, 25), block[0]);
  }
  return result;
}

/**
 * Returns the hyper-synthesis in integers: weights in units of 1 / UNIT, biases of 1 / UNIT².
 *
 * The transposed convolution of stride 2 becomes four matrices, one for each parity of the output's row and column. An
 * output at (2i + p, 2j + q) takes the inputs at (i + 1 − a, j + 1 − b) through the tap (2a + p, 2b + q).
 */
function hyperSynthesis(values, z, N) {
  const [kernel, bias] = [values["h_s.0.weight"], values["h_s.0.bias"]]; // the kernel has the shape (z, N, 5, 5)
  const phases = [];
  for (const p of [0, 1]) {
    for (const q of [0, 1]) {
      const taps = [];
      for (let a = 0; 2 * a + p < 5; a++) for (let b = 0; 2 * b + q < 5; b++) taps.push([a, b]);
      const weights = new Float64Array(N * taps.length * z);
      for (let output = 0, at = 0; output < N; output++) {
        for (const [a, b] of taps) {
          for (let input = 0; input < z; input++) {
            weights[at++] = kernel[((input * N + output) * 5 + 2 * a + p) * 5 + 2 * b + q];
          }
        }
      }
      phases.push({ p, q, taps, layer: integers(matrix(weights, bias)) });
    }
  }
  return { phases, last: integers(matrix(values["h_s.2.weight"], values["h_s.2.bias"])) };
}

function integers({ weights, bias, outputs, inputs }) {
  const rounded = matrix(weights.map((weight) => Math.floor(weight * UNIT + 0.5)),
    bias.map((value) => Math.floor(value * UNIT * UNIT + 0.5)));
  for (let output = 0; output < outputs; output++) {
    let norm = 0;
    for (let i = 0; i < inputs; i++) norm += Math.abs(rounded.weights[output * inputs + i]);
    if (!(norm * LIMIT * UNIT + Math.abs(rounded.bias[output]) < 2 ** 52)) {
      throw new Error("The weights of the hyper-synthesis are too large for exact sums.");
    }
  }
  return rounded;
}

// ---- The entropy coder ----
// The state is an integer below 2⁶³. It is kept as two numbers, high · 2³² + low, so that every intermediate result is
// below 2⁵³ and exact. That takes half the time of BigInt.

/** Decodes symbols from a string, and never reads beyond it. */
class Decoder {
  constructor(string) {
    this.view = viewOf(string);
    this.low = this.view.getUint32(0, true);
    this.high = this.view.getUint32(4, true);
    this.place = FLUSH_BYTES;
    this.bits = 0; // of the last symbol
    if (this.high >= FIRST_STATE || (this.high === 0 && this.low < FIRST_STATE)) throw damagedString();
  }

  /** Reads a word if the state is below 2³¹. */
  refill() {
    if (this.high > 0 || this.low >= FIRST_STATE) return;
    if (this.place >= this.view.byteLength) throw damagedString();
    this.high = this.low;
    this.low = this.view.getUint32(this.place, true);
    this.place += 4;
  }

  /** Returns the next symbol, which was coded with this table. */
  symbol({ offset, cumulative }) {
    const value = this.low & 0xffff;
    let [first, last] = [0, cumulative.length - 1]; // the symbol is the last one that begins at or before the value
    while (last - first > 1) {
      const middle = (first + last) >> 1;
      if (cumulative[middle] <= value) first = middle;
      else last = middle;
    }
    const frequency = cumulative[last] - cumulative[first];
    // state = frequency · ⌊state / 2¹⁶⌋ + value − start
    const product = frequency * this.high; // of the high half, in units of 2¹⁶
    const units = Math.floor(product / 65536);
    const sum = (product - units * 65536) * 65536 + frequency * (this.low >>> 16) + value - cumulative[first];
    const carry = Math.floor(sum / WORD);
    this.high = units + carry;
    this.low = sum - carry * WORD;
    this.refill();
    this.bits = 16 - Math.log2(frequency);
    return first === cumulative.length - 2 ? offset + this.escaped(first) : offset + first;
  }

  /** Returns a value outside its table, which the number of its digits and the digits follow. */
  escaped(limit) {
    let count = 0;
    let digit = 15;
    while (digit === 15) {
      digit = this.digit();
      count += digit;
    }
    if (count > 8) throw damagedString(); // no coder writes more than 32 bits
    let raw = 0;
    for (let i = 0; i < count; i++) raw |= this.digit() << (4 * i);
    return raw & 1 ? -(raw >> 1) - 1 : (raw >> 1) + limit;
  }

  digit() {
    const digit = this.low & 15;
    this.low = (this.high & 15) * 2 ** 28 + (this.low >>> 4);
    this.high = Math.floor(this.high / 16);
    this.bits += 4;
    this.refill();
    return digit;
  }

  /** Checks that the decoder is where the encoder began. */
  finish() {
    if (this.high !== 0 || this.low !== FIRST_STATE || this.place !== this.view.byteLength) throw damagedString();
  }
}

const damagedString = () =>
  new Error("The file is damaged or has other weights: a string does not end with its last latent.");

/** Codes symbols in reverse order: the decoder reads the last one first. */
class Encoder {
  constructor() {
    this.high = 0;
    this.low = FIRST_STATE;
    this.words = []; // in reverse order
  }

  symbol(symbol, { offset, cumulative }) {
    const limit = cumulative.length - 2; // stands for all values outside the table
    let value = symbol - offset;
    if (value < 0 || value >= limit) {
      this.escape(value < 0 ? -2 * value - 1 : 2 * (value - limit));
      value = limit;
    }
    this.put(cumulative[value], cumulative[value + 1] - cumulative[value]);
  }

  /** Writes the digits of a value, and then their number, which is below 15. */
  escape(raw) {
    const count = Math.ceil((32 - Math.clz32(raw)) / 4);
    for (let i = count - 1; i >= 0; i--) this.digit((raw >>> (4 * i)) & 15);
    this.digit(count);
  }

  digit(digit) {
    this.flushIfFull(2 ** 27);
    this.high = this.high * 16 + (this.low >>> 28);
    this.low = (this.low % 2 ** 28) * 16 + digit;
  }

  /** state = ⌊state / frequency⌋ · 2¹⁶ + state mod frequency + start */
  put(start, frequency) {
    this.flushIfFull(frequency * 2 ** 15);
    const highQuotient = Math.floor(this.high / frequency);
    const rest = (this.high - highQuotient * frequency) * WORD + this.low; // below 2⁴⁸
    const lowQuotient = Math.floor(rest / frequency);
    const upper = Math.floor(lowQuotient / 65536);
    this.high = highQuotient * 65536 + upper;
    this.low = (lowQuotient - upper * 65536) * 65536 + rest - lowQuotient * frequency + start;
  }

  /** Writes a word if the next step would bring the state to 2⁶³. */
  flushIfFull(limit) {
    if (this.high < limit) return;
    this.words.push(this.low);
    this.low = this.high;
    this.high = 0;
  }

  string() {
    this.words.push(this.high, this.low);
    return bytesOf(Uint32Array.from(this.words.reverse()));
  }
}

/** Refuses a string that is too short for its latents, before memory for them is allocated. */
function checkCapacity(string, tables, latentsPerChannel) {
  let bits = 0;
  for (const { cumulative } of tables) {
    let most = 0;
    for (let i = 1; i < cumulative.length; i++) most = Math.max(most, cumulative[i] - cumulative[i - 1]);
    bits += 0.99 * latentsPerChannel * Math.log2(65536 / most);
  }
  if (bits > 8 * string.length) {
    throw new Error(`The file claims a larger image than its string of ${counted(string.length)} bytes can hold.`);
  }
}

// ---- Products of matrices ----

/**
 * Multiplies a matrix with the activations of some positions, and adds the bias.
 *
 * Blocks of four outputs and two positions use each number that is read from memory several times.
 */
function multiply(layer, x, positions, result) {
  const { weights, bias, outputs, inputs } = layer;
  const rowOf = (row) => weights.subarray(row * inputs, (row + 1) * inputs);
  let output = 0;
  for (; output + 4 <= outputs; output += 4) {
    const w0 = rowOf(output);
    const w1 = rowOf(output + 1);
    const w2 = rowOf(output + 2);
    const w3 = rowOf(output + 3);
    let position = 0;
    for (; position + 2 <= positions; position += 2) {
      let a0 = bias[output];
      let a1 = bias[output + 1];
      let a2 = bias[output + 2];
      let a3 = bias[output + 3];
      let b0 = a0;
      let b1 = a1;
      let b2 = a2;
      let b3 = a3;
      const first = position * inputs;
      const second = first + inputs;
      for (let i = 0; i < inputs; i++) {
        const a = x[first + i];
        const b = x[second + i];
        a0 += w0[i] * a;
        a1 += w1[i] * a;
        a2 += w2[i] * a;
        a3 += w3[i] * a;
        b0 += w0[i] * b;
        b1 += w1[i] * b;
        b2 += w2[i] * b;
        b3 += w3[i] * b;
      }
      let at = position * outputs + output;
      result[at] = a0;
      result[at + 1] = a1;
      result[at + 2] = a2;
      result[at + 3] = a3;
      at += outputs;
      result[at] = b0;
      result[at + 1] = b1;
      result[at + 2] = b2;
      result[at + 3] = b3;
    }
    for (; position < positions; position++) {
      for (let i = output; i < output + 4; i++) multiplyOne(layer, x, result, i, position);
    }
  }
  for (; output < outputs; output++) for (let i = 0; i < positions; i++) multiplyOne(layer, x, result, output, i);
  return result;
}

function multiplyOne({ weights, bias, outputs, inputs }, x, result, output, position) {
  let sum = bias[output];
  for (let i = 0; i < inputs; i++) sum += weights[output * inputs + i] * x[position * inputs + i];
  result[position * outputs + output] = sum;
}

const product = (layer, x, positions) => multiply(layer, x, positions, new Float64Array(positions * layer.outputs));

/** Replaces x by x · Φ(x), with erf to 1.5 · 10⁻⁷ (Abramowitz and Stegun, 7.1.26), about the error of float32. */
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    const distance = Math.abs(x[i]) * Math.SQRT1_2;
    const t = 1 / (1 + 0.3275911 * distance);
    const last = 1.421413741 + t * (-1.453152027 + t * 1.061405429);
    const tail = 0.5 * t * (0.254829592 + t * (-0.284496736 + t * last)) * Math.exp(-distance * distance); // Φ(−|x|)
    x[i] *= x[i] < 0 ? tail : 1 - tail;
  }
  return x;
}

/** Adds outer(gelu(inner(x))) to x for each residual layer. */
function addResiduals(layers, x, positions) {
  for (const { inner, outer } of layers) {
    const sum = product(outer, gelu(product(inner, x, positions)), positions);
    for (let i = 0; i < x.length; i++) x[i] += sum[i];
  }
  return x;
}

// ---- The hyper-synthesis in fixed point ----

/** Rounds to integers in units of 1 / UNIT, halves upward, after a clamp. */
function onGrid(x) {
  for (let i = 0; i < x.length; i++) x[i] = Math.floor(Math.min(LIMIT, Math.max(-LIMIT, x[i])) * UNIT + 0.5);
  return x;
}

/** Turns exact sums in units of 1 / UNIT² into float32 numbers on the grid of 1 / UNIT. */
function offGrid(sums) {
  for (let i = 0; i < sums.length; i++) sums[i] = Math.fround(Math.floor(sums[i] / UNIT + 0.5) / UNIT);
  return sums;
}

const SLOPE = Math.fround(0.01); // of LeakyReLU, in float32 like its product

/**
 * Predicts σ and μ of all latents from z, exactly as every other machine does.
 *
 * @returns {{sigma: Float32Array, mu: Float32Array}} Both with the indexes of latents y.
 */
function predicted(net, zSymbols, grid, progress) {
  const { rows, columns, M } = grid;
  const [zRows, zColumns, z] = [rows / 2, columns / 2, net.medians.length];
  const [sigma, mu] = [new Float32Array(M * rows * columns), new Float32Array(M * rows * columns)];
  const padded = paddedHyperLatents(net, zSymbols, zRows, zColumns);
  const outputs = new Float64Array(zColumns * 2 * M);
  for (let row = 0; row < zRows; row++) {
    for (const { p, q, taps, layer } of net.hyperSynthesis.phases) {
      const inputs = new Float64Array(zColumns * layer.inputs);
      for (let column = 0, at = 0; column < zColumns; column++) {
        for (const [a, b] of taps) {
          const from = ((row + 2 - a) * (zColumns + 2) + column + 2 - b) * z;
          for (let i = 0; i < z; i++) inputs[at++] = padded[from + i];
        }
      }
      const hidden = offGrid(product(layer, inputs, zColumns));
      for (let i = 0; i < hidden.length; i++) if (hidden[i] < 0) hidden[i] = Math.fround(hidden[i] * SLOPE);
      offGrid(multiply(net.hyperSynthesis.last, onGrid(hidden), zColumns, outputs));
      for (let column = 0; column < zColumns; column++) {
        const place = (2 * row + p) * columns + 2 * column + q;
        for (let channel = 0; channel < M; channel++) {
          sigma[channel * rows * columns + place] = outputs[column * 2 * M + channel];
          mu[channel * rows * columns + place] = outputs[column * 2 * M + M + channel];
        }
      }
    }
    progress((row + 1) / zRows);
  }
  return { sigma, mu };
}

/** Returns ẑ = symbol + median on the grid, position-major, within a border of one zero. */
function paddedHyperLatents(net, symbols, rows, columns) {
  const z = net.medians.length;
  const padded = new Float64Array((rows + 2) * (columns + 2) * z);
  for (let channel = 0, i = 0; channel < z; channel++) {
    for (let row = 1; row <= rows; row++) {
      for (let column = 1; column <= columns; column++, i++) {
        const latent = Math.fround(Math.fround(symbols[i]) + net.medians[channel]);
        padded[(row * (columns + 2) + column) * z + channel] = latent;
      }
    }
  }
  return onGrid(padded);
}

// ---- Latents ----

/** Returns the padding of an image and the shape of its latents. */
function gridOf(net, width, height) {
  const unit = net.network === "patch_linear" ? PATCH : 2 * PATCH;
  const padded = [height, width].map((side) => Math.ceil(side / unit) * unit);
  return { width, height, top: (padded[0] - height) >> 1, left: (padded[1] - width) >> 1, rows: padded[0] / PATCH,
    columns: padded[1] / PATCH, M: net.M };
}

/** Returns a function that gives the table of a latent's channel. */
const byChannel = (net, perChannel) => (i) => net.tables[Math.floor(i / perChannel)];

/** Returns a function that gives the table of a latent's σ: the number of scales below it, without the last scale. */
const bySigma = (net, sigma) => (i) => {
  let first = 0;
  let last = net.scales.length - 1;
  while (first < last) {
    const middle = (first + last) >> 1;
    if (net.scales[middle] < sigma[i]) first = middle + 1;
    else last = middle;
  }
  return net.gaussianTables[first];
};

/** Decodes a number of symbols; returns them and the bits that each takes. */
function decodeSymbols(string, count, tableOf, progress = () => {}) {
  const [symbols, bits] = [new Int32Array(count), new Float32Array(count)];
  const decoder = new Decoder(string);
  for (let i = 0; i < count; i++) {
    symbols[i] = decoder.symbol(tableOf(i));
    bits[i] = decoder.bits;
    if (i % 2 ** 18 === 0) progress(i / count);
  }
  decoder.finish();
  return { symbols, bits };
}

/** Codes symbols, and decodes them again. */
function encodeSymbols(symbols, tableOf, progress = () => {}) {
  const encoder = new Encoder();
  for (let i = symbols.length - 1; i >= 0; i--) {
    encoder.symbol(symbols[i], tableOf(i));
    if (i % 2 ** 18 === 0) progress(0.5 * (1 - i / symbols.length));
  }
  const string = encoder.string();
  const decoded = decodeSymbols(string, symbols.length, tableOf, partOf(progress, 0.5, 1)).symbols;
  if (!symbols.every((symbol, i) => symbol === decoded[i])) throw new Error("The coded image does not decode.");
  return string;
}

/** Returns the CRC-32 of the latents ŷ = symbol + μ in float32, one channel after the other. */
function latentsChecksum(M, { symbols, mu }) {
  const channel = new Float32Array(symbols.length / M);
  let crc = 0;
  for (let start = 0; start < symbols.length; start += channel.length) {
    for (let i = 0; i < channel.length; i++) channel[i] = Math.fround(symbols[start + i]) + mu[start + i];
    crc = crc32(bytesOf(channel), crc);
  }
  return crc;
}

// ---- Images ----

/** Evaluates the synthesis transform, one row of patches at a time. */
function synthesized(net, grid, { symbols, mu }, progress) {
  const { width, height, top, left, rows, columns, M } = grid;
  const pixels = new Uint8ClampedArray(4 * width * height).fill(255);
  const x = new Float64Array(columns * M);
  const area = PATCH * PATCH;
  for (let row = 0; row < rows; row++) {
    for (let channel = 0; channel < M; channel++) {
      for (let column = 0; column < columns; column++) {
        const i = (channel * rows + row) * columns + column;
        x[column * M + channel] = Math.fround(Math.fround(symbols[i]) + mu[i]);
      }
    }
    const patches = product(net.toPixels, addResiduals(net.synthesis, x, columns), columns);
    for (let line = 0; line < PATCH; line++) {
      const inside = row * PATCH + line - top;
      if (inside < 0 || inside >= height) continue;
      for (let column = 0; column < width; column++) {
        const from = ((column + left) >> 4) * 3 * area + line * PATCH + ((column + left) & 15);
        const to = 4 * (inside * width + column);
        // An array of this type clamps and rounds, ties to even.
        for (let color = 0; color < 3; color++) pixels[to + color] = 255 * patches[from + color * area];
      }
    }
    progress((row + 1) / rows);
  }
  return pixels;
}

/** Returns the CRC-32 of an image's red, green and blue values, row by row. */
function imageChecksum(pixels, width, height) {
  const line = new Uint8Array(3 * width);
  let crc = 0;
  for (let row = 0; row < height; row++) {
    for (let i = 0, from = 4 * row * width; i < line.length; i += 3, from += 4) {
      line[i] = pixels[from];
      line[i + 1] = pixels[from + 1];
      line[i + 2] = pixels[from + 2];
    }
    crc = crc32(line, crc);
  }
  return crc;
}

/** Returns a callback for one part of the work, which moves the whole from one fraction to another. */
const partOf = (progress, from, to) => (fraction) => progress(from + (to - from) * fraction);

/**
 * Decodes a file with the weights that coded it.
 *
 * @param {object} net The network, from `parseWeights`.
 * @param {Uint8Array} bytes The file.
 * @param {(fraction: number) => void} [progress] Is called with the part of the work that is done, 0 to 1. If it
 *   throws an error, the work ends with it.
 * @returns {object} width, height and pixels (RGBA, a Uint8ClampedArray).
 *   latentsOk: true, or null if the file was not verified when it was written.
 *   imageOk: the same for the image. It may be false without an error, because the synthesis may round a few values by
 *   one step differently here.
 *   maps: rows, columns, M, and for each latent y mu, sigma (not below its lower bound; empty for patch_linear), bits
 *     and symbols.
 *   zBits: the number of bits of z.
 * @throws {Error} With one line, also if the latents differ from the verified ones.
 */
export function decode(net, bytes, progress = () => {}) {
  const file = unpack(bytes);
  if (file.network !== net.network || file.N !== net.N || file.M !== net.M || file.hash !== net.hash) {
    throw new Error(`The file was coded with ${file.network} ${file.size}, weights ${file.hash}; these are ` +
      `${net.network} ${net.size}, weights ${net.hash}.`);
  }
  const grid = gridOf(net, file.width, file.height);
  const { zBits, ...latents } = decodedLatents(net, file.strings, grid, partOf(progress, 0, 0.4));
  const maps = { rows: grid.rows, columns: grid.columns, M: net.M, ...latents };
  const latentsOk = file.verified ? latentsChecksum(net.M, maps) === file.latentsChecksum : null;
  if (latentsOk === false) {
    throw new Error("The decoded latents differ from the verified ones: the strings of the file were replaced.");
  }
  const pixels = synthesized(net, grid, maps, partOf(progress, 0.4, 1));
  const { width, height } = file;
  const imageOk = file.verified ? imageChecksum(pixels, width, height) === file.imageChecksum : null;
  return { width, height, pixels, latentsOk, imageOk, maps, zBits };
}

function decodedLatents(net, strings, grid, progress) {
  const positions = grid.rows * grid.columns;
  if (net.network === "patch_linear") {
    checkCapacity(strings[0], net.tables, positions);
    const y = decodeSymbols(strings[0], net.M * positions, byChannel(net, positions), progress);
    return { ...y, mu: medianMap(net, positions), sigma: new Float32Array(0), zBits: 0 };
  }
  checkCapacity(strings[1], net.tables, positions / 4);
  const z = decodeSymbols(strings[1], net.medians.length * positions / 4, byChannel(net, positions / 4));
  const { sigma, mu } = predicted(net, z.symbols, grid, partOf(progress, 0, 0.8));
  const y = decodeSymbols(strings[0], sigma.length, bySigma(net, sigma), partOf(progress, 0.8, 1));
  const bounded = sigma.map((value) => Math.max(value, net.scales[0])); // as the tables take it
  return { ...y, mu, sigma: bounded, zBits: z.bits.reduce((sum, value) => sum + value, 0) };
}

function medianMap(net, positions) {
  const mu = new Float32Array(net.M * positions);
  for (let channel = 0; channel < net.M; channel++) {
    mu.fill(net.medians[channel], channel * positions, (channel + 1) * positions);
  }
  return mu;
}

/**
 * Codes an image to a verified file: its strings are decoded again, and it holds the checksums of latents and image.
 *
 * @param {object} net The network, from `parseWeights`.
 * @param {{width: number, height: number, pixels: Uint8ClampedArray}} image The image as RGBA; alpha is ignored.
 * @param {(fraction: number) => void} [progress] As for `decode`.
 * @returns {Uint8Array} The file, which `labkit decompress` reads.
 * @throws {Error} With one line, if the image cannot be coded.
 */
export function encode(net, image, progress = () => {}) {
  const { width, height, pixels } = image;
  if (![width, height].every((side) => Number.isInteger(side) && side >= 1 && side < 65536)) {
    throw new Error(`The sides of an image must have 1 to 65,535 pixels, got ${width}×${height}.`);
  }
  checkPixels(width, height);
  if (pixels.length !== 4 * width * height) {
    throw new Error(`An image of ${width}×${height} pixels needs ${4 * width * height} values, got ${pixels.length}.`);
  }
  const grid = gridOf(net, width, height);
  const y = analyzed(net, grid, pixels, partOf(progress, 0, 0.3));
  const coded = codedLatents(net, y, grid, partOf(progress, 0.3, 0.6));
  const decoded = synthesized(net, grid, coded, partOf(progress, 0.6, 1));
  return pack(net, width, height, coded.strings, imageChecksum(decoded, width, height), latentsChecksum(net.M, coded));
}

/** Evaluates the analysis transform, one row of patches at a time; returns y position-major in float32. */
function analyzed(net, grid, pixels, progress) {
  const { rows, columns, M } = grid;
  const y = new Float32Array(rows * columns * M);
  const patches = new Float64Array(columns * 3 * PATCH * PATCH);
  for (let row = 0; row < rows; row++) {
    fillPatches(patches, grid, pixels, row);
    y.set(addResiduals(net.analysis, product(net.fromPixels, patches, columns), columns), row * columns * M);
    progress((row + 1) / rows);
  }
  return y;
}

/** Copies a row of patches from an image, whose edges are repeated outside, as red, green and blue planes in [0, 1]. */
function fillPatches(patches, { width, height, top, left, columns }, pixels, row) {
  const area = PATCH * PATCH;
  for (let line = 0; line < PATCH; line++) {
    const inside = Math.min(height - 1, Math.max(0, row * PATCH + line - top));
    for (let column = 0; column < columns * PATCH; column++) {
      const from = 4 * (inside * width + Math.min(width - 1, Math.max(0, column - left)));
      const to = (column >> 4) * 3 * area + line * PATCH + (column & 15);
      for (let color = 0; color < 3; color++) patches[to + color * area] = pixels[from + color] / 255;
    }
  }
}

/** Codes y, given position-major, and decodes it again. */
function codedLatents(net, y, grid, progress) {
  const positions = grid.rows * grid.columns;
  if (net.network === "patch_linear") {
    const mu = medianMap(net, positions);
    const symbols = symbolsOf(y, mu, positions);
    return { strings: [encodeSymbols(symbols, byChannel(net, positions), progress)], symbols, mu };
  }
  const z = hyperAnalyzed(net, y, grid, partOf(progress, 0, 0.4));
  const zString = encodeSymbols(z, byChannel(net, positions / 4));
  const { sigma, mu } = predicted(net, z, grid, partOf(progress, 0.4, 0.8));
  const symbols = symbolsOf(y, mu, positions);
  const yString = encodeSymbols(symbols, bySigma(net, sigma), partOf(progress, 0.8, 1));
  return { strings: [yString, zString], symbols, mu };
}

/** Returns round(y − μ), in the order of latents. */
function symbolsOf(y, mu, positions) {
  const symbols = new Int32Array(y.length);
  const channels = y.length / positions;
  for (let channel = 0, i = 0; channel < channels; channel++) {
    for (let position = 0; position < positions; position++, i++) {
      symbols[i] = symbolOf(y[position * channels + channel] - mu[i]);
    }
  }
  return symbols;
}

function symbolOf(distance) {
  const symbol = Math.round(distance);
  if (!(Math.abs(symbol) <= LIMIT)) {
    throw new Error(`The image cannot be coded: a latent of ${symbol} steps lies outside ±${LIMIT}.`);
  }
  return symbol;
}

/** Evaluates the hyper-analysis, one row of z at a time; returns the symbols of z. */
function hyperAnalyzed(net, y, { rows, columns, M }, progress) {
  const [first, second] = net.hyperAnalysis;
  const [zRows, zColumns] = [rows / 2, columns / 2];
  const symbols = new Int32Array(second.outputs * zRows * zColumns);
  const width = columns * first.outputs;
  const zeros = new Float64Array(width);
  const hidden = new Map(); // the rows that the next row of z needs, by their number
  const hiddenRow = (row) => {
    if (row < 0 || row >= rows) return zeros;
    if (!hidden.has(row)) {
      const inputs = Float64Array.from(y.subarray(row * columns * M, (row + 1) * columns * M));
      hidden.set(row, gelu(product(first, inputs, columns)));
      hidden.delete(row - 5);
    }
    return hidden.get(row);
  };
  const inputs = new Float64Array(zColumns * second.inputs);
  for (let row = 0; row < zRows; row++) {
    fillWindows(inputs, [-2, -1, 0, 1, 2].map((step) => hiddenRow(2 * row + step)), first.outputs, columns);
    const z = product(second, inputs, zColumns);
    for (let column = 0; column < zColumns; column++) {
      for (let channel = 0; channel < second.outputs; channel++) {
        const place = (channel * zRows + row) * zColumns + column;
        symbols[place] = symbolOf(z[column * second.outputs + channel] - net.medians[channel]);
      }
    }
    progress((row + 1) / zRows);
  }
  return symbols;
}

/** Copies the 5×5 positions around every second column, with zeros outside. */
function fillWindows(inputs, lines, channels, columns) {
  let at = 0;
  for (let center = 0; center < columns; center += 2) {
    for (const line of lines) {
      for (let column = center - 2; column <= center + 2; column++, at += channels) {
        if (column < 0 || column >= columns) inputs.fill(0, at, at + channels);
        else inputs.set(line.subarray(column * channels, (column + 1) * channels), at);
      }
    }
  }
}
