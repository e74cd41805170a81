# ---
# title: Differential attention from scratch
# hours: 5
# provide: [show]
# manual:
# - {title: "In your own words", points: 5}
# ---

# %% [markdown]
# # A2. Differential attention from scratch
#
# You build the mechanism of the [Differential Transformer](https://arxiv.org/abs/2410.05258), eqs. (1) to (3), from
# tensors up: seven small pieces, each tested for itself, that fit together to one layer.
#
# **What you learn.** To read an equation into code with all its shapes; to say which of the many nearly right
# versions is the right one, and how to tell; to test a layer, its gradients included.
#
# **Before you start.** Chapters [3](https://diffbook.github.io/diffbook/book/03_differential_attention.html) and
# [4](https://diffbook.github.io/diffbook/book/04_lambda.html); PyTorch tensors, `nn.Module`. No GPU: everything
# runs in seconds on a CPU.
#
# **How it works.** Replace each `...` by your code. `check("A2.1", …)` says at once whether it is right, and if
# not, what it sees; ask it as often as you like. Marks come from other inputs of the same kind. Hints unfold in
# steps: open one, think, open the next. Keep the names of functions and their arguments' order, and do not import
# the attention of `diffbook`, transformers or timm: where your work is graded, they are not there.
#
# **How marks come about.** Each task has its points. A mistake that the test recognizes costs what it is worth,
# once; what only follows from it in a later task costs nothing more.

# %%
# SETUP

# %%
import math

import torch
from torch import nn

from diffbook.check import check

# %% [markdown]
# ## A2.1 The causal softmax map
#
# $$A=\mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt d}\right)$$
#
# `q` and `k` are `(batch, heads, seq, d)`, the map is `(batch, heads, seq, seq)`: row $i$ says how position $i$
# shares its attention. *Causal*: position $i$ sees itself and what stands before it.
#
# <details>
# <summary>Hint 1: shapes</summary>
#
# `q @ k.transpose(-2, -1)` multiplies the last two axes and leaves `batch` and `heads` alone.
#
# </details>
#
# <details>
# <summary>Hint 2: the mask</summary>
#
# What must weigh nothing after the softmax needs the score $-\infty$ before it. `torch.ones(n, n).tril()` is 1
# where position $i$ may see position $j$; `scores.masked_fill(condition, -torch.inf)` fills where the condition
# holds.
#
# </details>

# %%
def softmax_map(q, k):
    """Causal map of q, k (batch, heads, seq, d): (batch, heads, seq, seq)."""
    # BEGIN SOLUTION
    n, d = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d)
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    # END SOLUTION


check("A2.1", softmax_map)

# %% [markdown]
# ## A2.2 The difference map
#
# Eq. (1): two maps, one subtracted from the other.
#
# $$A_1-\lambda A_2,\qquad A_i=\mathrm{softmax}\!\left(\frac{Q_iK_i^\top}{\sqrt d}\right)$$
#
# Before you write it: what does each row sum to? `lam` is a number, or a tensor with one.
#
# <details>
# <summary>Hint 1</summary>
#
# You have the map already. Which comes first, the softmax or the subtraction?
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# A check: each row of your map sums to $1-\lambda$. If yours sum to 1, look where you subtract.
#
# </details>

# %%
def diff_map(q1, k1, q2, k2, lam):
    """The map of eq. (1): (batch, heads, seq, seq)."""
    # BEGIN SOLUTION
    return softmax_map(q1, k1) - lam * softmax_map(q2, k2)
    # END SOLUTION


check("A2.2", diff_map)

# %% [markdown]
# ## A2.3 Where λ starts
#
# $$\lambda_{init}=0.8-0.6\,e^{-0.3\,(l-1)}$$
#
# with layers $l$ counted from **1**. (The official code counts from 0, and so writes the formula without the
# $-1$. Both start at 0.2.)
#
# <details>
# <summary>Hint</summary>
#
# Two values to hold on to: 0.2 in layer 1, and nearly 0.8 in layer 30.
#
# </details>

# %%
def lambda_init(layer):
    """λ_init of layer ``layer``, counted from 1."""
    # BEGIN SOLUTION
    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
    # END SOLUTION


check("A2.3", lambda_init)

# %% [markdown]
# ## A2.4 λ, and its gradient
#
# Eq. (2) makes one number of four learned vectors of width $d$:
#
# $$\lambda=e^{\lambda_{q1}\cdot\lambda_{k1}}-e^{\lambda_{q2}\cdot\lambda_{k2}}+\lambda_{init}$$
#
# λ has to learn. So the test looks at the gradients of the four vectors, too.
#
# <details>
# <summary>Hint 1</summary>
#
# The dot product of two vectors is `(a * b).sum()`. The result should still be a tensor: a Python float has no
# gradient.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# The order: product, sum, exp; do this for each pair, subtract, and then add λ_init.
#
# </details>

# %%
def lam(lambda_q1, lambda_k1, lambda_q2, lambda_k2, init):
    """λ of eq. (2): a tensor with one number."""
    # BEGIN SOLUTION
    first = (lambda_q1 * lambda_k1).sum().exp()
    second = (lambda_q2 * lambda_k2).sum().exp()
    return first - second + init
    # END SOLUTION


check("A2.4", lam)

# %% [markdown]
# ## A2.5 The headwise norm
#
# Eq. (3) normalizes each head for itself and scales it:
#
# $$(1-\lambda_{init})\cdot\mathrm{RMSNorm}(\text{head}),\qquad
# \mathrm{RMSNorm}(x)=\frac{x}{\sqrt{\frac1n\sum_i x_i^2+\varepsilon}},\qquad \varepsilon=10^{-5}$$
#
# `heads` is `(batch, heads, seq, 2d)`. The learned gain comes later, in the layer.
#
# <details>
# <summary>Hint 1</summary>
#
# *Each head for itself*: over which axis does the mean run, and over which not?
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# `x.square().mean(-1, keepdim=True)` keeps the axis, so that the division broadcasts.
#
# </details>

# %%
def head_norm(heads, init):
    """RMSNorm of each head (batch, heads, seq, 2d), times 1 - λ_init."""
    # BEGIN SOLUTION
    root = (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return (1 - init) * heads / root
    # END SOLUTION


check("A2.5", head_norm)

# %% [markdown]
# ## A2.6 Which map belongs to which head
#
# The projections of a layer are `(batch, seq, d_model)`. With $h$ differential heads, queries and keys are cut
# into $2h$ maps of width $d=d_{model}/2h$. As in the official code, **neighbors** belong together: maps $2i$ and
# $2i+1$ are map 1 and map 2 of head $i$. The values are cut into $h$ heads of width $2d$, one for both maps.
#
# Return `q1, k1, q2, k2` as `(batch, n_heads, seq, d)` and `v` as `(batch, n_heads, seq, 2d)`, in this order.
#
# <details>
# <summary>Hint 1</summary>
#
# `x.reshape(batch, seq, 2 * n_heads, d)` cuts the last axis. Then two axes have to change places. Why would
# `x.reshape(batch, 2 * n_heads, seq, d)` at once be wrong?
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# `maps[:, 0::2]` takes every second map, from the first one on.
#
# </details>

# %%
def split_heads(q, k, v, n_heads):
    """(batch, seq, d_model) each -> q1, k1, q2, k2, v by head."""
    # BEGIN SOLUTION
    batch, seq, d_model = q.shape
    q, k = (x.reshape(batch, seq, 2 * n_heads, -1).transpose(1, 2)
            for x in (q, k))
    v = v.reshape(batch, seq, n_heads, -1).transpose(1, 2)
    return q[:, 0::2], k[:, 0::2], q[:, 1::2], k[:, 1::2], v
    # END SOLUTION


check("A2.6", split_heads)

# %% [markdown]
# ## A2.7 The layer
#
# Put the pieces together. The test gives your layer its own weights, so the parameters need these names and
# shapes:
#
# | name | what | shape |
# |---|---|---|
# | `q_proj`, `k_proj`, `v_proj`, `o_proj` | `nn.Linear` without bias | `d_model` to `d_model` |
# | `lambda_q1`, `lambda_k1`, `lambda_q2`, `lambda_k2` | `nn.Parameter`, shared by all heads | `(d,)` |
# | `gain` | `nn.Parameter` of ones, the norm's learned gain, shared by all heads | `(2d,)` |
#
# `forward(x)` takes `(batch, seq, d_model)` and returns the same shape:
#
# 1. project, and cut into heads;
# 2. the difference map times the values, `(batch, heads, seq, 2d)`;
# 3. the headwise norm, times `gain`;
# 4. join the heads, and multiply by $W^O$.
#
# <details>
# <summary>Hint 1: joining</summary>
#
# `(batch, heads, seq, 2d)` to `(batch, seq, heads, 2d)`, then `flatten(-2)`.
#
# </details>
#
# <details>
# <summary>Hint 2: it runs, but it is wrong</summary>
#
# Check the pieces first: all six have to be right. Then look at what is computed once, in `__init__`, and should
# be computed in every `forward`.
#
# </details>

# %%
class DiffAttention(nn.Module):
    """Multi-head differential attention, eqs. (1) to (3)."""

    def __init__(self, d_model, n_heads, layer):
        super().__init__()
        self.n_heads, self.init = n_heads, lambda_init(layer)
        # BEGIN SOLUTION
        d = d_model // (2 * n_heads)
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)
        self.lambda_q1 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_k1 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_q2 = nn.Parameter(0.1 * torch.randn(d))
        self.lambda_k2 = nn.Parameter(0.1 * torch.randn(d))
        self.gain = nn.Parameter(torch.ones(2 * d))
        # END SOLUTION

    def forward(self, x):
        # BEGIN SOLUTION
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        q1, k1, q2, k2, v = split_heads(q, k, v, self.n_heads)
        lam_ = lam(self.lambda_q1, self.lambda_k1, self.lambda_q2,
                   self.lambda_k2, self.init)
        out = diff_map(q1, k1, q2, k2, lam_) @ v  # (batch, heads, seq, 2d)
        out = self.gain * head_norm(out, self.init)
        return self.o_proj(out.transpose(1, 2).flatten(-2))
        # END SOLUTION


check("A2.7", DiffAttention)

# %% [markdown]
# ## In your own words
#
# Answer in two or three sentences each, in the cell below.
#
# 1. All weights of a difference map could be divided by $1-\lambda$, so that rows sum to 1. Would the layer's
#    output change? Why?
# 2. A colleague computes $A_1V-\lambda A_2V$ in the place of $(A_1-\lambda A_2)V$. Is that the same, and why would
#    one want it?
# 3. Suppose λ were detached from the graph. Which of the seven tests notice, and why do the others not?

# %% [markdown]
# *Your answer here.*

# %% [markdown] tags=["rubric"]
# **Rubric** (5 points, marked by a person)
#
# | points | for |
# |---|---|
# | 2 | 1: No, for λ < 1: RMSNorm ignores a positive factor (1 point); says what happens at λ > 1 (the sign) or λ = 1 (0/0), or that ε makes it only nearly true (1 point) |
# | 2 | 2: The same, the product is linear (1); fused attention kernels never build the maps, so it needs less memory (1) |
# | 1 | 3: A2.4 and A2.7, which compare gradients; the others compare values, which a detached λ does not change |

# %% tags=["hidden"]
@hidden("A2.1")
def more_maps(rng, student):
    q, k = (torch.from_numpy(rng.standard_normal((1, 1, 9, 3))).float()
            for _ in range(2))
    yield Case("an odd width", {"q": q, "k": k})


@hidden("A2.2")
def lambda_as_tensor(rng, student):
    tensors = [torch.from_numpy(rng.standard_normal((1, 3, 5, 6))).float()
               for _ in range(4)]
    names = ("q1", "k1", "q2", "k2")
    yield Case("λ as a tensor", dict(zip(names, tensors))
               | {"lam": torch.tensor(0.65)})
