/* Gaussians → pixels in WebGL2, by the rules of cuda_ext/include/semantics.h: EWA projection with 0.3 pixels² of low-pass,
   alpha = min(0.999, opacity · exp(−½ d²)), nothing below 1/255, colour max(0, SH + 0.5), order by camera depth.

   Blended back to front with premultiplied colours into half floats, since colours may exceed one before they are covered,
   then laid over the background. Cameras are OpenCV: x right, y down, z forward, pixel centres at one half. */

const NEAR = 0.01; // metres

const VERTEX = (coefficients) => `#version 300 es
precision highp float;
precision highp sampler2D;
layout(location = 0) in uint index;
uniform sampler2D posed; // three texels each: mean and size, quaternion, constant colour term
uniform sampler2D still; // scales and opacity, then a texel per further coefficient
uniform vec4 rows[3]; // world → camera
uniform vec4 lens; // fx, fy, cx, cy
uniform vec2 pixels;
flat out vec4 color;
out vec2 offset; // in standard deviations

void main() {
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // outside
  color = vec4(0.0);
  offset = vec2(0.0);
  int row = int(index) / ${ROW}, column = int(index) % ${ROW};
  vec4 place = texelFetch(posed, ivec2(3 * column, row), 0);
  vec4 shape = texelFetch(still, ivec2(${coefficients} * column, row), 0);
  mat3 W = transpose(mat3(rows[0].xyz, rows[1].xyz, rows[2].xyz));
  vec3 t = vec3(rows[0].w, rows[1].w, rows[2].w);
  vec3 p = W * place.xyz + t;
  if (p.z < ${NEAR}) return;

  vec4 q = normalize(texelFetch(posed, ivec2(3 * column + 1, row), 0)); // wxyz in xyzw
  float w = q.x, x = q.y, y = q.z, z = q.w;
  mat3 R = mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
  vec3 s = place.w * shape.xyz;
  mat3 M = W * mat3(R[0] * s.x, R[1] * s.y, R[2] * s.z);
  vec2 margin = 0.15 * pixels;
  vec2 slope = clamp(p.xy / p.z, -(lens.zw + margin) / lens.xy, (pixels - lens.zw + margin) / lens.xy);
  vec3 deep = vec3(M[0].z, M[1].z, M[2].z);
  vec3 u = lens.x / p.z * (vec3(M[0].x, M[1].x, M[2].x) - slope.x * deep);
  vec3 v = lens.y / p.z * (vec3(M[0].y, M[1].y, M[2].y) - slope.y * deep);
  float a = dot(u, u) + 0.3, b = dot(u, v), c = dot(v, v) + 0.3;
  float det = a * c - b * b;
  if (!(det > 1e-20)) return;

  // The ellipse's axes: where alpha falls to 1/255 on each is where the quad ends.
  float middle = 0.5 * (a + c), spread = length(vec2(0.5 * (a - c), b));
  float large = middle + spread, small = det / large;
  vec2 axis = a >= c ? vec2(large - c, b) : vec2(b, large - a);
  axis = spread > 1e-6 * middle ? normalize(axis) : vec2(1.0, 0.0);
  float reach = sqrt(2.0 * log(max(shape.w * 255.0, 1.0)));
  offset = reach * vec2((gl_VertexID & 1) * 2 - 1, (gl_VertexID >> 1) * 2 - 1);
  vec2 at = lens.xy * p.xy / p.z + lens.zw + offset.x * sqrt(large) * axis + offset.y * sqrt(small) * vec2(-axis.y, axis.x);
  gl_Position = vec4(2.0 * at.x / pixels.x - 1.0, 1.0 - 2.0 * at.y / pixels.y, 0.0, 1.0);

  vec3 sum = 0.28209479177387814 * texelFetch(posed, ivec2(3 * column + 2, row), 0).rgb + 0.5;
  ${coefficients > 1 ? `vec3 d = normalize(place.xyz + t * W); // from the camera's centre, −Wᵀt
  ${HARMONICS.slice(0, coefficients - 1).map((term, k) => `sum += (${term}) * texelFetch(still, ivec2(${coefficients} * column + ${k + 1}, row), 0).rgb;`).join("\n  ")}` : ""}
  color = vec4(max(sum, 0.0), shape.w);
}`;

/* Real spherical harmonics of the unit direction d beyond the constant, in the order and signs of 3DGS. */
const HARMONICS = [
  "-0.4886025119029199 * d.y",
  "0.4886025119029199 * d.z",
  "-0.4886025119029199 * d.x",
  "1.0925484305920792 * d.x * d.y",
  "-1.0925484305920792 * d.y * d.z",
  "0.31539156525252005 * (2.0 * d.z * d.z - d.x * d.x - d.y * d.y)",
  "-1.0925484305920792 * d.x * d.z",
  "0.5462742152960396 * (d.x * d.x - d.y * d.y)",
  "-0.5900435899266435 * d.y * (3.0 * d.x * d.x - d.y * d.y)",
  "2.890611442640554 * d.x * d.y * d.z",
  "-0.4570457994644658 * d.y * (4.0 * d.z * d.z - d.x * d.x - d.y * d.y)",
  "0.3731763325901154 * d.z * (2.0 * d.z * d.z - 3.0 * d.x * d.x - 3.0 * d.y * d.y)",
  "-0.4570457994644658 * d.x * (4.0 * d.z * d.z - d.x * d.x - d.y * d.y)",
  "1.445305721320277 * d.z * (d.x * d.x - d.y * d.y)",
  "-0.5900435899266435 * d.x * (d.x * d.x - 3.0 * d.y * d.y)",
];

const FRAGMENT = `#version 300 es
precision highp float;
flat in vec4 color;
in vec2 offset;
out vec4 result;
void main() {
  float alpha = color.a * exp(-0.5 * dot(offset, offset));
  if (alpha < 1.0 / 255.0) discard;
  alpha = min(alpha, 0.999);
  result = vec4(color.rgb * alpha, alpha);
}`;

const COVER = `#version 300 es
void main() {
  gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}`;

const OVER = `#version 300 es
precision highp float;
precision highp sampler2D;
uniform sampler2D drawn;
uniform vec3 background;
out vec4 result;
void main() {
  vec4 c = texelFetch(drawn, ivec2(gl_FragCoord.xy), 0);
  result = vec4(c.rgb + (1.0 - c.a) * background, 1.0);
}`;

class Splats {
  /* Throws an Error that says why when this browser cannot. */
  constructor(canvas, rig) {
    this.canvas = canvas;
    this.rig = rig;
    const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" });
    if (!gl) throw new Error("no WebGL2");
    this.gl = gl;
    this.order = new Uint32Array(rig.count);
    this.milliseconds = { sort: 0, upload: 0 };
    this.prepare();
  }

  /* Everything that the graphics card holds; again after it was lost. */
  prepare() {
    const { gl, rig } = this, coefficients = rig.facts.coefficients;
    // Half floats keep colours above one and faint layers; both names exist in the field.
    this.exact = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_spreadfloat"));
    this.program = this.#link(VERTEX(coefficients), FRAGMENT, ["posed", "still", "rows", "lens", "pixels"]);
    this.over = this.#link(COVER, OVER, ["drawn", "background"]);
    this.rows = rig.posed.length / (POSED * ROW);
    const limit = gl.getParameter(gl.MAX_TEXTURE_SIZE);
    if (this.rows > limit || coefficients * ROW > limit) throw new Error(`${rig.count} Gaussians are more than this graphics card holds`);
    this.posed = this.#texture(gl.RGBA32F, 3 * ROW, this.rows);
    this.fixed = this.#texture(gl.RGBA32F, coefficients * ROW, this.rows);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, coefficients * ROW, this.rows, gl.RGBA, gl.FLOAT, this.#fixedNumbers(coefficients));
    this.indices = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
    gl.bufferData(gl.ARRAY_BUFFER, this.order.byteLength, gl.DYNAMIC_DRAW);
    this.array = gl.createVertexArray();
    gl.bindVertexArray(this.array);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribIPointer(0, 1, gl.UNSIGNED_INT, 0, 0);
    gl.vertexAttribDivisor(0, 1);
    this.none = gl.createVertexArray();
    this.target = null;
  }

  #fixedNumbers(coefficients) {
    const { scales, opacities, sh, count } = this.rig;
    const numbers = new Float32Array(coefficients * ROW * this.rows * 4);
    for (let i = 0; i < count; i++) {
      const o = 4 * coefficients * i; // rows hold ROW Gaussians each, so the index runs on
      for (let a = 0; a < 3; a++) numbers[o + a] = scales[a * count + i];
      numbers[o + 3] = opacities[i];
      for (let k = 1; k < coefficients; k++) for (let a = 0; a < 3; a++) numbers[o + 4 * k + a] = sh[(3 * k + a) * count + i];
    }
    return numbers;
  }

  /* The posed Gaussians to the card. */
  upload() {
    const { gl, rig } = this, start = performance.now();
    gl.bindTexture(gl.TEXTURE_2D, this.posed);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 3 * ROW, this.rows, gl.RGBA, gl.FLOAT, rig.posed);
    this.milliseconds.upload = performance.now() - start;
  }

  /* Far to near by depth, to 1/65536 of the range; what lies behind the camera is left out. */
  sort(view) {
    const start = performance.now(), { rig, order } = this, { posed, count } = rig;
    this.depths ??= new Float32Array(count);
    this.keys ??= new Uint16Array(count);
    this.buckets ??= new Uint32Array(65537);
    const { depths, keys, buckets } = this, [, , , , , , , , x, y, z, t] = view;
    let least = Infinity, most = -Infinity;
    for (let i = 0, o = 0; i < count; i++, o += POSED) {
      const depth = x * posed[o] + y * posed[o + 1] + z * posed[o + 2] + t;
      depths[i] = depth;
      if (depth < NEAR) continue;
      if (depth < least) least = depth;
      if (depth > most) most = depth;
    }
    buckets.fill(0);
    const scale = 65535 / Math.max(most - least, 1e-9);
    for (let i = 0; i < count; i++) {
      if (!(depths[i] >= NEAR)) continue;
      keys[i] = (most - depths[i]) * scale;
      buckets[keys[i] + 1]++;
    }
    for (let k = 0; k < 65536; k++) buckets[k + 1] += buckets[k];
    const drawn = buckets[65536];
    for (let i = count - 1; i >= 0; i--) if (depths[i] >= NEAR) order[buckets[keys[i]]++] = i; // of equals the first is in front
    this.drawn = drawn;
    this.milliseconds.sort = performance.now() - start;
    const { gl } = this, then = performance.now();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.indices);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, order, 0, drawn);
    this.milliseconds.upload += performance.now() - then;
  }

  /* Draw what was uploaded and sorted through a camera {view [12], lens [fx, fy, cx, cy]} that fills the canvas. */
  draw(camera, background) {
    const { gl, canvas, program, over } = this, { width, height } = canvas;
    this.#fit(width, height);
    gl.viewport(0, 0, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target.frame);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(program.program);
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.fixed);
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.posed);
    gl.uniform1i(program.posed, 0);
    gl.uniform1i(program.still, 1);
    gl.uniform4fv(program.rows, camera.view);
    gl.uniform4fv(program.lens, camera.lens);
    gl.uniform2f(program.pixels, width, height);
    gl.bindVertexArray(this.array);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, this.drawn);
    gl.disable(gl.BLEND);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(over.program);
    gl.bindTexture(gl.TEXTURE_2D, this.target.texture);
    gl.uniform1i(over.drawn, 0);
    gl.uniform3fv(over.background, background);
    gl.bindVertexArray(this.none);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  /* The canvas as it was drawn in this task: RGBA, top row first. */
  pixels() {
    const { gl, canvas } = this, { width, height } = canvas, row = 4 * width;
    const raw = new Uint8Array(row * height), flipped = new Uint8Array(row * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, raw);
    for (let y = 0; y < height; y++) flipped.set(raw.subarray((height - 1 - y) * row, (height - y) * row), y * row);
    return flipped;
  }

  #fit(width, height) {
    const { gl } = this;
    if (this.target && this.target.width === width && this.target.height === height) return;
    if (this.target) {
      gl.deleteTexture(this.target.texture);
      gl.deleteFramebuffer(this.target.frame);
    }
    const texture = this.#texture(this.exact ? gl.RGBA16F : gl.RGBA8, width, height);
    const frame = gl.createFramebuffer();
    gl.bindFramebuffer(gl.FRAMEBUFFER, frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
    if (gl.checkFramebufferStatus(gl.FRAMEBUFFER) !== gl.FRAMEBUFFER_COMPLETE) throw new Error(`this graphics card cannot draw ${width} × ${height} pixels`);
    this.target = { texture, frame, width, height };
  }

  #texture(format, width, height) {
    const { gl } = this, texture = gl.createTexture();
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
    for (const side of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, side, gl.NEAREST);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    return texture;
  }

  #link(vertex, fragment, uniforms) {
    const { gl } = this, program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(`shader: ${gl.getShaderInfoLog(shader)}`);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(`shader: ${gl.getProgramInfoLog(program)}`);
    return { program, ...Object.fromEntries(uniforms.map((name) => [name, gl.getUniformLocation(program, name)])) };
  }
}
