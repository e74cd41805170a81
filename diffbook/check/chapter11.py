"""The exercises of chapter 11, needles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffbook.check.core import NONE, Mistake, Task, difference, once, value

Names = frozenset[str]

# ---------------------------------------------------------------------------------------------
# 11.1, a habit

HABIT_MISTAKES = (
    Mistake("always", 0, "It is right at every depth. In the middle it should name some *other* "
            "number."),
    Mistake("never", 0, "It is wrong at both ends. Where does the asked city stand in the line, "
            "and which token comes after it?"),
    Mistake("inverted", 0, "It is right in the middle and wrong at the ends: turn the condition."),
    Mistake("start-only", 0, "It is right at the beginning only; both ends were asked for."),
    Mistake("end-only", 0, "It is right at the end only; both ends were asked for."),
    Mistake("city", 0, "It names the place of the *city*. The number stands one place further."),
)
SCORES = {"always": [1, 1, 1, 1, 1], "never": [0, 0, 0, 0, 0], "inverted": [0, 1, 1, 1, 0],
          "start-only": [1, 0, 0, 0, 0], "end-only": [0, 0, 0, 0, 1], "city": [2, 2, 2, 2, 2]}


def habit(mistakes: Names = NONE) -> list[int]:
    """Right (1) or wrong (0) for needles at depths 0, 25, 50, 75 and 100 %."""
    return next((SCORES[name] for name in SCORES if name in mistakes), [1, 0, 0, 0, 1])


def _habit_scores(thing: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    """What `pick` chooses in lines of 512 tokens: 1 right, 0 another number, 2 a city."""
    import torch

    found = []
    starts = [1, 126, 254, 382, 507]  # places of five cities; numbers follow
    for asked in range(5):
        line = torch.arange(1000, 1512)
        for needle, at in enumerate(starts):
            line[at], line[at + 1] = 10 + needle, 100 + needle
        line[-1] = 10 + asked
        places = torch.tensor([at + 1 for at in starts])
        chosen = thing(places, line)
        if chosen is None or chosen is Ellipsis:
            return None
        chosen = int(chosen)
        if chosen in starts:
            found.append(2)
        elif chosen not in places.tolist():
            return f"place {chosen}, where no number stands"
        else:
            found.append(int(chosen == starts[asked] + 1))
    return [2] * 5 if 2 in found else found


def _compare(answer: Any, expected: Any) -> str | None:
    if isinstance(answer, str):
        return f"it gave {answer}; the places of the numbers are `places`"
    if answer is None:
        return difference(None, expected)
    names = ("0", "25", "50", "75", "100")
    wrong = [f"{name} %" for name, a, b in zip(names, answer, expected, strict=True) if a != b]
    return f"not as asked at depth {', '.join(wrong)}" if wrong else None


# ---------------------------------------------------------------------------------------------
# 11.3, both right

BOTH_MISTAKES = (
    Mistake("either", 0, "This is the chance that *at least one* is right. Both are right if one "
            "is, and the other, too."),
    Mistake("half", 0, "Half of it would be right if exactly every second right answer came alone. "
            "Independent chances are multiplied."),
    Mistake("fall", 0, "The first number is right. \"falls by\" is how far it is from 0.55."),
)


def both(mistakes: Names = NONE) -> dict[str, float]:
    """0.55 of single answers, scored as both right, if answers were independent."""
    right = 1 - 0.45**2 if "either" in mistakes else 0.275 if "half" in mistakes else 0.55**2
    return {"both right": right, "falls by": right if "fall" in mistakes else 0.55 - right}


TASKS = (
    Task("11.1", "A habit", "ends", 0, once, habit, HABIT_MISTAKES, probe=_habit_scores,
         compare=_compare, group=1),
    Task("11.3", "Both right", "answer", 0, once, both, BOTH_MISTAKES, probe=value, rtol=0.01,
         atol=0, group=1),
)
