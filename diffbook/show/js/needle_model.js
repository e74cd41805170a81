// Chapter 11: two trained models in the page. The reader hides needles, asks for one, and sees what
// both models answer and where their heads look. Tokens are those of tasks/needle.py.

import { COLORS, fixed, percent } from "./core.js";
import {
  attentionRow,
  forward,
  forwardInPieces,
  lambdas,
  probabilities,
  unpack,
} from "./transformer.js";

const BOS = 0;
const QUESTION = 1;
const QUICK = 128; // tokens up to which both models answer at once, without a pause
const SERIES = 20; // questions of one series
const FINEST = 128; // cells on a side of a drawn map; longer ones are pooled

// ---------------------------------------------------------------- the task

/** Where the groups of tokens begin: NeedleTask.first_city and so on. */
export function groups({ n_cities, n_numbers, n_words }) {
  const city = 2;
  const number = city + n_cities;
  const word = number + n_numbers;
  return { city, number, word, end: word + n_words };
}

/** The sequence of a haystack: NeedleTask with one question. `needles` are {city, number, depth},
 * counted from 0, depth a share of the haystack; `words` are indices, the first ones are taken.
 * Returns { tokens, starts (of the needles), query, answer (position), number (token) }. */
export function sequence(task, { length, words, needles, asked }) {
  const first = groups(task);
  const room = length - 3 - 2 * needles.length;
  if (room < 0) throw new RangeError(`${length} tokens are too few for ${needles.length} needles`);
  const before = needles.map(({ depth }) => Math.round(depth * room));
  const order = needles.map((_, j) => j).sort((a, b) => before[a] - before[b] || a - b);
  const tokens = [BOS];
  const starts = new Array(needles.length);
  let at = 0;
  const fill = (until) => {
    while (at < until) tokens.push(first.word + words[at++]);
  };
  for (const j of order) {
    fill(before[j]);
    starts[j] = tokens.length;
    tokens.push(first.city + needles[j].city, first.number + needles[j].number);
  }
  fill(room);
  tokens.push(QUESTION, first.city + needles[asked].city);
  return {
    tokens,
    starts,
    query: length - 1,
    answer: starts[asked] + 1,
    number: first.number + needles[asked].number,
  };
}

/** What an answer is: one of measure/needles.py's OUTCOMES. */
export function outcome(task, { tokens, number }, said) {
  const first = groups(task);
  if (said === number) return "right";
  if (said < first.number || said >= first.word) return "no number";
  const isNeedle = (token, i) =>
    token === said && tokens[i - 1] >= first.city && tokens[i - 1] < first.number;
  return tokens.some(isNeedle) ? "another needle" : "another number";
}

/** The most probable tokens, [[token, probability], …]. */
export function mostProbable(logits, count = 3) {
  return probabilities(logits)
    .map((share, token) => [token, share])
    .sort((a, b) => b[1] - a[1] || a[0] - b[0])
    .slice(0, count);
}

/** A row's share on one position: of all magnitudes (AttentionMass.absolute). */
export function shareOn(row, position) {
  const total = row.reduce((sum, value) => sum + Math.abs(value), 0);
  return total > 0 ? Math.abs(row[position]) / total : 0;
}

/** [layer, head] that gives a position the largest share, as AttentionMass.best_head. */
export function bestHead(result, row, position) {
  let best = [0, 0];
  let most = -1;
  result.layers.forEach(({ heads }, layer) => {
    heads.forEach((_, head) => {
      const share = shareOn(attentionRow(result, layer, head, row), position);
      if (share > most) [best, most] = [[layer, head], share];
    });
  });
  return best;
}

/** Numbers from 0 to 1, the same for the same seed everywhere (mulberry32). */
export function uniforms(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** Fresh words and needles: cities and numbers all different, depths anywhere. */
export function fresh(task, uniform, longest, most) {
  const below = (n) => Math.floor(uniform() * n);
  const distinct = (n) => {
    const all = Array.from({ length: n }, (_, i) => i);
    for (let i = 0; i < most; i += 1) {
      const j = i + below(n - i);
      [all[i], all[j]] = [all[j], all[i]];
    }
    return all;
  };
  const [cities, numbers] = [distinct(task.n_cities), distinct(task.n_numbers)];
  return {
    words: Array.from({ length: longest }, () => below(task.n_words)),
    needles: Array.from({ length: most }, (_, j) => ({
      city: cities[j],
      number: numbers[j],
      depth: below(101) / 100,
    })),
  };
}

/** A square map, (n, n) in one array, as rows of at most `finest` cells; of each block of cells the
 * entry of largest magnitude stays. */
export function pooled(map, n, finest = FINEST) {
  const block = Math.ceil(n / finest);
  const size = Math.ceil(n / block);
  const rows = Array.from({ length: size }, () => new Array(size).fill(0));
  for (let i = 0; i < n; i += 1) {
    const row = rows[Math.floor(i / block)];
    for (let j = 0; j <= i; j += 1) {
      const value = map[i * n + j];
      const cell = Math.floor(j / block);
      if (Math.abs(value) > Math.abs(row[cell])) row[cell] = value;
    }
  }
  return rows;
}

// ---------------------------------------------------------------- the figure

const CSS = `
[hidden]{display:none!important}
.hay{max-height:13rem;overflow:auto;border:1px solid var(--line);border-radius:8px;padding:.45rem .6rem;line-height:1.75;
overflow-wrap:anywhere}
.hay span{cursor:pointer;color:var(--soft)}
.hay b{display:inline-block;font-weight:550;color:var(--ink);border:2px solid #cc79a7;border-radius:6px;padding:0 .35rem;line-height:1.45;white-space:nowrap}
.hay b.asked{border-color:#009e73;border-width:3px;font-weight:700}
.hay b.query{border-style:dashed;border-color:var(--soft)}
.scale{display:flex;justify-content:space-between;font-size:12px;color:var(--soft);padding:0 4px;grid-column:1/-1}
.scale b{color:var(--ink)}
.needles{display:flex;flex-wrap:wrap;gap:.45rem .8rem;margin:.5rem 0;align-items:center}
.needles>span{display:inline-flex;align-items:center;gap:.3rem}
.needles select{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--line);border-radius:6px;min-height:32px}
.card{border-top:5px solid;padding-top:.35rem}
.card h4{margin:0;font-size:1.05rem}
.card.busy{opacity:.55}
.answer{margin:.15rem 0 .3rem;min-height:1.45em;font-weight:600}
.top{list-style:none;min-height:4.5rem;margin:0 0 .4rem;padding:0;font-variant-numeric:tabular-nums}
.top li{display:grid;grid-template-columns:5.4rem 1fr 4.8rem;white-space:nowrap;gap:.5rem;align-items:center;min-height:1.5rem}
.top i{display:block;height:.7rem;border-radius:3px;opacity:.75;min-width:1px}
.top li>:last-child{text-align:right}
.top li:first-child{font-weight:650}
.score{border-collapse:collapse;margin:.4rem 0;font-variant-numeric:tabular-nums}
.score caption{text-align:left;font-weight:600}
.score th,.score td{text-align:right;padding:.1rem .8rem .1rem 0;font-weight:400}
.score td+td{white-space:nowrap}
.score thead th{color:var(--soft)}
`;

export function render({ data, ui }) {
  const { task } = data;
  const first = groups(task);
  const longest = 8 * task.seq_len;
  const most = data.start.needles.length;
  const uniform = uniforms(data.start.seed);
  let { words, needles, asked } = structuredClone(data.start);
  let models = null; // unpacked when the figure comes into view
  let wanted = ""; // what the answers shall belong to
  let shown = null; // { key, place, results } of the answers on the page
  let hayKey = "";
  const series = { left: 0 };
  const score = new Map();
  const counted = new Set();

  const nameOf = (token) => {
    if (token >= first.word) return data.words[token - first.word];
    if (token >= first.number) return String(token - first.number);
    return token >= first.city ? data.cities[token - first.city] : ["start", "?"][token];
  };
  const cityOf = (needle) => data.cities[needle.city];
  const times = (length) => `${fixed(length / task.seq_len, length % task.seq_len ? 1 : 0)} ×`;

  // The page, from top to bottom.
  ui.element("style", { text: CSS });
  ui.controls();
  const length = ui.range({
    name: "length",
    label: "tokens",
    min: task.seq_len,
    max: longest,
    step: task.seq_len / 2,
    value: data.start.length,
    wide: true,
    format: (n) => `${n} = ${times(n)} the training length`,
  });
  const scale = ui.element("div", {
    parent: length.parentElement,
    class: "scale",
    "aria-hidden": "true",
  });
  for (let n = 1; n <= 8; n += 1) {
    ui.element(n === 1 ? "b" : "span", {
      parent: scale,
      text: n === 1 ? "1 × (trained)" : `${n} ×`,
    });
  }
  ui.controls();
  ui.range({
    name: "count",
    label: "needles",
    min: 1,
    max: most,
    step: 1,
    value: data.start.count,
    format: (n) => (n === task.n_needles ? `${n} (as in training)` : String(n)),
  });
  ui.range({
    name: "depth",
    label: "depth of the asked needle",
    min: 0,
    max: 100,
    step: 1,
    value: Math.round(100 * needles[asked].depth),
    format: (n) => `${n} %`,
  });
  const hay = ui.element("div", { class: "hay", role: "region", tabindex: "0" });
  ui.note(
    "Press a city to ask for its number, or change the number. Tap a word, or drag the depth, to put the asked needle elsewhere.",
  );
  const list = ui.element("div", {
    class: "needles",
    role: "group",
    "aria-label": "Needles: ask for one, or change its number",
  });
  ui.buttons();
  ui.button({ label: "Shuffle everything", onClick: () => shuffle() });
  const many = ui.button({ label: `Ask ${SERIES} fresh haystacks`, onClick: () => toggleSeries() });
  ui.sentence();
  const cards = ui.columns(2, { least: 290 }).map((parent, m) => card(parent, data.models[m]));
  ui.controls();
  ui.select({
    name: "which",
    label: "DIFF shows",
    value: "difference",
    options: [
      ["difference", "A₁ − λ A₂, what it uses"],
      ["first", "A₁ alone"],
      ["second", "A₂ alone"],
    ],
  });
  ui.checkbox({ name: "maps", label: "Show the whole maps", value: false });
  ui.range({
    wide: true,
    name: "factor",
    label: "λ of DIFF",
    min: 0,
    max: 2,
    step: 0.1,
    value: 1,
    format: (f) => {
      const values = data.models[1].lambdas.map((lam) => fixed(f * lam)).join(" and ");
      return f === 1 ? `${values} (as learned)` : values;
    },
  });
  const board = ui.element("table", { class: "score" });
  ui.note(data.note);

  function card(parent, { key, name, layers, heads }) {
    const color = COLORS[key === "diff" ? "diff" : "transformer"];
    const box = ui.element("div", { parent, class: "card", style: `border-color:${color}` });
    box.dataset.model = key;
    ui.element("h4", { parent: box, text: name });
    const answer = ui.element("p", { parent: box, class: "answer" });
    const top = ui.element("ol", {
      parent: box,
      class: "top",
      "aria-label": `${name}: most probable answers`,
    });
    const options = [["auto", "the one that looks most at the answer"]];
    for (let l = 0; l < layers; l += 1) {
      for (let h = 0; h < heads; h += 1)
        options.push([`${l},${h}`, `layer ${l + 1}, head ${h + 1}`]);
    }
    ui.controls({ parent: box });
    ui.select({
      name: `head_${key}`,
      label: `Head of ${name}`,
      options,
      value: "auto",
      wide: true,
    });
    const plot = ui.plot({ parent: box, height: 210 });
    const map = ui.heatmap({ parent: box, maxCell: 6 });
    map.canvas.hidden = true;
    return { key, name, color, box, answer, top, plot, map };
  }

  // What the reader does.
  function ask(j) {
    asked = j;
    ui.set({ depth: Math.round(100 * needles[j].depth) });
  }
  function shuffle() {
    ({ words, needles } = fresh(task, uniform, longest, most));
    ask(Math.floor(uniform() * ui.values.count));
    tries.pending = true;
  }
  function renumber(j, number) {
    // Two needles never share a number: whoever has it takes the old one.
    const other = needles.find((needle) => needle.number === number);
    if (other) other.number = needles[j].number;
    needles[j].number = number;
    ui.redraw();
  }
  hay.addEventListener("click", (event) => {
    const at = event.target.dataset?.word;
    if (at === undefined) return;
    const room = ui.values.length - 3 - 2 * ui.values.count;
    ui.set({ depth: Math.round((100 * Number(at)) / Math.max(1, room)) });
  });

  function showHay(place, state) {
    const key = place.tokens.join(" ") + asked;
    if (key === hayKey) return;
    hayKey = key;
    hay.replaceChildren();
    hay.dataset.tokens = place.tokens.join(" ");
    hay.dataset.answer = place.answer;
    hay.setAttribute(
      "aria-label",
      `Haystack of ${state.length} tokens with ${state.needles.length} needles`,
    );
    let word = 0;
    for (let i = 1; i < place.query - 1; i += 1) {
      const needle = place.starts.indexOf(i);
      if (needle >= 0) {
        const { city, number } = needles[needle];
        const chip = ui.element("b", { parent: hay, text: `${data.cities[city]} → ${number}` });
        if (needle === asked) chip.className = "asked";
        if (needle === asked) chip.append(" (asked)");
        i += 1;
      } else {
        ui.element("span", { parent: hay, text: nameOf(place.tokens[i]), "data-word": word });
        word += 1;
      }
      hay.append(" ");
    }
    ui.element("b", { parent: hay, class: "query", text: `? ${cityOf(needles[asked])} → …` });
    const chip = hay.querySelector(".asked");
    const hidden = chip.offsetTop - hay.offsetTop - hay.scrollTop;
    if (hidden < 0 || hidden > hay.clientHeight - 30) {
      hay.scrollTop = chip.offsetTop - hay.offsetTop - hay.clientHeight / 2;
    }
    // The list keeps its elements, so that the keyboard's focus stays where it is.
    while (list.children.length > state.needles.length) list.lastChild.remove();
    state.needles.forEach((needle, j) => {
      let item = list.children[j];
      if (!item) {
        item = ui.element("span", { parent: list });
        const button = ui.button({
          label: "",
          parent: item,
          onClick: () => {
            tries.pending = true;
            ask(j);
          },
        });
        button.dataset.needle = j;
        const number = ui.element("select", { parent: item });
        for (let n = 0; n < task.n_numbers; n += 1)
          ui.element("option", { parent: number, text: String(n) });
        number.addEventListener("change", () => renumber(j, number.selectedIndex));
      }
      const [button, number] = item.children;
      button.textContent = `${cityOf(needle)}?`;
      button.setAttribute("aria-label", `Ask for ${cityOf(needle)}?`);
      button.setAttribute("aria-pressed", String(j === asked));
      number.selectedIndex = needle.number;
      number.setAttribute("aria-label", `Number of ${cityOf(needle)}`);
    });
  }

  // The models' work.
  function unpackAll() {
    models ??= data.models.map(({ packed }) => unpack(packed));
  }
  function optionsOf(m, place, { factor, maps }) {
    const chosen =
      data.models[m].key === "diff" && factor !== 1
        ? { lambdas: lambdas(models[m]).map((lam) => factor * lam) }
        : {};
    return { rows: [place.query], maps: maps ? "all" : "rows", ...chosen };
  }
  function keep(key, place, results) {
    shown = { key, place, results, values: { ...ui.values } };
    if (tries.key === key) count(place, results);
    tries.key = "";
  }
  async function think(key, place, values) {
    for (const one of cards) one.box.classList.add("busy");
    const results = [];
    for (let m = 0; m < models.length; m += 1) {
      const result = await forwardInPieces(models[m], place.tokens, optionsOf(m, place, values), {
        stale: () => wanted !== key,
      });
      if (!result) return;
      results.push(result);
    }
    keep(key, place, results);
    ui.redraw();
  }

  // The reader's score: a question counts when it is asked, once, and with the learned λ.
  const tries = { pending: false, key: "" };
  function count({ tokens, number }, results) {
    const key = tokens.join(" ");
    if (ui.values.factor !== 1 || counted.has(key)) return;
    counted.add(key);
    const n = ui.values.count;
    const line = `${tokens.length} tokens, ${n} needle${n === 1 ? "" : "s"}`;
    const row = score.get(line) ?? { asked: 0, right: results.map(() => 0) };
    row.asked += 1;
    results.forEach(({ logits }, m) => {
      if (mostProbable(logits, 1)[0][0] === number) row.right[m] += 1;
    });
    score.set(line, row);
    showScore();
  }
  function showScore() {
    board.replaceChildren();
    ui.element("caption", { parent: board, text: "Your questions so far" });
    const line = (parent, cells, tag) => {
      const row = ui.element("tr", { parent: ui.element(parent, { parent: board }) });
      for (const text of cells) ui.element(tag, { parent: row, text: String(text) });
    };
    line("thead", ["haystack", "asked", ...data.models.map(({ name }) => `${name} right`)], "th");
    for (const [key, { asked: n, right }] of score) {
      line("tbody", [key, n, ...right.map((r) => `${r} (${percent(r / n)})`)], "td");
    }
  }
  async function toggleSeries() {
    if (series.left) {
      series.left = 0;
      return;
    }
    unpackAll();
    series.left = SERIES;
    ui.set({ factor: 1 });
    while (series.left > 0) {
      many.textContent = `Stop (${series.left} to go)`;
      const { length: size, count: n } = ui.values;
      const state = fresh(task, uniform, size, n);
      const place = sequence(task, { ...state, length: size, asked: Math.floor(uniform() * n) });
      const results = [];
      for (const model of models) {
        results.push(
          await forwardInPieces(model, place.tokens, { rows: [place.query], maps: "none" }),
        );
      }
      if (ui.values.count === n) count(place, results);
      series.left = Math.max(0, series.left - 1);
      await new Promise((resume) => setTimeout(resume, 0));
    }
    many.textContent = `Ask ${SERIES} fresh haystacks`;
    showScore();
    ui.say(
      [...score]
        .map(
          ([key, { asked: n, right }]) =>
            `${key}: ${right.map((count, m) => `${data.models[m].name} ${count}`).join(", ")} of ${n} right.`,
        )
        .join("\n"),
    );
  }

  // What one sees.
  function showAnswers() {
    const { place, results, values } = shown;
    const told = [];
    results.forEach((result, m) => {
      const one = cards[m];
      one.box.classList.remove("busy");
      const best = mostProbable(result.logits);
      const [said, probability] = best[0];
      const kind = outcome(task, place, said);
      const owner = needles.find((needle) => first.number + needle.number === said);
      const why = {
        right: "right",
        "another needle": `wrong, the number of ${owner ? cityOf(owner) : "another city"}`,
        "another number": "wrong, a number that no needle has",
        "no number": "wrong, not a number at all",
      }[kind];
      one.answer.textContent = `${kind === "right" ? "✓" : "✗"} ${nameOf(said)}: ${why}`;
      one.top.replaceChildren();
      for (const [token, share] of best) {
        const item = ui.element("li", { parent: one.top });
        ui.element("span", { parent: item, text: nameOf(token) });
        const bar = ui.element("span", { parent: item });
        ui.element("i", {
          parent: bar,
          style: `width:${(100 * share).toFixed(1)}%;background:${one.color}`,
        });
        ui.element("span", { parent: item, text: share < 0.0005 ? "< 0.1 %" : percent(share, 1) });
      }
      const chosen = values[`head_${one.key}`];
      const row = result.positions.indexOf(place.query);
      const [layer, head] =
        chosen === "auto" ? bestHead(result, row, place.answer) : chosen.split(",").map(Number);
      const signed = result.layers[layer].lam !== null && values.which === "difference";
      const share = drawRow(one, result, layer, head, row, place, values.which);
      drawMap(one, result, layer, head, values, place);
      told.push(
        `${one.name} says ${nameOf(said)} (${percent(probability)}): ${why}; layer ${layer + 1}, ` +
          `head ${head + 1} gives the answer ${percent(share)} of its attention${signed ? ", signs left aside" : ""}.`,
      );
    });
    const back = place.query - place.answer;
    const far = back > task.seq_len - 1 ? ", farther than any in training" : "";
    ui.say(
      `Asked for ${cityOf(needles[asked])}. Its number ${needles[asked].number} stands ${back} tokens back${far}.\n` +
        told.join("\n"),
    );
  }

  function drawRow(one, result, layer, head, row, place, which) {
    const values = attentionRow(result, layer, head, row, which);
    const n = values.length;
    const share = shareOn(values, place.answer);
    const low = Math.min(0, ...values);
    const high = Math.max(0.01, ...values);
    const inNeedle = new Set(place.starts.flatMap((start) => [start, start + 1]));
    const signed = result.layers[layer].lam !== null && which === "difference";
    const what =
      result.layers[layer].lam === null
        ? "attention"
        : { difference: "A₁ − λ A₂", first: "A₁", second: "A₂" }[which];
    one.plot.begin({
      title: `Layer ${layer + 1}, head ${head + 1}: ${percent(share)} on the answer`,
      x: {
        min: -0.5,
        max: n - 0.5,
        label: "token",
        ticks: [0, 1, 2, 3, 4].map((i) => Math.round((i * (n - 1)) / 4)),
      },
      y: { min: low < 0 ? 1.15 * low : 0, max: 1.3 * high, label: what },
      margin: { left: 54 },
    });
    const wide = Math.max(0.9, n / 160);
    one.plot.bars(
      values.map((_, j) => j),
      values,
      {
        width: wide,
        color: (j) =>
          j === place.answer ? COLORS.signal : inNeedle.has(j) ? COLORS.accent : COLORS.noise,
      },
    );
    if (low < 0) one.plot.hline(0, { width: 0.8 });
    const top = one.plot.y.invert(one.plot.box.top);
    const anchor = place.answer > 0.85 * n ? "end" : place.answer < 0.15 * n ? "start" : "middle";
    const green = "#00694d";
    one.plot.text(place.answer, top, "answer", { anchor, dy: 11, bold: true, color: green });
    one.plot.text(place.answer, top, "▼", { anchor: "middle", dy: 23, color: green });
    place.starts.forEach((start, j) => {
      if (j !== asked)
        one.plot.text(start + 1, top, "▿", { anchor: "middle", dy: 23, color: "#9a4578" });
    });
    const negative = values.reduce((sum, value) => sum + Math.min(0, value), 0);
    one.plot.end(
      `${one.name}, layer ${layer + 1}, head ${head + 1}: ${what} of the asked city over ${n} tokens; ` +
        `${percent(share)} of all magnitudes on the answer, at token ${place.answer}` +
        (signed ? `; negative entries sum to ${fixed(negative)}.` : "."),
    );
    return share;
  }

  function drawMap(one, result, layer, head, { maps, which }, place) {
    one.map.canvas.hidden = !maps || result.positions.length < place.tokens.length;
    if (one.map.canvas.hidden) return;
    const n = place.tokens.length;
    const { lam, heads } = result.layers[layer];
    const { first: a1, second: a2 } = heads[head];
    const isDiff = a2 !== null;
    const chosen =
      !isDiff || which === "first"
        ? a1
        : which === "second"
          ? a2
          : a1.map((value, i) => value - lam * a2[i]);
    const signed = isDiff && which === "difference";
    one.map.show(pooled(chosen, n), {
      signed,
      top: 0.5, // the first row is always 1
      title: `Who looks where: layer ${layer + 1}, head ${head + 1}`,
      label: `${one.name}: whole map of layer ${layer + 1}, head ${head + 1}; rows look, columns are looked at.`,
    });
  }

  ui.draw((values) => {
    if (asked >= values.count) {
      ask(0);
      return;
    }
    needles[asked].depth = values.depth / 100;
    const state = { length: values.length, words, needles: needles.slice(0, values.count), asked };
    const place = sequence(task, state);
    showHay(place, state);
    if (!models) {
      ui.say(
        "Two trained models are packed into this figure. They answer when it comes into view.",
      );
      return;
    }
    const key = JSON.stringify([place.tokens, values.factor, values.maps]);
    if (tries.pending) tries.key = shown?.key === key ? "" : key;
    tries.pending = false;
    if (shown?.key !== key && wanted !== key) {
      wanted = key;
      if (values.length > QUICK || values.maps) {
        think(key, place, values).catch((error) => ui.fail(error));
        return;
      }
      keep(
        key,
        place,
        models.map((model, m) => forward(model, place.tokens, optionsOf(m, place, values))),
      );
    }
    if (shown?.key !== key) return;
    wanted = "";
    shown.values = { ...values };
    showAnswers();
  });

  // Unpacked when it comes near the window, or at the first touch.
  const wake = () => {
    if (models) return;
    unpackAll();
    watcher.disconnect();
    ui.redraw();
  };
  const watcher = new IntersectionObserver(
    (entries) => {
      if (entries.some((entry) => entry.isIntersecting)) wake();
    },
    { rootMargin: "300px" },
  );
  watcher.observe(ui.root);
  for (const event of ["input", "click", "focusin"]) ui.root.addEventListener(event, wake);
  ui.stops.push(() => {
    watcher.disconnect();
    series.left = 0;
  });
}
