// Figure 3, chapter 3 and the first page: two attention maps that one can edit, and what is left
// when λ times the second is taken from the first.

import { COLORS, decibel, fixed, heatColor } from "./core.js";
import { causalMap, difference, rowSignal } from "./signals.js";

const TOKENS = ["Cairo", "4", "and", "Delhi", "7", "Cairo"];
const LAST = TOKENS.length - 1;
const ANSWER = 1; // what the last token should find
const [LOW, HIGH, STEP] = [-3, 4, 0.25]; // of a score
const LAMBDAS = Array.from({ length: 201 }, (_, i) => i / 100);
const FLOOR = -30;
const CEILING = 40;

/** Scores of every row from one query row: row i asks the same of the keys 0 to i. */
const same = (scores) => TOKENS.map(() => [...scores]);

/** Scores q · k / √2 of the head that chapter 3 makes by hand. */
function byHand(queries, keys) {
  return queries.map((q) => keys.map((k) => (q[0] * k[0] + q[1] * k[1]) / Math.SQRT2));
}

export const PRESETS = [
  {
    name: "hand",
    title: "made by hand: map 2 knows the noise (chapter 3)",
    lam: 0.5,
    z1: byHand(
      [
        [2, 2],
        [0, 0],
        [1, 0],
        [2, -2],
        [0, 0],
        [2, 2],
      ],
      [
        [0, 0],
        [1, 1],
        [0, 0],
        [0, 0],
        [1, 0],
        [0, 0],
      ],
    ),
    z2: byHand(
      [
        [2, 0],
        [0, 0],
        [2, 0],
        [2, 0],
        [0, 0],
        [2, 0],
      ],
      [
        [0, 0],
        [1, 0],
        [0, 0],
        [0, 0],
        [1, 0],
        [0, 0],
      ],
    ),
  },
  {
    name: "shared",
    title: "the same uneven noise in both",
    lam: 0.5,
    z1: same([1.5, 2.5, -1, 0.5, 2, -0.5]),
    z2: same([1.5, -1, -1, 0.5, 2, -0.5]),
  },
  {
    name: "independent",
    title: "noise of its own in each",
    lam: 0.5,
    z1: same([1.5, 2.5, -1, 0.5, 2, -0.5]),
    z2: same([-1, -1, 1.5, 2, -0.5, 0.5]),
  },
  {
    name: "equal",
    title: "two equal maps",
    lam: 0.5,
    z1: same([1.5, 2.5, -1, 0.5, 2, -0.5]),
    z2: same([1.5, 2.5, -1, 0.5, 2, -0.5]),
  },
];

/** Everything the figure shows, from scores and λ. */
export function explained(z1, z2, lam) {
  const [a1, a2] = [causalMap(z1), causalMap(z2)];
  const rows = [a1[LAST], a2[LAST]];
  return { a1, a2, map: difference(a1, a2, lam), ...rowSignal(...rows, lam, ANSWER) };
}

const STYLE = `
.grid{display:grid;grid-template-columns:3.1em repeat(6,minmax(26px,44px));font-size:12px;line-height:1.1;color:#444}
.grid [role=row],.grid .row{display:contents}
.grid .head{padding:3px 5px 3px 0;text-align:right;align-self:center;white-space:nowrap}
.grid .top{padding:3px 0;text-align:center;overflow:hidden}
.grid .cell{aspect-ratio:1;display:grid;place-items:center;font-variant-numeric:tabular-nums;
  border:1px solid #fff;touch-action:pan-y}
.grid [role=gridcell]{cursor:ew-resize}
.grid .chosen{outline:3px solid #D55E00;outline-offset:-3px}
.heading{font-size:14.5px;font-weight:650;margin:.3rem 0}
`;

/** A map of cells with numbers. With `pick` and `pull` it can be edited: arrow keys and a tap
 * choose a cell, + and − or a sideways pull change its score. */
class Grid {
  constructor(ui, parent, { pick, pull } = {}) {
    this.heading = ui.element("div", { parent, class: "heading" });
    const edits = Boolean(pick);
    this.box = ui.element("div", { parent, class: "grid drawing" });
    this.box.setAttribute("role", edits ? "grid" : "img");
    const row = () =>
      ui.element("div", { parent: this.box, ...(edits ? { role: "row" } : { class: "row" }) });
    const top = row();
    ui.element("div", { parent: top, ...(edits ? { role: "columnheader" } : {}) });
    for (const text of TOKENS) {
      ui.element("div", {
        parent: top,
        class: "top",
        text,
        ...(edits ? { role: "columnheader" } : {}),
      });
    }
    this.cells = TOKENS.map((token, i) => {
      const line = row();
      ui.element("div", {
        parent: line,
        class: "head",
        text: token,
        ...(edits ? { role: "rowheader" } : {}),
      });
      return TOKENS.map((_, j) => {
        const cell = ui.element("div", { parent: line, class: "cell" });
        if (!edits) return cell;
        cell.setAttribute("role", "gridcell");
        if (j > i) {
          cell.setAttribute("aria-label", `${TOKENS[j]} comes later: hidden`);
          return cell;
        }
        cell.addEventListener("focus", () => pick(i, j));
        cell.addEventListener("keydown", (event) => this.key(event, i, j, pull));
        let from = null;
        cell.addEventListener("pointerdown", (event) => {
          cell.setPointerCapture(event.pointerId);
          from = event.clientX;
          cell.focus();
        });
        cell.addEventListener("pointermove", (event) => {
          if (from === null || !event.buttons) return;
          const steps = Math.trunc((event.clientX - from) / 8);
          if (steps) {
            from += 8 * steps;
            pull(steps);
          }
        });
        return cell;
      });
    });
  }

  key(event, i, j, pull) {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const change = { "+": 1, "=": 1, "-": -1, "−": -1 }[event.key];
    if (change) pull(change);
    else if (moves[event.key]) {
      const [row, column] = [i + moves[event.key][0], j + moves[event.key][1]];
      if (row <= LAST && column >= 0 && column <= row) this.cells[row][column].focus();
    } else return;
    event.preventDefault();
  }

  show(title, matrix, { signed = false, chosen = null, label = "" } = {}) {
    this.heading.textContent = title;
    this.box.setAttribute("aria-label", label || title);
    matrix.forEach((row, i) => {
      row.forEach((value, j) => {
        const cell = this.cells[i][j];
        if (j > i) return;
        const color = heatColor(value, 1, signed);
        cell.style.background = `rgb(${color})`;
        cell.style.color = Math.abs(value) > 0.6 ? "#fff" : "#333";
        const text = fixed(value);
        cell.textContent = text.replace(/^(−?)0\./, "$1.");
        if (!chosen) return;
        const here = chosen[0] === i && chosen[1] === j;
        cell.classList.toggle("chosen", here);
        cell.tabIndex = here ? 0 : -1;
        cell.setAttribute("aria-selected", here);
        cell.setAttribute("aria-label", `${TOKENS[i]} to ${TOKENS[j]}: ${text}`);
      });
    });
  }
}

export function render({ data, ui }) {
  ui.element("style", { text: STYLE });
  let [z1, z2] = [null, null];
  let preset = null;
  let chosen = [LAST, ANSWER];
  const load = (name) => {
    const found = PRESETS.find((one) => one.name === name);
    [z1, z2] = [found.z1, found.z2].map((z) => z.map((row) => [...row]));
    preset = name;
    return found;
  };
  const first = load(data.preset);
  const scores = () => ({ z1: z1[chosen[0]][chosen[1]], z2: z2[chosen[0]][chosen[1]] });
  const pick = (i, j) => {
    chosen = [i, j];
    ui.set(scores());
  };
  const pull = (name) => (steps) => {
    const value = Math.round(ui.values[name] / STEP + steps) * STEP;
    ui.set({ [name]: Math.max(LOW, Math.min(HIGH, value)) });
  };
  const [one, two, three] = ui.columns(3, { least: 205 });
  const grids = [
    new Grid(ui, one, { pick, pull: pull("z1") }),
    new Grid(ui, two, { pick, pull: pull("z2") }),
    new Grid(ui, three),
  ];
  ui.controls();
  ui.range({
    name: "lam",
    label: "λ",
    min: 0,
    max: 2,
    step: 0.01,
    value: data.lam ?? first.lam,
    wide: true,
  });
  ui.sentence();
  const plot = ui.plot({ height: 230 });
  plot.onDrag((lam) => ui.set({ lam: Math.round(100 * Math.max(0, Math.min(2, lam))) / 100 }));
  ui.controls();
  ui.select({
    name: "preset",
    label: "start from",
    value: preset,
    wide: true,
    options: PRESETS.map(({ name, title }) => [name, title]),
  });
  ui.range({ name: "z1", label: "score", min: LOW, max: HIGH, step: "any", value: scores().z1 });
  ui.range({ name: "z2", label: "score", min: LOW, max: HIGH, step: "any", value: scores().z2 });
  ui.note(
    "Choose a cell of map 1 or 2 (tap it, or walk with the arrow keys), then change its score: with the sliders, with + and −, or by pulling it sideways.",
  );

  ui.draw((values) => {
    if (values.preset !== preset) {
      const { lam } = load(values.preset);
      ui.set({ lam, ...scores() });
      return;
    }
    const [i, j] = chosen;
    z1[i][j] = values.z1;
    z2[i][j] = values.z2;
    for (const [name, map] of [
      ["z1", 1],
      ["z2", 2],
    ]) {
      ui.rename(name, `map ${map}: score of ${TOKENS[i]} (row ${i + 1}) for ${TOKENS[j]}`);
    }
    const { lam } = values;
    const now = explained(z1, z2, lam);
    grids[0].show("map 1", now.a1, { chosen, label: "Map 1: rows ask, columns are looked at" });
    grids[1].show("map 2", now.a2, { chosen, label: "Map 2: rows ask, columns are looked at" });
    const words = TOKENS.map((token, k) => `${token} ${fixed(now.map[LAST][k])}`).join(", ");
    grids[2].show(`map 1 − ${fixed(lam)} × map 2`, now.map, {
      signed: true,
      label: `The difference. Its last row: ${words}.`,
    });
    showCurve(plot, now, lam, (at) => rowSignal(now.a1[LAST], now.a2[LAST], at, ANSWER).gain);
    ui.say(sentence(now, lam));
  });
}

function showCurve(plot, now, lam, gainAt) {
  const clipped = (gain) => Math.max(FLOOR, Math.min(CEILING, gain));
  plot.begin({
    title: "last row: signal to noise, against map 1 alone",
    x: { min: 0, max: 2, label: "λ" },
    y: { min: FLOOR, max: CEILING, label: "dB", ticks: [-20, 0, 20, 40] },
  });
  if (now.threshold < 2) {
    const edge = Math.max(0, now.threshold);
    plot.line([edge, 2], [CEILING, CEILING], {
      width: 0,
      fill: 0.13,
      base: FLOOR,
      color: COLORS.transformer,
    });
    const room = edge < 1.35;
    plot.text(room ? edge : 2, CEILING, "over-subtraction", {
      dx: room ? 6 : -4,
      dy: 16,
      anchor: room ? "start" : "end",
      color: "#A84700",
    });
  }
  plot.hline(0);
  plot.line(LAMBDAS, LAMBDAS.map(gainAt).map(clipped), { color: COLORS.diff });
  plot.dots([lam], [clipped(now.gain)], { color: COLORS.map2, radius: 8 });
  plot.end(
    `Gain in signal to noise against λ from 0 to 2. At λ ${fixed(lam)}: ${decibel(now.gain)}.`,
  );
}

function sentence(now, lam) {
  const [before, after] = [now.a1[LAST][ANSWER], now.map[LAST][ANSWER]];
  const over = lam > now.threshold && lam > 0;
  return (
    `λ = ${fixed(lam)}: the last token gives 4, the answer, ${fixed(after)} (map 1 alone: ` +
    `${fixed(before)}). Signal to noise: ${decibel(now.gain)} against map 1. The noise is least at ` +
    `λ = ${fixed(now.bestNoise)}; above ${fixed(now.threshold)} the row holds more noise than map 1 ` +
    `alone${over ? ": you are there, this is over-subtraction" : " (over-subtraction)"}. ` +
    `The answer is gone at λ = ${fixed(now.vanishes)}.`
  );
}
