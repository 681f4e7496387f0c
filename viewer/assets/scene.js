// What lies over the stage beside the bar: legends of layers, the cameras of the capture, and the pointer among them.
// Uses what stage.js shares: its state, `send`, `make` and the element over the stage. Everything is shown as text.
(() => {
  "use strict";
  const { state, send, make, over, key, message } = window.avatarViewer;

  // Legends -------------------------------------------------------------------------------------------------------
  const legend = make("div", { id: "av-legend" });
  function drawLegend() {
    const now = state.legend;
    legend.style.display = now ? "" : "none";
    if (!now || legend.dataset.shown === JSON.stringify(now)) return;
    legend.dataset.shown = JSON.stringify(now);
    const strip = make("i");
    strip.style.background = `linear-gradient(90deg, ${now.colors.join(", ")})`;
    legend.replaceChildren(make("b", {}, now.title), strip, make("span", {}, now.low), make("span", {}, now.high));
  }

  // The cameras of the capture ------------------------------------------------------------------------------------
  const open = make("button", { id: "av-cameras-open", title: "Cameras of the capture (C)", "aria-label": "Cameras of the capture", onclick: (e) => { toggle(); e.currentTarget.blur(); } }, "Cameras");
  const scene = make("input", { type: "checkbox", id: "av-cameras-scene", onchange: (e) => { send("cameras", e.target.checked); if (e.target.checked) close(); } });
  const tiles = make("div", { class: "tiles" });
  const cameras = make("div", { id: "av-cameras", role: "dialog", "aria-label": "Cameras of the capture" },
    make("header", {}, make("b", {}, "Cameras of the capture"), make("label", { for: "av-cameras-scene" }, scene, "Show them around the head"),
      make("button", { class: "close", title: "Close", "aria-label": "Close", onclick: () => close() }, "×")), tiles);
  const close = () => cameras.classList.remove("open");
  function toggle() {
    if (!cameras.classList.toggle("open")) return;
    const frame = Math.floor(state.time);
    tiles.replaceChildren(...state.cameras.map((name, i) => {
      const picture = make("img", { alt: "", loading: "lazy", src: `/camera/${key()}/${i}/${frame}` });
      picture.addEventListener("error", () => picture.remove());
      const unseen = (state.unseen || []).includes(name);
      const tile = make("button", { class: "tile", title: `Look through ${name}`, onclick: () => { send("through", name); close(); } },
        make("span", { class: "picture" }, picture), make("span", { class: "name" }, name), ...(unseen ? [make("span", { class: "unseen" }, "held out")] : []));
      tile.dataset.name = name;
      return tile;
    }));
    mark();
    (tiles.querySelector("[aria-current=true]") || tiles.firstElementChild)?.focus();
  }
  function mark() {
    for (const tile of tiles.children) tile.setAttribute("aria-current", String(tile.dataset.name === state.camera));
  }
  document.addEventListener("av-cameras", () => (state.cameras || []).length && toggle());
  addEventListener("keydown", (e) => { if (e.key === "Escape") close(); }, true); // on the window: before the bar's keys

  // Pointing at a camera in the scene: a click that is no drag goes there -------------------------------------------
  let down = null, told = 0;
  const among = (event) => state.frustums && !state.camera && event.target instanceof HTMLCanvasElement && event.target.closest("#root");
  const where = (event) => {
    const box = event.target.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };
  document.addEventListener("pointerdown", (e) => { down = among(e) ? [e.clientX, e.clientY] : null; }, true);
  document.addEventListener("pointerup", (e) => {
    if (down && among(e) && Math.hypot(e.clientX - down[0], e.clientY - down[1]) < 4) send("pick", where(e));
    down = null;
  }, true);
  document.addEventListener("pointermove", (e) => {
    if (!among(e) || e.buttons || performance.now() - told < 60) return;
    told = performance.now();
    send("point", where(e));
  }, true);

  // How far the avatar is from the truth, by region; a row chooses whose curve the timeline shows ----------------------
  const figures = make("table", { id: "av-figures" });
  function drawFigures() {
    const { psnr, ssim, mean, regions, region } = state;
    const shown = !!psnr && (regions || []).some((name) => psnr[name] != null);
    figures.style.display = shown ? "" : "none";
    if (!shown) return;
    const number = (value, digits) => make("td", {}, value == null ? "–" : value.toFixed(digits));
    const rows = regions.map((name) => {
      const button = make("button", { title: `Show the curve of the ${name}`, onclick: (e) => { send("region", name); e.currentTarget.blur(); } }, name[0].toUpperCase() + name.slice(1));
      button.setAttribute("aria-pressed", String(name === region));
      return make("tr", {}, make("th", { scope: "row" }, button), number(psnr[name], 1), number(ssim && ssim[name], 3), number(mean && mean[name], 1));
    });
    figures.replaceChildren(
      make("caption", {}, `${state.avatars.length > 1 ? state.subject : "Avatar"} against the truth`),
      make("tr", {}, make("th", {}), ...[["PSNR, dB", "This frame"], ["SSIM", "This frame"], ["Range, dB", "Mean PSNR of the frames that play"]].map(([text, title]) => make("th", { title }, text))), ...rows);
  }

  // Several avatars: which of them is shown ------------------------------------------------------------------------
  const subject = make("select", { id: "av-subject", title: "Show", "aria-label": "Show", onchange: (e) => { send("subject", e.target.value); e.target.blur(); } });
  function drawSubject() {
    const avatars = state.avatars || [];
    subject.style.display = avatars.length > 1 ? "" : "none";
    if (subject.dataset.shown !== JSON.stringify(avatars)) {
      subject.dataset.shown = JSON.stringify(avatars);
      subject.replaceChildren(...avatars.map((name) => make("option", { value: name }, name)));
    }
    if (subject.value !== state.subject) subject.value = state.subject;
  }

  // The clipboard ---------------------------------------------------------------------------------------------------
  let copied = 0;
  const typing = () => document.activeElement && document.activeElement.closest("input, textarea, [contenteditable]");
  addEventListener("copy", (e) => {
    if (typing() || !getSelection().isCollapsed) return;
    e.preventDefault();
    send("copy");
  });
  addEventListener("paste", (e) => {
    const text = e.clipboardData && e.clipboardData.getData("text/plain");
    if (typing() || !text) return;
    e.preventDefault();
    send("paste", text);
  });
  async function take() {
    const [number, text] = state.copied || [0, ""];
    if (number === copied) return;
    copied = number;
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no permission, or not a secure page: the old way
      const box = make("textarea", { style: "position: fixed; opacity: 0" });
      box.value = text;
      document.body.append(box);
      box.select();
      const done = document.execCommand("copy");
      box.remove();
      if (!done) { message("The browser did not let the expression be copied. Save it as a file.", "error"); return; }
    }
    message("The expression was copied.");
  }

  function draw() {
    drawLegend();
    drawFigures();
    drawSubject();
    take();
    open.style.display = (state.cameras || []).length ? "" : "none";
    scene.checked = !!state.frustums;
    mark();
    document.documentElement.classList.toggle("av-pointing", !!(state.frustums && !state.camera && state.pointed));
  }
  const start = () => {
    document.getElementById("av-top").prepend(subject);
    document.getElementById("av-top").append(open);
    over.append(legend, figures, cameras);
    draw();
  };
  document.addEventListener("av-state", draw);
  document.addEventListener("av-figures", drawFigures);
  document.body ? start() : addEventListener("DOMContentLoaded", start);
})();
