"""The exercises of chapter 16, ablations."""

from __future__ import annotations

from diffbook.check.core import NONE, Mistake, Task, once, value

Names = frozenset[str]


# ---------------------------------------------------------------------------------------------
# 16.1, main effects

EFFECT_MISTAKES = (
    Mistake("sum", 0, "These are the sums of the two effects. A main effect is their *average*."),
    Mistake("interaction", 0, "These are differences of two effects, the interaction (or half of "
            "it). A main effect is the average of the effect without and with the other part."),
    Mistake("best-corner", 0, "These are the effects where the other part is present. A main "
            "effect averages over both: without the other part and with it."),
    Mistake("signs", 0, "The signs are turned around. An effect is the loss *with* the part minus "
            "the loss without it, so harm is positive."),
    Mistake("swapped", 0, "The two answers are in each other's place."),
)


def main_effects(mistakes: Names = NONE) -> dict[str, float]:
    """Main effects of the square in Table 6 of the paper (chapter 16, step 1)."""
    from diffbook import paper

    table = paper.load("table6")
    loss = dict(zip(table["variants"], table["loss"], strict=True))
    subtraction = (loss["diff_no_norm"] - loss["softmax_wide"],
                   loss["diff"] - loss["softmax_wide_norm"])
    norm = (loss["softmax_wide_norm"] - loss["softmax_wide"], loss["diff"] - loss["diff_no_norm"])
    effects = []
    for without, present in (subtraction, norm):
        effect = (without + present) / 2
        if "sum" in mistakes:
            effect *= 2
        elif "interaction" in mistakes:
            effect = present - without
        elif "best-corner" in mistakes:
            effect = present
        effects.append(-effect if "signs" in mistakes else effect)
    if "swapped" in mistakes:
        effects.reverse()
    return dict(zip(("subtraction", "norm"), effects, strict=True))


# ---------------------------------------------------------------------------------------------
# 16.2, AR hits by hand

HIT_MISTAKES = (
    Mistake("from-one", 0, "Each position is one too high: they are counted from 0 here."),
    Mistake("starts", 0, "These are the places where a repeated n-gram *begins*. A hit is the "
            "token that ends it: the one that a model predicts."),
    Mistake("both", 0, "The first occurrence is among them. There the context does not hold the "
            "n-gram yet, so there is nothing to copy."),
    Mistake("single", 0, "These are the *letters* that occurred before. The n-gram has to have: "
            "the letter together with the n - 1 before it."),
)


def hits(mistakes: Names = NONE) -> dict[str, list[int]]:
    """Positions of the AR hits of "abcabcabd", as chapter 16, step 3, defines them."""
    text = "abcabcabd"
    found = {}
    for n in (2, 3):
        size = 1 if "single" in mistakes else n
        ends = range(size - 1, len(text))
        grams = {end: text[end - size + 1:end + 1] for end in ends}
        before = [end for end in ends if grams[end] in [grams[e] for e in ends if e < end]]
        if "both" in mistakes:
            before = [end for end in ends if list(grams.values()).count(grams[end]) > 1]
        shift = ("from-one" in mistakes) - (n - 1 if "starts" in mistakes else 0)
        found[f"n = {n}"] = [end + shift for end in before]
    return found


# ---------------------------------------------------------------------------------------------
# 16.4, many rows

ROW_MISTAKES = (
    Mistake("sum", 0, "The chance of an alarm is 8 times 5 %. The sum counts alarms: it is their "
            "expected *number*, and above the chance of at least one. What is the chance of none?"),
    Mistake("none", 0, "This is the chance that *no* row gives an alarm."),
    Mistake("share", 0, "The level is the share outside of the interval. A 95 % interval has "
            "5 % outside; give what is inside."),
    Mistake("percent", 0, "Right, but in percent: give shares between 0 and 1."),
    Mistake("one-side", 0, "Only one side is counted. An interval may miss zero on both sides, "
            "5 % in all."),
)


def alarms(mistakes: Names = NONE) -> dict[str, float]:
    """Eight independent 95 % intervals: chance of an alarm; Bonferroni's level for each."""
    each = 0.025 if "one-side" in mistakes else 0.05
    chance = 1 - (1 - each) ** 8
    if "sum" in mistakes:
        chance = 8 * each
    elif "none" in mistakes:
        chance = 1 - chance
    level = each / 8 if "share" in mistakes else 1 - each / 8
    unit = 100 if "percent" in mistakes else 1
    return {"at least one alarm": unit * chance, "level of each interval": unit * level}


TASKS = (
    Task("16.1", "Main effects", "answer", 0, once, main_effects, EFFECT_MISTAKES, probe=value,
         rtol=0, atol=3e-4, group=1),
    Task("16.2", "AR hits by hand", "answer", 0, once, hits, HIT_MISTAKES, probe=value, group=1),
    Task("16.4", "Many rows", "answer", 0, once, alarms, ROW_MISTAKES, probe=value,
         rtol=2e-3),
)
