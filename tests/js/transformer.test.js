import assert from "node:assert/strict";
import test from "node:test";
import {
  attentionRow,
  forward,
  forwardInPieces,
  lambdaInit,
  lambdaOf,
  probabilities,
  rotaryTable,
  rotate,
  softmaxRow,
} from "../../diffbook/show/js/transformer.js";
import { normals } from "../../diffbook/show/js/core.js";

const close = (a, b, tolerance = 1e-6) =>
  assert.ok(Math.abs(a - b) <= tolerance, `${a} and ${b} differ by more than ${tolerance}`);

/** A model with random weights. */
function drawn(attention, seed = 1) {
  const config = {
    vocab_size: 11,
    d_model: 16,
    n_layers: 2,
    n_heads: 4,
    attention,
    max_seq_len: 64,
    rope_base: 10000,
    output_scale: true,
  };
  const normal = normals(seed);
  const matrix = (n) => Float32Array.from({ length: n }, () => 0.4 * normal());
  const ones = (n) => new Float32Array(n).fill(1);
  const weights = {
    "embedding.weight": matrix(11 * 16),
    "head.weight": matrix(11 * 16),
    "norm.weight": ones(16),
  };
  for (const layer of [0, 1]) {
    const put = (name, value) => {
      weights[`blocks.${layer}.${name}`] = value;
    };
    for (const name of ["q", "k", "v", "o"]) put(`attention.${name}_proj.weight`, matrix(16 * 16));
    for (const name of ["gate", "up", "down"]) put(`ffn.${name}_proj.weight`, matrix(16 * 24));
    put("attention_norm.weight", ones(16));
    put("ffn_norm.weight", ones(16));
    if (attention === "diff") {
      for (const name of ["q1", "k1", "q2", "k2"]) put(`attention.lambda_${name}`, matrix(4));
      put("attention.head_norm.weight", ones(8));
    }
  }
  return { config, weights };
}
const TOKENS = [0, 3, 7, 1, 10, 3, 2, 2, 9, 5];

test("lambda_init is 0.2 in the first layer and rises to 0.8", () => {
  assert.equal(lambdaInit(1), 0.2);
  close(lambdaInit(2), 0.8 - 0.6 * Math.exp(-0.3), 1e-12);
  close(lambdaInit(100), 0.8, 1e-9);
});

test("λ is equation (2), worked by hand", () => {
  // q1·k1 = 1, q2·k2 = 0
  close(lambdaOf([1, 0], [1, 5], [0, 2], [3, 0], 0.2), Math.E - 1 + 0.2, 1e-12);
  close(lambdaOf([1, 2], [3, 4], [1, 2], [3, 4], 0.5), 0.5, 1e-12); // equal vectors cancel
});

test("RoPE turns neighbors by a right angle, keeps lengths, and leaves distances only", () => {
  const table = { ...rotaryTable(2, 2, 10000) };
  const x = Float32Array.of(9, 3, 4);
  rotate(x, 1, 1, table); // angle 1 at position 1 for the first pair
  close(x[1], 3 * Math.cos(1) - 4 * Math.sin(1));
  close(x[2], 3 * Math.sin(1) + 4 * Math.cos(1));
  assert.equal(x[0], 9);
  close(Math.hypot(x[1], x[2]), 5);

  const wide = rotaryTable(40, 8, 10000);
  const normal = normals(3);
  const q = Float32Array.from({ length: 8 }, normal);
  const k = Float32Array.from({ length: 8 }, normal);
  const product = (p, r) => {
    const [a, b] = [q.slice(), k.slice()];
    rotate(a, 0, p, wide);
    rotate(b, 0, r, wide);
    return a.reduce((sum, value, i) => sum + value * b[i], 0);
  };
  close(product(7, 3), product(39, 35), 1e-5);
  assert.ok(Math.abs(product(7, 3) - product(7, 4)) > 1e-3);
});

test("softmax sums to one, also for logits that overflow", () => {
  const row = Float32Array.of(5, 1000, 1001, 5);
  softmaxRow(row, 1, 2);
  close(row[1] + row[2], 1);
  close(row[2], Math.E / (1 + Math.E));
  assert.deepEqual([row[0], row[3]], [5, 5]);
  close(probabilities(Float32Array.of(0, 0, 0, 0))[2], 0.25);
});

for (const attention of ["softmax", "diff"]) {
  test(`${attention}: a position does not see what follows it`, () => {
    const model = drawn(attention);
    const other = [...TOKENS.slice(0, 6), 8, 8, 8, 8];
    const [a, b] = [TOKENS, other].map((tokens) => forward(model, tokens).logits);
    for (let i = 0; i < 6 * 11; i += 1) assert.equal(a[i], b[i]);
    assert.notEqual(a[7 * 11], b[7 * 11]);
  });

  test(`${attention}: the rows asked for are those of the whole`, async () => {
    const model = drawn(attention);
    const whole = forward(model, TOKENS, { maps: "all" });
    const rows = [9, 2];
    const part = await forwardInPieces(model, TOKENS, { rows }, { budget: 0 });
    rows.forEach((position, r) => {
      for (let c = 0; c < 11; c += 1) {
        close(part.logits[r * 11 + c], whole.logits[position * 11 + c]);
      }
      for (const [layer, head] of [
        [0, 0],
        [1, 1],
      ]) {
        const [a, b] = [
          [part, r],
          [whole, position],
        ].map(([result, row]) => attentionRow(result, layer, head, row));
        for (const [j, value] of a.entries()) close(value, b[j]);
        const sum = a.reduce((total, value) => total + value, 0);
        close(sum, attention === "diff" ? 1 - whole.layers[layer].lam : 1, 1e-5);
      }
    });
  });
}

test("a computation that nobody waits for any more is given up", async () => {
  const options = { budget: 0, stale: () => true };
  assert.equal(await forwardInPieces(drawn("softmax"), TOKENS, {}, options), null);
});

test("λ is what tells the two maps: with λ = 0 the second one is gone", () => {
  const model = drawn("diff");
  const learned = forward(model, TOKENS);
  const without = forward(model, TOKENS, { lambdas: [0, 0] });
  assert.deepEqual(attentionRow(without, 0, 1, 9), attentionRow(without, 0, 1, 9, "first"));
  const apart = learned.logits.map((value, i) => Math.abs(value - without.logits[i]));
  assert.ok(Math.max(...apart) > 1e-2);
});

test("tokens the model does not know are refused", () => {
  const model = drawn("softmax");
  for (const tokens of [[], [0, 11], [0, -1], [0.5], new Array(65).fill(0)]) {
    assert.throws(() => forward(model, tokens), RangeError);
  }
});
