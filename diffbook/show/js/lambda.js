// Figure 4, chapter 4: where λ comes from (eq. 2), where it starts, and what training made of it.

import { COLORS, fixed, percent, uniforms } from "./core.js";
import { lambdaInit, lambdaOf } from "./signals.js";

const REACH = 1.5; // of a and b
const CELLS = 30;
const DRAWS = 4000;
const MIDDLES = Array.from({ length: CELLS }, (_, i) => REACH * ((2 * i + 1) / CELLS - 1));

/** Dot products [a, b] of `count` draws of the four vectors, d wide (even), entries of standard
 * deviation 1. q · k is half the difference of the squared lengths of two independent vectors
 * ((q ± k)/√2), and such a square is chi-squared: -2 ln of the product of d/2 uniform numbers. */
export function unitProducts(d, count, seed) {
  const draw = uniforms(seed);
  const product = () => {
    let whole = 1;
    for (let i = 0; i < d / 2; i += 1) whole *= draw();
    return whole;
  };
  const dot = () => Math.log(product() / product());
  return Array.from({ length: count }, () => [dot(), dot()]);
}

/** b of the line λ = 0 for each a; NaN where no b can bring λ to 0. */
export const zeroLine = (as, layer) => as.map((a) => Math.log(Math.exp(a) + lambdaInit(layer)));

export function render({ data, ui }) {
  const products = {}; // by d
  const [left, right] = ui.columns(2);
  const land = ui.plot({ parent: left, height: 300 });
  const curve = ui.plot({ parent: right, height: 300 });
  ui.sentence();
  ui.controls();
  ui.range({
    name: "layer",
    label: "layer l",
    min: 1,
    max: 28,
    step: 1,
    value: data.layer,
    format: String,
  });
  ui.range({
    name: "a",
    label: "a = λq1 · λk1",
    min: -REACH,
    max: REACH,
    step: 0.05,
    value: data.a,
  });
  ui.range({
    name: "b",
    label: "b = λq2 · λk2",
    min: -REACH,
    max: REACH,
    step: 0.05,
    value: data.b,
  });
  ui.range({
    name: "sigma",
    label: "σ of the vectors' start",
    min: 0.02,
    max: 0.3,
    step: 0.02,
    value: data.sigma,
  });
  ui.select({ name: "d", label: "their width d", options: [16, 32, 64, 128], value: data.d });
  ui.select({
    name: "record",
    label: "learned values (recorded)",
    options: [["", "none"], ...data.records.map(({ name, title }) => [name, title])],
    value: data.record,
  });
  const near = (value) => Math.max(-REACH, Math.min(REACH, Math.round(value * 20) / 20));
  land.onDrag((a, b) => ui.set({ a: near(a), b: near(b) }));

  ui.draw(({ layer, a, b, sigma, d, record }) => {
    const lam = lambdaOf(a, b, layer);
    products[d] ??= unitProducts(d, DRAWS, 1);
    const starts = products[d].map((pair) => pair.map((dot) => sigma * sigma * dot));
    const below = starts.filter(([x, y]) => lambdaOf(x, y, layer) < 0).length / DRAWS;
    land.begin({
      title: `layer ${layer}: λ = ${fixed(lam)}`,
      x: { min: -REACH, max: REACH, label: "a", ticks: [-1, 0, 1] },
      y: { min: -REACH, max: REACH, label: "b", ticks: [-1, 0, 1] },
    });
    land.surface(
      MIDDLES.map((y) => MIDDLES.map((x) => lambdaOf(x, y, layer))),
      { top: 3 },
    );
    const line = Array.from({ length: 61 }, (_, i) => REACH * (i / 30 - 1));
    land.line(line, zeroLine(line, layer), { color: COLORS.neutral, width: 1.6 });
    const shown = starts.slice(0, 250).filter((pair) => pair.every((at) => Math.abs(at) < REACH));
    land.dots(
      shown.map(([x]) => x),
      shown.map(([, y]) => y),
      { color: COLORS.neutral, radius: 1.4, opacity: 0.7 },
    );
    land.dots([a], [b], { color: COLORS.map2, radius: 9 });
    land.end(`λ over a and b in layer ${layer}: blue above 0, red below. The dot stands at a
      ${fixed(a)}, b ${fixed(b)}.`);

    const chosen = data.records.find(({ name }) => name === record);
    const last = chosen ? Math.max(chosen.runs[0].length, layer) : 28;
    const layers = Array.from({ length: 57 }, (_, i) => 1 + ((last - 1) * i) / 56);
    const learned = chosen ? chosen.runs.flat() : [];
    curve
      .begin({
        title: "start of λ by layer",
        x: {
          min: Math.min(1, last - 1) - 0.03 * last,
          max: 1.03 * last,
          label: "layer l",
          ticks: last < 9 ? Array.from({ length: last }, (_, i) => i + 1) : undefined,
        },
        y: { min: Math.min(-0.5, lam - 0.1), max: Math.max(1.25, lam + 0.1), label: "λ" },
      })
      .hline(0)
      .line(layers, layers.map(lambdaInit), { color: COLORS.diff });
    for (const run of chosen?.runs ?? []) {
      curve.dots(
        run.map((_, i) => i + 1),
        run,
        { color: COLORS.diff, hollow: true, radius: 4.5 },
      );
    }
    curve
      .dots([layer], [lambdaInit(layer)], { color: COLORS.neutral, radius: 4 })
      .dots([layer], [lam], { color: COLORS.map2, radius: 9 })
      .end(`The start of λ rises from 0.2 in layer 1 towards 0.8; the dot stands at ${fixed(lam)} in
        layer ${layer}.`);
    const what = lam < 0 ? "it adds map 2 instead of subtracting it" : "it subtracts map 2";
    const found = learned.filter((value) => value < 0).length;
    ui.say(
      `λ = e^${fixed(a)} − e^${fixed(b)} + ${fixed(lambdaInit(layer), 3)} = ${fixed(lam, 3)}: ` +
        `${what}. With d = ${d} and σ = ${fixed(sigma)}, ${percent(below)} of the starts in ` +
        `this layer lie below 0.` +
        (chosen
          ? ` Learned in ${chosen.title}: ${found} of ${learned.length} values below 0, ` +
            `from ${fixed(Math.min(...learned))} to ${fixed(Math.max(...learned))}.`
          : ""),
    );
  });
}
