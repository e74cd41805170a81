"""The exercises of chapter 6, speed."""

from __future__ import annotations

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 6.1, units of work

UNIT_MISTAKES = (
    Mistake("wide-values", 0, "The values are still 2d wide here. In this proposal they have "
            "width d."),
    Mistake("half-the-heads", 0, "This is the work of h heads. The proposal has 2h of them, so 4h "
            "maps."),
    Mistake("scores-once", 0, "The scores are those of one map for each head. Each has two."),
    Mistake("swapped", 0, "The two forms are in each other's place: which of them multiplies the "
            "values twice?"),
)


def units(mistakes: Names = NONE) -> dict[str, float]:
    """Work forward in the unit of chapter 6, step 1: 2h maps times width d."""
    heads = 0.5 if "half-the-heads" in mistakes else 1.0  # of 2h
    width = 2 if "wide-values" in mistakes else 1  # of d
    scores = heads * (1 if "scores-once" in mistakes else 2)
    once, twice = scores + heads * width, scores + 2 * heads * width
    if "swapped" in mistakes:
        once, twice = twice, once
    return {"subtract first": once, "two products": twice}


# ---------------------------------------------------------------------------------------------
# 6.2, the trap

TRAP_MISTAKES = (
    Mistake("total", 0, "This is the width after the padding. Asked is what is added to d = 16."),
    Mistake("power-of-two", 0, "Does that padding bring it back? The loop says no: it is not the "
            "size that counts. What do values of width 32 ask of the keys?"),
    Mistake("slow", 0, "That is the kernel for values of width 2d. With `v[..., :16]` queries, "
            "keys and values are equally wide: what does `sdpa_kernels` print then?"),
)


def trap(mistakes: Names = NONE) -> dict[str, str | int]:
    """The kernel for equal widths, and the padding that d = 16 needs for values of 2d."""
    d = 16
    padding = 2 * d if "total" in mistakes else d // 2 if "power-of-two" in mistakes else d
    return {"kernel": "math" if "slow" in mistakes else "flash", "padding": padding}


TASKS = (
    Task("6.1", "Units of work", "answer", 0, once, units, UNIT_MISTAKES, probe=value, group=1),
    Task("6.2", "The trap", "answer", 0, once, trap, TRAP_MISTAKES, probe=value, group=1),
)
