# ---
# title: Softmax noise and the signal-to-noise ratio
# hours: 3
# provide: [show]
# manual:
# - {title: "What you cannot conclude", points: 5}
# ---

# %% [markdown]
# # A1. Softmax noise and the signal-to-noise ratio
#
# Pencil first, then NumPy. You compute how much attention a softmax must give to what is irrelevant, check your
# formula against a simulation of your own, and work out what a subtraction can win.
#
# **What you learn.** To derive the noise mass and its growth with the context; to write a softmax that survives
# real scores; to let a formula and a simulation check each other; to say when a difference of two noisy signals is
# less noisy than either.
#
# **Before you start.** Chapters [1](https://diffbook.github.io/diffbook/book/01_attention_noise.html) and
# [2](https://diffbook.github.io/diffbook/book/02_differential_amplifier.html); NumPy arrays and axes. No GPU:
# everything runs in a second on a CPU.
#
# **How it works.** Replace each `...` by your answer. `check(…)` says at once whether it is right, and if not, what
# it sees; ask it as often as you like. Marks come from other inputs of the same kind. Hints unfold in steps: open
# one, think, open the next. Keep the names of functions and variables, and the order of arguments.
#
# **How marks come about.** Each task has its points. A mistake that the test recognizes costs what it is worth,
# once; what only follows from it in a later task costs nothing more.

# %%
# SETUP

# %%
import numpy as np

from diffbook.check import check, personal

# Your id, in quotation marks, as it is in the name of the file you hand in
STUDENT = "solution"  # SOLUTION

# %% [markdown]
# ## A1.1 The noise mass, with pencil and your own numbers
#
# One relevant token has the score $m$; $n$ irrelevant ones have scores that scatter around 0 like a normal
# distribution with standard deviation $s$. The **noise mass** is the share of the attention that the irrelevant
# tokens get together. Everybody has other numbers; here are yours.

# %%
try:
    print(personal("A1.1", STUDENT))
except ValueError as problem:
    print(problem)

# %% [markdown]
# Compute the noise mass to three digits, with pencil and a calculator, before you write any code.
#
# <details>
# <summary>Hint 1: weights before shares</summary>
#
# Before it is divided by the sum, a token with score $z$ weighs $e^z$. What does the relevant token weigh?
#
# </details>
#
# <details>
# <summary>Hint 2: an irrelevant token, on average</summary>
#
# The mean of $e^z$ over a normal $z$ with standard deviation $s$ is not $e^0$: high scores count more than low
# ones. It is the mean of a log-normal number.
#
# </details>
#
# <details>
# <summary>Hint 3: the number itself</summary>
#
# That mean is $e^{s^2/2}$. Now divide noise by noise and signal together.
#
# </details>

# %%
my_noise_mass = 0.515  # SOLUTION

check("A1.1", my_noise_mass, STUDENT)

# %% [markdown]
# ## A1.2 A softmax that does not overflow
#
# `z` holds scores, each row (last axis) for itself; there may be any number of axes before it. Return weights of
# the same shape. Scores of 1000 must not hurt.
#
# <details>
# <summary>Hint 1</summary>
#
# `np.exp(1000)` is infinite. But a number that is subtracted from *all* scores of a row drops out of the ratio.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# `z.max(axis=-1, keepdims=True)` is each row's largest score, in a shape that broadcasts.
#
# </details>

# %%
def softmax(z):
    """Weights of each row (last axis) of z."""
    # BEGIN SOLUTION
    weights = np.exp(z - z.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
    # END SOLUTION


check("A1.2", softmax)

# %% [markdown]
# ## A1.3 The noise mass as a function
#
# The same as A1.1, as a function. `n` may be an array of lengths.
#
# <details>
# <summary>Hint</summary>
#
# NumPy's `np.exp` and its arithmetic take arrays as they are: the formula needs no loop. Try it with
# `n = np.array([10, 1000])`, and with your own numbers of A1.1.
#
# </details>

# %%
def noise_mass(n, m, s):
    """Share of n irrelevant tokens beside one with margin m, spread s."""
    # BEGIN SOLUTION
    noise = n * np.exp(s**2 / 2)
    return noise / (noise + np.exp(m))
    # END SOLUTION


check("A1.3", noise_mass)

# %% [markdown]
# ## A1.4 The margin you need, with your own numbers
#
# Turn the formula round: which margin $m$, in nats, keeps the noise mass at $\varepsilon$ with $n$ irrelevant
# tokens of spread $s$? Derive it on paper, then put in your numbers, to two decimals.

# %%
try:
    print(personal("A1.4", STUDENT))
except ValueError as problem:
    print(problem)

# %% [markdown]
# <details>
# <summary>Hint 1</summary>
#
# Divide numerator and denominator of the noise mass by its numerator.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# You get three terms: one for the length, one for the spread, one for $\varepsilon$. Logarithms are natural ones.
#
# </details>

# %%
my_margin = 13.88  # SOLUTION

check("A1.4", my_margin, STUDENT)

# %% [markdown]
# ## A1.5 The simulation
#
# Is the formula true? Draw `n` irrelevant scores, put the relevant one beside them, and take the share that the
# irrelevant ones get. Do this `trials` times, with new scores each time, and return all noise masses, an array
# `(trials,)`. Use the generator `rng` that is given to you for all chance.
#
# <details>
# <summary>Hint 1</summary>
#
# `s * rng.standard_normal((trials, n))` draws all scores at once.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# You have a softmax for rows: put the relevant score in front of each row with `np.concatenate` or `np.insert`.
#
# </details>

# %%
def simulate(n, m, s, rng, trials):
    """Noise masses of drawn rows: (trials,)."""
    # BEGIN SOLUTION
    noise = s * rng.standard_normal((trials, n))
    scores = np.concatenate([np.full((trials, 1), m), noise], axis=1)
    return 1 - softmax(scores)[:, 0]
    # END SOLUTION


check("A1.5", simulate)

# %% [markdown]
# ## A1.6 What a subtraction leaves of the noise
#
# Two noises $x_1,x_2$ have the same energy (sum of squares) and the cosine similarity $c$. Which share of the
# energy of $x_1$ does $x_1-\lambda x_2$ still have? `lam` may be an array.
#
# <details>
# <summary>Hint 1</summary>
#
# Expand $(x_1-\lambda x_2)\cdot(x_1-\lambda x_2)$. What is $x_1\cdot x_2$, in terms of $c$?
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# Two checks: for $c=1$ and $\lambda=1$ nothing is left, and for $c=0$ the energies of $x_1$ and
# $\lambda x_2$ add up.
#
# </details>

# %%
def noise_left(lam, c):
    """Energy of x1 - lam x2 over the energy of x1."""
    # BEGIN SOLUTION
    return 1 + lam**2 - 2 * lam * c
    # END SOLUTION


check("A1.6", noise_left)

# %% [markdown]
# ## A1.7 The gain in signal-to-noise ratio
#
# Map 1 gives the answer the weight $p_1$, map 2 gives it $p_2$; their noises are as in A1.6. After the
# subtraction the answer has $p_1-\lambda p_2$. Signal-to-noise ratios are ratios of *powers*: the square of the
# answer's weight over the energy of the noise.
#
# By how many decibels does the ratio of $A_1-\lambda A_2$ lie above that of $A_1$ alone?
#
# <details>
# <summary>Hint 1</summary>
#
# Decibels of a ratio of powers: $10\log_{10}$.
#
# </details>
#
# <details>
# <summary>Hint 2</summary>
#
# (SNR after) / (SNR before): the energy of $x_1$ drops out, `noise_left` remains below, and above stands the
# square of what is left of the signal.
#
# </details>

# %%
def snr_gain_db(p1, p2, c, lam):
    """SNR of the difference over SNR of map 1, in decibels."""
    # BEGIN SOLUTION
    signal = (p1 - lam * p2) / p1
    return 10 * np.log10(signal**2 / noise_left(lam, c))
    # END SOLUTION


check("A1.7", snr_gain_db)

# %% [markdown]
# ## What you cannot conclude
#
# Answer in two or three sentences each, in the cell below.
#
# 1. Your formula uses the mean of $e^z$. In which of $s=0.5$ and $s=3$ would you trust it for $n=50$, and why?
# 2. In A1.7, find numbers (state them) for which subtracting makes the signal-to-noise ratio *worse*.
# 3. Somebody shows that in a trained model the noises of two maps have $c=0.1$. What does this say about the claim
#    that differential attention cancels noise, and what does it not say?

# %% [markdown]
# *Your answer here.*

# %% [markdown] tags=["rubric"]
# **Rubric** (5 points, marked by a person)
#
# | points | for |
# |---|---|
# | 2 | 1: For s = 0.5 (1 point); at s = 3 the mean is made by rare high scores, which 50 draws often lack, so that the formula is too high (1 point) |
# | 1 | 2: Any right example, such as c = 0.1, λ = 0.8, p1 = p2 |
# | 2 | 3: At most 10 log10(1/(1 - 0.01)) = 0.04 dB of noise can be canceled in these maps, so that mechanism explains little there (1); says that the model may use its second map for something else, or that other heads, layers or sizes may differ (1) |

# %% tags=["hidden"]
@hidden("A1.2")
def one_row(rng, student):
    yield Case("one row without further axes", {"z": rng.standard_normal(7)},
               costs=1)


@hidden("A1.7")
def lost_signal(rng, student):
    yield Case("map 2 sees as much as map 1",
               {"p1": 0.3, "p2": 0.3, "c": 0.6, "lam": 0.5})
