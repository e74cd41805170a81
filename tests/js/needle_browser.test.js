import assert from "node:assert/strict";
import test from "node:test";

import {
  counts,
  difference,
  newcombe,
  reading,
  student,
  wilson,
} from "../../diffbook/show/js/needle_browser.js";

test("Wilson's interval is where the share's own error reaches", () => {
  const [low, high] = wilson(47, 50);
  for (const end of [low, high]) {
    const z = (47 / 50 - end) / Math.sqrt((end * (1 - end)) / 50);
    assert.ok(Math.abs(Math.abs(z) - 1.959963984540054) < 1e-9);
  }
  assert.ok(wilson(0, 50)[1] > 0.05 && wilson(0, 50)[0] < 1e-12);
  assert.ok(Math.abs(wilson(50, 50)[1] - 1) < 1e-12);
});

test("the difference of two shares turns its sign with its order", () => {
  const [low, high] = newcombe(40, 50, 30, 50);
  const [back, forth] = newcombe(30, 50, 40, 50);
  assert.ok(low < 0.2 && 0.2 < high);
  assert.ok(Math.abs(low + forth) < 1e-12 && Math.abs(high + back) < 1e-12);
});

const MAP = {
  rows: ["a", "b"],
  columns: ["x", "y", "z"],
  seeds: [0, 1],
  mean: true,
  n: 10,
  right: { one: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 1] },
};

test("counts are sorted by row, column, seed, and the last row sums them up", () => {
  const cells = counts(MAP, "one");
  assert.deepEqual(cells[1][2], [6, 1]);
  assert.deepEqual(cells[2], [
    [5, 17],
    [7, 8],
    [9, 10],
  ]);
  assert.equal(counts({ ...MAP, mean: false }, "one").length, 2);
});

test("a mean has the spread over seeds, a seed that of its prompts", () => {
  assert.deepEqual(reading([4, 6], 10, 0, 12.7).value, 0.4);
  const mean = reading([4, 6], 10, null, 1);
  assert.ok(Math.abs(mean.low - 0.4) < 1e-12 && Math.abs(mean.high - 0.6) < 1e-12);
  assert.equal(reading([10, 4], 10, null, 12.7).high, 1); // no share is above one
});

test("the difference is taken in pairs", () => {
  // Seeds that differ a lot, by the same amount in both: no spread is left.
  const { value, low, high } = difference([1, 9], [2, 10], 10, null, 12.7);
  assert.ok(Math.abs(value - 0.1) < 1e-12);
  assert.ok(Math.abs(low - 0.1) < 1e-9 && Math.abs(high - 0.1) < 1e-9);
  assert.ok(student([0.1, 0.9], 12.7)[0] < 0);
});
