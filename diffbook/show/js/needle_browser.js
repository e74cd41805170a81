// Accuracy by depth, length and number of needles: two models and their difference, cell by cell.
// The maps are tables of the page, so that arrow keys and screen readers can walk through them.

import { fixed, heatColor } from "./core.js";

const Z = 1.959963984540054; // 97.5 % of the normal distribution lies below

/** Wilson's 95 % interval of a share, `right` of `n`: measure/needles.py, binomial_interval. */
export function wilson(right, n) {
  const p = right / n;
  const middle = (p + (Z * Z) / (2 * n)) / (1 + (Z * Z) / n);
  const half = (Z * Math.sqrt((p * (1 - p)) / n + (Z * Z) / (4 * n * n))) / (1 + (Z * Z) / n);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** Newcombe's 95 % interval of the difference of two shares, a - b: binomial_difference. */
export function newcombe(rightA, nA, rightB, nB) {
  const [a, b] = [rightA / nA, rightB / nB];
  const [lowA, highA] = wilson(rightA, nA);
  const [lowB, highB] = wilson(rightB, nB);
  return [a - b - Math.hypot(a - lowA, highB - b), a - b + Math.hypot(highA - a, b - lowB)];
}

/** Student's 95 % interval of the mean of `values`: records/compare.py, paired_interval. */
export function student(values, t) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const square = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1);
  const half = t * Math.sqrt(square / n);
  return [mean - half, mean + half];
}

/** Right answers of a map, seed by seed: [row][column][seed]; a last row sums up, where asked. */
export function counts(map, variant) {
  const [rows, columns, seeds] = [map.rows.length, map.columns.length, map.seeds.length];
  const numbers = map.right[variant];
  const cells = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: columns }, (_, column) =>
      Array.from({ length: seeds }, (_, seed) => numbers[(seed * rows + row) * columns + column]),
    ),
  );
  if (map.mean) {
    cells.push(
      cells[0].map((first, column) =>
        first.map((_, seed) => cells.reduce((sum, row) => sum + row[column][seed], 0)),
      ),
    );
  }
  return cells;
}

/** One cell of one model: { value, low, high }. `seed` is an index, or null for the mean. */
export function reading(right, n, seed, t) {
  if (seed !== null || right.length === 1) {
    const one = right[seed ?? 0];
    const [low, high] = wilson(one, n);
    return { value: one / n, low, high };
  }
  const shares = right.map((count) => count / n);
  const [low, high] = student(shares, t);
  const value = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  return { value, low: Math.max(0, low), high: Math.min(1, high) };
}

/** One cell of the difference b - a, in pairs of one seed: { value, low, high }. */
export function difference(rightA, rightB, n, seed, t) {
  if (seed !== null || rightA.length === 1) {
    const at = seed ?? 0;
    const [low, high] = newcombe(rightB[at], n, rightA[at], n);
    return { value: (rightB[at] - rightA[at]) / n, low, high };
  }
  const apart = rightB.map((count, i) => (count - rightA[i]) / n);
  const [low, high] = student(apart, t);
  return { value: apart.reduce((sum, value) => sum + value, 0) / apart.length, low, high };
}

const signed = (value) =>
  (fixed(value).startsWith("−") || fixed(value) === "0.00" ? "" : "+") + fixed(value);
const short = (text) => text.replace(/^([−+]?)0\./, "$1.").replace("1.00", "1.0");
const wholly = ({ low, high }) => (low > 0 ? "above" : high < 0 ? "below" : "across");

const CSS = `
table.cells.drawing{display:table;border-collapse:separate;border-spacing:1px;width:100%;table-layout:fixed;color:#333;font-variant-numeric:tabular-nums}
.cells caption{text-align:left;font-weight:650;padding:.2rem 0;color:#333}
.cells caption span{font-weight:400;color:#666}
.cells th{font-weight:400;font-size:12.5px;padding:1px;white-space:nowrap}
.cells tbody th{text-align:right;padding-right:5px}
.cells col:first-child{width:3.1rem}
.cells td{text-align:center;font-size:12px;padding:0;height:27px;cursor:pointer}
.cells tr.mean>*{border-top:3px solid #fff}
.cells td[aria-selected=true]{outline:2px solid #222;outline-offset:0;box-shadow:inset 0 0 0 1.5px #fff;position:relative}
.cells td:focus-visible{outline:3px solid #00629b;outline-offset:1px;z-index:1}
`;

/** A map as a table of the page, walked with arrow keys; `choose(row, column)` reports. */
class Cells {
  constructor(ui, parent, choose) {
    this.table = ui.element("table", { parent, class: "cells drawing", role: "grid" });
    this.choose = choose;
    this.shape = "";
    const over = (event) => {
      const at = event.target.closest?.("td")?.dataset.at;
      if (at) choose(...at.split(",").map(Number));
    };
    this.table.addEventListener("pointerover", over);
    this.table.addEventListener("click", over);
    this.table.addEventListener("focusin", over);
    this.table.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const step = {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -99],
      End: [0, 99],
    }[event.key];
    const at = event.target.dataset?.at?.split(",").map(Number);
    if (!step || !at) return;
    event.preventDefault();
    const inside = (value, size) => Math.max(0, Math.min(size - 1, value));
    const row = inside(at[0] + step[0], this.cells.length);
    this.cells[row][inside(at[1] + step[1], this.cells[row].length)].focus();
  }

  /** texts, colors: [row][column]; strong: cells in bold. */
  show({ title, what, corner, across, rows, columns, mean, texts, colors, strong, at }) {
    const shape = JSON.stringify([rows, columns]);
    if (shape !== this.shape) this.build(rows, columns, mean, corner, across);
    this.shape = shape;
    this.table.querySelector("caption").firstChild.data = `${title} `;
    this.table.setAttribute("aria-label", `${title}: ${what}`);
    for (const [i, line] of this.cells.entries()) {
      for (const [j, cell] of line.entries()) {
        const [red, green, blue] = colors[i][j];
        const selected = i === at[0] && j === at[1];
        cell.textContent = texts[i][j];
        cell.style.background = `rgb(${red},${green},${blue})`;
        cell.style.color = 0.3 * red + 0.59 * green + 0.11 * blue < 130 ? "#fff" : "#222";
        cell.style.fontWeight = strong[i][j] ? 700 : 400;
        cell.setAttribute("aria-selected", selected);
        cell.tabIndex = selected ? 0 : -1;
      }
    }
  }

  build(rows, columns, mean, corner, across) {
    this.table.replaceChildren();
    const make = (tag, parent, text = "") => {
      const made = document.createElement(tag);
      made.textContent = text;
      parent.append(made);
      return made;
    };
    make("span", make("caption", this.table, " "), across);
    const widths = make("colgroup", this.table);
    for (let i = 0; i <= columns.length; i += 1) make("col", widths);
    const head = make("tr", make("thead", this.table));
    make("th", head, corner).scope = "col";
    for (const column of columns) make("th", head, column).scope = "col";
    const body = make("tbody", this.table);
    this.cells = rows.map((name, i) => {
      const line = make("tr", body);
      if (mean && i === rows.length - 1) line.className = "mean";
      make("th", line, name).scope = "row";
      return columns.map((_, j) => {
        const cell = make("td", line);
        cell.dataset.at = `${i},${j}`;
        return cell;
      });
    });
  }
}

export function render({ data, ui }) {
  ui.element("style", { text: CSS });
  const at = [1, 7];
  const sources = data.sources;
  const source = () => sources.find((one) => one.key === ui.values.source);
  const map = () => source().maps.find((one) => one.key === ui.values.map) ?? source().maps[0];
  const refill = (name, options, keep, otherwise = options[0][0]) => {
    const { field } = ui.fields[name];
    field.replaceChildren();
    for (const [value, text] of options) ui.element("option", { parent: field, value, text });
    field.value = options.some(([value]) => value === keep) ? keep : otherwise;
    ui.values[name] = field.value;
    field.disabled = options.length < 2;
  };

  ui.controls();
  const names = (list) => list.map((one) => [one.key, one.label]);
  const every = (key) =>
    sources
      .flatMap((one) => names(one[key]))
      .filter(([value], i, all) => all.findIndex(([other]) => other === value) === i);
  const seeds = (chosen) =>
    chosen.seeds.length > 1
      ? [
          ["mean", `mean of ${chosen.seeds.length}`],
          ...chosen.seeds.map((seed) => [String(seed), `seed ${seed}`]),
        ]
      : [["mean", "one model of each kind"]];
  ui.select({ name: "source", label: "Whose numbers", options: names(sources) });
  ui.select({
    name: "map",
    label: "Needles",
    options: every("maps"),
    value: sources[0].maps[0].key,
  });
  ui.select({ name: "a", label: "Model A", options: every("variants"), value: "softmax" });
  ui.select({ name: "b", label: "Model B", options: every("variants"), value: "diff" });
  ui.select({ name: "seed", label: "Seeds", options: seeds(sources[0].maps[0]) });

  const choose = (row, column) => {
    if (row === at[0] && column === at[1]) return;
    [at[0], at[1]] = [row, column];
    ui.redraw();
  };
  const boxes = [...ui.columns(2, { least: 290 }), ...ui.columns(2, { least: 290 })];
  const [left, right, apart] = boxes.slice(0, 3).map((parent) => new Cells(ui, parent, choose));
  ui.sentence({ parent: boxes[3] });
  const luck = ui.note("", { parent: boxes[3] });
  const origin = ui.note("");

  let before = "";
  ui.draw(() => {
    const state = JSON.stringify([ui.values.source, ui.values.map]);
    if (state !== before) {
      refill("map", names(source().maps), ui.values.map);
      refill("a", names(source().variants), ui.values.a);
      refill("b", names(source().variants), ui.values.b, "diff");
      refill("seed", seeds(map()), ui.values.seed);
      before = JSON.stringify([ui.values.source, ui.values.map]);
    }
    const chosen = map();
    const seed = ui.values.seed === "mean" ? null : chosen.seeds.indexOf(Number(ui.values.seed));
    const label = (key) => source().variants.find((one) => one.key === key).label;
    const [nameA, nameB] = [label(ui.values.a), label(ui.values.b)];
    const [a, b] = [counts(chosen, ui.values.a), counts(chosen, ui.values.b)];
    const rows = chosen.mean ? [...chosen.rows, "mean"] : chosen.rows;
    at[0] = Math.min(at[0], rows.length - 1);
    at[1] = Math.min(at[1], chosen.columns.length - 1);
    const size = (row) => chosen.n * (row === chosen.rows.length ? chosen.rows.length : 1);
    const t = data.student[chosen.seeds.length];
    const each = (work) => rows.map((_, i) => chosen.columns.map((_, j) => work(i, j)));
    const valueA = each((i, j) => reading(a[i][j], size(i), seed, t));
    const valueB = each((i, j) => reading(b[i][j], size(i), seed, t));
    const delta = each((i, j) => difference(a[i][j], b[i][j], size(i), seed, t));
    const common = {
      corner: chosen.corner,
      across: chosen.across,
      rows,
      columns: chosen.columns,
      mean: chosen.mean,
      at,
    };
    const none = each(() => false);
    for (const [grid, title, cells] of [
      [left, nameA, valueA],
      [right, nameB, valueB],
    ]) {
      grid.show({
        ...common,
        title,
        what: `share of right answers by ${chosen.axes}`,
        strong: none,
        texts: cells.map((row) => row.map(({ value }) => short(fixed(value)))),
        colors: cells.map((row) => row.map(({ value }) => heatColor(value, 1))),
      });
    }
    const top = Math.max(0.1, ...delta.flat().map(({ value }) => Math.abs(value)));
    apart.show({
      ...common,
      title: `${nameB} − ${nameA}`,
      what: `difference by ${chosen.axes}; bold where its 95 % interval leaves out zero`,
      strong: delta.map((row) => row.map((cell) => wholly(cell) !== "across")),
      texts: delta.map((row) => row.map(({ value }) => short(signed(value)))),
      colors: delta.map((row) => row.map(({ value }) => heatColor(value, top, true))),
    });

    const [i, j] = at;
    const one = seed !== null || chosen.seeds.length === 1;
    const many = chosen.seeds.length;
    const tell = (name, { value, low, high }, right) => {
      const range = `${fixed(low)} to ${fixed(high)}`;
      return one
        ? `${name}: ${fixed(value)} right (${fixed(right[seed ?? 0], 0)} of ${size(i)} ${chosen.unit}; 95 % interval ${range}).`
        : `${name}: ${fixed(value)} right (mean of ${many} seeds with ${size(i)} ${chosen.unit} each; 95 % over seeds ${range}).`;
    };
    const d = delta[i][j];
    const verdict = {
      above: "wholly above zero",
      below: "wholly below zero",
      across: "it holds zero",
    }[wholly(d)];
    const place = rows[i] === "mean" ? "mean over depths" : chosen.row.replace("{}", rows[i]);
    ui.say(
      [
        `${source().label}: ${chosen.label}, ${place}, ${chosen.column.replace("{}", chosen.columns[j])}.`,
        tell(nameA, valueA[i][j], a[i][j]),
        tell(nameB, valueB[i][j], b[i][j]),
        `${nameB} − ${nameA}: ${signed(d.value)}, 95 % interval ${signed(d.low)} to ${signed(d.high)}: ${verdict}` +
          (one ? " (taking the two for independent samples)." : ` (${many} pairs).`),
      ].join("\n"),
    );
    const cells = delta.slice(0, chosen.rows.length).flat();
    const count = (where) => cells.filter((cell) => wholly(cell) === where).length;
    luck.textContent =
      `Bold: the interval leaves out zero. That is so in ${count("above") + count("below")} of ${cells.length} ` +
      `cells, ${count("above")} in favor of ${nameB}, ${count("below")} of ${nameA}; by luck alone it would be about ${fixed(0.05 * cells.length, 0)}.`;
    origin.textContent = [source().note, chosen.note].filter(Boolean).join(" ");
  });
}
