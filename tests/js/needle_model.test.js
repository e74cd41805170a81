import assert from "node:assert/strict";
import test from "node:test";
import {
  fresh,
  groups,
  mostProbable,
  outcome,
  pooled,
  sequence,
  shareOn,
  uniforms,
} from "../../diffbook/show/js/needle_model.js";

const TASK = { seq_len: 64, n_needles: 4, n_cities: 16, n_numbers: 16, n_words: 32 };
const WORDS = Array.from({ length: 512 }, (_, i) => i % 32);
const needle = (city, number, depth) => ({ city, number, depth });

test("a sequence has its needles at their depths, and the question at its end", () => {
  const needles = [needle(3, 5, 1), needle(0, 9, 0)];
  const place = sequence(TASK, { length: 12, words: WORDS, needles, asked: 0 });
  // start, needle 1, five words, needle 0, question
  assert.deepEqual(place.tokens, [0, 2, 27, 34, 35, 36, 37, 38, 5, 23, 1, 5]);
  assert.deepEqual(place.starts, [8, 1]);
  assert.equal(place.tokens[place.answer], place.number);
  assert.equal(place.query, 11);
});

test("needles at one place stand in their order, and too many are refused", () => {
  const needles = [1, 2, 3].map((i) => needle(i, i, 0.5));
  const place = sequence(TASK, { length: 13, words: WORDS, needles, asked: 2 });
  assert.deepEqual(place.starts, [3, 5, 7]);
  assert.throws(() => sequence(TASK, { length: 8, words: WORDS, needles, asked: 0 }), RangeError);
});

test("an answer is right, another needle's, another number or none", () => {
  const needles = [needle(3, 5, 0.2), needle(7, 9, 0.8)];
  const place = sequence(TASK, { length: 20, words: WORDS, needles, asked: 0 });
  const { number, word } = groups(TASK);
  assert.equal(outcome(TASK, place, number + 5), "right");
  assert.equal(outcome(TASK, place, number + 9), "another needle");
  assert.equal(outcome(TASK, place, number + 1), "another number");
  assert.equal(outcome(TASK, place, word + 1), "no number");
  assert.equal(outcome(TASK, place, 5), "no number");
});

test("what is most probable comes first", () => {
  const [first, second] = mostProbable(Float32Array.of(0, Math.log(3), 0, 0));
  assert.equal(first[0], 1);
  assert.ok(Math.abs(first[1] - 0.5) < 1e-6 && Math.abs(second[1] - 1 / 6) < 1e-6);
});

test("a share counts magnitudes", () => {
  assert.equal(shareOn([0.5, -0.25, 0.25], 1), 0.25);
  assert.equal(shareOn([0, 0], 1), 0);
});

test("fresh haystacks: all cities and numbers differ, and a seed repeats them", () => {
  for (let seed = 0; seed < 50; seed += 1) {
    const { needles, words } = fresh(TASK, uniforms(seed), 512, 8);
    assert.equal(new Set(needles.map(({ city }) => city)).size, 8);
    assert.equal(new Set(needles.map(({ number }) => number)).size, 8);
    assert.ok(words.every((word) => word >= 0 && word < 32) && words.length === 512);
  }
  assert.deepEqual(fresh(TASK, uniforms(3), 9, 2), fresh(TASK, uniforms(3), 9, 2));
  assert.notDeepEqual(fresh(TASK, uniforms(3), 9, 2), fresh(TASK, uniforms(4), 9, 2));
});

test("pooling keeps the largest magnitude of a block, with its sign", () => {
  const map = [1, 0, 0, 0, -3, 2, 0, 0, 0, 1, -1, 0, 0, 0, 0.5, 4];
  assert.deepEqual(pooled(map, 4, 2), [
    [-3, 0],
    [1, 4],
  ]);
  assert.deepEqual(pooled(map, 4, 4)[1], [-3, 2, 0, 0]);
});
