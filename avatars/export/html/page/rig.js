/* The face in motion: expressions, joints and corrections → vertices → triangles → Gaussians in the world.

   The same steps as avatars/head/model.py (vertices), avatars/deform/blendshapes.py (corrections) and cuda_ext/reference.py (bind).
   Metres, quaternions wxyz, matrices row by row. All arrays are made once; a frame allocates next to nothing. */

const FRAME = 17; // numbers per triangle: centroid 3, axes 9 (columns a0 a1 a2), quaternion 4, size 1
const POSED = 12; // numbers per posed Gaussian: mean 3, size 1, quaternion 4, constant colour term 3, unused 1
const ROW = 128; // Gaussians per row of the textures that they go to: 16 coefficients × 128 is what every WebGL2 holds

function rotationOf(x, y, z, out) {
  /* axis-angle → 3×3 */
  const angle = Math.hypot(x, y, z);
  const s = angle > 1e-8 ? Math.sin(angle) / angle : 1;
  const c = angle > 1e-8 ? (1 - Math.cos(angle)) / (angle * angle) : 0.5;
  out[0] = 1 - c * (y * y + z * z); out[1] = c * x * y - s * z; out[2] = c * x * z + s * y;
  out[3] = c * x * y + s * z; out[4] = 1 - c * (x * x + z * z); out[5] = c * y * z - s * x;
  out[6] = c * x * z - s * y; out[7] = c * y * z + s * x; out[8] = 1 - c * (x * x + y * y);
  return out;
}

function product(a, b) {
  /* 3×3 · 3×3 */
  const out = new Float64Array(9);
  for (let i = 0; i < 3; i++) for (let j = 0; j < 3; j++) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
  return out;
}

function applied(a, x, y, z) {
  /* 3×3 · point */
  return [a[0] * x + a[1] * y + a[2] * z, a[3] * x + a[4] * y + a[5] * z, a[6] * x + a[7] * y + a[8] * z];
}

class Rig {
  constructor(facts, payload) {
    this.facts = facts;
    this.count = facts.gaussians;
    this.shape = payload.floats("vertices");
    this.vertices = new Float32Array(this.shape.length);
    this.faces = payload.whole("faces");
    this.frames = new Float32Array(this.faces.length / 3 * FRAME);
    this.expressions = Rig.#sparse(payload);
    this.rotations = payload.floats("expression.rotations");
    this.joints = payload.floats("joints");
    this.skin = payload.floats("skin");
    this.poseBasis = payload.has("pose_basis") ? payload.floats("pose_basis") : null;

    this.triangles = payload.whole("triangles");
    this.means = payload.floats("means");
    this.quats = payload.floats("quats");
    this.scales = payload.floats("log_scales").map(Math.exp);
    this.opacities = payload.floats("opacities");
    this.sh = payload.floats("sh"); // [coefficients, 3, N]
    this.colors = this.sh.subarray(0, 3 * this.count);
    this.moved = { means: new Float32Array(3 * this.count), quats: new Float32Array(4 * this.count), colors: new Float32Array(3 * this.count) };
    this.moves = facts.bases ? ["means", "quats", "colors"].map((name) => ({
      name, planes: payload.whole(`moves.${name}`, Int16Array), step: payload.step(`moves.${name}`),
    })) : [];
    this.map = {};
    for (const name of ["hidden", "hidden_bias", "output", "lowest", "highest"]) {
      if (payload.has(`map.${name}`)) this.map[name] = payload.floats(`map.${name}`);
    }
    this.posed = new Float32Array(POSED * ROW * Math.max(Math.ceil(this.count / ROW), 1));
    this.milliseconds = { vertices: 0, corrections: 0, binding: 0 };
  }

  /* Each expression moves some of the vertices: {vertices, offsets [3, n]}. */
  static #sparse(payload) {
    const counts = payload.whole("expression.counts"), vertices = payload.whole("expression.vertices");
    const offsets = payload.floats("expression.offsets"), total = vertices.length, result = [];
    let at = 0;
    for (const count of counts) {
      const end = at + count;
      const axis = (a) => offsets.subarray(a * total + at, a * total + end);
      result.push({ vertices: vertices.subarray(at, end), x: axis(0), y: axis(1), z: axis(2) });
      at = end;
    }
    return result;
  }

  /* Fill `posed` for {expression [E], joints [3J], rotation [3], translation [3]}. */
  pose(pose) {
    const start = performance.now();
    this.#moveVertices(pose);
    this.#frameTriangles();
    const between = performance.now();
    this.#correct(pose);
    const late = performance.now();
    this.#bind();
    const end = performance.now();
    this.milliseconds = { vertices: between - start, corrections: late - between, binding: end - late };
  }

  #moveVertices(pose) {
    const { vertices, facts } = this, joints = facts.joints.length;
    vertices.set(this.shape);
    const angles = Float64Array.from(pose.joints);
    for (let e = 0; e < this.expressions.length; e++) {
      const weight = pose.expression[e];
      if (weight === 0) continue;
      const { vertices: ids, x, y, z } = this.expressions[e];
      for (let i = 0; i < ids.length; i++) {
        const v = 3 * ids[i];
        vertices[v] += weight * x[i]; vertices[v + 1] += weight * y[i]; vertices[v + 2] += weight * z[i];
      }
      for (let k = 0; k < angles.length; k++) angles[k] += weight * this.rotations[e * angles.length + k];
    }
    const local = [];
    for (let j = 0; j < joints; j++) local.push(rotationOf(angles[3 * j], angles[3 * j + 1], angles[3 * j + 2], new Float64Array(9)));
    if (this.poseBasis) {
      for (let k = 0; k < 9 * joints; k++) {
        const feature = local[k / 9 | 0][k % 9] - (k % 9 % 4 === 0 ? 1 : 0);
        if (feature === 0) continue;
        const from = k * vertices.length;
        for (let i = 0; i < vertices.length; i++) vertices[i] += feature * this.poseBasis[from + i];
      }
    }
    this.#skinVertices(this.#transforms(local, pose));
  }

  /* [J+1, 12] rest → world: each joint's chain, then the root and the scale; the root itself last. */
  #transforms(local, pose) {
    const { facts, joints } = this, count = local.length, scale = facts.scale;
    const Rs = [], ts = [];
    for (let j = 0; j < count; j++) {
      const [x, y, z] = [joints[3 * j], joints[3 * j + 1], joints[3 * j + 2]];
      const turned = applied(local[j], x, y, z);
      const shift = [x - turned[0], y - turned[1], z - turned[2]];
      const parent = facts.parents[j];
      if (parent < 0) {
        Rs.push(local[j]);
        ts.push(shift);
      } else {
        const moved = applied(Rs[parent], ...shift);
        Rs.push(product(Rs[parent], local[j]));
        ts.push(moved.map((m, a) => m + ts[parent][a]));
      }
    }
    Rs.push(Float64Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1));
    ts.push([0, 0, 0]);
    const root = rotationOf(...pose.rotation, new Float64Array(9));
    const out = new Float64Array(12 * (count + 1));
    for (let j = 0; j <= count; j++) {
      const R = product(root, Rs[j]), t = applied(root, ...ts[j]);
      for (let a = 0; a < 3; a++) {
        for (let b = 0; b < 3; b++) out[12 * j + 4 * a + b] = scale * R[3 * a + b];
        out[12 * j + 4 * a + 3] = scale * t[a] + pose.translation[a];
      }
    }
    return out;
  }

  #skinVertices(A) {
    const { vertices, skin } = this, V = vertices.length / 3, slots = A.length / 12;
    const M = new Float64Array(12);
    for (let v = 0; v < V; v++) {
      M.fill(0);
      for (let j = 0; j < slots; j++) {
        const weight = skin[j * V + v];
        if (weight === 0) continue;
        for (let k = 0, a = 12 * j; k < 12; k++, a++) M[k] += weight * A[a];
      }
      const x = vertices[3 * v], y = vertices[3 * v + 1], z = vertices[3 * v + 2];
      vertices[3 * v] = M[0] * x + M[1] * y + M[2] * z + M[3];
      vertices[3 * v + 1] = M[4] * x + M[5] * y + M[6] * z + M[7];
      vertices[3 * v + 2] = M[8] * x + M[9] * y + M[10] * z + M[11];
    }
  }

  #frameTriangles() {
    const { vertices, faces, frames } = this;
    for (let f = 0, o = 0; f < faces.length; f += 3, o += FRAME) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const px = vertices[a], py = vertices[a + 1], pz = vertices[a + 2];
      const ex = vertices[b] - px, ey = vertices[b + 1] - py, ez = vertices[b + 2] - pz;
      const gx = vertices[c] - px, gy = vertices[c + 1] - py, gz = vertices[c + 2] - pz;
      const first = Math.sqrt(ex * ex + ey * ey + ez * ez), i = 1 / Math.max(first, 1e-20);
      const ax = ex * i, ay = ey * i, az = ez * i; // along the first edge
      let nx = ay * gz - az * gy, ny = az * gx - ax * gz, nz = ax * gy - ay * gx; // normal
      const n = 1 / Math.max(Math.sqrt(nx * nx + ny * ny + nz * nz), 1e-20);
      nx *= n; ny *= n; nz *= n;
      let bx = ay * nz - az * ny, by = az * nx - ax * nz, bz = ax * ny - ay * nx; // −(normal × first)
      const m = 1 / Math.max(Math.sqrt(bx * bx + by * by + bz * bz), 1e-20);
      bx *= m; by *= m; bz *= m;
      frames[o] = px + (ex + gx) / 3; frames[o + 1] = py + (ey + gy) / 3; frames[o + 2] = pz + (ez + gz) / 3;
      frames[o + 3] = ax; frames[o + 4] = nx; frames[o + 5] = bx;
      frames[o + 6] = ay; frames[o + 7] = ny; frames[o + 8] = by;
      frames[o + 9] = az; frames[o + 10] = nz; frames[o + 11] = bz;
      // The quaternion by its largest component, the first when several are.
      const ww = 1 + ax + ny + bz, xx = 1 + ax - ny - bz, yy = 1 - ax + ny - bz, zz = 1 - ax - ny + bz;
      let w, x, y, z;
      if (ww >= xx && ww >= yy && ww >= zz) { w = ww; x = nz - by; y = bx - az; z = ay - nx; }
      else if (xx >= yy && xx >= zz) { w = nz - by; x = xx; y = nx + ay; z = bx + az; }
      else if (yy >= zz) { w = bx - az; x = nx + ay; y = yy; z = by + nz; }
      else { w = ay - nx; x = bx + az; y = by + nz; z = zz; }
      const q = 1 / Math.sqrt(w * w + x * x + y * y + z * z);
      frames[o + 12] = w * q; frames[o + 13] = x * q; frames[o + 14] = y * q; frames[o + 15] = z * q;
      frames[o + 16] = 0.5 * (first + Math.abs(bx * gx + by * gy + bz * gz));
    }
  }

  /* The weights of the corrections: how far the code of this frame goes along each basis, within what was trained. */
  weights(pose) {
    const { map, facts } = this;
    if (!facts.bases) return new Float64Array(0);
    const angles = [...pose.joints, ...pose.rotation].map((a) => facts.angleScale * a);
    const code = Float64Array.from([...pose.expression, ...angles]);
    let inner = code;
    if (map.hidden) {
      inner = Float64Array.from(map.hidden_bias, (bias, h) => {
        let sum = bias;
        for (let i = 0; i < code.length; i++) sum += map.hidden[h * code.length + i] * code[i];
        return Math.tanh(sum) - Math.tanh(bias);
      });
    }
    return Float64Array.from({ length: facts.bases }, (_, k) => {
      let sum = 0;
      for (let h = 0; h < inner.length; h++) sum += map.output[k * inner.length + h] * inner[h];
      return map.lowest ? Math.min(Math.max(sum, map.lowest[k]), map.highest[k]) : sum;
    });
  }

  #correct(pose) {
    const { moved, count } = this, weights = this.weights(pose), bases = weights.length;
    moved.means.set(this.means);
    moved.quats.set(this.quats);
    moved.colors.set(this.colors);
    for (const { name, planes, step } of this.moves) {
      const out = moved[name];
      for (let column = 0; column * count < out.length; column++) {
        const target = out.subarray(column * count, (column + 1) * count);
        for (let k = 0; k < bases; k += 4) { // four at a time: the sum is read and written once for them
          const plane = (n) => planes.subarray((column * bases + Math.min(k + n, bases - 1)) * count, (column * bases + Math.min(k + n, bases - 1) + 1) * count);
          const weight = (n) => k + n < bases ? step * weights[k + n] : 0;
          addFour(target, plane(0), plane(1), plane(2), plane(3), weight(0), weight(1), weight(2), weight(3));
        }
      }
    }
  }

  #bind() {
    const { posed, frames, triangles, count } = this, { means, quats, colors } = this.moved;
    for (let i = 0, o = 0; i < count; i++, o += POSED) {
      const f = FRAME * triangles[i], size = frames[f + 16];
      const x = size * means[i], y = size * means[count + i], z = size * means[2 * count + i];
      posed[o] = frames[f + 3] * x + frames[f + 4] * y + frames[f + 5] * z + frames[f];
      posed[o + 1] = frames[f + 6] * x + frames[f + 7] * y + frames[f + 8] * z + frames[f + 1];
      posed[o + 2] = frames[f + 9] * x + frames[f + 10] * y + frames[f + 11] * z + frames[f + 2];
      posed[o + 3] = size;
      const pw = frames[f + 12], px = frames[f + 13], py = frames[f + 14], pz = frames[f + 15];
      const qw = quats[i], qx = quats[count + i], qy = quats[2 * count + i], qz = quats[3 * count + i];
      posed[o + 4] = pw * qw - px * qx - py * qy - pz * qz;
      posed[o + 5] = pw * qx + px * qw + py * qz - pz * qy;
      posed[o + 6] = pw * qy - px * qz + py * qw + pz * qx;
      posed[o + 7] = pw * qz + px * qy - py * qx + pz * qw;
      posed[o + 8] = colors[i]; posed[o + 9] = colors[count + i]; posed[o + 10] = colors[2 * count + i];
    }
  }
}

function addFour(target, a, b, c, d, wa, wb, wc, wd) {
  for (let i = 0; i < target.length; i++) target[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
}
