// What every figure that reacts is made of: controls, drawings, the book's colors, one life cycle.
// A figure is a file beside this one with pure functions and `render({ data, ui })`; Python
// (diffbook/show/reactive.py) puts both, the data and a still picture into one piece of HTML.

// ---------------------------------------------------------------- colors (as in show/style.py)

export const COLORS = {
  transformer: "#D55E00",
  diff: "#0072B2",
  signal: "#009E73",
  noise: "#8A8A8A",
  map1: "#56B4E9",
  map2: "#E69F00",
  neutral: "#444444",
  accent: "#CC79A7",
};

// The anchors of matplotlib's RdBu and Blues.
const DIVERGING = "67001f b2182b d6604d f4a582 fddbc7 f7f7f7 d1e5f0 92c5de 4393c3 2166ac 053061";
const SEQUENTIAL = "f7fbff deebf7 c6dbef 9ecae1 6baed6 4292c6 2171b5 08519c 08306b";

function colorTable(anchors) {
  const points = anchors
    .split(" ")
    .map((hex) => [0, 2, 4].map((at) => Number.parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: 256 }, (_, index) => {
    const place = (index / 255) * (points.length - 1);
    const left = Math.min(Math.floor(place), points.length - 2);
    return points[left].map((low, i) => low + (place - left) * (points[left + 1][i] - low));
  });
}
const TABLES = { signed: colorTable(DIVERGING), plain: colorTable(SEQUENTIAL) };

/** The book's color [red, green, blue] of an attention weight, each 0 to 255. Signed maps run from
 * -top (red) over 0 (no color) to top (blue), the others from 0 to top. */
export function heatColor(value, top = 1, signed = false) {
  const share = signed ? (value / top + 1) / 2 : value / top;
  const index = Math.max(0, Math.min(255, Math.floor(share * 256)));
  return TABLES[signed ? "signed" : "plain"][index].map(Math.round);
}

// ---------------------------------------------------------------- numbers and text

/** A number with so many digits behind the point and a true minus sign. */
export function fixed(value, digits = 2) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : value < 0 ? "−∞" : "undefined";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}
export const percent = (share, digits = 0) => `${fixed(100 * share, digits)} %`;
export const decibel = (value, digits = 1) => `${value > 0 ? "+" : ""}${fixed(value, digits)} dB`;
/** A whole number with commas: 131,072. */
export const grouped = (value) => String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, ",");

export function escaped(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return String(text).replace(/[&<>"]/g, (sign) => names[sign]);
}

/** Bytes of a base64 text (what Python's `bytes` become in the data). */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
}

/** A source of numbers between 0 and 1 that gives the same ones for the same seed everywhere. */
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0; // mulberry32
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}

/** The same for standard normal numbers. */
export function normals(seed) {
  const draw = uniforms(seed);
  return () => Math.sqrt(-2 * Math.log(draw())) * Math.cos(2 * Math.PI * draw());
}

// ---------------------------------------------------------------- line and bar drawings (SVG)

function niceTicks(min, max, count) {
  const base = 10 ** Math.floor(Math.log10((max - min) / count));
  const steps = [0.5, 1, 2, 5, 10].map((factor) => factor * base);
  const at = (step) => {
    const [first, last] = [Math.ceil(min / step - 1e-9), Math.floor(max / step + 1e-9)];
    const places = Array.from({ length: last - first + 1 }, (_, i) => first + i);
    return places.map((place) => Number((place * step).toPrecision(12)));
  };
  // About `count` ticks; one size finer where that would leave an axis with only one or two.
  const fits = steps.findIndex((step) => (max - min) / step <= count * 1.001);
  return at(at(steps[fits]).length < 3 ? steps[fits - 1] : steps[fits]);
}

function logTicks(min, max, count) {
  const low = Math.ceil(Math.log10(min) - 1e-9);
  const high = Math.floor(Math.log10(max) + 1e-9);
  const every = Math.max(1, Math.ceil((high - low + 1) / count));
  const ticks = [];
  for (let power = low; power <= high; power += every) ticks.push(10 ** power);
  return ticks;
}

const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const powerOfTen = (value) => {
  const power = Math.round(Math.log10(value));
  const digits = String(Math.abs(power)).replace(/\d/g, (digit) => SUPERSCRIPT[digit]);
  return `10${power < 0 ? "⁻" : ""}${digits}`;
};

/** Ticks of an axis with their texts: [[value, text], …]. */
function tickTexts(axis, count) {
  if (axis.ticks === false) return [];
  const ticks = axis.ticks ?? (axis.log ? logTicks : niceTicks)(axis.min, axis.max, count);
  const round = (tick, digits) => Math.abs(tick - Number(tick.toFixed(digits))) < 1e-9;
  let digits = 0;
  while (digits < 6 && !ticks.every((tick) => round(tick, digits))) digits += 1;
  const format = axis.format ?? (axis.log ? powerOfTen : (tick) => fixed(tick, digits));
  return ticks.map((tick) => [tick, format(tick)]);
}

/** Data to pixels; `.invert` the other way. */
function axisScale(axis, from, to) {
  const place = axis.log ? Math.log10 : Number;
  const low = place(axis.min);
  const span = place(axis.max) - low;
  const forward = (value) => from + ((place(value) - low) / span) * (to - from);
  forward.invert = (pixel) => {
    const at = low + ((pixel - from) / (to - from)) * span;
    return axis.log ? 10 ** at : at;
  };
  return forward;
}

/** Axes and marks in data coordinates. `begin` clears and draws the frame, then come the marks,
 * `end` puts all of it on the page with its description. */
export class Plot {
  constructor(parent, { height = 240, label = "" } = {}) {
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("class", "drawing");
    this.height = height;
    this.parent = parent;
    this.end(label);
    parent.append(this.svg);
  }

  /** Axes: { min, max, log, label, ticks: [numbers] or false, format: number -> text }. */
  begin({ x, y, title = "", margin = {} }) {
    this.width = Math.max(160, this.parent.clientWidth || 640);
    this.parts = [];
    // Text is about 7 pixels a letter: the margins leave room for it.
    const yTicks = tickTexts(y, Math.max(2, Math.floor((this.height - 60) / 42)));
    const xTicks = tickTexts(x, Math.max(2, Math.floor((this.width - 60) / 80)));
    const widest = Math.max(0, ...yTicks.map(([, text]) => text.length));
    const m = {
      top: title ? 30 : 10,
      right: Math.max(12, 3.6 * (xTicks.at(-1)?.[1].length ?? 0) + 4),
      bottom: (x.label ? 26 : 8) + (xTicks.length ? 18 : 4),
      left: Math.max(12, 7.4 * widest + 11 + (y.label ? 20 : 0)),
      ...margin,
    };
    this.box = { ...m, right: this.width - m.right, bottom: this.height - m.bottom };
    const { left, right, top, bottom } = this.box;
    this.x = axisScale(x, left, right);
    this.y = axisScale(y, bottom, top);
    for (const [tick, text] of xTicks) {
      this._segment(this.x(tick), top, this.x(tick), bottom, "#E3E3E3", 0.8);
      this._label(this.x(tick), bottom + 17, text, "middle");
    }
    for (const [tick, text] of yTicks) {
      this._segment(left, this.y(tick), right, this.y(tick), "#E3E3E3", 0.8);
      this._label(left - 7, this.y(tick) + 4, text, "end");
    }
    this._segment(left, bottom, right, bottom, "#666666", 1);
    this._segment(left, top, left, bottom, "#666666", 1);
    if (x.label) this._label((left + right) / 2, this.height - 6, x.label, "middle");
    if (y.label) {
      this.parts.push(`<text transform="translate(13 ${(top + bottom) / 2}) rotate(-90)"
        text-anchor="middle">${escaped(y.label)}</text>`);
    }
    if (title) this._label(1, 17, title, "start", 'font-weight="650" font-size="14.5"');
    return this;
  }

  _segment(x1, y1, x2, y2, color, width, dash = "") {
    const [a, b, c, d] = [x1, y1, x2, y2].map((at) => at.toFixed(1));
    this.parts.push(`<path d="M${a} ${b}L${c} ${d}" stroke="${color}" stroke-width="${width}"
      stroke-dasharray="${dash}" fill="none"/>`);
  }

  _label(x, y, text, anchor, more = "") {
    this.parts.push(
      `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" text-anchor="${anchor}" ${more}>${escaped(text)}</text>`,
    );
  }

  _path(xs, ys) {
    let pen = "M";
    let path = "";
    for (let i = 0; i < xs.length; i += 1) {
      const px = this.x(xs[i]);
      const py = Math.max(-1e4, Math.min(1e4, this.y(ys[i])));
      if (Number.isFinite(px) && Number.isFinite(py)) {
        path += `${pen}${px.toFixed(1)} ${py.toFixed(1)}`;
        pen = "L";
      } else pen = "M";
    }
    return path;
  }

  /** A line through (xs, ys); `fill` shades down to y = base. What leaves the frame is cut. */
  line(xs, ys, { color = COLORS.diff, width = 2.2, dash = "", fill = 0, base = null } = {}) {
    const { left, right, top, bottom } = this.box;
    const size = [left, top - 3, right + 3 - left, bottom + 6 - top].map((at) => at.toFixed(1));
    const frame = `<svg x="${size[0]}" y="${size[1]}" width="${size[2]}" height="${size[3]}" viewBox="${size.join(" ")}">`;
    const path = this._path(xs, ys);
    if (fill && path) {
      const foot = (base === null ? bottom : this.y(base)).toFixed(1);
      const area = `${path}L${this.x(xs[xs.length - 1]).toFixed(1)} ${foot}L${this.x(xs[0]).toFixed(1)} ${foot}Z`;
      this.parts.push(`${frame}<path d="${area}" fill="${color}" fill-opacity="${fill}"/></svg>`);
    }
    if (width) {
      this.parts.push(`${frame}<path d="${path}" fill="none" stroke="${color}" stroke-width="${width}"
        stroke-dasharray="${dash}" stroke-linejoin="round"/></svg>`);
    }
    return this;
  }

  dots(xs, ys, { color = COLORS.diff, radius = 4.5, hollow = false, opacity = 1 } = {}) {
    xs.forEach((x, i) => {
      const [px, py] = [this.x(x), this.y(ys[i])];
      if (!Number.isFinite(px) || !Number.isFinite(py)) return;
      this.parts.push(`<circle cx="${px.toFixed(1)}" cy="${py.toFixed(1)}" r="${radius}" opacity="${opacity}"
        fill="${hollow ? "#FFFFFF" : color}" stroke="${color}" stroke-width="${hollow ? 2 : 0}"/>`);
    });
    return this;
  }

  /** Upright bars centered on xs, `width` in data units. */
  bars(xs, ys, { color = COLORS.diff, width = 0.8, base = 0 } = {}) {
    xs.forEach((x, i) => {
      const [a, b] = [this.x(x - width / 2), this.x(x + width / 2)];
      const [p, q] = [this.y(ys[i]), this.y(base)];
      const fill = typeof color === "function" ? color(i) : color;
      this.parts.push(`<rect x="${a.toFixed(1)}" y="${Math.min(p, q).toFixed(1)}" width="${Math.max(0.8, b - a).toFixed(1)}"
        height="${Math.abs(p - q).toFixed(1)}" fill="${fill}"/>`);
    });
    return this;
  }

  /** A colored surface over the whole frame: `matrix` has a row for each step of y, from below. */
  surface(matrix, { top = 1, signed = true } = {}) {
    const { left, right, top: head, bottom } = this.box;
    const [w, h] = [(right - left) / matrix[0].length, (bottom - head) / matrix.length];
    matrix.forEach((row, i) => {
      row.forEach((value, j) => {
        const [x, y] = [left + j * w, bottom - (i + 1) * h].map((at) => at.toFixed(2));
        this.parts.push(`<path shape-rendering="crispEdges" d="M${x} ${y}h${(w + 0.3).toFixed(2)}
          v${(h + 0.3).toFixed(2)}h${(-w - 0.3).toFixed(2)}z" fill="rgb(${heatColor(value, top, signed)})"/>`);
      });
    });
    return this;
  }

  vline(x, { color = COLORS.neutral, width = 1.2, dash = "" } = {}) {
    this._segment(this.x(x), this.box.top, this.x(x), this.box.bottom, color, width, dash);
    return this;
  }

  hline(y, { color = COLORS.neutral, width = 1.2, dash = "" } = {}) {
    this._segment(this.box.left, this.y(y), this.box.right, this.y(y), color, width, dash);
    return this;
  }

  /** Text at data coordinates, moved by (dx, dy) pixels; anchor start, middle or end. */
  text(
    x,
    y,
    text,
    { color = COLORS.neutral, anchor = "start", dx = 0, dy = 0, bold = false } = {},
  ) {
    const more = `fill="${color}" ${bold ? 'font-weight="650"' : ""}`;
    this._label(this.x(x) + dx, this.y(y) + dy, text, anchor, more);
    return this;
  }

  /** Put the drawing on the page; `label` is what a blind reader gets. */
  end(label) {
    const width = this.width ?? 640;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    this.svg.setAttribute("height", this.height);
    if (label) this.svg.setAttribute("aria-label", label);
    this.svg.innerHTML = (this.parts ?? []).join("");
    return this;
  }

  /** Call `move(x, y)` in data coordinates where a finger or the mouse drags over the drawing.
   * Give the same thing a labeled control too: a drawing cannot be reached with the keyboard. */
  onDrag(move) {
    const report = (event) => {
      const place = this.svg.getBoundingClientRect();
      move(this.x.invert(event.clientX - place.left), this.y.invert(event.clientY - place.top));
    };
    this.svg.style.touchAction = "pan-y";
    this.svg.style.cursor = "pointer";
    this.svg.addEventListener("pointerdown", (event) => {
      this.svg.setPointerCapture(event.pointerId);
      report(event);
    });
    this.svg.addEventListener("pointermove", (event) => {
      if (event.buttons) report(event);
    });
    return this;
  }
}

// ---------------------------------------------------------------- heat maps (canvas)

/** An attention map: rows are queries, columns are keys, colors as in the book's pictures. */
export class HeatMap {
  constructor(parent, { label = "", maxCell = 44 } = {}) {
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.className = "drawing";
    this.canvas.setAttribute("aria-label", label);
    this.maxCell = maxCell;
    this.parent = parent;
    parent.append(this.canvas);
  }

  /** Draw `matrix` (an array of rows). Options: signed, top (value of the darkest color), rows and
   * columns (labels), title, annotate (write the numbers), mark ([row, column] to frame), label. */
  show(
    matrix,
    {
      signed = null,
      top = null,
      rows = null,
      columns = null,
      title = "",
      annotate = false,
      mark = null,
      label = "",
    } = {},
  ) {
    const [n, m] = [matrix.length, matrix[0].length];
    const flat = matrix.flatMap((row) => Array.from(row));
    const isSigned = signed ?? flat.some((value) => value < 0);
    const high = top ?? (flat.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1);
    const density = window.devicePixelRatio || 1;
    const pen = this.canvas.getContext("2d");
    const font = getComputedStyle(this.parent).fontFamily;
    pen.font = `12px ${font}`;
    const widest = (labels) =>
      labels ? Math.max(...labels.map((text) => pen.measureText(text).width)) : 0;
    const left = rows ? widest(rows) + 8 : 1;
    const head = title ? 24 : 1;
    const full = Math.max(120, this.parent.clientWidth || 300);
    const cell = Math.min(this.maxCell, (full - left - 2) / m);
    const size = cell * m;
    const upright = columns && widest(columns) > cell - 4;
    const foot = columns ? (upright ? widest(columns) + 10 : 20) : 1;
    const [width, height] = [left + size + 1, head + cell * n + foot];
    this.canvas.width = Math.round(width * density);
    this.canvas.height = Math.round(height * density);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
    this.area = { left, top: head, cell, n, m };
    pen.scale(density, density);
    const rgb = (value) => `rgb(${heatColor(value, high, isSigned).join()})`;
    matrix.forEach((row, i) => {
      for (let j = 0; j < m; j += 1) {
        pen.fillStyle = rgb(row[j]);
        pen.fillRect(left + j * cell, head + i * cell, cell + 0.5, cell + 0.5);
      }
    });
    if (annotate && cell >= 22) {
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      pen.font = `${cell >= 30 ? 11 : 9.5}px ${font}`;
      matrix.forEach((row, i) => {
        for (let j = 0; j < m; j += 1) {
          pen.fillStyle = Math.abs(row[j]) > 0.6 * high ? "#FFFFFF" : "#333333";
          const text = fixed(row[j]).replace(/^(−?)0\./, "$1.");
          pen.fillText(text, left + (j + 0.5) * cell, head + (i + 0.5) * cell);
        }
      });
    }
    pen.fillStyle = COLORS.neutral;
    pen.font = `12px ${font}`;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    rows?.forEach((text, i) => {
      pen.fillText(text, left - 6, head + (i + 0.5) * cell);
    });
    columns?.forEach((text, j) => {
      pen.save();
      pen.translate(left + (j + 0.5) * cell, head + n * cell + 6);
      if (upright) pen.rotate(-Math.PI / 2);
      else pen.textAlign = "center";
      pen.fillText(text, 0, upright ? 0 : 6);
      pen.restore();
    });
    if (title) {
      pen.textAlign = "left";
      pen.font = `650 14px ${font}`;
      pen.fillText(title, left, 11);
    }
    pen.strokeStyle = "#666666";
    pen.strokeRect(left, head, size, cell * n);
    if (mark) {
      pen.lineWidth = 3;
      pen.strokeStyle = COLORS.transformer;
      pen.strokeRect(left + mark[1] * cell + 1, head + mark[0] * cell + 1, cell - 2, cell - 2);
    }
    if (label) this.canvas.setAttribute("aria-label", label);
    return this;
  }

  /** [row, column] under a pointer event, or null. */
  cellAt(event) {
    const place = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - place.left - this.area.left) / this.area.cell);
    const row = Math.floor((event.clientY - place.top - this.area.top) / this.area.cell);
    const inside = row >= 0 && row < this.area.n && column >= 0 && column < this.area.m;
    return inside ? [row, column] : null;
  }
}

// ---------------------------------------------------------------- controls and life cycle

const STYLE = `
:host{display:block;margin:.4rem 0 1rem}
.figure{box-sizing:border-box;font:400 15px/1.45 var(--book-sans,system-ui,-apple-system,"Segoe UI",sans-serif);
  --ink:#1d242c;--soft:#55606e;--line:#c6ccd3;--paper:#fff;--tint:#eef5fa;--blue:#00629b;
  color:var(--ink);background:var(--paper);color-scheme:light}
.figure.dark{--ink:#e0e3e7;--soft:#a5aeb9;--line:#444b54;--paper:#121212;--tint:#17222b;--blue:#74bdf2;color-scheme:dark}
.figure *{box-sizing:border-box}
.dark .drawing{filter:invert(.93) hue-rotate(180deg)}
.drawing{display:block;max-width:100%;user-select:none;-webkit-user-select:none}
svg.drawing{width:100%;overflow:visible}
svg text{font-size:13px}
svg text:not([fill]){fill:#444}
.controls{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,205px),1fr));gap:.35rem 1.4rem;margin:.5rem 0;align-items:end}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,var(--least,250px)),1fr));gap:.6rem 1.2rem;align-items:start}
.columns>*{min-width:0}
.control{display:grid;grid-template-columns:1fr auto;align-items:baseline;min-width:0}
.control.wide{grid-column:1/-1}
.control label{font-weight:500}
.control output{font-variant-numeric:tabular-nums;font-weight:650;padding-left:.6rem;white-space:nowrap}
.control input:not([type=checkbox]),.control select{grid-column:1/-1;width:100%;font:inherit;color:inherit;min-height:30px;margin:0}
.control input[type=text],.control select{background:var(--paper);border:1px solid var(--line);border-radius:6px;padding:.2rem .5rem;min-height:34px}
input[type=range]{accent-color:var(--blue);cursor:pointer;touch-action:pan-y}
.control.check{grid-template-columns:auto 1fr;align-items:center;gap:.5rem;min-height:32px}
input[type=checkbox]{width:24px;height:24px;margin:0;accent-color:var(--blue)}
.buttons{display:flex;flex-wrap:wrap;gap:.4rem;margin:.4rem 0}
button{font:inherit;font-weight:550;color:var(--blue);background:var(--paper);border:1px solid var(--line);
  border-radius:999px;padding:.2rem .85rem;min-height:32px;cursor:pointer}
button:hover{background:var(--tint)}
button[aria-pressed=true]{background:var(--blue);border-color:var(--blue);color:var(--paper)}
button:disabled{color:var(--soft);cursor:default}
:focus-visible{outline:3px solid var(--blue);outline-offset:2px;border-radius:4px}
.say{margin:.5rem 0;padding:.45rem .75rem;background:var(--tint);border-left:3px solid var(--blue);border-radius:0 6px 6px 0;
  font-variant-numeric:tabular-nums;white-space:pre-line}
.note{margin:.3rem 0;color:var(--soft);font-size:14px}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
`;

/** Light or dark, as the page around the figure says: the site's theme, JupyterLab, Colab, VS Code,
 * else the system. */
export function isDark() {
  const root = document.documentElement;
  const page = document.body?.dataset ?? {};
  const named = root.dataset.theme ?? root.getAttribute("theme");
  if (named === "dark" || named === "light") return named === "dark";
  if (page.jpThemeLight) return page.jpThemeLight === "false";
  if (page.vscodeThemeKind) return !page.vscodeThemeKind.includes("light");
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** What a figure's `render` gets: makes controls and drawings, keeps the values, draws again. */
export class Ui {
  constructor(shadow, onChange = () => {}) {
    shadow.innerHTML = `<style>${STYLE}</style><div class="figure"></div>`;
    this.root = shadow.querySelector(".figure");
    this.onChange = onChange;
    this.values = {};
    this.fields = {};
    this.stops = [];
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.shadow = shadow;
  }

  /** A new element in `parent` (default: the figure). Attributes by name; `text` is its text. */
  element(tag, { parent = this.root, text = "", ...attributes } = {}) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    parent.append(made);
    return made;
  }

  /** A box for controls: they flow into as many columns as fit. */
  controls({ parent = this.root } = {}) {
    this.box = this.element("div", { parent, class: "controls" });
    return this.box;
  }

  /** `count` boxes side by side; on a phone, where less than `least` pixels are left, one below
   * the other. */
  columns(count, { least = 250, parent = this.root } = {}) {
    const box = this.element("div", { parent, class: "columns", style: `--least:${least}px` });
    return Array.from({ length: count }, () => this.element("div", { parent: box }));
  }

  plot(options = {}) {
    return new Plot(options.parent ?? this.root, options);
  }

  heatmap(options = {}) {
    return new HeatMap(options.parent ?? this.root, options);
  }

  _field(tag, name, label, wide, parent) {
    if (name in this.fields) throw new Error(`two controls are named ${name}`);
    const box = this.element("div", {
      parent: parent ?? this.box ?? this.controls(),
      class: `control${wide ? " wide" : ""}`,
    });
    this.element("label", { parent: box, for: name, text: label });
    return [box, this.element(tag, { parent: box, id: name, name, "aria-label": label })];
  }

  _register(name, field, read, write, event = "input") {
    this.fields[name] = { field, read, write };
    this.values[name] = read();
    field.addEventListener(event, () => {
      this.values[name] = read();
      write(this.values[name]);
      this.onChange({ ...this.values });
      this.redraw();
    });
    return field;
  }

  /** A slider. `format(value)` is what one sees beside it and what a screen reader says. */
  range({ name, label, min, max, step, value, format = (number) => fixed(number), wide, parent }) {
    const [box, field] = this._field("input", name, label, wide, parent);
    Object.assign(field, { type: "range", min, max, step });
    const output = this.element("output", { parent: box, for: name });
    field.before(output);
    const write = (number) => {
      field.value = number;
      output.textContent = format(Number(field.value));
      field.setAttribute("aria-valuetext", output.textContent);
    };
    write(value);
    return this._register(name, field, () => Number(field.value), write);
  }

  /** A menu; options: [[value, text], …] or [text, …]. */
  select({ name, label, options, value, wide, parent }) {
    const [, field] = this._field("select", name, label, wide, parent);
    const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
    for (const [key, text] of pairs) this.element("option", { parent: field, value: key, text });
    const write = (key) => {
      field.value = String(key);
    };
    write(value ?? pairs[0][0]);
    // The value as it was given, not as text: a number stays one.
    return this._register(name, field, () => pairs[field.selectedIndex][0], write);
  }

  text({ name, label, value = "", wide = true, parent }) {
    const [, field] = this._field("input", name, label, wide, parent);
    Object.assign(field, { type: "text", spellcheck: false, autocomplete: "off" });
    const write = (text) => {
      if (field.value !== text) field.value = text;
    };
    write(value);
    return this._register(name, field, () => field.value, write);
  }

  checkbox({ name, label, value = false, wide, parent }) {
    const [box, field] = this._field("input", name, label, wide, parent);
    field.type = "checkbox";
    box.classList.add("check");
    box.prepend(field);
    const write = (on) => {
      field.checked = on;
    };
    write(value);
    return this._register(name, field, () => field.checked, write);
  }

  /** Give a control another label. */
  rename(name, label) {
    const { field } = this.fields[name];
    field.setAttribute("aria-label", label);
    field.parentElement.querySelector("label").textContent = label;
  }

  /** A row for buttons. */
  buttons({ parent = this.root } = {}) {
    this.row = this.element("div", { parent, class: "buttons" });
    return this.row;
  }

  button({ label, onClick, parent }) {
    const made = this.element("button", {
      parent: parent ?? this.row ?? this.buttons(),
      type: "button",
      text: label,
    });
    made.addEventListener("click", () => onClick(made));
    return made;
  }

  /** A button that runs `step()` every `pause` ms until it returns false or is pressed again. Where
   * the reader's system asks for less motion, each press makes one step. */
  player({ label = "Play", step, pause = 120, parent }) {
    let timer = null;
    const names = this.still ? ["Step", "Step"] : [label, "Pause"];
    const stop = () => {
      clearInterval(timer);
      timer = null;
      made.textContent = names[0];
    };
    const made = this.button({
      label: names[0],
      parent,
      onClick: () => {
        if (this.still) step();
        else if (timer) stop();
        else {
          made.textContent = names[1];
          timer = setInterval(() => step() === false && stop(), pause);
        }
      },
    });
    this.stops.push(stop);
    return made;
  }

  /** Set controls from code (a preset, a drag, the kernel); draws again. */
  set(values, { tell = true } = {}) {
    for (const [name, value] of Object.entries(values)) {
      if (!this.fields[name]) continue;
      this.fields[name].write(value);
      this.values[name] = this.fields[name].read();
    }
    if (tell) this.onChange({ ...this.values });
    this.redraw();
  }

  /** The sentence that says what the figure shows now: seen at once, spoken after a pause. */
  say(text) {
    this.spoken ??= this.element("p", { class: "unseen", role: "status", "aria-live": "polite" });
    this.seen ??= this.element("p", { class: "say", "aria-hidden": "true" });
    this.seen.textContent = text;
    clearTimeout(this.pause);
    this.pause = setTimeout(
      () => {
        this.spoken.textContent = text;
      },
      this.spoken.textContent ? 600 : 0,
    );
  }

  /** Where the sentence stands; without this call it comes last. */
  sentence({ parent = this.root } = {}) {
    this.spoken = this.element("p", {
      parent,
      class: "unseen",
      role: "status",
      "aria-live": "polite",
    });
    this.seen = this.element("p", { parent, class: "say", "aria-hidden": "true" });
  }

  note(text, { parent = this.root } = {}) {
    return this.element("p", { parent, class: "note", text });
  }

  /** `paint(values)` draws the figure: now, and again after every change of a control or width. */
  draw(paint) {
    this.paint = paint;
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this._attempt(() => this.paint?.(this.values));
    });
  }

  _attempt(work) {
    try {
      work();
    } catch (error) {
      this.fail(error);
    }
  }

  /** The still picture and a sentence, in place of a figure that does not work. */
  fail(error) {
    this.stop();
    const text = "The controls of this figure do not work here; this is its still picture.";
    this.shadow.innerHTML = `<slot></slot><p style="font-style:italic">${text}</p>`;
    this.shadow.host.dataset.ready = "failed";
    console.error(error);
  }

  _watch() {
    const dress = () => this.root.classList.toggle("dark", isDark());
    dress();
    const watcher = new MutationObserver(dress);
    const filter = {
      attributes: true,
      attributeFilter: ["data-theme", "theme", "data-jp-theme-light", "data-vscode-theme-kind"],
    };
    watcher.observe(document.documentElement, filter);
    if (document.body) watcher.observe(document.body, filter);
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", dress);
    let width = this.root.clientWidth;
    const size = new ResizeObserver(() => {
      if (this.root.clientWidth === width) return;
      width = this.root.clientWidth;
      this.redraw();
    });
    size.observe(this.root);
    this.stops.push(() => {
      watcher.disconnect();
      system.removeEventListener("change", dress);
      size.disconnect();
      cancelAnimationFrame(this.waiting);
      clearTimeout(this.pause);
    });
  }

  stop() {
    for (const stop of this.stops.splice(0)) stop();
    this.paint = null;
  }
}

/** Bring one figure to life in `host`, whose own content (the still picture) stays as a fallback. */
export function mount(host, data, render, onChange) {
  const ui = new Ui(host.shadowRoot ?? host.attachShadow({ mode: "open" }), onChange);
  host.dataset.ready = "yes";
  ui._attempt(() => {
    ui._watch();
    render({ data, ui, el: ui.root });
    ui.paint?.(ui.values);
  });
  return ui;
}

/** Every element of the page that waits for this figure with this data. */
export function start(key, data, render) {
  for (const host of document.querySelectorAll(`[data-diffbook="${key}"]:not([data-ready])`)) {
    mount(host, data, render);
  }
}

/** The same figure as an anywidget: `values` (of the controls) and `data` go both ways. */
export function widget(render) {
  return {
    render({ model, el }) {
      let ui = null;
      const begin = () => {
        ui?.stop();
        ui = mount(el, model.get("data"), render, (values) => {
          model.set("values", values);
          model.save_changes();
        });
        ui.set(model.get("values"), { tell: false });
      };
      const fromPython = () => ui.set(model.get("values"), { tell: false });
      begin();
      model.on("change:values", fromPython);
      model.on("change:data", () => {
        if (ui.onData) ui.onData(model.get("data"));
        else begin();
        ui.redraw();
      });
      return () => ui.stop();
    },
  };
}
