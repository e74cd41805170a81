// Closed forms at the points where one knows the answer; Python compares them at random ones.
import assert from "node:assert/strict";
import test from "node:test";
import { hum, playable, rumble, scene } from "../../diffbook/show/js/amplifier.js";
import { explained, PRESETS } from "../../diffbook/show/js/difference.js";
import { unitProducts, zeroLine } from "../../diffbook/show/js/lambda.js";
import * as signals from "../../diffbook/show/js/signals.js";

const near = (value, expected, tolerance = 1e-9) =>
  assert.ok(Math.abs(value - expected) <= tolerance, `${value} is not ${expected}`);
const power = (samples) => samples.reduce((sum, x) => sum + x * x, 0) / samples.length;

test("half of the attention is noise at the half-noise context", () => {
  for (const [m, s] of [
    [8, 1],
    [12, 0],
    [6, 2],
  ]) {
    near(signals.noiseMass(signals.halfNoiseContext(m, s), m, s), 0.5);
    near(signals.noiseMass(500, signals.requiredMargin(500, s, 0.1), s), 0.1);
  }
});

test("no overflow at the ends", () => {
  near(signals.noiseMass(1e300, 0, 30), 1);
  assert.ok(signals.noiseMass(4, 900, 0) >= 0);
});

test("a softmax sums to 1, hides what comes later and takes large scores", () => {
  const row = signals.softmax([800, 799, 3, 801], 3);
  near(
    row.reduce((a, b) => a + b, 0),
    1,
  );
  assert.equal(row[3], 0);
  near(row[0] / row[1], Math.E);
});

test("an amplifier without common-mode gain removes what both wires share", () => {
  const [plus, minus] = [
    [501, 402],
    [499, 398],
  ];
  const out = signals.amplified(plus, minus, [10, 0]);
  near(out[0], 20);
  near(out[1], 40);
});

test("gain changes no ratio; own noise limits it; rejection does the rest", () => {
  const n = 4000;
  const parts = {
    signal: signals.melody(n, 8000),
    shared: hum(n, 8000, 1),
    first: rumble(n, 2),
    second: rumble(n, 3),
  };
  const at = (change) => scene({ gain: 20, cmrr: 60, common: 40, own: -30, ...change }, parts);
  near(at({}).after, at({ gain: 50 }).after, 1e-6);
  assert.ok(at({ cmrr: 80 }).after > at({}).after + 5);
  near(at({ cmrr: 120, own: -60 }).after, 57, 0.5); // 60 dB less the 3 dB of two wires
  near(at({}).before, -46, 0.5);
});

test("clips are equally loud and never above the limit", () => {
  for (const factor of [1, 1000]) {
    const clip = playable(rumble(4000, 5).map((x) => factor * x));
    near(power([...clip]), 0.01, 1e-3);
    assert.ok(Math.max(...clip.map(Math.abs)) <= 0.5);
  }
});

test("noises have power 1 and two wires differ", () => {
  near(power(hum(8000, 8000, 1)), 1);
  assert.notDeepEqual(rumble(10, 2), rumble(10, 3));
});

test("the hand-made head is the one of chapter 3", () => {
  const { z1, z2, lam } = PRESETS[0];
  const now = explained(z1, z2, lam);
  near(now.map[5][1], 0.508, 5e-4);
  near(now.a1[5][1], 0.676, 1e-3);
});

test("equal maps gain nothing at any λ, and vanish at 1", () => {
  const { z1, z2 } = PRESETS.find(({ name }) => name === "equal");
  near(explained(z1, z2, 0.6).gain, 0, 1e-9);
  const now = explained(z1, z2, 0.6);
  near(now.bestNoise, 1);
  near(now.threshold, 2);
  near(now.vanishes, 1);
});

test("at the threshold the row holds as much noise as map 1 alone", () => {
  for (const { z1, z2 } of PRESETS) {
    const { threshold, a1, a2 } = explained(z1, z2, 0);
    const noise = (lam) =>
      a1[5].reduce((sum, w, j) => sum + (j === 1 ? 0 : (w - lam * a2[5][j]) ** 2), 0);
    near(noise(threshold), noise(0), 1e-12);
    assert.ok(noise(threshold + 0.01) > noise(0));
    assert.ok(noise(threshold / 2) <= noise(threshold / 2 + 0.01));
  }
});

test("λ is 0 on the line", () => {
  for (const a of [-1, 0, 0.7]) near(signals.lambdaOf(a, zeroLine([a], 3)[0], 3), 0);
});

test("dot products of normal vectors have mean 0 and variance d", () => {
  for (const d of [16, 128]) {
    const products = unitProducts(d, 4000, 1).flat();
    near(products.reduce((a, b) => a + b, 0) / products.length, 0, 0.06 * Math.sqrt(d));
    near(power(products) / d, 1, 0.08);
  }
});
