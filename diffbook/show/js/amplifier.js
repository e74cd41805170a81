// Figure 2, chapter 2: a melody between two wires, a hum on both, and an amplifier to listen to.

import { COLORS, decibel, fixed, normals } from "./core.js";
import { amplified, amplifierGains, melody, snrDb } from "./signals.js";

const RATE = 8000;
const SAMPLES = 2 * RATE;
const [FIRST, SHOWN] = [0.26 * RATE, 0.05 * RATE]; // what the scope shows
const LOUDNESS = 0.1; // root mean square of what is played; 1 would be the loudest there is
const PEAK = 0.5;

/** A noise of root mean square 1, most of it below 500 Hz. */
export function rumble(samples, seed) {
  const draw = normals(seed);
  let low = 0;
  return scaled(
    Array.from({ length: samples }, () => {
      low += 0.3 * (draw() - low);
      return low;
    }),
  );
}

/** The mains with two overtones and a rumble, root mean square 1: the same on both wires. */
export function hum(samples, rate, seed) {
  const noise = rumble(samples, seed);
  const tone = (i, pitch) => Math.sin((2 * Math.PI * pitch * i) / rate);
  return scaled(noise.map((x, i) => tone(i, 50) + 0.5 * tone(i, 150) + 0.3 * tone(i, 250) + x));
}

function scaled(sound) {
  const level = Math.sqrt(sound.reduce((sum, x) => sum + x * x, 0) / sound.length);
  return sound.map((x) => x / level);
}

const level = (dB) => 10 ** (dB / 20);

/** What is on the wires and what comes out, in millivolts; the melody is 1 mV between the wires.
 * `common` and `own` are the levels of the two noises in dB above the melody. */
export function scene({ gain, cmrr, common, own }, parts) {
  const { signal, shared, first, second } = parts;
  const wire = (sign, noise) =>
    signal.map((x, i) => (sign * x) / 2 + level(common) * shared[i] + level(own) * noise[i]);
  const [plus, minus] = [wire(1, first), wire(-1, second)];
  const gains = amplifierGains(level(gain), cmrr);
  const output = amplified(plus, minus, gains);
  const clean = signal.map((x) => gains[0] * x);
  const half = signal.map((x) => x / 2);
  const rest = (whole, part) => whole.map((x, i) => x - part[i]);
  return {
    plus,
    minus,
    output,
    clean,
    before: snrDb(half, rest(plus, half)),
    after: snrDb(clean, rest(output, clean)),
  };
}

/** Samples for the loudspeaker: every clip equally loud, none above PEAK. */
export function playable(samples) {
  return Float32Array.from(scaled(samples), (x) => Math.max(-PEAK, Math.min(PEAK, LOUDNESS * x)));
}

export function render({ data, ui }) {
  const parts = {
    signal: melody(SAMPLES, RATE),
    shared: hum(SAMPLES, RATE, 1),
    first: rumble(SAMPLES, 2),
    second: rumble(SAMPLES, 3),
  };
  let now = null;
  const [left, right] = ui.columns(2);
  const input = ui.plot({ parent: left, height: 210 });
  const output = ui.plot({ parent: right, height: 210 });
  ui.buttons();
  const speaker = player(ui, { input: () => now.plus, output: () => now.output });
  const range = (name, label, min, max, step) =>
    ui.range({
      name,
      label,
      min,
      max,
      step,
      value: data[name],
      format: (x) => `${fixed(x, 0)} dB`,
    });
  ui.sentence();
  ui.controls();
  range("gain", "gain", 0, 60, 1);
  range("cmrr", "rejection (CMRR)", 0, 120, 1);
  range("common", "noise on both wires", 0, 60, 1);
  range("own", "each wire's own noise", -60, 0, 1);
  ui.buttons();
  for (const { label, ...values } of data.presets) {
    ui.button({ label, onClick: () => ui.set(values) });
  }
  ui.draw((values) => {
    now = scene(values, parts);
    const time = Array.from({ length: SHOWN }, (_, i) => (1000 * (FIRST + i)) / RATE);
    const cut = (samples) => samples.slice(FIRST, FIRST + SHOWN);
    const axis = (...traces) => {
      const high = 1.1 * Math.max(...traces.flat().map(Math.abs));
      return { min: -high, max: high, label: "mV" };
    };
    const x = { min: time[0], max: time[SHOWN - 1], label: "time in ms" };
    const [plus, minus] = [cut(now.plus), cut(now.minus)];
    input
      .begin({ title: `the two wires: ${decibel(now.before)}`, x, y: axis(plus, minus) })
      .line(time, plus, { color: COLORS.map1, width: 3.4 })
      .line(time, minus, { color: COLORS.map2, width: 1.5 })
      .end(`Scope: both wires over 50 milliseconds, signal to noise ${decibel(now.before)}.`);
    const [sum, clean] = [cut(now.output), cut(now.clean)];
    output
      .begin({ title: `the output: ${decibel(now.after)}`, x, y: axis(sum, clean) })
      .line(time, clean, { color: COLORS.signal, width: 4 })
      .line(time, sum, { color: COLORS.diff, width: 1.6 })
      .end(`Scope: the output and the clean melody, signal to noise ${decibel(now.after)}.`);
    const limit = decibel(-values.own - 10 * Math.log10(2));
    ui.say(
      `On one wire the melody stands at ${decibel(now.before)} to the noise, at the output at ` +
        `${decibel(now.after)}: ${decibel(now.after - now.before)} gained. The noise that each wire has ` +
        `for itself passes like the melody: it allows ${limit} at most, with any amplifier. ` +
        `Gain ${fixed(level(values.gain), 0)} makes both louder and changes neither ratio.`,
    );
    speaker.renew();
  });
  ui.note(
    "Blue and yellow: the wires. Dark blue over green: output over the clean melody. Both clips play equally loud.",
  );
}

/** Two buttons, one sound at a time, repeated until stopped; changes while it plays are heard. */
function player(ui, sounds) {
  let audio = null;
  let playing = null; // { name, source, began }
  const buttons = {};
  const stop = () => {
    playing?.source.stop();
    if (playing) buttons[playing.name].setAttribute("aria-pressed", "false");
    playing = null;
  };
  const play = (name, offset = 0) => {
    stop();
    audio ??= new AudioContext(); // only after a press of a button
    audio.resume();
    const samples = playable(sounds[name]());
    const buffer = audio.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(audio, { buffer, loop: true });
    const volume = new GainNode(audio, { gain: 0 });
    volume.gain.linearRampToValueAtTime(1, audio.currentTime + 0.03); // no click
    source.connect(volume).connect(audio.destination);
    source.start(0, offset);
    playing = { name, source, began: audio.currentTime - offset };
    buttons[name].setAttribute("aria-pressed", "true");
  };
  for (const [name, label] of [
    ["input", "one wire"],
    ["output", "the output"],
  ]) {
    buttons[name] = ui.button({
      label: `♪ Listen to ${label}`,
      onClick: () => (playing?.name === name ? stop() : play(name)),
    });
    buttons[name].setAttribute("aria-pressed", "false");
  }
  ui.stops.push(() => {
    stop();
    audio?.close();
  });
  let rest;
  return {
    renew() {
      clearTimeout(rest);
      if (!playing) return;
      rest = setTimeout(() => {
        if (playing) play(playing.name, (audio.currentTime - playing.began) % (SAMPLES / RATE));
      }, 120);
    },
  };
}
