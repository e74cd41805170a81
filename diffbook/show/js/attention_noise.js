// Figure 1, chapter 1: how much of a softmax goes to noise as a curve one can move.

import { COLORS, fixed, grouped, percent } from "./core.js";
import { halfNoiseContext, noiseMass, requiredMargin } from "./signals.js";

const LOW = 4;
const HIGH = 2 ** 20;
const GRID = Array.from({ length: 161 }, (_, i) => LOW * (HIGH / LOW) ** (i / 160));

export function render({ data, ui }) {
  const plot = ui.plot({ height: 270 });
  ui.sentence();
  ui.controls();
  const tokens = (log2) => 2 ** log2;
  ui.range({
    name: "log2_n",
    label: "irrelevant tokens n",
    min: 2,
    max: 20,
    step: 0.5,
    value: data.log2_n,
    format: (value) => grouped(tokens(value)),
  });
  ui.range({ name: "m", label: "margin m (nats)", min: 0, max: 16, step: 0.25, value: data.m });
  ui.range({
    name: "s",
    label: "spread s (nats)",
    min: 0,
    max: 2,
    step: 0.1,
    value: data.s,
    format: (value) => fixed(value, 1),
  });
  plot.onDrag((n) => {
    const log2 = Math.log2(Math.max(LOW, Math.min(HIGH, n)));
    ui.set({ log2_n: Math.round(2 * log2) / 2 });
  });
  ui.draw(({ log2_n, m, s }) => {
    const n = tokens(log2_n);
    const answer = 1 - noiseMass(n, m, s);
    const half = halfNoiseContext(m, s);
    plot.begin({
      title: `${percent(answer, answer < 0.1 ? 1 : 0)} of the attention is on the answer`,
      x: { min: LOW, max: HIGH, log: true, label: "irrelevant tokens n", format: grouped },
      y: { min: 0, max: 1, label: "share of the answer", ticks: [0, 0.25, 0.5, 0.75, 1] },
    });
    const shares = GRID.map((at) => 1 - noiseMass(at, m, s));
    plot.line(GRID, shares, { color: COLORS.signal, fill: 0.14, base: 0 });
    if (half >= LOW && half <= HIGH) {
      plot.vline(half, { dash: "2 4", color: COLORS.noise });
      const late = half > 50000;
      plot.text(half, 0.93, "half is noise", {
        dx: late ? -6 : 6,
        anchor: late ? "end" : "start",
        color: "#666666",
      });
    }
    plot.dots([n], [answer], { color: COLORS.transformer, radius: 8 });
    plot.end(`Share of the answer against the number of irrelevant tokens, falling from near 1 to
      near 0; the dot stands at ${grouped(n)} tokens and ${percent(answer, 1)}.`);
    ui.say(
      `With ${grouped(n)} irrelevant tokens, margin ${fixed(m)} and spread ${fixed(s, 1)}, the answer ` +
        `keeps ${percent(answer, 1)}; ${percent(1 - answer, 1)} is noise. Half is noise at ${grouped(half)} ` +
        `tokens. For 10 % noise here the margin would have to be ${fixed(requiredMargin(n, s, 0.1))}.`,
    );
  });
}
