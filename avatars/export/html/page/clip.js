/* The recorded performance: poses at any time, and the transport that plays them with their sound. */

function quaternion(x, y, z) {
  /* axis-angle → wxyz */
  const angle = Math.hypot(x, y, z), s = angle > 1e-8 ? Math.sin(angle / 2) / angle : 0.5;
  return [Math.cos(angle / 2), s * x, s * y, s * z];
}

function axisAngle([w, x, y, z]) {
  const sign = w < 0 ? -1 : 1, length = Math.hypot(x, y, z);
  const factor = length > 1e-8 ? sign * 2 * Math.atan2(length, Math.abs(w)) / length : 2 * sign;
  return [factor * x, factor * y, factor * z];
}

function turned(a, b) {
  /* axis-angles: a, then b in the axes that a gives */
  const [aw, ax, ay, az] = quaternion(...a), [bw, bx, by, bz] = quaternion(...b);
  return axisAngle([
    aw * bw - ax * bx - ay * by - az * bz, aw * bx + ax * bw + ay * bz - az * by,
    aw * by - ax * bz + ay * bw + az * bx, aw * bz + ax * by - ay * bx + az * bw,
  ]);
}

function between(a, b, share) {
  /* axis-angles along the shorter way: quaternions blended, since axis-angles jump near π */
  const p = quaternion(...a);
  let q = quaternion(...b);
  if (p[0] * q[0] + p[1] * q[1] + p[2] * q[2] + p[3] * q[3] < 0) q = q.map((v) => -v);
  const mixed = p.map((v, i) => v + share * (q[i] - v)), length = Math.hypot(...mixed);
  return axisAngle(mixed.map((v) => v / length));
}

class Recording {
  constructor(facts, payload) {
    this.rest = { expression: new Float64Array(facts.expressions.length), ...facts.rest };
    this.tracks = Object.fromEntries(["expression", "joints", "rotation", "translation"].map((name) => [name, payload.floats(`clip.${name}`)]));
    this.widths = { expression: facts.expressions.length, joints: 3 * facts.joints.length, rotation: 3, translation: 3 };
  }

  #row(name, frame) {
    const width = this.widths[name];
    return this.tracks[name].subarray(frame * width, (frame + 1) * width);
  }

  /* The pose at `time` (frames) of the clip [start, stop). */
  at(time, start, stop) {
    const first = Math.min(Math.max(Math.floor(time), start), stop - 1), second = Math.min(first + 1, stop - 1);
    const share = second === first ? 0 : Math.min(Math.max(time - first, 0), 1);
    const linear = (name) => Float64Array.from(this.#row(name, first), (v, i) => v + share * (this.#row(name, second)[i] - v));
    const arcs = (name) => {
      const a = this.#row(name, first), b = this.#row(name, second), out = new Float64Array(a.length);
      for (let i = 0; i < a.length; i += 3) out.set(share < 1e-4 ? a.subarray(i, i + 3) : between(a.subarray(i, i + 3), b.subarray(i, i + 3), share), i);
      return out;
    };
    return { expression: linear("expression"), joints: arcs("joints"), rotation: arcs("rotation"), translation: linear("translation") };
  }
}

class Transport {
  /* Time in frames within a clip. The sound is the clock while it plays; without one the page's own is. */
  constructor(facts, payload, changed) {
    this.fps = facts.fps;
    this.changed = changed;
    this.clips = facts.clips.map(([name, start, stop]) => {
      const bytes = payload.file(`sound.${name}`);
      return { name, start, stop, sound: bytes && this.#player(bytes) };
    });
    this.clip = null;
    this.frame = 0;
    this.playing = false;
    this.loop = true;
    this.speed = 1;
    this.muted = false;
  }

  #player(bytes) {
    const sound = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/wav" })));
    sound.preservesPitch = true;
    return sound;
  }

  get frames() {
    return this.clip ? this.clip.stop - this.clip.start : 0;
  }

  select(name) {
    const was = this.playing;
    this.pause();
    this.clip = this.clips.find((clip) => clip.name === name) ?? null;
    this.seek(0);
    if (was) this.play();
  }

  play() {
    if (!this.clip) return;
    if (this.frame >= this.frames - 1) this.frame = 0;
    this.playing = true;
    this.#start();
    this.changed();
  }

  #start() {
    this.since = { at: performance.now(), frame: this.frame };
    const sound = this.clip.sound;
    if (!sound) return;
    sound.currentTime = this.frame / this.fps;
    sound.playbackRate = this.speed;
    sound.muted = this.muted;
    sound.play().catch((error) => { if (error.name !== "AbortError") this.silent = error.message; }); // the picture goes on
  }

  pause() {
    this.playing = false;
    this.clip?.sound?.pause();
    this.changed();
  }

  seek(frame) {
    this.frame = Math.min(Math.max(frame, 0), Math.max(this.frames - 1, 0));
    if (this.playing) this.#start();
    else if (this.clip?.sound) this.clip.sound.currentTime = this.frame / this.fps;
    this.changed();
  }

  set(name, value) {
    this[name] = value;
    const sound = this.clip?.sound;
    if (sound) { sound.playbackRate = this.speed; sound.muted = this.muted; }
    if (this.playing) this.since = { at: performance.now(), frame: this.frame };
    this.changed();
  }

  /* Where the clip is now; moves on while it plays. */
  tick() {
    if (!this.playing) return;
    const sound = this.clip.sound, now = performance.now();
    if (sound && !sound.ended && !this.silent) { // until it is heard again, after a start or a jump, the picture waits for it
      if (!sound.paused && !sound.seeking && sound.readyState > 1) this.frame = sound.currentTime * this.fps;
      this.since = { at: now, frame: this.frame };
    } else this.frame = this.since.frame + (now - this.since.at) / 1000 * this.fps * this.speed;
    if (this.frame < this.frames) return;
    if (this.loop) {
      this.frame = 0;
      this.#start();
    } else {
      this.frame = this.frames - 1;
      this.pause();
    }
  }

  pose(recording) {
    return this.clip ? recording.at(this.clip.start + this.frame, this.clip.start, this.clip.stop) : structuredClone(recording.rest);
  }
}
