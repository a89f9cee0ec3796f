/**
 * A time, written into a picture so that it survives a video codec.
 *
 * 24 bits of time (units of 0.1 ms, so it comes round after 28 minutes) and 8 bits of CRC, in four rows of eight
 * bits. Each bit is two cells side by side, white and black for 1, black and white for 0: it is read by which of
 * the two is lighter, so no threshold is needed, and the mean brightness of the code never changes.
 */

export const COLUMNS = 16;
export const ROWS = 4;
const UNITS = 10; // per millisecond
const RANGE = 2 ** 24;
const SAMPLES = 4; // pixels a cell side, where the code is read
const LEAST_CONTRAST = 16; // levels between the two cells of a bit

/** Side of a cell, in pixels of a picture of this height: 16 at 480, 24 at 720. */
export function cellSize(height: number): number {
  return Math.round(height / 30);
}

/** CRC-8 (polynomial 0x07) of the 24 bits. */
function crc8(value: number): number {
  let crc = 0;
  for (const shift of [16, 8, 0]) {
    crc ^= (value >>> shift) & 0xff;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x80 ? ((crc << 1) ^ 0x07) & 0xff : crc << 1;
  }
  return crc ^ 0x55; // a plain picture, all bits equal, is no code
}

/** Write `time` (milliseconds) into the upper left corner. */
export function draw(context: CanvasRenderingContext2D, cell: number, time: number): void {
  const value = Math.round(time * UNITS) % RANGE;
  const word = value * 256 + crc8(value);
  for (let bit = 0; bit < 32; bit++) {
    const set = Math.floor(word / 2 ** (31 - bit)) % 2 === 1;
    const x = (bit % 8) * 2 * cell;
    const y = Math.floor(bit / 8) * cell;
    context.fillStyle = "#fff";
    context.fillRect(set ? x : x + cell, y, cell, cell);
    context.fillStyle = "#000";
    context.fillRect(set ? x + cell : x, y, cell, cell);
  }
}

/** Reads codes from pictures. */
export class Decoder {
  readonly #context: CanvasRenderingContext2D;

  constructor() {
    const canvas = document.createElement("canvas");
    canvas.width = COLUMNS * SAMPLES;
    canvas.height = ROWS * SAMPLES;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error("no canvas");
    this.#context = context;
  }

  /** The value in a picture of this height, or null where there is none that can be read. */
  read(picture: CanvasImageSource, height: number): number | null {
    const cell = (cellSize(720) * height) / 720;
    const { width, height: rows } = this.#context.canvas;
    this.#context.drawImage(picture, 0, 0, COLUMNS * cell, ROWS * cell, 0, 0, width, rows);
    const { data } = this.#context.getImageData(0, 0, width, rows);
    const level = (column: number, row: number): number => {
      let sum = 0; // green, over the middle of the cell
      for (const y of [1, 2]) for (const x of [1, 2]) sum += data[4 * ((row * SAMPLES + y) * width + column * SAMPLES + x) + 1]!;
      return sum / 4;
    };
    let word = 0;
    for (let bit = 0; bit < 32; bit++) {
      const column = (bit % 8) * 2;
      const row = Math.floor(bit / 8);
      const difference = level(column, row) - level(column + 1, row);
      if (Math.abs(difference) < LEAST_CONTRAST) return null;
      word = word * 2 + (difference > 0 ? 1 : 0);
    }
    const value = Math.floor(word / 256);
    return crc8(value) === word % 256 ? value : null;
  }
}

/** Milliseconds from the time that was written to `now`. */
export function since(value: number, now: number): number {
  const passed = (((now * UNITS - value) % RANGE) + RANGE) % RANGE;
  return (passed > RANGE / 2 ? passed - RANGE : passed) / UNITS;
}

/** Write and read codes at several sizes; throws if one comes back wrong. Returns how many were tried. */
export function selfCheck(): number {
  const decoder = new Decoder();
  let tried = 0;
  for (const height of [180, 240, 360, 480, 720]) {
    const canvas = document.createElement("canvas");
    canvas.width = (height * 16) / 9;
    canvas.height = height;
    const context = canvas.getContext("2d");
    if (!context) throw new Error("no canvas");
    context.fillStyle = "#808080";
    context.fillRect(0, 0, canvas.width, height);
    if (decoder.read(canvas, height) !== null) throw new Error("a code was read where there is none");
    for (let i = 0; i < 40; i++, tried++) {
      const time = (i * 104_729.7) % 1_600_000;
      draw(context, cellSize(height), time);
      const value = decoder.read(canvas, height);
      if (value === null || Math.abs(since(value, time)) > 0.11) {
        throw new Error(`barcode: wrote ${time} at ${height} rows, read ${value}`);
      }
    }
    const hidden = cellSize(height); // one half of one bit covered: must not be read
    context.fillStyle = "#fff";
    context.fillRect(0, 0, 2 * hidden, hidden);
    if (decoder.read(canvas, height) !== null) throw new Error("a broken code was read");
  }
  return tried;
}
