import assert from "node:assert/strict";
import test from "node:test";

import {
  extremes,
  halves,
  headMap,
  stage,
  subtract,
  triangle,
} from "../../diffbook/show/js/training_replay.js";

// Two layers of two maps over three tokens; six cells a map.
const SHAPE = { size: 3, layers: 2, maps: 2 };
const BYTES = Uint8Array.from({ length: 48 }, (_, i) => i);

test("a triangle is read row by row, with nothing above the diagonal", () => {
  assert.deepEqual(triangle(BYTES, SHAPE, 0, 0, 0), [
    [0, 0, 0],
    [0.01, 0.02, 0],
    [0.03, 0.04, 0.05],
  ]);
  // Second frame, second layer, second map: the last six bytes.
  assert.equal(triangle(BYTES, SHAPE, 1, 1, 1)[2][2], 0.47);
});

test("a differential head is its first map minus λ times its second", () => {
  assert.deepEqual(subtract([[1, 0.5]], [[0.5, 0.5]], 2), [[0, -0.5]]);
  const run = { bytes: BYTES, lambda: [0.5, 1, 0.25, 2] };
  const [one, two] = [triangle(BYTES, SHAPE, 1, 0, 0), triangle(BYTES, SHAPE, 1, 0, 1)];
  assert.deepEqual(headMap(run, SHAPE, 1, 0, 0), subtract(one, two, 0.25));
  assert.deepEqual(headMap(run, SHAPE, 1, 0, 0, "second"), two);
  assert.deepEqual(headMap({ bytes: BYTES, lambda: [] }, SHAPE, 1, 0, 1), two);
});

test("the circuit's halves are those of the strongest head", () => {
  const layout = { numbers: [1], cities: [0], answer: [1] };
  const found = halves({ bytes: BYTES, lambda: [] }, SHAPE, layout, 0);
  assert.deepEqual(found, { back: 0.07, backHead: 1, answer: 0.22, answerHead: 1 });
});

test("stages follow from accuracy and from what is said", () => {
  assert.equal(stage(0.0, [0, 0.1, 0.2, 0.7], 0.25), "blank");
  assert.equal(stage(0.06, [0.1, 0.2, 0.6, 0.1], 0.25), "numbers");
  assert.equal(stage(0.26, [0.3, 0.6, 0.1, 0], 0.25), "plateau");
  assert.equal(stage(0.5, [0.6, 0.4, 0, 0], 0.25), "turning");
  assert.equal(stage(0.97, [1, 0, 0, 0], 0.25), "learned");
});

test("extremes are those of the question's row, the last one", () => {
  const found = extremes([
    [9, -9],
    [0.2, -0.4],
  ]);
  assert.deepEqual(found, { high: 0.2, highAt: 0, low: -0.4, lowAt: 1 });
});
