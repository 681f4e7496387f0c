/* The camera: orbits, shifts and zooms about the head; OpenCV axes, world → camera as three rows of four. */

const FIELD = 24 * Math.PI / 180; // vertical field of view
const VIEWS = { Front: [0, 4], "¾": [38, 6], Side: [88, 4] }; // degrees round to the subject's left, and upwards

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const along = (a, s, b) => [a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2]];
const unit = (a) => { const n = Math.hypot(...a); return a.map((v) => v / n); };

class Orbit {
  /* place: {centre, up, forward, radius} of the head at rest; changed() is called when the camera moved */
  constructor(place, changed) {
    this.place = place;
    this.up = unit(place.up);
    this.forward = unit(along(place.forward, -dot(place.forward, this.up), this.up));
    this.left = cross(this.up, this.forward);
    this.changed = changed;
    this.look("Front");
  }

  look(name) {
    [this.around, this.above] = VIEWS[name].map((d) => d * Math.PI / 180);
    this.nearness = 1;
    this.target = [...this.place.centre];
    this.changed();
  }

  /* {view, lens} for a canvas of that size; the whole head fits at nearness 1, upright or not. */
  on(width, height) {
    const narrow = Math.min(FIELD, 2 * Math.atan(Math.tan(FIELD / 2) * width / height));
    const distance = this.place.radius / Math.sin(narrow / 2) / this.nearness;
    const [ca, sa, ch, sh] = [Math.cos(this.around), Math.sin(this.around), Math.cos(this.above), Math.sin(this.above)];
    const out = along(along(this.forward.map((v) => v * ca * ch), sa * ch, this.left), sh, this.up);
    const z = out.map((v) => -v), x = unit(cross(z, this.up)), y = cross(z, x);
    const eye = along(this.target, distance, out);
    const focal = height / 2 / Math.tan(FIELD / 2);
    this.metresPerPixel = distance / focal;
    this.axes = [x, y];
    return { view: [x, y, z].flatMap((axis) => [...axis, -dot(axis, eye)]), lens: [focal, focal, width / 2, height / 2] };
  }

  turn(dx, dy) {
    this.around -= dx;
    this.above = Math.min(Math.max(this.above + dy, -1.4), 1.4);
    this.changed();
  }

  zoom(factor) {
    this.nearness = Math.min(Math.max(this.nearness * factor, 0.3), 12);
    this.changed();
  }

  /* Pixels of the page. */
  shift(dx, dy, pixelRatio) {
    const s = -this.metresPerPixel * pixelRatio;
    this.target = along(along(this.target, s * dx, this.axes[0]), s * dy, this.axes[1]);
    this.changed();
  }

  /* Drag to turn, right button or two fingers to shift, wheel or pinch to zoom, double click to come back. */
  listen(element, ratio) {
    const fingers = new Map();
    const spread = () => { const [a, b] = [...fingers.values()]; return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, gap: Math.hypot(a.x - b.x, a.y - b.y) }; };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    });
    element.addEventListener("pointermove", (event) => {
      const finger = fingers.get(event.pointerId);
      if (!finger) return;
      const before = fingers.size === 2 ? spread() : null, dx = event.clientX - finger.x, dy = event.clientY - finger.y;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (before) {
        const after = spread();
        this.zoom(after.gap / Math.max(before.gap, 1));
        this.shift(after.x - before.x, after.y - before.y, ratio());
      } else if (event.buttons & 2 || event.shiftKey) this.shift(dx, dy, ratio());
      else this.turn(dx * 0.008, dy * 0.006);
    });
    for (const kind of ["pointerup", "pointercancel"]) element.addEventListener(kind, (event) => fingers.delete(event.pointerId));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("wheel", (event) => { event.preventDefault(); this.zoom(Math.exp(-event.deltaY * 0.0012)); }, { passive: false });
    element.addEventListener("dblclick", () => this.look("Front"));
    element.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
      if (step) this.turn(...step);
      else if (event.key === "+" || event.key === "=") this.zoom(1.15);
      else if (event.key === "-") this.zoom(1 / 1.15);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }
}
