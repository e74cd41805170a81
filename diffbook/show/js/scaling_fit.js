// Figure of chapter 9: bend the laws L = E + a N^-b and see what they say about the parameters
// (diffbook/measure/scaling.py, same names).

import { COLORS, fixed, percent } from "./core.js";

const EXPONENTS = Array.from({ length: 61 }, (_, i) => 0.01 * 1000 ** (i / 60));
const GOLDEN = (Math.sqrt(5) - 1) / 2;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;

/** E and a by least squares for a given b: { E, a, squares }. A negative floor is zero. */
export function linear(x, loss, b, floor = true) {
  const power = x.map((n) => n ** -b);
  const middle = mean(power);
  const centered = power.map((value) => value - middle);
  let a = sum(centered.map((value, i) => value * loss[i])) / sum(centered.map((v) => v * v));
  let E = mean(loss) - a * middle;
  if (!floor || E < 0) {
    a = sum(power.map((value, i) => value * loss[i])) / sum(power.map((value) => value * value));
    E = 0;
  }
  const squares = sum(power.map((value, i) => (E + a * value - loss[i]) ** 2));
  return { E, a, squares };
}

/** The law { E, a, b } with the least squares: a grid for b, then golden section. */
export function fitLaw(x, loss, floor = true) {
  const middle = Math.exp(mean(x.map(Math.log)));
  const scaled = x.map((n) => n / middle);
  const at = (b) => linear(scaled, loss, b, floor);
  const grid = EXPONENTS.map((b) => at(b).squares);
  const best = grid.indexOf(Math.min(...grid));
  let low = Math.log(EXPONENTS[Math.max(best - 1, 0)]);
  let high = Math.log(EXPONENTS[Math.min(best + 1, EXPONENTS.length - 1)]);
  for (let i = 0; i < 40; i += 1) {
    const [left, right] = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)];
    if (at(Math.exp(left)).squares < at(Math.exp(right)).squares) high = right;
    else low = left;
  }
  const b = Math.exp((low + high) / 2);
  const { E, a } = at(b);
  return { E, a: a * middle ** b, b };
}

export const lossAt = (law, x) => law.E + law.a * x ** -law.b;

/** The size that reaches a loss; infinite at the floor and below. */
export function inverse(law, loss) {
  const above = loss - law.E;
  return above > 0 ? (above / law.a) ** (-1 / law.b) : Number.POSITIVE_INFINITY;
}

/** Root mean square of points minus law. */
export const rms = (law, x, loss) =>
  Math.sqrt(mean(x.map((n, i) => (loss[i] - lossAt(law, n)) ** 2)));

/** The law through three points whose sizes are in a geometric row; null where there is none. */
export function through(x, loss) {
  const [upper, lower] = [loss[0] - loss[1], loss[1] - loss[2]];
  const b = Math.log(upper / lower) / Math.log(x[1] / x[0]);
  if (!(upper > 0 && lower > 0 && b > 0)) return null;
  const a = (loss[0] - loss[2]) / (x[0] ** -b - x[2] ** -b);
  const E = loss[2] - a * x[2] ** -b;
  return E >= 0 ? { E, a, b } : null;
}

/** DIFF's share of the parameters: { loss, x, other, share }. `anchor` says whose size is `at`. */
export function share(laws, at, anchor) {
  const loss = lossAt(laws[anchor], at);
  const x = anchor === "diff" ? at : inverse(laws.diff, loss);
  const other = anchor === "softmax" ? at : inverse(laws.softmax, loss);
  return { loss, x, other, share: x / other };
}

const pairOf = (make) => ({ softmax: make("softmax"), diff: make("diff") });

/** The share by least squares when each of the sizes is left out in turn. */
export function leaveOneOut(source, at) {
  return source.x.softmax.map((_, left) => {
    const rest = (values) => values.filter((_, i) => i !== left);
    const laws = pairOf((kind) => fitLaw(rest(source.x[kind]), rest(source.mean[kind])));
    return share(laws, at, source.anchor).share;
  });
}

/** The share by least squares for each seed, at one loss for all: mean and Student's interval. */
export function bySeed(source, at, t) {
  const level = lossAt(fitLaw(source.x[source.anchor], source.mean[source.anchor]), at);
  const shares = source.seeds.softmax.map((_, seed) => {
    const laws = pairOf((kind) => fitLaw(source.x[kind], source.seeds[kind][seed]));
    return inverse(laws.diff, level) / inverse(laws.softmax, level);
  });
  const logs = shares.map(Math.log);
  const middle = mean(logs);
  const spread = sum(logs.map((value) => (value - middle) ** 2)) / (logs.length - 1);
  const half = t * Math.sqrt(spread / logs.length);
  return {
    shares,
    mean: Math.exp(middle),
    low: Math.exp(middle - half),
    high: Math.exp(middle + half),
  };
}

const NAMES = { softmax: "Transformer", diff: "DIFF" };
const COLOR = { softmax: COLORS.transformer, diff: COLORS.diff };
const KINDS = ["softmax", "diff"];

export function render({ data, ui }) {
  const sourceOf = (key) => data.sources.find((one) => one.key === key);
  const best = (source, floor = true) =>
    pairOf((kind) => fitLaw(source.x[kind], source.mean[kind], floor));
  const states = {};
  for (const source of data.sources) {
    states[source.key] = { laws: best(source), least: best(source), at: source.at };
  }

  const source = () => sourceOf(ui.values.source);
  const state = () => states[ui.values.source];
  const size = (x) => (Number.isFinite(x) ? `${x.toPrecision(3)} ${source().unit}` : "no size");

  const top = ui.plot({ height: 290 });
  const low = ui.plot({ height: 140 });
  ui.sentence();
  ui.controls();
  ui.select({
    name: "source",
    label: "Points",
    options: data.sources.map((one) => [one.key, one.label]),
  });
  ui.select({ name: "model", label: "Bend the curve of", options: Object.entries(NAMES) });
  const number = { min: 0, max: 4, step: 0.001, value: 0, format: (value) => fixed(value, 3) };
  ui.range({ ...number, name: "E", label: "floor E (nats)" });
  ui.range({ ...number, name: "a", label: "amplitude a (nats)" });
  ui.range({ ...number, name: "b", label: "exponent b", min: 0.05, max: 1.5 });
  ui.range({
    ...number,
    name: "at",
    label: "read off at this size",
    format: (value) => size(value),
  });
  ui.checkbox({ name: "refit", label: "when b moves, fit E and a again", value: true, wide: true });
  ui.buttons();
  ui.button({ label: "Least squares", onClick: () => choose(true) });
  ui.button({ label: "Without floor, E = 0", onClick: () => choose(false) });
  const origin = ui.note("");

  const shown = {};
  /** Put the state into the sliders; what they read now is no move of the reader. */
  const sync = () => {
    const law = state().laws[ui.values.model];
    const { low: from, high: to } = source();
    Object.assign(ui.fields.at.field, { min: from, max: to, step: (to - from) / 1000 });
    ui.fields.E.field.max = Math.min(...source().mean.softmax, ...source().mean.diff);
    for (const [name, value] of Object.entries({ ...law, at: state().at })) {
      ui.fields[name].write(value);
      ui.values[name] = ui.fields[name].read();
      shown[name] = ui.values[name];
    }
    Object.assign(shown, { source: ui.values.source, model: ui.values.model });
  };
  const choose = (floor) => {
    state().laws = best(source(), floor);
    sync();
    ui.redraw();
  };
  const listen = () => {
    const { laws } = state();
    const { model, refit } = ui.values;
    for (const name of ["E", "a", "b"]) {
      if (ui.values[name] === shown[name]) continue;
      laws[model] = { ...laws[model], [name]: ui.values[name] };
      if (name === "b" && refit) {
        const { E, a } = linear(source().x[model], source().mean[model], laws[model].b);
        Object.assign(laws[model], { E, a });
      }
    }
    if (ui.values.at !== shown.at) state().at = ui.values.at;
  };
  const handles = () => {
    const { low: from, high: to } = source();
    return [from, Math.sqrt(from * to), to];
  };
  top.onDrag((x, y) => {
    const { laws } = state();
    const { model } = ui.values;
    const sizes = handles();
    const apart = sizes.map((at) => Math.abs(Math.log(at / x)));
    const held = apart.indexOf(Math.min(...apart));
    const losses = sizes.map((at, i) => (i === held ? y : lossAt(laws[model], at)));
    const law = through(sizes, losses);
    if (!law) return;
    laws[model] = law;
    sync();
    ui.redraw();
  });

  ui.draw(() => {
    if (ui.values.source === shown.source && ui.values.model === shown.model) listen();
    sync();
    const { x, mean: points, seeds, anchor, low: from, high: to, digits } = source();
    const { laws, least, at } = state();
    const found = share(laws, at, anchor);
    const all = [
      ...(seeds?.softmax.flat() ?? points.softmax),
      ...(seeds?.diff.flat() ?? points.diff),
    ];
    const [least_, most] = [Math.min(...all), Math.max(...all)];
    const pad = 0.09 * (most - least_);
    const right = to * 2.2;
    const grid = Array.from({ length: 90 }, (_, i) => from * (right / from) ** (i / 89));
    const tell = (value) => percent(value, Math.abs(value - 1) < 0.0005 ? 0 : digits);
    top.begin({
      margin: { left: 58 },
      title: Number.isFinite(found.share)
        ? `DIFF needs ${tell(found.share)} of the parameters`
        : "One of these curves never gets to that loss",
      x: {
        min: from / 1.12,
        max: right,
        log: true,
        label: `parameters, ${source().unitName}`,
        ticks: x.softmax,
        format: (value) => value.toPrecision(2),
      },
      y: { min: least_ - pad, max: most + pad, label: source().lossName },
    });
    for (const kind of KINDS) {
      const color = COLOR[kind];
      const inside = grid.filter((value) => value <= to);
      const outside = grid.filter((value) => value > to * 0.98);
      top.line(
        inside,
        inside.map((value) => lossAt(laws[kind], value)),
        { color },
      );
      top.line(
        outside,
        outside.map((value) => lossAt(laws[kind], value)),
        { color, dash: "4 4", width: 1.5 },
      );
      if (kind === ui.values.model) {
        const places = handles();
        top.dots(
          places,
          places.map((value) => lossAt(laws[kind], value)),
          { color, radius: 8, hollow: true },
        );
      }
      for (const run of seeds?.[kind] ?? [])
        top.dots(x[kind], run, { color, radius: 2.5, opacity: 0.55 });
      if (!seeds) top.dots(x[kind], points[kind], { color });
    }
    const spots = [found.x, found.other].filter((value) => value < right && value > from / 1.12);
    if (spots.length === 2) {
      top.line(spots, [found.loss, found.loss], { color: COLORS.neutral, width: 2 });
      top.dots(
        spots,
        spots.map(() => found.loss),
        { color: COLORS.neutral, radius: 4 },
      );
    }
    const fromTop = most + pad - 0.09 * (most - least_);
    for (const [i, kind] of KINDS.entries()) {
      top.text(right, fromTop, NAMES[kind], {
        color: COLOR[kind],
        anchor: "end",
        dy: 17 * i,
        bold: true,
      });
    }
    top.end(`Loss against parameters with a curve for each model; ${NAMES.diff} at ${size(found.x)} and
      ${NAMES.softmax} at ${size(found.other)} have the same loss.`);

    const residual = (kind) =>
      x[kind].map((n, i) => 1000 * (points[kind][i] - lossAt(laws[kind], n)));
    const off = pairOf(residual);
    const span = Math.max(5, ...KINDS.flatMap((kind) => off[kind].map(Math.abs))) * 1.15;
    const tick = [1, 2, 5]
      .flatMap((n) => [n, 10 * n, 100 * n, 1000 * n])
      .filter((n) => n < span / 1.05);
    const most_ = Math.max(...tick);
    low.begin({
      margin: { left: 58 },
      x: { min: from / 1.12, max: right, log: true, ticks: x.softmax, format: () => "" },
      y: { min: -span, max: span, label: "milli-nats", ticks: [-most_, 0, most_] },
      title: "Points minus curve",
    });
    low.hline(0);
    for (const kind of KINDS) {
      low.line(x[kind], off[kind], { color: COLOR[kind], width: 1 });
      low.dots(x[kind], off[kind], { color: COLOR[kind] });
    }
    const miss = pairOf((kind) => [
      rms(laws[kind], x[kind], points[kind]),
      rms(least[kind], x[kind], points[kind]),
    ]);
    low.end(`Points minus curve in thousandths of a nat: Transformer ${off.softmax.map((v) => fixed(v, 0)).join(", ")};
      DIFF ${off.diff.map((v) => fixed(v, 0)).join(", ")}.`);

    const outside = [found.x, found.other].some(
      (value) => !(value >= from * 0.98 && value <= to * 1.02),
    );
    const how = (kind) => {
      const [yours, theirs] = miss[kind].map((value) => fixed(1000 * value, 1));
      return `${NAMES[kind]} ${yours} (least squares ${theirs})`;
    };
    const truth = share(least, at, anchor).share;
    const doubt = seeds ? bySeed(source(), at, data.student[seeds.softmax.length]) : null;
    const left = doubt ? null : leaveOneOut(source(), at);
    ui.say(
      [
        Number.isFinite(found.share)
          ? `At loss ${fixed(found.loss, 3)} DIFF has ${size(found.x)} and the Transformer ${size(found.other)}: ` +
            `${tell(found.share)} of the parameters${outside ? ", partly extrapolated" : ""}.`
          : `At loss ${fixed(found.loss, 3)} one of the two curves has no size at all: its floor is higher.`,
        `The curves miss their points by (rms, milli-nats): ${how("softmax")}, ${how("diff")}.`,
        doubt
          ? `By least squares ${tell(truth)}; a law for each seed: ${doubt.shares.map((value) => percent(value)).join(", ")}, ` +
            `together ${percent(doubt.mean)}, 95 % interval ${percent(doubt.low)} to ${percent(doubt.high)}.`
          : `By least squares ${tell(truth)}; with one size left out it is between ${percent(Math.min(...left))} and ` +
            `${percent(Math.max(...left))}. One run for each point: there are no seeds for an interval.`,
      ].join("\n"),
    );
    origin.textContent = source().note;
  });
}
