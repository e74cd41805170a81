# ---
# title: "Project: one claim, one row"
# hours: 20
# provide: ["*"]
# manual:
# - {title: "The report", points: 24}
# limits: {cells: 240, cell: 180, call: 120, total: 480, memory: 4294967296}
# ---

# %% [markdown]
# # A5. Project: one claim, one row
#
# Choose one claim of the [paper](https://arxiv.org/abs/2410.05258), test it with models you can afford, and write its
# row of the [scorecard](https://diffbook.github.io/diffbook/book/19_scorecard.html). A clean null is as good a result
# as a reproduction: marks are for the test, not for its outcome.
#
# **What you learn.** To turn a sentence of a paper into something that can fail; to run it without fooling yourself;
# to write down what you found in numbers, and what it does not say.
#
# **Before you start.** Chapters [8](https://diffbook.github.io/diffbook/book/08_training.html) and
# [19](https://diffbook.github.io/diffbook/book/19_scorecard.html), and the chapter of your claim. All of the book's
# package may be used. A GPU helps if you want models beyond a million parameters; for the marks by tests, nothing
# but a CPU is needed, and `measure` may take a minute there. Larger runs belong into the report, with their commands.
#
# **How marks come about.** 16 points by tests: that the plan could fail, that all planned runs are there, that the
# row follows from them by the book's rules, and that the numbers come out again. 24 by a person, who reads the
# report by this table:
#
# | points | what is looked at |
# |---|---|
# | 4 | **Question.** The claim in your own words, where it stands, and why your measure speaks of it |
# | 5 | **Comparison.** Both models equal in parameters, data, steps and choices made for them; what is not equal is named |
# | 4 | **Measure.** What chance gives, what the best possible is; that it was checked on a case with a known answer |
# | 4 | **Figure.** All seeds shown, axes with units, a title that says no more than the interval |
# | 4 | **Conclusion.** What follows and what does not; what scale, data or seeds could change |
# | 3 | **Repeatable.** Commands, seeds, versions, time on which machine; somebody else could run it |

# %%
# SETUP

# %%
import numpy as np
import torch

from diffbook import records
from diffbook.check import check

# %% [markdown]
# ## A5.1 The plan, before any run
#
# Fill it in before you measure anything, and do not change it afterwards: if you must, write a second plan below
# the first and say why.
#
# - `"where"`: table or figure, such as `"Table 3"` or `"Fig. 5"`; `"paper"`: its two numbers, the Transformer's
#   first, as `paper.load("table3")` has them;
# - `"claim"`, `"measure"`: in words; `"says"`: whether DIFF should be `"lower"` or `"higher"`;
# - `"seeds"`: at least three; `"against"`: which result would speak against the claim.
#
# <details>
# <summary>Hint 1: claims that a CPU can test</summary>
#
# Needles at lengths a model was not trained on (Fig. 5); attention to irrelevant words (Table 3); large activations
# (Table 5); a term of the ablation (Table 6); the order of demonstrations (Fig. 7). The scorecard's notes say what
# was in the way elsewhere.
#
# </details>
#
# <details>
# <summary>Hint 2: how many seeds</summary>
#
# Three seeds give an interval of 2.5 standard deviations of the difference to each side; six give 1.05. What
# difference do you want to be able to see?
#
# </details>

# %%
PLAN = {"where": ..., "claim": ..., "paper": ..., "measure": ...,
        "says": ..., "seeds": ..., "against": ...}
# BEGIN SOLUTION
from diffbook.measure.attention_mass import REGIONS, attention_mass
from diffbook.tasks.needle import NeedleTask

PLAN = {
    "where": "Table 3",
    "claim": "DIFF gives less attention to irrelevant context",
    "paper": [0.52, 0.02],  # needle in the middle, depth 0.5
    "measure": "share of |attention| on haystack words at the question, "
               "mean over layers and heads (0 to 1)",
    "says": "lower",
    "seeds": [0, 1, 2],
    "against": "an interval of the paired difference that holds 0 or lies "
               "above it",
}
# END SOLUTION

check("A5.1", PLAN)

# %% [markdown]
# ## The experiment
#
# `measure(kind, seed)` trains or loads the model of one kind (`"softmax"` or `"diff"`) and seed, and returns one
# number. It has to give the same number whenever it is called. For training, the book's own loop will do:
# `diffbook.train.train` with `diffbook.model.pair`.

# %%
def measure(kind, seed):
    """The number of one model."""
    # BEGIN SOLUTION
    model = records.model(f"needle-cpu/{kind}-{seed}")
    task = NeedleTask(n_queries=1, depth=0.5)
    batch = task.sample(64, torch.Generator().manual_seed(11))
    mass = attention_mass(model, batch, task.first_number, task.first_word)
    share = mass.absolute[..., REGIONS.index("haystack")]
    return float(share.mean())
    # END SOLUTION


runs = {"softmax": ..., "diff": ...}
# BEGIN SOLUTION
runs = {kind: [measure(kind, seed) for seed in PLAN["seeds"]]
        for kind in ("softmax", "diff")}
# END SOLUTION

# %% [markdown]
# ## The row
#
# `"softmax"` and `"diff"`: means over the seeds; `"difference"`: DIFF - Transformer, paired; `"low"`, `"high"`: its
# 95 % interval with Student's t (`diffbook.records.paired_interval` computes it); `"seeds"`: how many;
# `"verdict"`: `"reproduced"`, `"no difference at this scale"` or `"contradicted"`; `"note"`: what separates your test
# from the paper's.

# %%
row = {"softmax": ..., "diff": ..., "difference": ..., "low": ...,
       "high": ..., "seeds": ..., "verdict": ..., "note": ...}
# BEGIN SOLUTION
gaps = np.array(runs["diff"]) - np.array(runs["softmax"])
low, high = records.paired_interval(gaps)
if low <= 0 <= high:
    verdict = "no difference at this scale"
elif (high < 0) == (PLAN["says"] == "lower"):
    verdict = "reproduced"
else:
    verdict = "contradicted"
row = {
    "softmax": np.mean(runs["softmax"]), "diff": np.mean(runs["diff"]),
    "difference": gaps.mean(), "low": low, "high": high,
    "seeds": len(gaps), "verdict": verdict,
    "note": "0.1 M parameters, tokens in the place of text; magnitudes, "
            "as the entries of a difference map may be negative",
}
# END SOLUTION

PROJECT = {"plan": PLAN, "runs": runs, "row": row, "measure": measure}

# %% [markdown]
# ## A5.2 The runs, all of them
#
# One number for each planned seed and kind, in the order of the seeds, and none left out or added.
#
# <details>
# <summary>Hint: a run that went wrong</summary>
#
# A run that broke down is a result: it stays, and the report says what happened. If the machine failed, and not the
# model, run that seed again, for both kinds.
#
# </details>

# %%
check("A5.2", PROJECT)

# %% [markdown]
# ## A5.3 The row follows from the runs
#
# The test works out the row from your runs, and compares.
#
# <details>
# <summary>Hint: the verdict</summary>
#
# First the interval, then the word: does it hold 0? If not, is its side of 0 the one that the plan `says`?
#
# </details>

# %%
check("A5.3", PROJECT)

# %% [markdown]
# ## A5.4 It comes out again
#
# The test calls `measure` again for two of your seeds, in another order.
#
# <details>
# <summary>Hint 1</summary>
#
# Chance hides in four places: the first weights, the order of the data, the test set, and layers such as dropout.
# Give each a generator that is made from the seed.
#
# </details>
#
# <details>
# <summary>Hint 2: a test of the test</summary>
#
# Try it yourself before the test does: call `measure("diff", 0)`, then another seed, then the first again. Is the
# first number the third?
#
# </details>

# %%
check("A5.4", PROJECT)

# %% [markdown]
# ## The report
#
# At most two pages, with one figure, below. Write for somebody who knows the paper but not your code: question,
# comparison, measure, result with its interval, what you cannot conclude, how to run it again. The table at the top
# says what is looked at.

# %% [markdown]
# *Your report here.*

# %% [markdown] tags=["rubric"]
# **Rubric** (24 points, marked by a person, by the table at the top)
#
# | part | full | half | none |
# |---|---|---|---|
# | Question (4) | claim, place, and why this measure speaks of it | claim is right, the link to the measure is asserted | another claim than the plan's |
# | Comparison (5) | parameters, data, steps, tuning equal or the inequality named; cost of a step named | two of these | models that differ in more than the attention, unnamed |
# | Measure (4) | chance, best value, and a check with a known answer | one of these | a number without a scale |
# | Figure (4) | all seeds, units, honest title and alt text | one is missing | the best seed, or a cut axis |
# | Conclusion (4) | follows from the interval, names two limits that matter here | follows, limits are general phrases | claims more than the row |
# | Repeatable (3) | commands, seeds, versions, time and machine | one is missing | cannot be run |
#
# The example here is a check of the framework with shipped models, not a model report. A null result that is told
# well gets full points. Changes of the plan that are told cost nothing; untold ones cost the points of *Conclusion*.
# Read `measure`: one that only looks its numbers up comes out again, too, and no test can tell.
# If in doubt whether the work is the student's own, ask for five minutes at a screen: change the measure a little
# and let the student say beforehand what will happen.

# %% tags=["hidden"]
@hidden("A5.4")
def another_pair_of_seeds(rng, student):
    yield Case("other seeds", {"pick": int(rng.integers(100)) + 1})
