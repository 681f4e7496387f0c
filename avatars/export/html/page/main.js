/* Opens the page: reads the avatar, wires the controls, draws when something changed. `window.avatar` is for scripts. */

const $ = (id) => document.getElementById(id);
const BACKGROUNDS = { dark: [23, 25, 29], grey: [128, 128, 128], white: [255, 255, 255] };
const SLOW = 42, QUICK = 24; // milliseconds a frame while moving: resolution falls above, and may rise below
const COARSEST = 0.4;

function say(kind, title, text = "") {
  $("state").className = kind;
  $("state-title").textContent = title;
  $("state-text").textContent = text;
}

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}

class Page {
  constructor(facts, payload) {
    this.facts = facts;
    const changed = () => this.touch();
    this.rig = new Rig(facts, payload);
    this.recording = new Recording(facts, payload);
    this.transport = new Transport(facts, payload, changed);
    this.desk = new Desk(facts, changed);
    this.orbit = new Orbit(facts.place, changed);
    this.splats = new Splats($("view"), this.rig);
    this.background = BACKGROUNDS.dark.map((v) => v / 255);
    this.quality = 1; // share of the pixels' width and height while something moves
    this.running = false;
    this.lastMoved = 0;
    this.lastDrawn = 0;
  }

  /* Draw in the browser's next frame. */
  touch() {
    this.lastMoved = performance.now();
    this.#next();
  }

  #next() {
    this.waiting ||= requestAnimationFrame(() => this.#frame());
  }

  get ratio() {
    return Math.min(window.devicePixelRatio || 1, 2);
  }

  pose() {
    return this.desk.onto(this.transport.pose(this.recording));
  }

  #frame() {
    this.waiting = 0;
    const now = performance.now();
    const moving = this.transport.playing || now - this.lastMoved < 150;
    this.#govern(now, moving);
    this.transport.tick();
    const pose = this.pose();
    this.draw(pose);
    this.#show(pose);
    this.running = moving || this.transport.playing;
    if (this.running) this.#next(); // once more after the last change, then with all pixels
  }

  /* Fewer pixels while frames come late; all of them once nothing moves. */
  #govern(now, moving) {
    const gap = Math.min(now - this.lastDrawn, 300);
    this.lastDrawn = now;
    if (moving && this.running) {
      this.gap = 0.8 * (this.gap ?? gap) + 0.2 * gap;
      if (this.gap > SLOW && this.quality > COARSEST) [this.quality, this.gap] = [Math.max(this.quality * 0.85, COARSEST), 33];
      else if (this.gap < QUICK && this.quality < 1) [this.quality, this.gap] = [Math.min(this.quality * 1.08, 1), 33];
    }
    const { clientWidth, clientHeight } = $("stage"), scale = this.ratio * (moving ? this.quality : 1);
    this.#resize(Math.max(Math.round(clientWidth * scale), 1), Math.max(Math.round(clientHeight * scale), 1));
  }

  #resize(width, height) {
    const canvas = this.splats.canvas;
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
  }

  /* Pose what differs from the last picture, sort, draw. */
  draw(pose, camera = null) {
    const { splats, rig } = this, { width, height } = splats.canvas;
    const same = this.last && ["expression", "joints", "rotation", "translation"].every((k) => pose[k].every((v, i) => v === this.last[k][i]));
    if (!same) {
      rig.pose(pose);
      splats.upload();
      this.last = pose;
    }
    camera ??= this.orbit.on(width, height);
    splats.sort(camera.view);
    splats.draw(camera, this.background);
  }

  #show(pose) {
    const { transport, facts } = this;
    this.desk.show(pose);
    $("reset").disabled = !this.desk.held.size && Object.values(this.desk.angles).every((v) => v === 0);
    $("play").setAttribute("aria-pressed", transport.playing);
    $("play").setAttribute("aria-label", transport.playing ? "Pause" : "Play");
    $("play").disabled = $("scrub").disabled = !transport.clip;
    $("scrub").max = Math.max(transport.frames - 1, 1);
    $("scrub").value = transport.frame;
    $("now").textContent = transport.clip ? clock(transport.frame / facts.fps) : facts.clips.length ? "" : "no recording";
    $("whole").textContent = transport.clip ? ` / ${clock(transport.frames / facts.fps)}` : "";
    $("sound").disabled = !transport.clip?.sound;
    $("sound").title = transport.silent ? `The browser plays no sound: ${transport.silent}` : transport.clip?.sound ? "Sound" : "This recording has no sound";
  }

  wire() {
    const { transport, desk, facts, orbit } = this;
    desk.build($("faces"), $("presets"), $("angles"), $("search"));
    const option = (value, text) => made("option", { value, textContent: text });
    $("clip").append(...transport.clips.map((clip) => option(clip.name, clip.name)), option("", "At rest"));
    $("clip").addEventListener("change", () => transport.select($("clip").value));
    $("play").addEventListener("click", () => this.toggle());
    $("scrub").addEventListener("input", () => transport.seek(Number($("scrub").value)));
    $("speed").addEventListener("change", () => transport.set("speed", Number($("speed").value)));
    for (const [id, flip] of [["loop", (on) => transport.set("loop", on)], ["sound", (on) => transport.set("muted", !on)], ["mirror", (on) => { desk.symmetric = on; }]]) {
      $(id).addEventListener("click", () => {
        const on = $(id).getAttribute("aria-pressed") !== "true";
        $(id).setAttribute("aria-pressed", on);
        flip(on);
      });
    }
    $("reset").addEventListener("click", () => desk.reset());
    for (const name of Object.keys(VIEWS)) $("views").append(made("button", { type: "button", textContent: name, onclick: () => orbit.look(name) }));
    for (const [name, rgb] of Object.entries(BACKGROUNDS)) {
      const choose = () => { this.background = rgb.map((v) => v / 255); $("stage").dataset.ground = name; this.touch(); };
      $("grounds").append(made("button", { type: "button", className: "chip", textContent: name, onclick: choose }));
    }
    const tabs = [...document.querySelectorAll("[role=tab]")];
    for (const tab of tabs) {
      tab.addEventListener("click", () => tabs.forEach((each) => {
        each.setAttribute("aria-selected", each === tab);
        $(each.getAttribute("aria-controls")).hidden = each !== tab;
      }));
    }
    $("fold").addEventListener("click", () => {
      const folded = document.body.classList.toggle("folded");
      $("fold").setAttribute("aria-expanded", !folded);
    });
    $("picture").addEventListener("click", () => this.save());
    const row = (title, text) => [made("dt", { textContent: title }), made("dd", { textContent: text })];
    $("facts").append(
      ...row("Gaussians", facts.gaussians.toLocaleString("en")), ...row("Head", facts.head), ...row("Recordings", facts.clips.map(([name]) => name).join(", ") || "none"),
      ...row("Colours", this.splats.exact ? "half floats" : "8 bits: this browser lacks half floats"),
    );
    for (const [title, text] of facts.notes) $("notes").append(made("h3", { textContent: title }), made("p", { textContent: text }));
    if (!transport.clips.length) document.body.classList.add("still");
    transport.select((transport.clips.find((clip) => clip.sound) ?? transport.clips[0])?.name);
    $("clip").value = transport.clip?.name ?? "";
    orbit.listen($("view"), () => $("view").width / Math.max($("view").clientWidth, 1));
    new ResizeObserver(() => this.touch()).observe($("stage"));
    addEventListener("keydown", (event) => this.#key(event));
    $("view").addEventListener("webglcontextlost", (event) => { event.preventDefault(); say("error", "The graphics card was reset", "Waiting for it to come back …"); });
    $("view").addEventListener("webglcontextrestored", () => { this.splats.prepare(); this.last = null; say("ready", ""); this.touch(); });
  }

  toggle() {
    if (this.transport.playing) this.transport.pause();
    else this.transport.play();
  }

  #key(event) {
    const { transport } = this, typing = event.target.matches("input, select, textarea, button, summary");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/" && event.target !== $("search")) $("search").focus();
    else if (typing) return;
    else if (event.key === " ") this.toggle();
    else if (event.key === ",") transport.seek(Math.round(transport.frame) - 1);
    else if (event.key === ".") transport.seek(Math.round(transport.frame) + 1);
    else if (event.key === "r") this.desk.reset();
    else if (event.key === "f") this.orbit.look("Front");
    else return;
    event.preventDefault();
  }

  save() {
    const { clientWidth, clientHeight } = $("stage");
    this.#resize(Math.round(clientWidth * this.ratio), Math.round(clientHeight * this.ratio));
    this.draw(this.pose());
    $("view").toBlob((blob) => {
      const link = made("a", { href: URL.createObjectURL(blob), download: "avatar.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }

  /* For scripts and tests: one picture through a pinhole camera, as RGBA bytes in base64.
     {width, height, K, viewmat (world → camera), background [3], frame | expression {name: weight}, joints {name: [3]}, rotation, translation} */
  picture({ width, height, K, viewmat, background = [0, 0, 0], frame = null, expression = {}, joints = {}, rotation = null, translation = null }) {
    const { facts, recording, splats } = this;
    const pose = frame === null ? structuredClone(recording.rest) : recording.at(frame, 0, recording.tracks.rotation.length / 3);
    for (const [name, weight] of Object.entries(expression)) pose.expression[facts.expressions.indexOf(name)] = weight;
    for (const [name, angles] of Object.entries(joints)) angles.forEach((v, a) => { pose.joints[3 * facts.joints.indexOf(name) + a] = v; });
    if (rotation) pose.rotation = rotation;
    if (translation) pose.translation = translation;
    const kept = this.background;
    this.background = background;
    this.#resize(width, height);
    this.draw(pose, { view: viewmat.slice(0, 3).flat(), lens: [K[0][0], K[1][1], K[0][2], K[1][2]] });
    const pixels = splats.pixels();
    this.background = kept;
    this.touch();
    let text = "";
    for (let i = 0; i < pixels.length; i += 4096) text += String.fromCharCode(...pixels.subarray(i, i + 4096));
    return btoa(text);
  }

  /* For measurements: milliseconds of JavaScript in each of `frames` frames, every expression and the camera in motion. */
  measure(frames) {
    const { rig, splats, facts, recording, orbit } = this, { around } = orbit, times = [];
    for (let i = 0; i < frames; i++) {
      const pose = structuredClone(recording.rest), camera = orbit.on(640, 480);
      pose.expression = pose.expression.map((_, e) => 0.3 + 0.3 * Math.sin(0.37 * i + e));
      pose.joints = pose.joints.map((v, j) => v + 0.05 * Math.sin(0.21 * i + j));
      orbit.around = 0.6 * Math.sin(0.1 * i);
      const start = performance.now();
      rig.pose(pose);
      splats.upload();
      splats.sort(camera.view);
      const total = performance.now() - start;
      splats.gl.finish();
      times.push({ total, ...rig.milliseconds, ...splats.milliseconds });
    }
    orbit.around = around;
    this.last = null;
    this.touch();
    return { gaussians: facts.gaussians, vertices: rig.vertices.length / 3, bases: facts.bases, times };
  }
}

async function open() {
  try {
    const probe = document.createElement("canvas").getContext("webgl2");
    if (!probe) {
      return say("error", "This browser cannot draw the avatar", "It offers no WebGL2. Use a current Chrome, Edge, Firefox or Safari, and switch hardware acceleration on in its settings.");
    }
    probe.getExtension("WEBGL_lose_context")?.loseContext();
    if (typeof DecompressionStream === "undefined") {
      return say("error", "This browser is too old for this page", "It cannot unpack the avatar. Use Chrome or Edge 80, Firefox 113, Safari 16.4, or newer.");
    }
    const facts = JSON.parse($("facts-json").textContent);
    let payload;
    try {
      payload = await Payload.read(facts.fields, $("payload").textContent);
    } catch (error) {
      return say("error", "This file is damaged", `Its numbers cannot be unpacked (${error.message || "bad checksum"}). Copy or export it again.`);
    }
    $("payload").remove();
    if (!facts.gaussians) return say("error", "This avatar is empty", "It has no Gaussian that could be seen. Train it again and export again.");
    const page = new Page(facts, payload);
    page.wire();
    page.touch();
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    say("ready", "");
    window.avatar = page;
  } catch (error) {
    say("error", "Something went wrong", String(error.message || error));
    throw error;
  }
}

addEventListener("error", (event) => say("error", "Something went wrong", event.message));
open();
