# ---
# title: Find the needle
# hours: 6
# provide: [show, attention, blockwise, rope, model, records]
# manual:
# - {title: "What your test can see", points: 6}
# limits: {cells: 240, cell: 180, memory: 3221225472}
# ---

# %% [markdown]
# # A4. Find the needle
#
# Table 2 and Fig. 5 of the [paper](https://arxiv.org/abs/2410.05258) rest on one kind of test: a number hidden in
# a long text. You write such a test, put it to trained models of both kinds, and say what it shows, with intervals.
#
# **What you learn.** To write a test that cannot be passed by a trick; to know what chance gives; to give an
# accuracy an interval, and a difference of two accuracies one that respects what belongs together; to tell seeds
# from questions.
#
# **Before you start.** Chapters [8](https://diffbook.github.io/diffbook/book/08_training.html) and
# [11](https://diffbook.github.io/diffbook/book/11_needles.html). About a minute on one CPU core; a GPU helps only
# if you want longer haystacks than are asked for.
#
# **How it works.** Replace each `...` by your code. `check("A4.1", …)` says at once whether it is right, and if
# not, what it sees. Marks come from other inputs of the same kind. The book's own needle task is not there where
# your work is graded.
#
# **How marks come about.** Each task has its points. A mistake that the test recognizes costs what it is worth,
# once. The last part is read by a person.

# %%
# SETUP

# %%
import numpy as np
import torch

from diffbook import records
from diffbook.check import check, personal

STUDENT = "solution"  # SOLUTION

# %% [markdown]
# In `STUDENT`, put your id in quotes, as it is in the name of the file that you hand in: A4.3 and A4.6 have
# numbers of your own.
#
# ## A4.1 Write the test
#
# The models know 66 tokens: `0` begins a row, `1` is the question, then 16 cities, 16 numbers and 32 words. A row
# has `length` tokens:
#
# - `BOS`, then the haystack: words drawn at random, with `n_needles` needles between them. A needle is a city and
#   right behind it its number;
# - at the end `ASK` and the asked city. The answer is that city's number, and the model should say it there.
#
# In one row no city and no number occurs in two needles. With $W$ words in a row, a needle stands in front of the
# $b$-th word with $b$ drawn from $0,\dots,W$, each needle for itself (two may follow each other). The asked needle
# is drawn at random, too; with `depth` given, a share from 0 to 1, exactly `round(depth * W)` words stand in front
# of it. All chance comes from `rng`.
#
# Return `tokens` `(n, length)`, `answers` `(n,)`, and `places` `(n,)`: where in the row the answer's number
# stands.
#
# <details>
# <summary>Hint 1: one row at a time</summary>
#
# A loop over rows is fast enough, and much easier to get right. Draw the needles and how many words stand in front
# of each; then build the row from left to right as a list.
#
# </details>
#
# <details>
# <summary>Hint 2: how many words</summary>
#
# `BOS`, `ASK` and the asked city are 3 tokens, each needle 2.
#
# </details>
#
# <details>
# <summary>Hint 3: without replacement</summary>
#
# `rng.choice(CITIES, n_needles, replace=False)`.
#
# </details>

# %%
BOS, ASK = 0, 1
CITIES, NUMBERS = np.arange(2, 18), np.arange(18, 34)
WORDS = np.arange(34, 66)


def make_test(rng, n, length, n_needles=4, depth=None):
    """Tokens (n, length), answers (n,), places of the answers (n,)."""
    # BEGIN SOLUTION
    n_words = length - 3 - 2 * n_needles
    tokens, answers, places = [], [], []
    for _ in range(n):
        words = rng.choice(WORDS, n_words)
        cities = rng.choice(CITIES, n_needles, replace=False)
        numbers = rng.choice(NUMBERS, n_needles, replace=False)
        before = rng.integers(0, n_words + 1, n_needles)
        asked = rng.integers(n_needles)
        if depth is not None:
            before[asked] = round(depth * n_words)
        row = [BOS]
        for place in range(n_words + 1):
            for needle in np.flatnonzero(before == place):
                row += [cities[needle], numbers[needle]]
                if needle == asked:
                    places.append(len(row) - 1)
            row += list(words[place:place + 1])
        tokens.append(row + [ASK, cities[asked]])
        answers.append(numbers[asked])
    return np.array(tokens), np.array(answers), np.array(places)
    # END SOLUTION


check("A4.1", make_test)

# %% [markdown]
# ## A4.2 Ask the model
#
# For each row: is the model's first choice, of *all* tokens, the answer? `model(tokens)` gives logits
# `(n, length, 66)`. Return truth values `(n,)`, not their mean: you will need the single ones.
#
# <details>
# <summary>Hint 1</summary>
#
# Where does a causal model say what comes next? And which two things does one switch off before asking?
#
# </details>
#
# <details>
# <summary>Hint 2: shapes</summary>
#
# `(n, length, 66)` at the last position is `(n, 66)`, and `argmax(-1)` of it names a token for each row. Compare that
# with the answers, row by row.
#
# </details>

# %%
def evaluate(model, tokens, answers):
    """Whether each answer (n,) is the model's first choice."""
    # BEGIN SOLUTION
    model.eval()
    with torch.no_grad():
        logits = model(torch.as_tensor(tokens))
    return logits[:, -1].argmax(-1) == torch.as_tensor(answers)
    # END SOLUTION


check("A4.2", evaluate)

# %% [markdown]
# ## A4.3 What chance gives, with pencil and your own numbers
#
# A model got the share `found` of the questions right. Suppose that it really knows the answer to a share $k$, and
# that to all other questions it names the number of one of the `n_needles` needles in the text, by chance. (There
# are `n_numbers` numbers altogether.) What is $k$?

# %%
try:
    print(personal("A4.3", STUDENT))
except ValueError as problem:
    print(problem)

# %% [markdown]
# <details>
# <summary>Hint</summary>
#
# Two ways lead to a right answer: knowing it, and not knowing it but being lucky. Write their sum, and solve.
#
# </details>

# %%
my_share = ...
# BEGIN SOLUTION
mine = personal("A4.3", STUDENT)
lucky = 1 / mine["n_needles"]
my_share = (mine["found"] - lucky) / (1 - lucky)
# END SOLUTION

check("A4.3", my_share, STUDENT)

# %% [markdown]
# ## A4.4 The interval of one accuracy
#
# The paper asks 50 questions for each cell of its tables. What does "50 of 50" say about the next thousand
# questions? Wilson's 95 % interval, with $p$ the share of right answers and $z=1.96$:
#
# $$\frac{p+\frac{z^2}{2n}\;\pm\;z\sqrt{\frac{p(1-p)}{n}+\frac{z^2}{4n^2}}}{1+\frac{z^2}{n}}$$
#
# <details>
# <summary>Hint 1: a case to hold on to</summary>
#
# For 50 of 50 the upper end is 1, and the lower end is $1/(1+z^2/50)\approx0.929$.
#
# </details>
#
# <details>
# <summary>Hint 2: three parts</summary>
#
# Name the center, the half-width and the denominator, then put them together: `(center - half) / below`.
#
# </details>

# %%
def wilson(right, n):
    """(low, high) for ``right`` right answers out of ``n``."""
    # BEGIN SOLUTION
    z, p = 1.96, right / n
    center = p + z**2 / (2 * n)
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    below = 1 + z**2 / n
    return (center - half) / below, (center + half) / below
    # END SOLUTION


check("A4.4", wilson)

# %% [markdown]
# ## A4.5 The interval of a difference
#
# Two models answer the same questions: `a` and `b` are `(haystacks, questions)`, 1 where right. Several questions
# share one haystack, and a hard haystack is hard for all of them, and for both models.
#
# Return `(mean, low, high)`: the mean of a - b, and its 95 % interval by a bootstrap with 4,000 draws: draw
# haystacks with replacement, as many as there are, take the mean difference, and do it again; the interval goes
# from the 2.5th to the 97.5th percentile of these means.
#
# <details>
# <summary>Hint 1: what is drawn</summary>
#
# What belongs together is drawn together: all questions of a haystack, and both models' answers to them.
#
# </details>
#
# <details>
# <summary>Hint 2: without a loop</summary>
#
# The difference of each haystack is one number. `rng.integers(0, n, (4000, n))` are 4,000 draws of n rows.
#
# </details>

# %%
def paired_bootstrap(a, b, rng):
    """Mean of a - b, and its 95 % interval (low, high)."""
    # BEGIN SOLUTION
    gap = a.mean(1) - b.mean(1)  # one number for each haystack
    draws = rng.integers(0, len(gap), (4000, len(gap)))
    low, high = np.percentile(gap[draws].mean(1), [2.5, 97.5])
    return gap.mean(), low, high
    # END SOLUTION


check("A4.5", paired_bootstrap)

# %% [markdown]
# ## A4.6 Both models, three seeds
#
# The book ships trained models: `records.model("needle-cpu/softmax-0")`, and the same with `diff` and with the seeds
# 1 and 2. They were trained on rows of 64 tokens with 4 needles. Your length is another one.

# %%
try:
    print(personal("A4.6", STUDENT))
except ValueError as problem:
    print(problem)

# %% [markdown]
# Put one and the same test of 300 rows of your length, with 4 needles, to all six models, and fill `results`:
#
# - `"softmax"`, `"diff"`: three accuracies each, in the order of the seeds;
# - `"difference"`, `"low"`, `"high"`: mean of DIFF - Transformer over the *seeds*, and its 95 % interval with
#   Student's t (4.303 for three seeds; see A3.7);
# - `"verdict"` on "DIFF finds more": `"reproduced"`, `"no difference at this scale"` or `"contradicted"`.
#
# Why seeds, and not the 300 questions? Think about it before the last part.
#
# <details>
# <summary>Hint 1: one test for all</summary>
#
# Call `make_test` once, with your length from `personal("A4.6", STUDENT)["length"]`, and give the same tokens to
# every model.
#
# </details>
#
# <details>
# <summary>Hint 2: from truth values to one accuracy</summary>
#
# `evaluate(…)` gives 300 truth values. Their mean, as a float, is the accuracy of one model.
#
# </details>
#
# <details>
# <summary>Hint 3: three differences</summary>
#
# DIFF - Transformer of seed 0, of seed 1, of seed 2: three numbers. Their mean $\pm\;4.303\,s/\sqrt3$, with $s$ their
# standard deviation (n - 1).
#
# </details>

# %%
results = {"softmax": ..., "diff": ..., "difference": ..., "low": ...,
           "high": ..., "verdict": ...}
# BEGIN SOLUTION
length = personal("A4.6", STUDENT)["length"]
test_tokens, test_answers, _ = make_test(np.random.default_rng(5), 300,
                                         length)
for kind in ("softmax", "diff"):
    results[kind] = [
        float(evaluate(records.model(f"needle-cpu/{kind}-{seed}"),
                       test_tokens, test_answers).float().mean())
        for seed in range(3)
    ]
gap = np.array(results["diff"]) - np.array(results["softmax"])
half = 4.303 * gap.std(ddof=1) / 3**0.5
results |= {"difference": gap.mean(), "low": gap.mean() - half,
            "high": gap.mean() + half}
if results["low"] > 0:
    results["verdict"] = "reproduced"
elif results["high"] < 0:
    results["verdict"] = "contradicted"
else:
    results["verdict"] = "no difference at this scale"
# END SOLUTION

check("A4.6", results, STUDENT)

# %% [markdown]
# ## What your test can see
#
# 1. Your verdict is about models trained with other seeds. What would an interval over the 300 questions be about,
#    and why is it narrower?
# 2. In Table 2 the paper reports 0.85 against 0.55 for six needles, from 50 questions at each of five depths, of one
#    model each. Which of the two kinds of scatter can its reader estimate, and which not?
# 3. Name one trick by which a model could score above chance in your test without having understood the question,
#    and how the test would have to change to show it.

# %% [markdown]
# *Your answer here.*

# %% [markdown] tags=["rubric"]
# **Rubric** (6 points, marked by a person)
#
# | points | for |
# |---|---|
# | 2 | 1: about these very models and further questions (1); leaves out the scatter between trainings, which is the larger one here (1) |
# | 2 | 2: from the number of questions, the scatter between questions (1); not that between trainings: one run each (1) |
# | 2 | 3: a trick that works in *this* test, such as naming any number of the row (1 / N), or the nearest, or by elimination where several are asked (1); a change that would show it: more needles, distractors, a report by depth (1) |

# %% tags=["hidden"]
@hidden("A4.1")
def a_short_row(rng, student):
    yield Case("hardly any words", {
        "seed": int(rng.integers(2**31)), "n": 40, "length": 15,
        "n_needles": 3}, costs=1)


@hidden("A4.4")
def none_right(rng, student):
    yield Case("0 of 20", {"right": 0, "n": 20}, costs=0.5)
