// A forward pass of diffbook.model.LanguageModel in plain JavaScript: softmax and differential
// attention, RoPE, RMSNorm, SwiGLU. Weights come from diffbook.show.browser_model.pack.
//
// Matrices are Float32Array, row by row, (out, in) as in torch, so that a product with a token's
// vector reads both from left to right. Only the rows that are asked for are computed in the last
// layer. Symbols are those of the package: q, k, v, lam, d.

import { bytesOf } from "./core.js";

const EPS = 1e-5; // of every RMSNorm
const ROWS = 16; // positions between two chances to pause

// λ_init of a layer, counted from 1 (p. 3 of the paper).
export function lambdaInit(layer) {
  return 0.2 - 0.6 * Math.expm1(-0.3 * (layer - 1));
}

// Equation (2): λ = exp(λq1·λk1) - exp(λq2·λk2) + λ_init.
export function lambdaOf(q1, k1, q2, k2, init) {
  let first = 0;
  let second = 0;
  for (let j = 0; j < q1.length; j++) {
    first += q1[j] * k1[j];
    second += q2[j] * k2[j];
  }
  return Math.exp(first) - Math.exp(second) + init;
}

/** Cosines and sines of RoPE: position · base^(-2j/d), a row of d/2 numbers for each position. */
export function rotaryTable(positions, d, base) {
  const half = d / 2;
  const cos = new Float32Array(positions * half);
  const sin = new Float32Array(positions * half);
  for (let j = 0; j < half; j += 1) {
    const frequency = base ** ((-2 * j) / d);
    for (let position = 0; position < positions; position += 1) {
      cos[position * half + j] = Math.cos(position * frequency);
      sin[position * half + j] = Math.sin(position * frequency);
    }
  }
  return { cos, sin, positions, half };
}

/** Turn the channels (2j, 2j+1) of x[at … at + d) for their position, in place. */
export function rotate(x, at, position, { cos, sin, half }) {
  for (let j = 0, c = position * half; j < half; j += 1, c += 1) {
    const even = x[at + 2 * j];
    const odd = x[at + 2 * j + 1];
    x[at + 2 * j] = even * cos[c] - odd * sin[c];
    x[at + 2 * j + 1] = even * sin[c] + odd * cos[c];
  }
}

// The softmax of one row of scores, in place: x[at … at + n).
export function softmaxRow(x, at, n) {
  let top = -Infinity;
  for (let j = at; j < at + n; j++) if (x[j] > top) top = x[j];
  let sum = 0;
  for (let j = at; j < at + n; j++) {
    const e = Math.exp(x[j] - top);
    x[j] = e;
    sum += e;
  }
  const scale = 1 / sum;
  for (let j = at; j < at + n; j++) x[j] *= scale;
}

function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The packed weights as {config, weights: {name: Float32Array}}.
export function unpack(packed) {
  const bytes = bytesOf(packed.data);
  const view = new DataView(bytes.buffer);
  const weights = {};
  let at = 0;
  for (const [name, shape] of packed.tensors) {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
    if (shape.length === 1) {
      for (let i = 0; i < values.length; i++) values[i] = view.getFloat32(at + 4 * i, true);
      at += 4 * values.length;
    } else {
      const [rows, columns] = shape;
      const scales = at + rows * columns;
      for (let row = 0, i = 0; row < rows; row++) {
        const scale = float16(view.getUint16(scales + 2 * row, true));
        for (let j = 0; j < columns; j++, i++) values[i] = view.getInt8(at + i) * scale;
      }
      at = scales + 2 * rows;
    }
    weights[name] = values;
  }
  if (at !== bytes.length) throw new Error(`${bytes.length - at} bytes do not fit the tensors`);
  if (packed.config.tie_embeddings) weights["head.weight"] = weights["embedding.weight"];
  return { config: packed.config, weights };
}

// out[row] = W x[row] for rows first … last - 1; x (·, n), W (m, n), out (·, m). Four rows of W at
// a time: each number of x is read once for four products.
function linear(out, x, W, n, m, first, last) {
  for (let row = first; row < last; row++) {
    const from = row * n;
    const to = row * m;
    let o = 0;
    for (; o + 3 < m; o += 4) {
      const w = o * n;
      let a = 0;
      let b = 0;
      let c = 0;
      let e = 0;
      for (let i = 0; i < n; i++) {
        const value = x[from + i];
        a += value * W[w + i];
        b += value * W[w + n + i];
        c += value * W[w + 2 * n + i];
        e += value * W[w + 3 * n + i];
      }
      out[to + o] = a;
      out[to + o + 1] = b;
      out[to + o + 2] = c;
      out[to + o + 3] = e;
    }
    for (; o < m; o++) {
      let a = 0;
      for (let i = 0; i < n; i++) a += x[from + i] * W[o * n + i];
      out[to + o] = a;
    }
  }
}

// out[at … at + n) = gain · x / root mean square; out may be x.
function rmsNorm(out, x, gain, at, n, scale = 1) {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += x[at + i] * x[at + i];
  const factor = scale / Math.sqrt(sum / n + EPS);
  for (let i = 0; i < n; i++) out[at + i] = x[at + i] * factor * gain[i];
}

// row[0 … n) = softmax(q k^T / √d): one query against the first n keys.
function attend(row, q, qAt, k, kAt, kWidth, d, n) {
  const scale = 1 / Math.sqrt(d);
  for (let j = 0, at = kAt; j < n; j++, at += kWidth) {
    let sum = 0;
    for (let c = 0; c < d; c++) sum += q[qAt + c] * k[at + c];
    row[j] = sum * scale;
  }
  softmaxRow(row, 0, n);
}

// out[to … to + dv) = row[0 … n) times the values.
function gather(out, to, row, v, vAt, vWidth, dv, n) {
  for (let c = 0; c < dv; c++) out[to + c] = 0;
  for (let j = 0, at = vAt; j < n; j++, at += vWidth) {
    const weight = row[j];
    for (let c = 0; c < dv; c++) out[to + c] += weight * v[at + c];
  }
}

function checked(model, tokens) {
  const { vocab_size: vocabulary, max_seq_len: longest } = model.config;
  if (!tokens.length || tokens.length > longest) {
    throw new RangeError(`${tokens.length} tokens: give 1 to ${longest}`);
  }
  for (const token of tokens) {
    if (!(Number.isInteger(token) && token >= 0 && token < vocabulary)) {
      throw new RangeError(`token ${token}: the model knows 0 to ${vocabulary - 1}`);
    }
  }
}

// The forward pass, in steps: each `yield` is a chance to pause. Returns
//   logits     (rows, vocab)
//   positions  whose attention was kept: `rows`, or all with maps = "all"
//   layers     for each layer {lam, heads: [{first, second}]}: `first` is the softmax map (or A1),
//              `second` is A2, null in a Transformer; both (positions, seq), zero behind a position.
// Options: rows (default: all positions), maps ("rows", "all" or "none"), lambdas (one number for
// each layer, null for the learned one: an intervention).
export function* steps(model, tokens, options = {}) {
  checked(model, tokens);
  const { config, weights } = model;
  const seq = tokens.length;
  const rows = options.rows ?? Array.from(tokens, (_, i) => i);
  const keep = options.maps ?? "rows";
  const kept = keep === "all" ? Array.from(tokens, (_, i) => i) : keep === "rows" ? rows : [];
  const slot = new Map(kept.map((position, i) => [position, i]));
  const { d_model: width, n_heads: maps, vocab_size: vocabulary } = config;
  const diff = config.attention === "diff";
  const d = width / maps;
  const group = maps / (config.n_kv_heads ?? maps);
  const kvWidth = width / group;
  const heads = diff ? maps / 2 : maps;
  const dv = diff ? 2 * d : d;
  const ff = weights["blocks.0.ffn.gate_proj.weight"].length / width;

  if (!(model.table?.positions >= seq))
    model.table = rotaryTable(Math.max(128, seq), d, config.rope_base);
  const table = model.table;

  const x = new Float32Array(seq * width); // the residual stream
  for (let i = 0; i < seq; i++) {
    const from = tokens[i] * width;
    x.set(weights["embedding.weight"].subarray(from, from + width), i * width);
  }
  const normed = new Float32Array(seq * width);
  const q = new Float32Array(seq * width);
  const k = new Float32Array(seq * kvWidth);
  const v = new Float32Array(seq * kvWidth);
  const joined = new Float32Array(seq * width);
  const gate = new Float32Array(seq * ff);
  const up = new Float32Array(seq * ff);
  const a1 = new Float32Array(seq);
  const a2 = new Float32Array(seq);
  const learned = lambdas(model);
  const layers = [];

  for (let index = 0; index < config.n_layers; index++) {
    const w = (name) => weights[`blocks.${index}.${name}`];
    const last = index === config.n_layers - 1;
    // Later layers need every position of this one; behind the last, only the rows asked for.
    const wanted = last && keep !== "all" ? [...new Set(rows)].sort((a, b) => a - b) : null;
    const init = config.lambda_init ?? lambdaInit(index + 1);
    const lam = diff ? (options.lambdas?.[index] ?? learned[index]) : null;
    const outputScale = diff && config.output_scale !== false ? 1 - init : 1;
    const headNorm = w("attention.head_norm.weight");
    const layer = { lam, heads: [] };
    for (let h = 0; h < heads && kept.length; h++) {
      const map = () => new Float32Array(kept.length * seq);
      layer.heads.push({ first: map(), second: diff ? map() : null });
    }
    layers.push(layer);

    // Keys and values of all positions, then the queries that are wanted.
    for (let from = 0; from < seq; from += ROWS) {
      const to = Math.min(from + ROWS, seq);
      for (let i = from; i < to; i++) {
        rmsNorm(normed, x, w("attention_norm.weight"), i * width, width);
      }
      linear(k, normed, w("attention.k_proj.weight"), width, kvWidth, from, to);
      linear(v, normed, w("attention.v_proj.weight"), width, kvWidth, from, to);
      for (let i = from; i < to; i++) {
        for (let c = 0; c < kvWidth; c += d) rotate(k, i * kvWidth + c, i, table);
      }
      yield;
    }
    const queue = wanted ?? Array.from(tokens, (_, i) => i);
    for (let start = 0; start < queue.length; start += ROWS) {
      for (const i of queue.slice(start, start + ROWS)) {
        linear(q, normed, w("attention.q_proj.weight"), width, width, i, i + 1);
        for (let c = 0; c < width; c += d) rotate(q, i * width + c, i, table);
        const n = i + 1; // causal: position i sees i + 1 positions
        const place = slot.get(i);
        for (let h = 0; h < heads; h++) {
          const kv = Math.floor(h / group);
          const to = i * width + h * dv;
          if (diff) {
            // Neighbours (2h, 2h + 1) are the two maps of head h.
            attend(a1, q, i * width + 2 * h * d, k, 2 * kv * d, kvWidth, d, n);
            attend(a2, q, i * width + (2 * h + 1) * d, k, (2 * kv + 1) * d, kvWidth, d, n);
          } else {
            attend(a1, q, i * width + h * d, k, kv * d, kvWidth, d, n);
          }
          if (place !== undefined) {
            layer.heads[h].first.set(a1.subarray(0, n), place * seq);
            if (diff) layer.heads[h].second.set(a2.subarray(0, n), place * seq);
          }
          if (diff) for (let j = 0; j < n; j++) a1[j] -= lam * a2[j];
          gather(joined, to, a1, v, kv * dv, kvWidth, dv, n);
          if (headNorm) rmsNorm(joined, joined, headNorm, to, dv, outputScale);
          else if (outputScale !== 1) for (let c = 0; c < dv; c++) joined[to + c] *= outputScale;
        }
        // W^O, then the feed-forward part, each added to the residual stream.
        const at = i * width;
        linear(normed, joined, w("attention.o_proj.weight"), width, width, i, i + 1);
        for (let c = at; c < at + width; c++) x[c] += normed[c];
        rmsNorm(normed, x, w("ffn_norm.weight"), at, width);
        linear(gate, normed, w("ffn.gate_proj.weight"), width, ff, i, i + 1);
        linear(up, normed, w("ffn.up_proj.weight"), width, ff, i, i + 1);
        for (let c = i * ff; c < (i + 1) * ff; c++) {
          gate[c] *= up[c] / (1 + Math.exp(-gate[c])); // silu(gate) · up
        }
        linear(joined, gate, w("ffn.down_proj.weight"), ff, width, i, i + 1);
        for (let c = at; c < at + width; c++) x[c] += joined[c];
      }
      yield;
    }
  }

  const logits = new Float32Array(rows.length * vocabulary);
  const final = new Float32Array(rows.length * width);
  rows.forEach((position, r) => {
    final.set(x.subarray(position * width, (position + 1) * width), r * width);
    rmsNorm(final, final, weights["norm.weight"], r * width, width);
  });
  linear(logits, final, weights["head.weight"], width, vocabulary, 0, rows.length);
  return { logits, positions: kept, layers };
}

/** {@link steps} in one go. */
export function forward(model, tokens, options) {
  const work = steps(model, tokens, options);
  let step = work.next();
  while (!step.done) step = work.next();
  return step.value;
}

/** The same with a pause for the page after every `budget` ms, so that it stays responsive.
 * `stale()` is asked after each pause: true ends the work, and the answer is null. */
export async function forwardInPieces(model, tokens, options = {}, { budget = 12, stale } = {}) {
  const work = steps(model, tokens, options);
  let began = performance.now();
  let step = work.next();
  while (!step.done) {
    if (performance.now() - began > budget) {
      await new Promise((resume) => setTimeout(resume, 0));
      if (stale?.()) return null;
      began = performance.now();
    }
    step = work.next();
  }
  return step.value;
}

/** What multiplies the values: A1 - λ A2, or the softmax map itself; one row of one head. */
export function attentionRow(result, layer, head, row, which = "difference") {
  const { lam, heads } = result.layers[layer];
  const { first, second } = heads[head];
  const seq = first.length / result.positions.length;
  const out = Array.from(first.subarray(row * seq, (row + 1) * seq));
  if (!second || which === "first") return out;
  const other = second.subarray(row * seq, (row + 1) * seq);
  return which === "second" ? Array.from(other) : out.map((value, j) => value - lam * other[j]);
}

/** softmax(logits), as an ordinary array. */
export function probabilities(logits) {
  const out = Float64Array.from(logits);
  softmaxRow(out, 0, out.length);
  return Array.from(out);
}

/** The learned λ of each layer; empty for a Transformer. */
export function lambdas({ config, weights }) {
  if (config.attention !== "diff") return [];
  return Array.from({ length: config.n_layers }, (_, index) => {
    const vector = (name) => weights[`blocks.${index}.attention.lambda_${name}`];
    const init = config.lambda_init ?? lambdaInit(index + 1);
    return lambdaOf(vector("q1"), vector("k1"), vector("q2"), vector("k2"), init);
  });
}
