/* The avatar's numbers: text → bytes → typed arrays. avatars/export/html/payload.py says how they were written. */

class Payload {
  /* fields: what the arrays are called, in the order of their bytes */
  constructor(fields, bytes) {
    this.bytes = bytes;
    this.fields = new Map();
    let at = 0;
    for (const field of fields) {
      const count = field.shape.reduce((a, b) => a * b, 1);
      this.fields.set(field.name, { ...field, at, count });
      at += count * field.bytes;
    }
    if (at !== bytes.length) throw new Error(`the file holds ${bytes.length} bytes of numbers instead of ${at}`);
  }

  /* Inflate; fails when the checksum does not fit. */
  static async read(fields, base64) {
    const text = atob(base64);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < packed.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Payload(fields, new Uint8Array(await new Response(stream).arrayBuffer()));
  }

  has(name) {
    return this.fields.has(name);
  }

  /* The whole numbers of an array: multiples of its step. */
  whole(name, Kind = Int32Array) {
    const { at, count, bytes, differences, shape, step } = this.fields.get(name);
    const numbers = new Uint32Array(count);
    for (let b = 0; b < bytes; b++) {
      const shift = 8 * b, from = at + b * count;
      for (let i = 0; i < count; i++) numbers[i] |= this.bytes[from + i] << shift;
    }
    if (step === 0) return numbers; // the bits of floats
    const result = new Kind(count);
    for (let i = 0; i < count; i++) result[i] = numbers[i] >>> 1 ^ -(numbers[i] & 1);
    if (differences) {
      const row = count / (shape[0] || 1);
      for (let i = row; i < count; i++) result[i] += result[i - row];
    }
    return result;
  }

  floats(name) {
    const { step } = this.fields.get(name);
    const numbers = this.whole(name);
    return step === 0 ? new Float32Array(numbers.buffer) : Float32Array.from(numbers, (n) => n * step);
  }

  step(name) {
    return this.fields.get(name).step;
  }

  /* A file inside, as bytes; null when there is none of that name. */
  file(name) {
    const field = this.fields.get(name);
    return field ? this.bytes.slice(field.at, field.at + field.count) : null;
  }
}
