# ---
# title: Build and train a small DIFF Transformer
# hours: 8
# provide: [show, attention, blockwise, rope]
# manual:
# - {title: "What your runs say", points: 7}
# limits: {cells: 240, cell: 180}
# ---

# %% [markdown]
# # A3. Build and train a small DIFF Transformer
#
# The layer is there ([A2](https://diffbook.github.io/diffbook/book/assignments/student/A2.html)); now you build the
# model around it, and train it beside a Transformer of the same size, so that the comparison says something.
#
# **What you learn.** To count parameters and match two models; to start a pair from the same weights and feed it
# the same data; to write a loop that can be stopped and gone on with; to say, from a few seeds, what is known and
# what is not; to draw it so that nobody is misled.
#
# **Before you start.** Chapters [7](https://diffbook.github.io/diffbook/book/07_whole_model.html) and
# [8](https://diffbook.github.io/diffbook/book/08_training.html). Everything runs in seconds on one CPU core. A GPU
# helps nowhere here; it would help to make the model larger, which is not asked.
#
# **How it works.** Replace each `...` by your code. `check("A3.1", …)` says at once whether it is right, and if
# not, what it sees. Marks come from other inputs of the same kind. The book's attention layers and rotary
# positions are there to use; its model and its training loop are not, where your work is graded.
#
# **How marks come about.** Each task has its points. A mistake that the test recognizes costs what it is worth,
# once; what only follows from it in a later task costs nothing more. The last part is read by a person.

# %%
# SETUP

# %%
import copy
import math

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from diffbook import show
from diffbook.attention import MultiheadAttention, MultiheadDiffAttention
from diffbook.check import check, personal
from diffbook.rope import Rotary

show.style()
STUDENT = "solution"  # SOLUTION

# %% [markdown]
# In `STUDENT`, put your id in quotes, as it is in the name of the file that you hand in: A3.2 has numbers of
# your own.
#
# ## A3.1 The block
#
# Eqs. (4) and (5) of the [paper](https://arxiv.org/abs/2410.05258), the same for both kinds of model:
#
# $$Y=\mathrm{Attention}(\mathrm{LN}(X))+X,\qquad \mathrm{SwiGLU}(\mathrm{LN}(Y))+Y$$
#
# $$\mathrm{SwiGLU}(Z)=\big(\mathrm{SiLU}(ZW_{gate})\odot ZW_{up}\big)\,W_{down}$$
#
# LN is RMSNorm. The test gives the block its own weights, so these names are needed: `attention`,
# `attention_norm`, `ffn_norm` (`nn.RMSNorm(d_model, eps=1e-5)`), and `gate_proj`, `up_proj`, `down_proj`
# (`nn.Linear` without bias). Attention is called as `self.attention(…, rope=rope)`.
#
# <details>
# <summary>Hint 1: where the norm stands</summary>
#
# The sum keeps $X$ as it is; only what goes *into* a layer is normalized.
#
# </details>
#
# <details>
# <summary>Hint 2: which X in the second half</summary>
#
# The second half takes the result of the first in both places, inside the norm and in the sum.
#
# </details>

# %%
class Block(nn.Module):
    """One layer: attention, then SwiGLU, each on its normed input."""

    def __init__(self, attention, d_model, d_ff):
        super().__init__()
        self.attention = attention
        # BEGIN SOLUTION
        self.attention_norm = nn.RMSNorm(d_model, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(d_model, eps=1e-5)
        self.gate_proj = nn.Linear(d_model, d_ff, bias=False)
        self.up_proj = nn.Linear(d_model, d_ff, bias=False)
        self.down_proj = nn.Linear(d_ff, d_model, bias=False)
        # END SOLUTION

    def forward(self, x, rope):
        """(batch, seq, d_model) -> the same shape."""
        # BEGIN SOLUTION
        x = x + self.attention(self.attention_norm(x), rope=rope)
        z = self.ffn_norm(x)
        hidden = F.silu(self.gate_proj(z)) * self.up_proj(z)
        return x + self.down_proj(hidden)
        # END SOLUTION


check("A3.1", Block)

# %% [markdown]
# ## A3.2 How many numbers, with pencil and your own model
#
# Before you build the model, count what it has to learn. The pair has `n_heads` heads in the Transformer and half
# as many differential heads, each of twice the width. No biases anywhere, embedding and output are two matrices,
# and each model has one more RMSNorm before the output.

# %%
try:
    print(personal("A3.2", STUDENT))
except ValueError as problem:
    print(problem)

# %% [markdown]
# <details>
# <summary>Hint 1: what both have</summary>
#
# Embedding and output; per layer four matrices of attention, three of SwiGLU, two norms; the last norm.
#
# </details>
#
# <details>
# <summary>Hint 2: what DIFF has more</summary>
#
# Per layer four λ vectors of width $d$ and the gain of the headwise norm, shared by all heads. How wide is a
# head's output?
#
# </details>
#
# <details>
# <summary>Hint 3: a check</summary>
#
# `MultiheadDiffAttention(16, 2, 1)` has `sum(p.numel() for p in ….parameters())` numbers.
#
# </details>

# %%
my_parameters = {"softmax": ..., "diff": ...}
# BEGIN SOLUTION
shape = personal("A3.2", STUDENT)
width, depth = shape["d_model"], shape["n_layers"]
both = 2 * shape["vocab_size"] * width + width
both += depth * (4 * width**2 + 3 * width * shape["d_ff"] + 2 * width)
head_width = width // shape["n_heads"]
my_parameters = {"softmax": both, "diff": both + depth * 6 * head_width}
# END SOLUTION

check("A3.2", my_parameters, STUDENT)

# %% [markdown]
# ## A3.3 The language model
#
# Tokens `(batch, seq)` to logits `(batch, seq, vocab_size)`: embedding, blocks, norm, output. Names: `embedding`
# (`nn.Embedding`), `blocks` (`nn.ModuleList`), `norm`, `head` (`nn.Linear` without bias).
#
# `attention` is `"softmax"` or `"diff"`, `n_heads` counts the *baseline's* heads. The layers are
# `MultiheadAttention(d_model, n_heads)` and `MultiheadDiffAttention(d_model, n_heads, layer)`; look at what their
# arguments mean with `help(…)`. Positions: `Rotary(d, max_seq_len)` with the width of a *map*; 256 positions are
# enough.
#
# <details>
# <summary>Hint 1: help says it</summary>
#
# `n_heads` of `MultiheadDiffAttention` are differential heads, *half of the matched baseline's*; `layer` is
# counted from 1.
#
# </details>
#
# <details>
# <summary>Hint 2: what the blocks share</summary>
#
# One table of positions serves all layers, and stands in no state: `self.rope = Rotary(…)`, given to every block.
# In the loop over layers, `enumerate(…, start=1)` or `range(1, n_layers + 1)`.
#
# </details>

# %%
class SmallModel(nn.Module):
    """A language model with either kind of attention."""

    def __init__(self, vocab_size, d_model, n_layers, n_heads, d_ff,
                 attention):
        super().__init__()
        # BEGIN SOLUTION
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList()
        for layer in range(1, n_layers + 1):
            if attention == "softmax":
                mixer = MultiheadAttention(d_model, n_heads)
            else:
                mixer = MultiheadDiffAttention(d_model, n_heads // 2, layer)
            self.blocks.append(Block(mixer, d_model, d_ff))
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.rope = Rotary(d_model // n_heads, 256)
        # END SOLUTION

    def forward(self, tokens):
        # BEGIN SOLUTION
        x = self.embedding(tokens)  # (batch, seq, d_model)
        for layer in self.blocks:
            x = layer(x, self.rope)
        return self.head(self.norm(x))
        # END SOLUTION


check("A3.3", SmallModel)

# %% [markdown]
# ## A3.4 A pair that starts alike
#
# Two runs differ by chance already in their first weights. So give both models of a pair the same ones:
# `make_pair(seed)` returns a Transformer and a DIFF Transformer of the shape `SHAPE` in which **every parameter
# that both have is equal**. Another seed gives others; the same seed gives the same again, whatever was drawn
# before.
#
# <details>
# <summary>Hint 1: why one seed before both is not enough</summary>
#
# DIFF draws its λ vectors inside the first layer. From there on its random numbers are other ones.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# `model.load_state_dict(other.state_dict(), strict=False)` copies what has the same name.
#
# </details>

# %%
SHAPE = {"vocab_size": 40, "d_model": 32, "n_layers": 2, "n_heads": 4,
         "d_ff": 64}


def make_pair(seed):
    """(Transformer, DIFF Transformer) with equal common weights."""
    # BEGIN SOLUTION
    torch.manual_seed(seed)
    transformer = SmallModel(**SHAPE, attention="softmax")
    diff = SmallModel(**SHAPE, attention="diff")
    diff.load_state_dict(transformer.state_dict(), strict=False)
    return transformer, diff
    # END SOLUTION


check("A3.4", make_pair)

# %% [markdown]
# ## A3.5 Data that do not depend on the past
#
# The task is a small one: a row of tokens in which some *keys* are followed by their *values*; at the end a key is
# asked for, and the model has to say its value. `sample(generator)` draws a batch.
#
# Write `batch(seed, step)`: the batch of one step of one run. It must depend on the seed and the step, and on
# nothing else. Then both models of a pair see the same data, and a run that was stopped sees what it would have
# seen.
#
# <details>
# <summary>Hint 1</summary>
#
# `torch.Generator().manual_seed(number)` is a generator of your own. Which number belongs to (seed, step), so
# that no two pairs share one? `seed + step` does not do: why?
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# `seed + step` is 11 for (3, 8) and for (4, 7). A factor in front of one of the two keeps them apart, as long as it
# is larger than any step will ever be.
#
# </details>

# %%
def sample(generator, rows=32, pairs=5):
    """Tokens and targets (rows, 2 * pairs + 2); -100 is not scored."""
    keys = torch.rand(rows, 20, generator=generator).argsort(1)[:, :pairs]
    values = 20 + torch.randint(19, (rows, pairs), generator=generator)
    asked = torch.randint(pairs, (rows, 1), generator=generator)
    line = torch.stack((keys, values), dim=2).flatten(1)
    mark = torch.full((rows, 1), 39)
    tokens = torch.cat((line, mark, keys.gather(1, asked)), dim=1)
    targets = torch.full_like(tokens, -100)
    targets[:, -1:] = values.gather(1, asked)
    return tokens, targets


def batch(seed, step):
    """The batch of one step: (tokens, targets)."""
    # BEGIN SOLUTION
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    return sample(generator)
    # END SOLUTION


check("A3.5", batch)

# %% [markdown]
# ## A3.6 A loop that can be stopped
#
# `train(model, data, steps, state=None, stop=None)` trains `model` in place and returns `(losses, state)`:
#
# - `data(step)` gives `(tokens, targets)`; the loss is the mean cross-entropy over the targets that are not -100;
# - AdamW with `lr=0.01, betas=(0.9, 0.95), weight_decay=0.1`; the learning rate of a step is `lr_at(step, steps)`;
# - gradients of norm above 1 are scaled down to 1 (`nn.utils.clip_grad_norm_`);
# - `losses` has one number for each step *of this call*, taken before the update;
# - with `stop=s` the call ends before step `s`, counted from 0 in the whole run;
# - `state` holds all that another call needs to go on in a *new* model: the losses are then those of a run that
#   was never stopped.
#
# <details>
# <summary>Hint 1: what a run is made of</summary>
#
# Besides the weights: what does AdamW remember? Which step comes next?
#
# </details>
#
# <details>
# <summary>Hint 2: a state that stays</summary>
#
# `state_dict()` gives the live tensors, which the next step changes. `copy.deepcopy` makes a copy.
#
# </details>

# %%
def lr_at(step, steps):
    """3 steps of warm-up, then a cosine down to a tenth."""
    if step < 3:
        return 0.01 * (step + 1) / 3
    progress = (step - 3) / max(1, steps - 3)
    return 0.01 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(model, data, steps, state=None, stop=None):
    """Train, from the start or from ``state``: (losses, state)."""
    # BEGIN SOLUTION
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.1)
    first = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        first = state["step"]
    last = steps if stop is None else stop
    losses = []
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, steps)
        tokens, targets = data(step)
        logits = model(tokens)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    kept = {"model": model.state_dict(),
            "optimizer": optimizer.state_dict(), "step": last}
    return losses, copy.deepcopy(kept)
    # END SOLUTION


check("A3.6", train)

# %% [markdown]
# ## A3.7 The paired difference and the verdict
#
# `a` and `b` hold one number for each seed. The claim is that `a` is **lower**. Return a dictionary with
#
# - `"difference"`: the mean of a - b over the seeds;
# - `"low"`, `"high"`: its 95 % interval with Student's t, `T[n]` for `n` seeds;
# - `"verdict"`: `"reproduced"` if the whole interval is below 0, `"contradicted"` if it is above,
#   `"no difference at this scale"` if it holds 0.
#
# Why paired? The seeds of one pair share their first weights and their data, so that much of the scatter is common
# and drops out of the difference ([chapter 8](https://diffbook.github.io/diffbook/book/08_training.html)).
#
# <details>
# <summary>Hint 1</summary>
#
# Half the interval is $t\,s/\sqrt n$, with $s$ the standard deviation of the *differences*.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# Two cases to try: for equal `a` and `b` the interval is [0, 0], which holds 0. For a difference that is the same
# for all seeds the interval has no width.
#
# </details>

# %%
T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447}


def paired(a, b):
    """Difference, its interval and the verdict on "a is lower"."""
    # BEGIN SOLUTION
    gap = np.asarray(a) - np.asarray(b)
    n = len(gap)
    mean, half = gap.mean(), T[n] * gap.std(ddof=1) / np.sqrt(n)
    low, high = mean - half, mean + half
    verdict = "no difference at this scale"
    if high < 0:
        verdict = "reproduced"
    elif low > 0:
        verdict = "contradicted"
    return {"difference": mean, "low": low, "high": high,
            "verdict": verdict}
    # END SOLUTION


check("A3.7", paired)

# %% [markdown]
# ## A3.8 An honest plot
#
# `plot(runs)` gets `{"softmax": [losses of seed 0, of seed 1, …], "diff": […]}` and returns a matplotlib `Figure`.
# The test looks at the figure for what misleads readers: seeds left out, curves smoothed, two scales, points
# outside the axis, axes without a label or unit, curves without a name.
#
# <details>
# <summary>Hint 1</summary>
#
# `show.COLORS["diff"]` and `show.COLORS["transformer"]` are the book's colors. One thin line for each seed; only
# the first of each kind gets a `label`.
#
# </details>
#
# <details>
# <summary>Hint 2: a stranger's eyes</summary>
#
# Before you hand in, look at the figure as somebody who has not run it: what is counted along each axis, in which
# unit, and which line is which?
#
# </details>

# %%
def plot(runs):
    """All curves of all seeds."""
    # BEGIN SOLUTION
    fig, ax = plt.subplots()
    names = {"softmax": "Transformer", "diff": "DIFF Transformer"}
    colors = {"softmax": show.COLORS["transformer"],
              "diff": show.COLORS["diff"]}
    for kind, curves in runs.items():
        for number, losses in enumerate(curves):
            ax.plot(range(1, len(losses) + 1), losses, lw=0.9,
                    color=colors[kind],
                    label=names[kind] if number == 0 else None)
    ax.set(xlabel="step", ylabel="loss on the batch (nats)")
    ax.legend()
    return fig
    # END SOLUTION


check("A3.8", plot)

# %% [markdown]
# ## Train the pairs
#
# Now all together: for seeds 0, 1 and 2 a pair, trained for 120 steps each on `batch(seed, step)`. Draw the
# curves with `plot`, and give `paired` the mean loss of the last 20 steps of each run. It takes about half a
# minute on one core.

# %%
SEEDS, STEPS = range(3), 120
# BEGIN SOLUTION
runs = {"softmax": [], "diff": []}
for seed in SEEDS:
    for kind, model in zip(runs, make_pair(seed)):
        losses, _ = train(model, lambda step, seed=seed: batch(seed, step),
                          STEPS)
        runs[kind].append(losses)
show.figure(plot(runs), alt=(
    "Loss against steps for three seeds of each model; all six curves fall "
    "from about 3.7 nats, and those of the two models lie over each other."))
# END SOLUTION

# %%
# BEGIN SOLUTION
last = {kind: [np.mean(losses[-20:]) for losses in curves]
        for kind, curves in runs.items()}
found = paired(last["diff"], last["softmax"])
print({name: x if isinstance(x, str) else round(float(x), 3)
       for name, x in found.items()})
# END SOLUTION

# %% [markdown]
# ## What your runs say
#
# 1. One sentence with the difference, its interval, the number of seeds and the verdict. Then: what would have to
#    be true for the opposite to be so?
# 2. The title of your plot: a message that the interval allows.
# 3. Which three things are the same in your two models, so that the comparison is fair, and which one is not
#    (think of what a step costs)?
# 4. What can you not conclude from these runs about the paper's models? Name two reasons.

# %% [markdown]
# *Your answer here.*

# %% [markdown] tags=["rubric"]
# **Rubric** (7 points, marked by a person)
#
# | points | for |
# |---|---|
# | 2 | 1: the numbers agree with the run, seeds and interval are named, the verdict is the rule's (1); says what an interval with 0 in it leaves open, in both directions (1) |
# | 1 | 2: the title claims no more than the verdict ("no difference seen in 3 seeds", not "DIFF is as good") |
# | 2 | 3: parameters up to 6d a layer, first weights, data and their order, steps, optimizer (1 for three of these); not the same: time and operations of a step, DIFF has two maps (1) |
# | 2 | 4: scale of the model, amount and kind of data, few seeds, an untuned learning rate, steps (1 each, 2 at most) |

# %% tags=["hidden"]
@hidden("A3.7")
def no_scatter(rng, student):
    common = 3 + rng.standard_normal(6)
    yield Case("a constant gap", {"a": common - 0.25, "b": common}, costs=0.5)


@hidden("A3.8")
def far_apart(rng, student):
    falling = 2 + 0.01 * rng.standard_normal((2, 30))
    yield Case("one kind far above the other",
               {"runs": {"softmax": falling + 9, "diff": falling}}, costs=0.5)
