// Closed forms of diffbook/signals.py and diffbook/attention.py, under the same names.
// tests/test_reactive_equality.py holds each of them to Python's value.

// ---------------------------------------------------------------- one softmax (chapter 1)

/** Share of attention that n irrelevant keys take from one with logit margin m (nats); their
 * logits have standard deviation s. */
export function noiseMass(n, m, s = 0) {
  const excess = m - (s * s) / 2 - Math.log(n);
  // 1 / (1 + e^excess), without overflow
  return excess > 0 ? Math.exp(-excess) / (1 + Math.exp(-excess)) : 1 / (1 + Math.exp(excess));
}

/** Number of irrelevant keys at which half of the attention is noise. */
export const halfNoiseContext = (m, s = 0) => Math.exp(m - (s * s) / 2);

/** Margin at which the noise takes no more than the share eps. */
export const requiredMargin = (n, s = 0, eps = 0.5) =>
  Math.log(n) + (s * s) / 2 + Math.log((1 - eps) / eps);

// ---------------------------------------------------------------- the amplifier (chapter 2)

const power = (samples) => samples.reduce((sum, x) => sum + x * x, 0) / samples.length;

/** Gains [differential, common-mode] of an amplifier that is given by its differential gain (a
 * factor) and its common-mode rejection ratio in dB. */
export const amplifierGains = (gain, cmrrDb) => [gain, gain / 10 ** (cmrrDb / 20)];

/** Common-mode rejection ratio in dB of two gains. */
export const amplifierCmrrDb = (differential, common) =>
  20 * Math.log10(Math.abs(differential / common));

/** Output of the amplifier for two inputs (arrays): the gains times difference and mean. */
export const amplified = (plus, minus, [differential, common]) =>
  plus.map((p, i) => differential * (p - minus[i]) + (common * (p + minus[i])) / 2);

/** Signal-to-noise ratio in dB of two arrays. */
export const snrDb = (signal, noise) => 10 * Math.log10(power(signal) / power(noise));

/** A rising arpeggio of plucked notes, root mean square 1 (signals._melody). */
export function melody(samples, rate) {
  const notes = [261.63, 329.63, 392.0, 523.25, 659.26, 523.25, 392.0, 523.25]; // C E G C E C G C
  const length = samples / rate / notes.length;
  const sound = new Array(samples).fill(0);
  notes.forEach((pitch, index) => {
    for (let i = Math.ceil(index * length * rate - 1e-9); i < samples; i += 1) {
      const since = i / rate - index * length;
      const envelope = Math.exp(-6 * since) * Math.min(since / 0.01, 1);
      if (envelope < 1e-12 && since > 0.01) break;
      for (const [partial, strength] of [
        [1, 1],
        [2, 0.4],
        [3, 0.2],
      ]) {
        sound[i] += strength * envelope * Math.sin(2 * Math.PI * partial * pitch * since);
      }
    }
  });
  const level = Math.sqrt(power(sound));
  return sound.map((x) => x / level);
}

// ---------------------------------------------------------------- attention maps (chapters 2, 3)

/** One row of weights from its logits; where only the first `visible` keys may be seen, the others
 * get 0. */
export function softmax(logits, visible = logits.length) {
  const top = Math.max(...logits.slice(0, visible));
  const weights = logits.map((z, j) => (j < visible ? Math.exp(z - top) : 0));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

/** Causal map of a square of logits: row i sees keys 0 to i. */
export const causalMap = (logits) => logits.map((row, i) => softmax(row, i + 1));

/** A1 - λ A2. */
export const difference = (a1, a2, lam) =>
  a1.map((row, i) => row.map((weight, j) => weight - lam * a2[i][j]));

/** What a row of A1 - λ A2 does to the weight at `answer`, against everything else it sees.
 * Returns gain (signal-to-noise ratio over that of map 1, in dB; -∞ where the answer vanishes),
 * bestNoise (the λ of least noise energy), threshold (above it there is more noise energy than in
 * map 1 alone), vanishes (the λ at which the answer's weight is 0). */
export function rowSignal(a1, a2, lam, answer) {
  let [n11, n12, n22] = [0, 0, 0];
  a1.forEach((weight, j) => {
    if (j === answer) return;
    n11 += weight * weight;
    n12 += weight * a2[j];
    n22 += a2[j] * a2[j];
  });
  const signal = (a1[answer] - lam * a2[answer]) / a1[answer];
  const noise = (n11 - 2 * lam * n12 + lam * lam * n22) / n11;
  return {
    gain: 10 * Math.log10((signal * signal) / Math.max(noise, 0)),
    bestNoise: n12 / n22,
    threshold: (2 * n12) / n22,
    vanishes: a1[answer] / a2[answer],
  };
}

// ---------------------------------------------------------------- λ (chapter 4)

/** The start of λ in a layer, counted from 1. */
export const lambdaInit = (layer) => 0.8 - 0.6 * Math.exp(-0.3 * (layer - 1));

/** Eq. (2): a and b are the dot products of the vectors. */
export const lambdaOf = (a, b, layer) => Math.exp(a) - Math.exp(b) + lambdaInit(layer);
