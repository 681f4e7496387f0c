/* The expression desk: a held weight replaces the recorded one; what is not held follows the recording. */

const NECK_SHARE = 0.4; // of a turn of the head is done by the neck
const ANGLES = [ // name, most degrees, what its ends are
  ["turn", 60, "Turn", "right", "left"], ["nod", 40, "Nod", "up", "down"], ["tilt", 40, "Tilt", "right", "left"],
  ["side", 30, "Gaze", "right", "left"], ["up", 25, "Gaze", "down", "up"],
];

function made(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties, element = Object.assign(document.createElement(tag), rest);
  if (dataset) Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

class Desk {
  constructor(facts, changed) {
    this.facts = facts;
    this.changed = changed;
    this.held = new Map();
    this.angles = Object.fromEntries(ANGLES.map(([name]) => [name, 0]));
    this.symmetric = true;
    this.rows = new Map();
  }

  /* Hold one expression, and its counterpart when both sides move together. */
  hold(name, weight) {
    this.held.set(name, weight);
    const other = this.facts.counterparts[name];
    if (this.symmetric && other) this.held.set(other, weight);
    this.changed();
  }

  release(name) {
    for (const each of [name, this.symmetric ? this.facts.counterparts[name] : null]) this.held.delete(each);
    this.changed();
  }

  apply(weights) {
    this.held = new Map(this.facts.expressions.map((name) => [name, weights[name] ?? 0]));
    this.changed();
  }

  reset() {
    this.held.clear();
    for (const name of Object.keys(this.angles)) this.angles[name] = 0;
    this.changed();
  }

  /* The recorded pose with what is held, and head and eyes turned on top of it. */
  onto(pose) {
    const { facts, angles } = this;
    for (const [name, weight] of this.held) pose.expression[facts.expressions.indexOf(name)] = weight;
    const [turn, nod, tilt, side, up] = ANGLES.map(([name]) => angles[name] * Math.PI / 180), rest = 1 - NECK_SHARE;
    for (const [joint, by] of [
      ["neck", [NECK_SHARE * nod, NECK_SHARE * turn, -NECK_SHARE * tilt]], ["head", [rest * nod, rest * turn, -rest * tilt]],
      ["eye_left", [-up, side, 0]], ["eye_right", [-up, side, 0]],
    ]) {
      const at = 3 * facts.joints.indexOf(joint);
      if (at < 0 || !by.some((v) => v)) continue;
      const result = turned([pose.joints[at], pose.joints[at + 1], pose.joints[at + 2]], by);
      for (let a = 0; a < 3; a++) pose.joints[at + a] = result[a];
    }
    return pose;
  }

  /* Sliders, presets and search into the elements that page.html has for them. */
  build(faces, presets, head, search) {
    for (const [name, weights] of this.facts.presets) {
      const [kind, short] = name.startsWith("Viseme ") ? ["Visemes", name.slice(7)] : ["Moods", name];
      let group = [...presets.children].find((each) => each.dataset.kind === kind);
      if (!group) presets.append(group = made("div", { className: "chips", dataset: { kind } }, made("span", { textContent: kind })));
      group.append(made("button", { type: "button", className: "chip", textContent: short, title: name, onclick: () => this.apply(weights) }));
    }
    for (const [region, names] of this.facts.regions) {
      const open = region === "Mouth" || region === "Jaw";
      const group = made("details", { open, className: "region" }, made("summary", {}, region, made("span", { className: "count", textContent: names.length })));
      for (const name of names) group.append(this.#row(name));
      faces.append(group);
    }
    for (const [name, most, title, low, high] of ANGLES) head.append(this.#angle(name, most, `${title} ${low}–${high}`));
    search.addEventListener("input", () => this.#find(search.value, faces));
  }

  #row(name) {
    const span = this.facts.spans?.[this.facts.expressions.indexOf(name)];
    const input = made("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0, id: `e-${name}` });
    const value = made("output", { textContent: "0.00" });
    const free = made("button", { type: "button", className: "free", title: "Follow the recording again", textContent: "×", onclick: () => this.release(name) });
    free.setAttribute("aria-label", `Release ${name}`);
    input.addEventListener("input", () => this.hold(name, Number(input.value)));
    input.addEventListener("dblclick", () => this.release(name));
    if (span) {
      input.style.setProperty("--low", `${100 * Math.min(Math.max(span[0], 0), 1)}%`);
      input.style.setProperty("--high", `${100 * Math.min(Math.max(span[1], 0), 1)}%`);
    }
    const row = made("div", { className: "row", dataset: { name } }, made("label", { htmlFor: input.id, textContent: name }), input, value, free);
    this.rows.set(name, { row, input, value, span });
    return row;
  }

  #angle(name, most, title) {
    const input = made("input", { type: "range", min: -most, max: most, step: 0.5, value: 0, id: `a-${name}` });
    const value = made("output", { textContent: "0°" });
    input.addEventListener("input", () => { this.angles[name] = Number(input.value); this.changed(); });
    input.addEventListener("dblclick", () => { this.angles[name] = 0; this.changed(); });
    this.rows.set(`angle ${name}`, { input, value });
    return made("div", { className: "row" }, made("label", { htmlFor: input.id, textContent: title }), input, value);
  }

  #find(query, faces) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const group of faces.querySelectorAll(".region")) {
      let any = false;
      for (const row of group.querySelectorAll(".row")) {
        const name = row.dataset.name, plain = `${name.replace(/[A-Z]/g, (c) => ` ${c}`)} ${name}`.toLowerCase();
        row.hidden = !words.every((word) => plain.includes(word));
        any ||= !row.hidden;
        found += !row.hidden;
      }
      group.hidden = !any;
      group.classList.toggle("searched", words.length > 0);
      if (words.length && any) group.open = true;
    }
    faces.classList.toggle("empty", found === 0);
  }

  /* What the sliders show: the pose as it is drawn. */
  show(pose) {
    this.facts.expressions.forEach((name, i) => {
      const { row, input, value, span } = this.rows.get(name), weight = pose.expression[i], held = this.held.has(name);
      const text = weight.toFixed(2).replace("-0.00", "0.00"), beyond = Boolean(span) && (weight < span[0] - 0.005 || weight > span[1] + 0.005);
      if (value.textContent === text && row.classList.contains("held") === held) return;
      if (Number(input.value) !== weight) input.value = weight;
      value.textContent = text;
      row.classList.toggle("held", held);
      row.classList.toggle("beyond", beyond);
      value.title = beyond ? `the recording went from ${span[0].toFixed(2)} to ${span[1].toFixed(2)}: beyond, the face is extrapolated` : "";
    });
    for (const [name] of ANGLES) {
      const { input, value } = this.rows.get(`angle ${name}`), angle = this.angles[name];
      if (Number(input.value) !== angle) input.value = angle;
      value.textContent = `${angle}°`;
    }
  }
}
