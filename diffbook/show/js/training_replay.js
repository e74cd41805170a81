// Figure of chapter 8: a recorded pair while it trains, step by step: loss, λ, and the attention
// maps of one sequence (diffbook/experiments/replay.py made the record).

import { bytesOf, COLORS, fixed } from "./core.js";

const NAMES = { softmax: "Transformer", diff: "DIFF" };
const KINDS = ["softmax", "diff"];
const COLOR = { softmax: COLORS.transformer, diff: COLORS.diff };

/** One recorded triangle as a square matrix of weights, zeros above the diagonal. `bytes` holds
 * whole percent, ordered by frame, layer, map, row and column. */
export function triangle(bytes, { size, layers, maps }, frame, layer, map) {
  let at = (((frame * layers + layer) * maps + map) * size * (size + 1)) / 2;
  return Array.from({ length: size }, (_, row) =>
    Array.from({ length: size }, (_, column) => {
      if (column > row) return 0;
      at += 1;
      return bytes[at - 1] / 100;
    }),
  );
}

/** Map1 - λ map2. */
export const subtract = (one, two, lambda) =>
  one.map((row, i) => row.map((value, j) => value - lambda * two[i][j]));

/** What one head of a run looks like: "difference", "first" or "second" (the same for a
 * Transformer, which has one map for each head). */
export function headMap(run, shape, frame, layer, head, which = "difference") {
  if (!run.lambda.length) return triangle(run.bytes, shape, frame, layer, head);
  const heads = shape.maps / 2;
  const one = triangle(run.bytes, shape, frame, layer, head);
  const two = triangle(run.bytes, shape, frame, layer, heads + head);
  if (which !== "difference") return which === "first" ? one : two;
  return subtract(one, two, run.lambda[frame * shape.layers + layer]);
}

/** The two halves of the textbook circuit, each in its strongest head: numbers looking at the city
 * in front of them (layer 1), the question looking at the answer (last layer). */
export function halves(run, shape, layout, frame) {
  const heads = run.lambda.length ? shape.maps / 2 : shape.maps;
  const maps = (layer) =>
    Array.from({ length: heads }, (_, head) => headMap(run, shape, frame, layer, head));
  const back = maps(0).map(
    (map) =>
      layout.numbers.reduce((sum, at, i) => sum + map[at][layout.cities[i]], 0) /
      layout.numbers.length,
  );
  const answer = maps(shape.layers - 1).map((map) => map[shape.size - 1][layout.answer[0]]);
  const top = (values) => values.indexOf(Math.max(...values));
  return {
    back: Math.max(...back),
    backHead: top(back),
    answer: Math.max(...answer),
    answerHead: top(answer),
  };
}

/** Where a model stands, from its accuracy and from what it says to the question: [right, another
 * needle, another number, no number]. `plateau` is 1 / N. */
export function stage(accuracy, said, plateau) {
  if (said[3] > 0.5) return "blank";
  if (accuracy > 0.9) return "learned";
  if (accuracy > plateau + 0.05) return "turning";
  return accuracy > plateau - 0.05 ? "plateau" : "numbers";
}

const IN_WORDS = {
  blank: "does not know yet that a number is wanted",
  numbers: "says numbers, hardly looking at the sequence",
  plateau: "names some number of the sequence, as good as any",
  turning: "begins to tell the needles apart",
  learned: "has learned the task",
};

/** The largest and the smallest entry of the last row, and where they are. */
export function extremes(map) {
  const row = map[map.length - 1];
  const [high, low] = [Math.max(...row), Math.min(...row)];
  return { high, highAt: row.indexOf(high), low, lowAt: row.indexOf(low) };
}

export function render({ data, ui }) {
  const { shape, layout, steps, plateau } = data;
  for (const pair of data.pairs) {
    for (const kind of KINDS) pair[kind].bytes ??= bytesOf(pair[kind].maps);
  }
  const pairOf = () => data.pairs.find((one) => one.seed === ui.values.pair);

  ui.controls();
  const last = steps.length - 1;
  ui.range({
    name: "frame",
    label: "training step",
    min: 0,
    max: last,
    step: 1,
    value: data.start,
    format: (value) => `${steps[value]} of ${steps[last]}`,
    wide: true,
  });
  ui.buttons();
  ui.player({
    label: "Play the training",
    pause: 600,
    step: () => {
      const at = ui.values.frame;
      ui.set({ frame: at === last ? 0 : at + 1 });
      return at + 1 !== last;
    },
  });
  for (const [label, frame] of [
    ["Start", 0],
    ["End", last],
  ]) {
    ui.button({ label, onClick: () => ui.set({ frame }) });
  }
  const [left, right] = ui.columns(2, { least: 280 });
  const heat = {
    softmax: ui.heatmap({ parent: left, maxCell: 24 }),
    diff: ui.heatmap({ parent: right, maxCell: 24 }),
  };
  ui.sentence();
  const details = ui.note("");
  const graphs = ui.columns(3, { least: 210 });
  const [losses, lambdas, circuit] = graphs.map((parent) => ui.plot({ parent, height: 190 }));
  ui.controls();
  const count = (n) => Array.from({ length: n }, (_, i) => [i, String(i + 1)]);
  ui.select({
    name: "pair",
    label: "Pair",
    options: data.pairs.map(({ seed }) => [seed, `seed ${seed}`]),
  });
  ui.select({
    name: "layer",
    label: "Layer",
    options: count(shape.layers),
    value: shape.layers - 1,
  });
  ui.select({ name: "softmax", label: "Head of the Transformer", options: count(shape.maps) });
  ui.select({ name: "diff", label: "Head of DIFF", options: count(shape.maps / 2) });
  ui.select({
    name: "which",
    label: "Map of DIFF",
    options: [
      ["difference", "A1 − λ A2"],
      ["first", "A1"],
      ["second", "A2"],
    ],
  });
  ui.note(data.note);

  const series = new Map(); // by pair: what does not depend on the controls
  const seriesOf = (pair) => {
    if (!series.has(pair.seed)) {
      series.set(
        pair.seed,
        Object.fromEntries(
          KINDS.map((kind) => [
            kind,
            steps.map((_, frame) => halves(pair[kind], shape, layout, frame)),
          ]),
        ),
      );
    }
    return series.get(pair.seed);
  };
  let chosen = "";

  ui.draw(({ frame, layer, which }) => {
    const pair = pairOf();
    const forms = seriesOf(pair);
    const state = `${pair.seed} ${layer}`;
    if (state !== chosen) {
      // The head that does most of this layer's half of the circuit when the training is over.
      for (const kind of KINDS) {
        const end = forms[kind][last];
        const head = layer === 0 ? end.backHead : end.answerHead;
        ui.fields[kind].write(head);
        ui.values[kind] = ui.fields[kind].read();
      }
      chosen = state;
    }
    // What asks for widths comes before what changes the page: one layout, not five.
    const x = { min: 0, max: steps[last], label: "step", ticks: [0, steps[last] / 2, steps[last]] };
    const top = Math.ceil(Math.max(...KINDS.map((kind) => pair[kind].loss[0])));
    losses.begin({ title: "Loss, new sequences", x, y: { min: 0, max: top, label: "nats" } });
    lambdas.begin({ title: "λ of DIFF", x, y: { min: 0, max: 1.2, ticks: [0, 0.5, 1] } });
    circuit.begin({
      title: "Two halves of a circuit",
      x,
      y: { min: -0.1, max: 1.05, ticks: [0, 0.5, 1] },
    });
    const maps = {};
    for (const kind of KINDS) {
      const signed = kind === "diff" && which === "difference";
      maps[kind] = headMap(pair[kind], shape, frame, layer, ui.values[kind], which);
      const end = extremes(maps[kind]);
      heat[kind].show(maps[kind], {
        signed,
        top: 1,
        rows: layout.tokens,
        columns: layout.tokens,
        mark: [shape.size - 1, layout.answer[0]],
        title: `${NAMES[kind]}, layer ${layer + 1}, head ${ui.values[kind] + 1}`,
        label: `Attention map of ${NAMES[kind]} at step ${steps[frame]}: the question's row is largest at
          ${layout.tokens[end.highAt]}, ${fixed(end.high)}.`,
      });
    }

    const curve = (plot, values, color, dash = "") => {
      plot.line(steps, values, { color, dash, width: 1.2 });
      plot.line(steps.slice(0, frame + 1), values.slice(0, frame + 1), { color, dash, width: 2.8 });
      plot.dots([steps[frame]], [values[frame]], { color, radius: 5 });
    };
    for (const kind of KINDS) curve(losses, pair[kind].loss, COLOR[kind]);
    for (const [i, kind] of KINDS.entries()) {
      losses.text(steps[last], top, NAMES[kind], {
        color: COLOR[kind],
        anchor: "end",
        dy: 14 + 17 * i,
        bold: true,
      });
    }
    for (const step of data.longer) losses.vline(step, { color: COLORS.noise, dash: "2 3" });
    losses.end(
      `Loss against steps; now Transformer ${fixed(pair.softmax.loss[frame])}, DIFF ${fixed(pair.diff.loss[frame])}.`,
    );

    const lambda = (at) => steps.map((_, i) => pair.diff.lambda[i * shape.layers + at]);
    const finals = Array.from({ length: shape.layers }, (_, i) => lambda(i)[last]);
    for (const [i, value] of finals.entries()) {
      const color = [COLORS.map1, COLORS.map2][i % 2];
      curve(lambdas, lambda(i), color);
      const dy = value === Math.max(...finals) ? -8 : 17;
      lambdas.text(steps[last], value, `layer ${i + 1}`, { color, anchor: "end", dy });
    }
    lambdas.end(
      `λ against steps; now ${finals.map((_, i) => `layer ${i + 1} ${fixed(lambda(i)[frame])}`).join(", ")}.`,
    );

    for (const kind of KINDS) {
      curve(
        circuit,
        forms[kind].map((form) => form.back),
        COLOR[kind],
        "4 3",
      );
      curve(
        circuit,
        forms[kind].map((form) => form.answer),
        COLOR[kind],
      );
    }
    circuit.end(
      "Strongest head: dashed, numbers looking at their city in layer 1; solid, the question looking at the answer.",
    );

    const stages = {};
    const told = KINDS.map((kind) => {
      const run = pair[kind];
      stages[kind] = stage(run.accuracy[frame], run.said.slice(4 * frame, 4 * frame + 4), plateau);
      return `${NAMES[kind]} ${IN_WORDS[stages[kind]]} (${fixed(run.accuracy[frame])} right, loss ${fixed(run.loss[frame])})`;
    });
    const ends = Object.fromEntries(KINDS.map((kind) => [kind, extremes(maps[kind])]));
    const at = (wanted) => KINDS.filter((kind) => stages[kind] === wanted);
    const odd = at("learned").filter((kind) => forms[kind][frame].answer < 0.3);
    const name = (kinds) => kinds.map((kind) => NAMES[kind]).join(" and ");
    const numbers = layout.tokens[layout.answer[0]];
    let hint;
    if (odd.length) {
      hint = `${name(odd)} has learned it without this circuit: the question looks at ${numbers} with ${odd.map((kind) => fixed(forms[kind][frame].answer)).join(" and ")} only. Where is its row negative?`;
    } else if (at("turning").length) {
      hint = `${name(at("turning"))} right now. What moves first, the dashed line (layer 1), the solid one (layer 2), or λ?`;
    } else if (at("plateau").length) {
      const yet = at("plateau").map((kind) => fixed(forms[kind][frame].back));
      hint = `${name(at("plateau"))} on the plateau, one in ${fixed(1 / plateau, 0)} right. Do the numbers look at their city yet? (${yet.join(" and ")})`;
    } else if (at("learned").length === 2) {
      hint = "what still moves now that both are right, and go back to where they turned.";
    } else {
      hint = `a loss that falls before the maps have a form: the question's largest weight is ${KINDS.map((kind) => fixed(ends[kind].high)).join(" and ")}.`;
    }
    const nowLambda = Array.from({ length: shape.layers }, (_, i) => fixed(lambda(i)[frame]));
    ui.say(
      `Step ${steps[frame]}: ${told.join("; ")}. λ is ${nowLambda.join(" and ")}.\nLook for: ${hint}`,
    );
    const row = KINDS.map((kind) => {
      const { high, highAt, low, lowAt } = ends[kind];
      const away = low < -0.1 ? `, least at ${layout.tokens[lowAt]} (${fixed(low)})` : "";
      return `${NAMES[kind]} most at ${layout.tokens[highAt]} (${fixed(high)})${away}`;
    });
    const said = KINDS.map((kind) => {
      const share = pair[kind].said.slice(4 * frame, 4 * frame + 2).map((value) => fixed(value));
      return `${NAMES[kind]} gives ${numbers}, the right number, ${share[0]}, and those of the other needles ${share[1]}`;
    });
    details.textContent = `In these maps the question ${layout.tokens[shape.size - 1]} looks, ${row.join("; ")}. As an answer ${said.join("; ")}.`;
  });
}
