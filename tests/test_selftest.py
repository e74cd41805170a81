"""The quick checks: their text, and the self-tests that the site makes of them, in a real browser.

The text needs nothing but the notebooks. The rest looks at the built site, as a reader who uses a
keyboard, a screen reader, a phone, paper, or no JavaScript at all.
"""

from __future__ import annotations

import html
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import browser
import notebooks
import pytest
from figures import ROOT, SITE, needs_browser

needs_site = pytest.mark.skipif(
    not (SITE / "index.html").exists() and not os.environ.get("DIFFBOOK_REQUIRE_SITE"),
    reason="no site in _build/html; build it with: make book",
)
PHONE = 360
CHAPTERS = notebooks.chapters()
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


@dataclass
class Question:
    """What a chapter's Markdown says of one question."""

    options: list[str]  # "A. text", without HTML
    verdicts: list[str]  # "Right", "No" or "Not quite"

    @property
    def right(self) -> int:
        return self.verdicts.index("Right")


def prose(path: Path) -> str:
    cells = notebooks.read(path).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def questions(path: Path) -> list[Question]:
    section = re.search(r"^## Quick check\s*\n(.*?)(?=^## |\Z)", prose(path), re.M | re.S)
    assert section, f"{path.name} has no quick check"
    found = []
    for text in re.split(r"^\*\*\d+\.\*\*", section[1], flags=re.M)[1:]:
        options = re.findall(r"<summary>(.*?)</summary>\s+\*\*(Right|No|Not quite)\.\*\*", text)
        plain = [html.unescape(re.sub(r"<[^>]+>", "", summary)) for summary, _ in options]
        found.append(Question(plain, [verdict for _, verdict in options]))
    return found


# ---------------------------------------------------------------- the text


@every_chapter
def test_a_quick_check_has_questions_with_one_right_option_each(path):
    assert "## Quick check" in prose(path)
    assert notebooks.quick_check_problems(prose(path)) == []


RIGHT_FORM = """## Quick check

**1.** A question?

<details>
<summary>A. One</summary>

**Right.** A reason.

</details>

<details>
<summary>B. Two</summary>

**No.** A reason.

</details>

<details>
<summary>C. Three</summary>

**Not quite.** A reason.

</details>

**2.** Another?

"""
RIGHT_FORM += RIGHT_FORM.split("**1.** A question?\n\n")[1].split("**2.**")[0]


@pytest.mark.parametrize(("old", "new", "complaint"), [
    ("**No.**", "**Right.**", "2 right options, not one"),
    ("**Right.**", "**No.**", "0 right options, not one"),
    ("B. Two", "C. Two", "options ACC, not ABC"),
    ("B. Two", "B. $2$", "Markdown stays raw"),
    ("B. Two</summary>\n", "B. Two</summary>", "is no option"),
    ("**2.**", "**3.**", "questions ['1', '3']"),
    ("<summary>A. One</summary>\n\n**Right.** A", "<summary>Answer</summary>\n\nA", "is no option"),
])
def test_a_fault_in_a_quick_check_is_named(old, new, complaint):
    assert notebooks.quick_check_problems(RIGHT_FORM) == []
    (problem, *_) = notebooks.quick_check_problems(RIGHT_FORM.replace(old, new, 1))
    assert complaint in problem


def test_no_way_to_guess_beats_chance_by_much():
    """Always the same letter, the longest or the shortest option; or, in a chapter, the letter
    that has not been right yet."""
    every = {path.stem: questions(path) for path in CHAPTERS}
    asked = [question for chapter in every.values() for question in chapter]
    chance = sum(1 / len(question.options) for question in asked) / len(asked)
    lengths = [[len(option) for option in question.options] for question in asked]
    rights = [question.right for question in asked]
    hits = {letter: rights.count(number) for number, letter in enumerate("ABC")}
    hits["longest"] = sum(
        size.index(max(size)) == right for size, right in zip(lengths, rights, strict=True))
    hits["shortest"] = sum(
        size.index(min(size)) == right for size, right in zip(lengths, rights, strict=True))
    assert max(hits.values()) < (chance + 0.1) * len(asked), hits
    places = [[question.right for question in chapter] for chapter in every.values()]
    assert all(len(set(place)) > 1 for place in places), "one letter is right all through a chapter"
    assert sum(len(set(place)) < len(place) for place in places) >= len(places) / 3, (
        "in too many chapters no letter is right twice: the last one can be told")


# ---------------------------------------------------------------- the self-test on the page


LOOK = """
(() => {
  const all = (css, within = document) => [...within.querySelectorAll(css)];
  return all('#quick-check .selftest-question').map((group) => ({
    role: group.getAttribute('role'),
    label: document.getElementById(group.getAttribute('aria-labelledby'))?.textContent,
    options: all('details', group).map((details) => ({
      text: details.querySelector('summary').textContent, open: details.open,
      answer: details.dataset.answer ?? '',
      sign: getComputedStyle(details.querySelector('summary'), '::before').content,
    })),
  }));
})()
"""
SCORE = "document.querySelector('.selftest-score [role=status]').textContent"
WIDE = """
[document.documentElement.scrollWidth,
 ...[...document.querySelectorAll('#quick-check *')].filter((part) =>
   part.getBoundingClientRect().right > innerWidth + 1
   && !part.closest('mjx-container, .visually-hidden')).map((part) => part.outerHTML.slice(0, 80))]
"""


class Check:
    """The self-test on the page that the browser ``tab`` has open."""

    def __init__(self, tab: browser.Browser):
        self.tab = tab

    def look(self) -> list[dict]:
        return self.tab.evaluate(LOOK)

    @property
    def score(self) -> str:
        return self.tab.evaluate(SCORE)

    def choose(self, question: int, option: int, key: str = "Enter") -> None:
        """Open or close an option with the keyboard."""
        self.tab.evaluate(
            f"document.querySelectorAll('#quick-check .selftest-question')[{question}]"
            f".querySelectorAll('summary')[{option}].focus()")
        self.tab.press(key)

    def answers(self) -> list[list[str]]:
        return [[option["answer"] for option in q["options"]] for q in self.look()]

    def forget(self) -> None:
        self.tab.evaluate("sessionStorage.clear()")


def visit(tab: browser.Browser, url: str, **how) -> Check:
    found = tab.visit(url, **how)
    ours = ("http://127.0.0.1", "data:", "blob:")
    assert found.errors == [] and [u for u in found.requests if not u.startswith(ours)] == []
    return Check(tab)


@needs_site
@needs_browser
@every_chapter
def test_every_chapter_asks_and_marks_on_a_phone(tab, address, path):
    """With the keyboard only: every second question right at once, the others at the second try."""
    check = visit(tab, f"{address}book/{path.stem}.html", width=PHONE)
    asked = questions(path)
    shown = check.look()
    assert [[o["text"] for o in q["options"]] for q in shown] == [q.options for q in asked]
    assert all(q["role"] == "group" and q["label"].startswith(f"{number}. ")
               for number, q in enumerate(shown, 1))
    assert not any(option["open"] or option["answer"] for q in shown for option in q["options"])
    assert check.score == f"{len(asked)} questions. Your first choice counts."
    firsts = 0
    for number, question in enumerate(asked):
        if number % 2:
            wrong = (question.right + 1) % len(question.options)
            check.choose(number, wrong, " ")
            assert check.score.startswith(f"Question {number + 1}: not right. ")
        else:
            firsts += 1
        check.choose(number, question.right)
        left = f"{number + 1} of {len(asked)} answered, " if number + 1 < len(asked) else ""
        assert check.score == (f"Question {number + 1}: right. {left}"
                               f"{firsts} of {number + 1} right at the first try.")
    for number, (question, now) in enumerate(zip(asked, check.look(), strict=True)):
        for place, option in enumerate(now["options"]):
            chosen = place == question.right or (
                number % 2 and place == (question.right + 1) % len(question.options))
            right = place == question.right
            assert option["open"] == bool(chosen)
            assert option["answer"] == (("right" if right else "wrong") if chosen else "")
            assert option["text"] == question.options[place] + (
                (" (right)" if right else " (not right)") if chosen else "")
            # Not by color alone: a tick, a cross, or an empty circle.
            assert option["sign"][:2].strip('"') == (("✓" if right else "✕") if chosen else "")
    assert tab.evaluate(WIDE) == [PHONE], "with all reasons open the page scrolls sideways"
    foreign = [u for u in tab.requests() if not u.startswith((address, "data:", "blob:"))]
    assert foreign == [] and tab.errors() == [], "an answer was sent, or something failed"
    check.forget()


DEEP = CHAPTERS[2]


@pytest.fixture
def deep(tab, address):
    """One chapter at desktop width, nothing chosen yet."""
    check = visit(tab, f"{address}book/{DEEP.stem}.html")
    if any(answer for answers in check.answers() for answer in answers):  # a failed test's
        check.forget()
        check = visit(tab, f"{address}book/{DEEP.stem}.html")
    yield check
    check.forget()


@needs_site
@needs_browser
def test_a_screen_reader_hears_the_option_and_then_its_mark(deep, tab):
    asked = questions(DEEP)
    first = asked[0]
    wrong = (first.right + 1) % len(first.options)
    deep.choose(0, wrong)
    deep.choose(0, first.right, " ")
    heard = tab.accessible()
    names = [node["name"] for node in heard if node["role"] == "DisclosureTriangle"]
    for place, option in enumerate(first.options):
        mark = {wrong: " (not right)", first.right: " (right)"}.get(place, "")
        assert option + mark in names
    assert all(option in names for question in asked[1:] for option in question.options)
    groups = [node["name"] or "" for node in heard if node["role"] == "group"]
    assert [name[:2] for name in groups if re.match(r"\d\. ", name)] == [
        f"{number}." for number in range(1, len(asked) + 1)]
    assert {"role": "button", "name": "Start again", "value": None} in heard
    assert "status" in {node["role"] for node in heard}
    # The sign is for the eyes: no name holds it.
    assert not any("✓" in (name or "") or "✕" in (name or "") for name in names)


@needs_site
@needs_browser
def test_the_first_choice_counts_and_start_again_clears(deep, tab):
    asked = questions(DEEP)
    wrong = (asked[0].right + 1) % len(asked[0].options)
    assert tab.evaluate("document.querySelector('.selftest-score button').hidden")
    deep.choose(0, wrong)
    deep.choose(0, asked[0].right)
    deep.choose(0, asked[0].right)  # closes it again: no new answer, and the mark stays
    assert deep.score.endswith(f"1 of {len(asked)} answered, 0 of 1 right at the first try.")
    assert deep.answers()[0][asked[0].right] == "right"
    # What is opened in another way, by the browser's search for instance, is no answer.
    tab.evaluate("document.querySelectorAll('.selftest-question')[1].querySelector('details')"
                 ".open = true")
    deep.choose(1, 0)  # closes it
    assert deep.answers()[1] == [""] * len(asked[1].options) and "1 of" in deep.score
    assert not deep.look()[1]["options"][0]["open"]
    tab.evaluate("document.querySelector('.selftest-score button').focus()")
    tab.press("Enter")
    assert deep.score == (f"All answers are cleared. {len(asked)} questions. "
                          "Your first choice counts.")
    assert not any(o["open"] or o["answer"] for q in deep.look() for o in q["options"])
    assert tab.evaluate("document.querySelector('.selftest-score button').hidden")
    assert tab.evaluate("document.activeElement.textContent") == asked[0].options[0]


@needs_site
@needs_browser
def test_answers_outlive_a_reload_and_nothing_else(deep, tab, address):
    asked = questions(DEEP)
    wrong = (asked[0].right + 1) % len(asked[0].options)
    deep.choose(0, wrong)
    deep.choose(0, asked[0].right)
    deep.choose(1, asked[1].right)
    before = deep.answers()
    said = deep.score.removeprefix("Question 2: right. ")
    again = visit(tab, f"{address}book/{DEEP.stem}.html")
    assert again.answers() == before and again.score == said == (
        f"2 of {len(asked)} answered, 1 of 2 right at the first try.")
    # What does not fit is thrown away, whole: other questions, other options, or no list at all.
    stored = tab.evaluate("JSON.parse(Object.values(sessionStorage)"
                          ".find((text) => text.includes('. ')))")
    assert stored[1] == [asked[1].options[asked[1].right]]
    for misfit in ("{", "[[0],[],[],null]",
                   '[["A. An option of an earlier version"],[],[],[]]'):
        tab.evaluate("(() => { for (const key of Object.keys(sessionStorage))"
                     f" if (key.startsWith('quick-check')) sessionStorage[key] = {misfit!r}; }})()")
        check = visit(tab, f"{address}book/{DEEP.stem}.html")
        assert check.score == f"{len(asked)} questions. Your first choice counts.", misfit
        assert not any(o["open"] or o["answer"] for q in check.look() for o in q["options"])


COLORS = """
(() => {
  const behind = (part) => { for (; part; part = part.parentElement) {
    const color = getComputedStyle(part).backgroundColor;
    if (!/, 0\\)$/.test(color)) return color; } return 'rgb(255, 255, 255)'; };
  const found = [];
  for (const details of document.querySelectorAll('#quick-check details')) {
    const summary = details.querySelector('summary');
    const sign = getComputedStyle(summary, '::before');
    const page = behind(summary);
    const what = details.dataset.answer ?? 'open to choose';
    found.push([`text, ${what}`, 4.5, getComputedStyle(summary).color, page]);
    found.push([`circle, ${what}`, 3, sign.borderTopColor, page]);
    if (details.dataset.answer) {
      found.push([`sign, ${what}`, 4.5, sign.color, sign.backgroundColor]);
      found.push([`frame, ${what}`, 3, getComputedStyle(details).borderTopColor, page]);
      const reason = details.querySelector('p');
      found.push([`reason, ${what}`, 4.5, getComputedStyle(reason).color, behind(reason)]);
    }
  }
  for (const part of document.querySelectorAll('.selftest-score > *'))
    found.push([part.localName, 4.5, getComputedStyle(part).color, behind(part)]);
  return found;
})()
"""


def contrast(one: str, other: str) -> float:
    """Contrast ratio (WCAG) of two colors `rgb(r, g, b)`."""

    def light(color: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@needs_site
@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_marks_can_be_seen_and_so_can_the_focus(tab, address, dark):
    check = visit(tab, f"{address}book/{DEEP.stem}.html", dark=dark)
    right = questions(DEEP)[0].right
    check.choose(0, (right + 1) % len(questions(DEEP)[0].options))
    check.choose(0, right)
    found = tab.evaluate(COLORS)
    assert {"sign, right", "sign, wrong", "circle, open to choose", "p", "button"} <= {
        what for what, *_ in found}
    faint = {what: round(contrast(one, other), 2) for what, least, one, other in found
             if contrast(one, other) < least}
    assert faint == {}
    # The focused summary has a frame that the others lack, and everything is large enough to hit.
    outline, other, heights = tab.evaluate("""
        (() => { const ring = (part) => { const style = getComputedStyle(part);
            return [style.outlineStyle, style.boxShadow].join(' '); };
          const summaries = [...document.querySelectorAll('#quick-check summary')];
          const sizes = [...summaries, document.querySelector('.selftest-score button')]
            .map((part) => part.getBoundingClientRect().height);
          return [ring(document.activeElement),
            ring(summaries.find((part) => part !== document.activeElement)), sizes]; })()""")
    check.forget()
    assert outline != other and outline != "none none"
    assert min(heights) >= 24


@needs_site
@needs_browser
def test_on_paper_stand_questions_options_and_what_was_chosen(deep, tab):
    right = questions(DEEP)[0].right
    deep.choose(0, right)
    try:
        tab.media("print")
        shown = tab.evaluate("""
            [...document.querySelectorAll('#quick-check details')].map((details) => [
              details.querySelector('summary').checkVisibility(),
              details.querySelector('p').checkVisibility({ contentVisibilityAuto: true })
                && details.querySelector('p').offsetHeight > 0,
              getComputedStyle(details.querySelector('summary'), '::before').printColorAdjust])""")
        bar = tab.evaluate("document.querySelector('.selftest-score').checkVisibility()")
    finally:
        tab.media("")
    assert not bar, "a score and a button are no use on paper"
    assert all(summary for summary, _, _ in shown)
    assert [number for number, (_, reason, _) in enumerate(shown) if reason] == [right]
    assert {adjust for _, _, adjust in shown} == {"exact"}, "the sign would be white on white"


@needs_site
@needs_browser
def test_without_javascript_every_reason_can_be_opened(tab, address):
    tab.visit(f"{address}book/{DEEP.stem}.html", scripts=False)
    try:
        asked = questions(DEEP)
        options = [option for question in asked for option in question.options]
        script = "[...document.querySelectorAll('#quick-check details')]"
        assert tab.evaluate(f"{script}.map((d) => d.querySelector('summary').textContent)"
                            ) == options
        assert tab.evaluate("document.querySelector('.selftest-score')") is None
        for number in range(len(options)):
            tab.evaluate(f"{script}[{number}].querySelector('summary').focus()")
            tab.press(" " if number % 2 else "Enter")
        for _ in range(20):
            seen = tab.evaluate(f"{script}.map((d) => d.open && d.querySelector('p').offsetHeight"
                                " > 0 ? d.querySelector('p').textContent : '')")
            if all(seen):
                break
            time.sleep(0.05)
        verdicts = [verdict for question in asked for verdict in question.verdicts]
        assert [re.match(r"(Right|No|Not quite)\.", text)[1] for text in seen] == verdicts
    finally:
        tab.visit("about:blank")


@needs_browser
def test_works_where_storage_is_forbidden(tab, tmp_path):
    """In a sandboxed frame even to look at `sessionStorage` throws."""
    script = (ROOT / "_static" / "selftest.js").read_text(encoding="utf-8")
    use = """
      addEventListener('load', () => {
        let storage = 'forbidden';
        try { sessionStorage.length; storage = 'there'; } catch {}
        const options = document.querySelectorAll('summary');
        options[1].click(); options[0].click(); options[3].click();
        const score = document.querySelector('[role=status]').textContent;
        document.querySelector('button').click();
        parent.postMessage([storage, score,
          document.querySelector('[role=status]').textContent], '*');
      });"""
    body = re.sub(r"^(## .*)$", "", RIGHT_FORM, flags=re.M)
    body = re.sub(r"^\*\*(\d\.)\*\* (.*)$", r"<p><strong>\1</strong> \2</p>", body, flags=re.M)
    body = re.sub(r"^\*\*(.*?)\*\* (.*)$", r"<p><strong>\1</strong> \2</p>", body, flags=re.M)
    inner = html.escape(f'<!doctype html><section id="quick-check">{body}</section>'
                        f"<script>{script}</script><script>{use}</script>")
    (tmp_path / "frame.html").write_text(
        "<!doctype html><meta charset=utf-8><script>addEventListener('message',"
        " (event) => { window.heard = event.data; })</script>"
        f'<iframe sandbox="allow-scripts" srcdoc="{inner}"></iframe>', encoding="utf-8")
    found = tab.visit((tmp_path / "frame.html").as_uri())
    heard = tab.evaluate(
        "(async () => { for (let i = 0; i < 100 && !window.heard; i += 1)"
        " await new Promise((go) => setTimeout(go, 50)); return window.heard; })()")
    assert found.errors == []
    assert heard == ["forbidden", "Question 2: right. 1 of 2 right at the first try.",
                     "All answers are cleared. 2 questions. Your first choice counts."]
