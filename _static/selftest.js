// Makes a self-test of the "Quick check" at a chapter's end. Without this script the section reads
// well: a question is a paragraph that begins with its bold number, and each option below it is a
// <details> whose text begins with "Right.", "No." or "Not quite.". To open an option is to choose
// it; the first one that is opened counts. The answers stay in this tab and are sent nowhere.
document.addEventListener("DOMContentLoaded", () => {
  const section = document.getElementById("quick-check");
  const questions = section ? findQuestions(section) : [];
  if (!questions.length) return;

  const key = `quick-check ${location.pathname}`;
  let opened = recall(); // for each question the options in the order in which they were chosen

  for (const [number, { prompt, options }] of questions.entries()) {
    prompt.id = `quick-check-${number + 1}`;
    const group = document.createElement("div");
    group.className = "selftest-question";
    group.setAttribute("role", "group");
    group.setAttribute("aria-labelledby", prompt.id);
    prompt.before(group);
    group.append(prompt, ...options.map((option) => option.details));
    for (const [index, { details }] of options.entries()) {
      // A click, which Enter and Space cause too. (The browser's search in the page also opens
      // <details>, and that is no answer.)
      details.querySelector("summary").addEventListener("click", () => {
        if (!details.open && !opened[number].includes(index)) choose(number, index);
      });
    }
  }

  const bar = document.createElement("div");
  bar.className = "selftest-score";
  const score = document.createElement("p");
  score.setAttribute("role", "status");
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Start again";
  again.addEventListener("click", () => {
    opened = questions.map(() => []);
    remember();
    for (const { options } of questions) for (const { details } of options) details.open = false;
    show("All answers are cleared. ");
    questions[0].options[0].details.querySelector("summary").focus();
  });
  bar.append(score, again);
  questions.at(-1).prompt.parentElement.after(bar);
  for (const [number, { options }] of questions.entries()) {
    for (const index of opened[number]) options[index].details.open = true;
  }
  show();

  function choose(number, index) {
    opened[number].push(index);
    remember();
    const { right } = questions[number].options[index];
    show(`Question ${number + 1}: ${right ? "right" : "not right"}. `);
  }

  // Marks on the options, and the score; `news` is for those who hear the page.
  function show(news = "") {
    let answered = 0;
    let firsts = 0;
    for (const [number, { options }] of questions.entries()) {
      const [first] = opened[number];
      if (first !== undefined) answered += 1;
      if (options[first]?.right) firsts += 1;
      for (const [index, { details, right, mark }] of options.entries()) {
        const chosen = opened[number].includes(index);
        mark.textContent = chosen ? (right ? " (right)" : " (not right)") : "";
        if (chosen) details.dataset.answer = right ? "right" : "wrong";
        else delete details.dataset.answer;
      }
    }
    const all = questions.length;
    const heard = document.createElement("span");
    heard.className = "visually-hidden";
    heard.textContent = news;
    const unfinished = answered < all ? `${answered} of ${all} answered, ` : "";
    const seen = `${unfinished}${firsts} of ${answered || all} right at the first try.`;
    score.replaceChildren(heard, answered ? seen : `${all} questions. Your first choice counts.`);
    again.hidden = answered === 0;
  }

  function recall() {
    const empty = questions.map(() => []);
    let stored;
    try {
      stored = JSON.parse(sessionStorage.getItem(key));
    } catch {
      return empty; // no storage here (a sandboxed frame), or not written by this script
    }
    if (!Array.isArray(stored) || stored.length !== questions.length) return empty;
    // Options are kept by their text: when the page was changed since, nobody's answer moves to
    // another option.
    const found = stored.map((texts, number) =>
      Array.isArray(texts)
        ? texts.map((text) => questions[number].options.findIndex((o) => o.text === text))
        : [-1],
    );
    return found.flat().includes(-1) ? empty : found;
  }

  function remember() {
    const texts = opened.map((list, number) => list.map((i) => questions[number].options[i].text));
    try {
      sessionStorage.setItem(key, JSON.stringify(texts));
    } catch {
      // No storage here: the self-test works all the same and forgets when the page is left.
    }
  }
});

// The questions of the section: {prompt, options: [{details, text, right, mark}]}.
function findQuestions(section) {
  const questions = [];
  for (const element of section.children) {
    const start = element.tagName === "P" ? element.firstElementChild : null;
    if (start?.tagName === "STRONG" && /^\d+\.$/.test(start.textContent)) {
      questions.push({ prompt: element, options: [] });
    } else if (element.tagName === "DETAILS" && questions.length) {
      const verdict = element.querySelector(":scope > p > strong")?.textContent;
      const summary = element.querySelector("summary");
      const text = summary.textContent.trim();
      const mark = document.createElement("span");
      mark.className = "visually-hidden";
      summary.append(mark);
      questions.at(-1).options.push({ details: element, text, right: verdict === "Right.", mark });
    }
  }
  return questions.filter(({ options }) => options.some(({ right }) => right));
}
