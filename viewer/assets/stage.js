// The bar under the stage, the modes above it, keys and sound. Talks to the server over /bar/<key>; the key is in a
// hidden element that viser delivers. Everything from the server is shown as text, never as markup.
(() => {
  "use strict";
  let drawn = "";
  const state = { sequences: [], modes: [], curve: null, bounds: [0, 1], time: 0 };
  let socket = null, key = null, clock = { time: 0, at: 0 }, muted = false, scrubbing = false, painted = false;

  // Building ------------------------------------------------------------------------------------------------------
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      name.startsWith("on") ? node.addEventListener(name.slice(2), value) : node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const ICONS = {
    play: "M3 1.500v13l11-6.500z", pause: "M3 2h3.500v12H3zM9.500 2H13v12H9.500z", first: "M2 2h2v12H2zM14 2v12L5 8z",
    back: "M11 2v12L3 8zM11.500 2h2v12h-2z", forward: "M5 2v12l8-6zM2.500 2h2v12h-2z",
    loop: "M8 2.500a5.500 5.500 0 0 1 5.300 4h-2.100A3.600 3.600 0 0 0 4.800 6.500H7v2H1.500V3h2v1.800A5.500 5.500 0 0 1 8 2.500zm6.500 5V13h-2v-1.800A5.500 5.500 0 0 1 2.700 9.500h2.100a3.600 3.600 0 0 0 6.400 0H9v-2z",
    sound: "M2 6v4h2.500L8 13.500v-11L4.500 6zm8-1.500a4 4 0 0 1 0 7v-1.700a2.400 2.400 0 0 0 0-3.600zM10 1.500a7 7 0 0 1 0 13v-1.600a5.400 5.400 0 0 0 0-9.800z",
    mute: "M2 6v4h2.500L8 13.500v-11L4.500 6zm8 .700 1.100-1.100 1.700 1.700 1.700-1.700 1.100 1.100L13.900 8.400l1.700 1.700-1.100 1.100-1.700-1.700-1.700 1.700L10 10.100l1.700-1.700z",
    camera: "M5.500 2.500 4.500 4H2a1 1 0 0 0-1 1v8a1 1 0 0 0 1 1h12a1 1 0 0 0 1-1V5a1 1 0 0 0-1-1h-2.500l-1-1.500zM8 6a3 3 0 1 1 0 6 3 3 0 0 1 0-6z",
    keys: "M1 4h14v9H1zm2 2v1.500h1.500V6zm3 0v1.500h1.500V6zm3 0v1.500h1.500V6zm2.800 0v1.500h1.500V6zM3.500 9.500V11h9V9.500z",
  };
  const icon = (name) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 16 16");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICONS[name]);
    svg.append(path);
    return svg;
  };
  const button = (name, label, action, extra = "") =>
    make("button", { class: `icon ${extra}`, title: label, "aria-label": label, onclick: (e) => { action(); e.currentTarget.blur(); } }, icon(name));

  const send = (name, value) => {
    if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ do: name, value }));
  };

  const canvas = make("canvas");
  const line = make("div", { id: "av-line", role: "slider", tabindex: "0", "aria-label": "Timeline" }, canvas);
  const tip = make("div", { id: "av-tip" });
  const play = button("play", "Play or pause (Space)", () => send("toggle"), "play");
  const loop = button("loop", "Loop (L)", () => send("loop"));
  const sound = button("sound", "Sound", () => { muted = !muted; audio.muted = muted; draw(); });
  const sequence = make("select", { title: "Sequence", "aria-label": "Sequence", onchange: (e) => { send("sequence", e.target.value); e.target.blur(); } });
  const speed = make("select", { title: "Speed", "aria-label": "Speed", class: "wide", onchange: (e) => { send("speed", Number(e.target.value)); e.target.blur(); } });
  const when = make("span", { class: "when" });
  const psnr = make("span", { class: "dim psnr" });
  const worst = make("button", { class: "text wide", title: "Go to the frame that differs most from the truth", onclick: (e) => { send("worst"); e.currentTarget.blur(); } }, "Worst frame");
  const row = make("div", { id: "av-row" },
    button("first", "First frame (Home)", () => send("home")), button("back", "One frame back (←)", () => send("step", -1)), play,
    button("forward", "One frame on (→)", () => send("step", 1)), loop, sound, sequence, speed, when, make("span", { class: "space" }),
    psnr, worst, button("camera", "Save picture (P)", () => send("snapshot")), button("keys", "Keys (?)", () => keys.classList.toggle("open"), "wide"));
  const bar = make("div", { id: "av-bar" }, line, row);

  const modes = make("div", { id: "av-modes", role: "radiogroup", "aria-label": "Mode" });
  const against = make("select", { id: "av-against", title: "Compare with", "aria-label": "Compare with", onchange: (e) => { send("against", e.target.value); e.target.blur(); } });
  const seen = make("div", { id: "av-seen" });
  const rate = make("div", { id: "av-rate" });
  const names = make("div", { id: "av-names" }, make("span", {}, "Truth"), make("span", {}, "Avatar"));
  const wipe = make("div", { id: "av-wipe", role: "slider", "aria-label": "Wipe between truth and avatar" });
  const say = make("div", { id: "av-say" });
  const wait = make("div", { id: "av-wait" }, make("div", {}, make("i"), "Opening the avatar…"));
  const picture = make("canvas", { id: "av-picture" });
  const paper = picture.getContext("bitmaprenderer");
  const over = make("div", { id: "av-over" }, wait, names, wipe, make("div", { id: "av-top" }, modes, against), seen, rate, say);
  const audio = make("audio", { preload: "auto" });
  const KEYS = [["Space", "play, pause"], ["← →", "one frame"], ["Shift ← →", "ten frames"], ["Home End", "first, last frame"], ["L", "loop"],
    ["I O", "in and out point here"], ["1 … 6", "render, truth and comparisons"], ["C", "cameras of the capture"], ["V", "next camera of the capture"], ["F", "look from the front"],
    ["K", "set a key camera"], ["Z, Shift Z", "undo, redo expressions"], ["Ctrl C, Ctrl V", "copy, paste the expression"], ["R", "release all expressions"], ["P", "save picture"], ["M", "sound on, off"], ["Drag, wheel", "orbit, zoom"], ["?", "this list"]];
  const keys = make("div", { id: "av-keys", onclick: () => keys.classList.remove("open") },
    make("table", {}, ...KEYS.map(([k, what]) => make("tr", {}, make("td", {}, make("kbd", {}, k)), make("td", {}, what)))));
  const shell = make("div", { id: "av" }, over, bar, tip, keys, audio);

  // What scene.js builds on.
  window.avatarViewer = { state, send, make, over, message: (text, kind) => message(text, kind), key: () => key };

  // Showing -------------------------------------------------------------------------------------------------------
  const length = () => (state.sequences.length ? state.sequences[state.sequences.length - 1].stop : 0);
  const now = () => {
    if (!state.playing) return state.time;
    const guess = clock.time + ((performance.now() - clock.at) / 1000) * state.fps * state.speed;
    return Math.min(guess, state.bounds[1]);
  };
  const sequenceAt = (time) => state.sequences.find((s) => time < s.stop) || state.sequences[state.sequences.length - 1];
  const message = (text, kind = "") => {
    const node = make("div", { class: kind, role: "status" }, text);
    say.append(node);
    setTimeout(() => node.remove(), 5000);
  };

  function draw() {
    const total = length();
    bar.style.display = total ? "" : "none";
    document.documentElement.style.setProperty("--bar", total ? "" : "0px");
    play.replaceChildren(icon(state.playing ? "pause" : "play"));
    loop.setAttribute("aria-pressed", String(!!state.loop));
    const here = sequenceAt(state.time), unseen = state.unseen || [];
    sound.style.display = state.sequences.some((s) => s.sound) ? "" : "none";
    sound.disabled = !(here && here.sound);
    sound.replaceChildren(icon(muted ? "mute" : "sound"));
    options(sequence, state.sequences.map((s) => [s.name, unseen.includes(s.name) ? `${s.name} · held out` : s.name]), here ? here.name : "");
    options(speed, (state.speeds || []).map((s) => [String(s), `${s}×`]), String(state.speed));
    modes.style.display = state.modes.length ? "" : "none";
    if (modes.childElementCount !== state.modes.length)
      modes.replaceChildren(...state.modes.map((m, i) => make("button", { role: "radio", title: `${m} (${i + 1})`, onclick: (e) => { send("mode", m); e.currentTarget.blur(); } }, m)));
    if (modes.children[1]) modes.children[1].textContent = state.against;
    against.style.display = (state.references || []).length > 1 ? "" : "none";
    options(against, (state.references || []).filter((r) => r !== state.subject).map((r) => [r, r]), state.against);
    [...modes.children].forEach((b, i) => b.setAttribute("aria-checked", String(state.modes[i] === state.mode)));
    const beyond = state.beyond || [];
    seen.replaceChildren();
    if (state.camera) seen.append(make("span", {}, `Camera ${state.camera}${unseen.includes(state.camera) ? " · held out of training" : ""}`));
    if (state.status) seen.append(make("span", {}, state.status));
    if (state.browser) seen.append(make("span", { title: state.note }, "Drawn by this browser"));
    if (state.training) {
      const word = state.training === "paused" ? "Resume" : "Pause";
      seen.append(make("button", { title: `${word} the training that is shown`, onclick: (e) => { e.currentTarget.disabled = true; send(`${word.toLowerCase()} training`); } }, `${word} training`));
    }
    if (beyond.length) seen.append(make("span", { class: "warn", title: beyond.join(", ") }, `${beyond.slice(0, 2).join(", ")}${beyond.length > 2 ? ` and ${beyond.length - 2} more` : ""} beyond the recordings`));
    rate.textContent = state.playing && state.pictures ? `${Math.round(state.pictures)} pictures/s${state.scale < 1 ? ` · ${Math.round(state.scale * 100)} %` : ""}` : "";
    figures();
    worst.style.display = state.curve && state.camera ? "" : "none";
    const failed = say.querySelector(".lasting");
    if (failed) failed.remove();
    if (state.error) say.append(make("div", { class: "error lasting", role: "alert" }, `This picture could not be drawn: ${state.error} Change something to try again.`));
    place();
    tick();
    document.dispatchEvent(new Event("av-state"));
  }
  function figures() {
    psnr.replaceChildren();
    document.dispatchEvent(new Event("av-figures"));
    const p = state.psnr;
    if (!p || p[state.region] == null) return;
    psnr.append(state.region === "foreground" ? "PSNR " : `PSNR of the ${state.region} `, make("b", {}, p[state.region].toFixed(1)), " dB");
  }
  function options(select, pairs, value) {
    const wanted = JSON.stringify(pairs);
    if (select.dataset.pairs !== wanted) {
      select.dataset.pairs = wanted;
      select.replaceChildren(...pairs.map(([v, text]) => make("option", { value: v }, text)));
    }
    if (select.value !== value) select.value = value;
  }

  // Where viser's canvas is: over it lie the modes, the wipe handle and the messages.
  let stage = null, told = "";
  function place() {
    if (!stage) return;
    const box = stage.getBoundingClientRect(), ratio = Math.min(devicePixelRatio || 1, 2);
    const size = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (socket && size[0] > 0 && size[1] > 0 && told !== `${key} ${size}` && socket.readyState === WebSocket.OPEN) {
      told = `${key} ${size}`;
      send("canvas", size);
    }
    Object.assign(over.style, { left: `${box.left}px`, top: `${box.top}px`, width: `${box.width}px`, height: `${box.height}px` });
    wipe.style.display = state.mode === "Wipe" ? "block" : "none";
    wipe.style.left = `${state.wipe * 100}%`;
    names.style.display = ["Side by side", "Wipe", "Error", "Reference"].includes(state.mode) ? "block" : "none";
    const [truth, avatar] = names.children;
    const at = { "Side by side": [25, 75], Wipe: [state.wipe * 50, 50 + state.wipe * 50], Reference: [50, -99], Error: [50, -99] }[state.mode] || [50, 50];
    truth.textContent = state.mode === "Error" ? `Difference from ${state.against === "Truth" ? "the truth" : state.against}` : state.against;
    avatar.textContent = state.against === "Truth" && state.avatars.length < 2 ? "Avatar" : state.subject;
    truth.style.left = `${at[0]}%`;
    avatar.style.left = `${at[1]}%`;
    avatar.style.display = at[1] < 0 ? "none" : "";
  }

  function tick() {
    const time = now(), total = length();
    if (!total) return;
    const here = sequenceAt(time);
    const local = Math.floor(time) - here.start;
    when.textContent = `${(local / state.fps).toFixed(2)} s · frame ${local} / ${here.stop - here.start - 1}`;
    line.setAttribute("aria-valuenow", String(Math.floor(time)));
    line.setAttribute("aria-valuetext", `${here.name}, frame ${local}`);
    paint(time, total);
  }

  function paint(time, total) {
    const ratio = window.devicePixelRatio || 1, w = line.clientWidth, h = line.clientHeight;
    const shown = [Math.floor(time), total, w, h, ratio, state.bounds, state.curve ? state.curve.length - state.curve.indexOf(null) : 0, state.camera].join();
    if (shown === drawn) return;
    drawn = shown;
    if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
      canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
    }
    const g = canvas.getContext("2d"), x = (frame) => (frame / total) * w;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    g.font = "11px system-ui, sans-serif";
    state.sequences.forEach((s, i) => {
      g.fillStyle = i % 2 ? "#2a2f36" : "#252a31";
      g.fillRect(x(s.start), 0, x(s.stop) - x(s.start) - 1, h);
    });
    const [a, b] = state.bounds;
    g.fillStyle = "#4a90e233";
    g.fillRect(x(a), 0, x(b) - x(a) - 1, h);
    g.fillStyle = "#4a90e2";
    g.fillRect(x(a), h - 2, x(b) - x(a) - 1, 2);
    if (state.curve) {
      const values = state.curve.filter((v) => v != null), low = Math.min(...values) - 0.5, high = Math.max(...values) + 0.5;
      g.strokeStyle = "#e0a458"; g.lineWidth = 1.250; g.beginPath();
      let pen = false;
      state.curve.forEach((v, f) => {
        if (v == null) { pen = false; return; }
        const px = x(f + 0.5), py = h - 4 - ((v - low) / (high - low)) * (h - 8);
        pen ? g.lineTo(px, py) : g.moveTo(px, py);
        pen = true;
      });
      g.stroke();
    }
    g.fillStyle = "#aeb6c1";
    state.sequences.forEach((s) => {
      if (x(s.stop) - x(s.start) > 26) { g.save(); g.beginPath(); g.rect(x(s.start), 0, x(s.stop) - x(s.start) - 4, h); g.clip(); g.fillText(s.name, x(s.start) + 6, 13); g.restore(); }
    });
    g.fillStyle = "#fff";
    g.fillRect(x(Math.floor(time) + 0.5) - 1, 0, 2, h);
  }

  // Sound follows what is on the screen, not the server's clock, which pictures reach some time later: small drifts are
  // corrected by the rate, large ones by a jump. `behind`: seconds between the two, learnt from the pictures that came --
  let jumped = 0, lead = 0.08, behind = 0.05, habit = 0;
  function saw(frame) {
    if (!state.playing || !state.fps) return;
    const late = (now() - frame) / (state.fps * state.speed);
    if (Math.abs(late) < 0.6) behind += 0.08 * (late - behind); // farther off: a loop, or a jump of the playhead
  }
  function hear() {
    const time = Math.max(now() - behind * state.fps * state.speed, state.bounds[0]), here = length() ? sequenceAt(time) : null;
    const wanted = here && here.sound && state.playing && state.speed >= 0.25 && state.speed <= 4;
    if (!wanted) { if (!audio.paused) audio.pause(); return; }
    const source = `/sound/${key}/${state.sequences.indexOf(here)}`;
    if (audio.dataset.source !== source) { audio.dataset.source = source; audio.src = source; }
    const target = (time - here.start) / state.fps;
    if (audio.duration && target >= audio.duration) { if (!audio.paused) audio.pause(); return; }
    const drift = audio.currentTime - target, since = performance.now() - jumped;
    audio.dataset.drift = drift.toFixed(4);
    if (audio.paused || (Math.abs(drift) > 0.06 && since > 350)) {
      // Starting takes a browser a while; what it took last time is given as a lead.
      if (!audio.paused && since < 1500) lead = Math.max(0, Math.min(0.4, lead - drift));
      jumped = performance.now();
      audio.currentTime = Math.max(target + lead, 0);
      audio.playbackRate = state.speed;
      if (audio.paused) audio.play().catch(() => {});
    } else {
      // Proportional and integral: a sound card's clock is a little off for ever. Small changes are left out, each costs a browser something.
      habit = Math.max(-0.03, Math.min(0.03, habit + 0.012 * drift));
      const rate = state.speed * (1 - Math.max(-0.1, Math.min(0.1, 0.8 * drift + habit)));
      if (Math.abs(rate - audio.playbackRate) > 0.004 * state.speed) audio.playbackRate = rate;
    }
  }

  // The microphone, when the panel asks for it: pieces of 40 ms, 16-bit mono at 16 kHz, over the socket -----------------
  const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
    constructor() { super(); this.held = new Int16Array(640); this.count = 0; }
    process(inputs) {
      for (const v of inputs[0][0] || []) {
        this.held[this.count++] = Math.max(-1, Math.min(1, v)) * 32767;
        if (this.count === 640) { this.port.postMessage(this.held.slice()); this.count = 0; }
      }
      return true;
    }
  });`;
  let ear = null; // { stream, context } while it is open or being opened
  async function listen() {
    if (!state.microphone) {
      const old = ear;
      ear = null;
      if (old && old.stream) old.stream.getTracks().forEach((track) => track.stop());
      if (old && old.context) old.context.close();
      return;
    }
    if (ear) return;
    const own = (ear = {});
    try {
      if (!navigator.mediaDevices) throw new Error("it gives one only to pages of this machine (localhost) or over https");
      own.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false } });
      own.context = new AudioContext({ sampleRate: 16000 });
      const code = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
      await own.context.audioWorklet.addModule(code);
      URL.revokeObjectURL(code);
      const tap = new AudioWorkletNode(own.context, "tap", { numberOfOutputs: 0 });
      tap.port.onmessage = (e) => ear === own && socket && socket.readyState === WebSocket.OPEN && socket.bufferedAmount < 64000 && socket.send(e.data.buffer);
      own.context.createMediaStreamSource(own.stream).connect(tap);
      await own.context.resume();
      if (ear !== own) { own.stream.getTracks().forEach((track) => track.stop()); own.context.close(); }
    } catch (error) {
      if (ear === own) { ear = null; send("microphone", String(error.message || error).slice(0, 150)); }
    }
  }

  // Pictures: drawn in the order of their numbers, then acknowledged, which is what lets the next one leave ----------
  let newest = -1;
  function arrived() {
    if (painted) return;
    painted = true;
    setTimeout(() => wait.classList.add("gone"), 150);
    setTimeout(() => wait.remove(), 500);
  }
  // Who draws is known before viser starts (see viewer/page.py), so that a change loads the page again; the new page goes on
  // where this one was.
  const drawnHere = () => sessionStorage.getItem("av-drawn") || "server";
  let asked = false;
  function drawnBy(who) {
    if (asked && who !== drawnHere()) {
      sessionStorage.setItem("av-drawn", who);
      location.reload();
    }
    if (!asked && drawnHere() !== "server") send("drawn", drawnHere());
    asked = true;
  }
  async function show(own, blob) {
    const head = new DataView(await blob.slice(0, 13).arrayBuffer());
    const number = head.getUint32(0, true), frame = head.getFloat64(4, true), exact = head.getUint8(12) === 0x89; // PNG
    const bitmap = await createImageBitmap(blob.slice(12, blob.size, exact ? "image/png" : "image/jpeg"), { colorSpaceConversion: "none" });
    if (socket !== own || number <= newest) return;
    newest = number;
    paper.transferFromImageBitmap(bitmap);
    requestAnimationFrame(() => saw(frame));
    own.send(JSON.stringify({ do: "shown", value: number }));
    arrived();
  }
  document.addEventListener("visibilitychange", () => send("visible", !document.hidden));

  // Talking to the server -----------------------------------------------------------------------------------------
  function connect(found) {
    key = found;
    newest = -1;
    const own = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/bar/${key}`);
    socket = own;
    own.binaryType = "blob";
    own.onopen = () => {
      const old = sessionStorage.getItem("av-key");
      if (old && old !== key) send("inherit", old);
      sessionStorage.setItem("av-key", key);
      place();
    };
    own.onmessage = (event) => {
      if (socket !== own) return;
      if (event.data instanceof Blob) { show(own, event.data); return; }
      const news = JSON.parse(event.data);
      if (news.refused) { message(news.refused); return; }
      if (scrubbing) delete news.time;
      if ("wipe" in news && wiping) delete news.wipe;
      const light = Object.keys(news).every((k) => ["time", "psnr", "ssim", "mean", "pictures"].includes(k));
      const before = state.playing, ahead = now();
      Object.assign(state, news);
      if ("time" in news || "playing" in news || "speed" in news) {
        // Small corrections are blended in, so that the playhead and the sound do not jitter with the network.
        const late = before && state.playing && Math.abs(news.time - ahead) < 0.15 * state.fps;
        clock = { time: late ? ahead + 0.1 * (news.time - ahead) : state.time, at: performance.now() };
      }
      if ("microphone" in news) listen();
      if ("drawn" in news) drawnBy(news.drawn);
      if (state.browser) arrived();
      picture.style.visibility = state.browser ? "hidden" : "";
      document.body.classList.toggle("av-draws", !!state.browser);
      light && state.modes ? (tick(), ("psnr" in news || "mean" in news) && figures()) : draw();
    };
    own.onclose = () => { if (socket === own) { socket = null; audio.pause(); message("The viewer has stopped or the connection was lost.", "error"); } };
  }
  let collapsed = false;
  const look = () => {
    const marker = document.getElementById("session");
    if (marker && marker.dataset.key !== key) connect(marker.dataset.key);
    // viser warns that WebGL runs in software; here it only shows pictures that the server has drawn.
    for (const toast of document.querySelectorAll(".mantine-Notification-root:not([data-seen])")) {
      if (toast.textContent.includes("WebGL is running in software")) toast.style.display = "none";
      else if (!/^(Received|Uploading|Downloading)/.test(toast.textContent)) continue;
      toast.dataset.seen = "1"; // finished transfers would stay until they are clicked away
      setTimeout(() => toast.querySelector("button")?.click(), 6000);
    }
    // On a phone viser's sheet would hide half of the face: it starts closed.
    const sheet = collapsed ? null : document.querySelector('#root [style*="min-height: 3.5em"] [style*="cursor: pointer"]');
    if (sheet) { collapsed = true; sheet.click(); }
    const found = document.querySelector("#root canvas[data-engine]") || document.querySelector("#root canvas");
    if (found && found !== stage) { stage = found; stage.parentElement.append(picture); new ResizeObserver(place).observe(stage); place(); }
  };
  new MutationObserver(look).observe(document.documentElement, { childList: true, subtree: true });

  // Pointer and keys ----------------------------------------------------------------------------------------------
  const frameAt = (event) => {
    const box = line.getBoundingClientRect();
    return Math.max(0, Math.min(length() - 1, Math.floor(((event.clientX - box.left) / box.width) * length())));
  };
  const scrub = (event) => { const frame = frameAt(event); if (frame !== Math.floor(state.time) || !scrubbing) { state.time = frame; clock = { time: frame, at: performance.now() }; send("seek", frame); tick(); } };
  let resume = false;
  line.addEventListener("pointerdown", (e) => { line.setPointerCapture(e.pointerId); resume = !!state.playing; if (resume) send("pause"); scrub(e); scrubbing = true; });
  line.addEventListener("pointermove", (e) => {
    if (scrubbing) scrub(e);
    if (!length()) return;
    const frame = frameAt(e), s = sequenceAt(frame), value = state.curve && state.curve[frame];
    tip.textContent = `${s.name} · frame ${frame - s.start}${value != null ? ` · ${value.toFixed(1)} dB` : ""}`;
    Object.assign(tip.style, { display: "block", left: `${Math.max(70, Math.min(innerWidth - 70, e.clientX))}px` });
  });
  const release = () => { if (scrubbing) { scrubbing = false; if (resume) send("play"); } };
  line.addEventListener("pointerup", release);
  line.addEventListener("pointercancel", release);
  line.addEventListener("pointerleave", () => (tip.style.display = "none"));
  let wiping = false;
  const drag = (e) => { const box = over.getBoundingClientRect(); state.wipe = Math.max(0, Math.min(1, (e.clientX - box.left) / box.width)); send("wipe", state.wipe); place(); };
  wipe.addEventListener("pointerdown", (e) => { wiping = true; wipe.setPointerCapture(e.pointerId); drag(e); });
  wipe.addEventListener("pointermove", (e) => wiping && drag(e));
  wipe.addEventListener("pointerup", () => (wiping = false));
  wipe.addEventListener("pointercancel", () => (wiping = false));

  const BINDINGS = {
    " ": () => send("toggle"), ArrowLeft: (e) => send("step", e.shiftKey ? -10 : -1), ArrowRight: (e) => send("step", e.shiftKey ? 10 : 1),
    Home: () => send("home"), End: () => send("end"), l: () => send("loop"), i: () => send("in"), o: () => send("out"), f: () => send("look", "Front"), c: () => document.dispatchEvent(new Event("av-cameras")), k: () => send("key"),
    v: () => send("camera", 1), V: () => send("camera", -1), z: () => send("undo"), Z: () => send("redo"), r: () => send("release"),
    p: () => send("snapshot"), m: () => sound.click(), "?": () => keys.classList.toggle("open"), Escape: () => keys.classList.remove("open"),
  };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const focus = e.target instanceof Element ? e.target : document.body;
    if (focus.closest("input, textarea, select, [contenteditable], .mantine-Slider-root, [role=listbox]")) return;
    if (e.key === " " && focus.closest("button")) return;
    const mode = /^[1-9]$/.test(e.key) ? state.modes[Number(e.key) - 1] : null;
    const action = mode ? () => send("mode", mode) : BINDINGS[e.key] || BINDINGS[e.key.length === 1 && !e.shiftKey ? e.key.toLowerCase() : e.key];
    if (!action) return;
    e.preventDefault();
    e.stopImmediatePropagation();
    action(e);
  }, true);

  const start = () => {
    document.body.append(shell);
    addEventListener("resize", () => { place(); tick(); });
    const frame = () => { if (state.playing) tick(); hear(); };
    setInterval(frame, 40);
    look();
  };
  document.body ? start() : addEventListener("DOMContentLoaded", start);
})();
