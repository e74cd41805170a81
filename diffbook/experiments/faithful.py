"""Contextual hallucination (Table 4) with an exact judge: answers and summaries of documents."""

from __future__ import annotations

from dataclasses import replace

import torch

from diffbook import paper
from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED
from diffbook.measure.lookback import lookback
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.faithful import HALLUCINATIONS, VERDICTS, FaithfulTask
from diffbook.train import TrainConfig

TASK = FaithfulTask()
TIMES = (1, 2, 4, 8)  # the haystack's words, over those of training
CONFLICTS = (0.0, 0.25, 0.5, 0.75, 1.0)  # share of the facts that contradict the prior
SWEPT = 4  # the conflict sweep runs in haystacks so many times as long as in training
FORCED = ("supported", *HALLUCINATIONS)  # what is left to say when a model cannot abstain


def longer(task: FaithfulTask, times: int) -> FaithfulTask:
    """As many facts, ``times`` as many words between them."""
    return replace(task, words=times * task.words)


def forced_shares(
    model: LanguageModel, task: FaithfulTask, *, answerable: bool, n: int = 256
) -> list[float]:
    """Shares of :data:`FORCED` among answers when the model may not abstain, to questions that the
    document answers or does not (where "supported" is impossible)."""
    device = next(model.parameters()).device
    asked = replace(task, unanswerable=0.0 if answerable else 1.0)
    documents = asked.sample(n, torch.Generator().manual_seed(4_500_007))
    verdicts = asked.judge(documents, asked.answer(model, documents, device, forced=True))
    return [float((verdicts == VERDICTS.index(name)).double().mean()) for name in FORCED]


def measure(model: LanguageModel, task: FaithfulTask) -> dict[str, float | list[float]]:
    """:meth:`FaithfulTask.evaluate` in haystacks of 1 to 8 times the training's words, also
    ``crowded`` (more subjects and facts, few words); what is said when nothing may be left
    unsaid, and whether attention gives away what is wrong then (0.5: it does not, or nothing is);
    and answers and summaries by the share of facts against the prior."""
    device = next(model.parameters()).device
    numbers: dict[str, float | list[float]] = {}
    for times in TIMES:
        there = longer(task, times)
        for name, value in there.evaluate(model, device, n=512).items():
            numbers[f"{name} {times}x"] = value
        for answerable in (True, False):
            name = f"forced {'stated' if answerable else 'unstated'} {times}x"
            numbers[name] = forced_shares(model, there, answerable=answerable)
        looked = lookback(model, there)
        numbers[f"value share {times}x"] = looked.right
        numbers[f"lookback auc {times}x"] = looked.auc if looked.n_wrong else 0.5
    crowded = replace(
        task, n_subjects=task.n_subjects + 2, n_facts=task.n_facts + 2 * task.n_attributes - 2)
    for name, value in crowded.evaluate(model, device, n=512).items():
        numbers[f"{name} crowded"] = value
    swept: dict[str, list[float]] = {}
    for conflict in CONFLICTS:
        there = replace(longer(task, SWEPT), conflict=conflict)
        found = there.evaluate(model, device)
        forced = dict(zip(FORCED, forced_shares(model, there, answerable=True), strict=True))
        found |= {f"forced {name}": share for name, share in forced.items()}
        for name, value in found.items():
            swept.setdefault(name, []).append(value)
    return numbers | {f"{name} by conflict": values for name, values in swept.items()}


# On a GPU: longer documents about more people, who are known by heart no better.
SHORT_TASK = replace(
    TASK, n_facts=12, n_subjects=5, n_names=24, n_values=32, n_words=64, words=200,
    curriculum=((0.2, 5, 0), (0.35, 12, 0), (0.5, 12, 50)),
)
LONG_TASK = replace(
    SHORT_TASK, n_facts=24, n_subjects=8, n_names=64, n_values=64, n_words=256, words=900,
    curriculum=((0.2, 8, 0), (0.35, 24, 0), (0.5, 24, 100), (0.65, 24, 400)),
)


def _claims() -> tuple[Claim, ...]:
    table = paper.load("table4")
    half = len(table["datasets"]) // 2
    scale = (
        "generated documents, an exact judge, 0.1 M parameters; free of hallucination includes "
        "wrong silence"
    )
    claims = []
    for what, prefix, part in (
        ("summaries", "summary ", slice(0, half)), ("answers", "", slice(half, None)),
    ):
        means = [sum(table[kind][part]) / half for kind in ("softmax", "diff")]
        for times in (1, 4):
            where = "the training length" if times == 1 else f"{times} x the training length"
            claims.append(Claim(
                text=f"more {what} free of hallucination at {where}", where="Table 4",
                paper=f"{means[0]:.2f} / {means[1]:.2f} (mean of three datasets)",
                measure=f"{prefix}faithful {times}x", says="higher", chapter=14, scale=scale,
            ))
    return tuple(claims)


FAITHFUL = Experiment(
    name="faithful",
    title="Contextual hallucination with an exact judge: answers and summaries, token level",
    variants=choose("softmax", "softmax_norm", "diff"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=3, n_heads=4, d_ff=160),
            TrainConfig(
                steps=1200, batch_size=64, lr=3e-3, warmup=30, weight_decay=0.0, log_every=10,
                eval_every=100, checkpoint_every=200, device="cpu",
            ),
            TASK, 3.2, "0.1 M parameters, 1200 steps of 4160 tokens; one core each",
        ),
        "t4": Preset(
            ModelConfig(SHORT_TASK.vocab_size, d_model=128, n_layers=4, n_heads=4),
            TrainConfig(
                steps=2000, batch_size=128, lr=2e-3, warmup=100, weight_decay=0.0, log_every=20,
                eval_every=200, checkpoint_every=200, precision="fp16",
            ),
            SHORT_TASK, 5, f"0.9 M parameters, 2000 steps of 32,000 tokens; {ESTIMATED}",
        ),
        "h100": Preset(
            ModelConfig(
                LONG_TASK.vocab_size, d_model=256, n_layers=6, n_heads=4, max_seq_len=8192),
            TrainConfig(
                steps=2000, batch_size=128, lr=1e-3, warmup=100, weight_decay=0.0, log_every=20,
                eval_every=200, checkpoint_every=200,
            ),
            LONG_TASK, 4, f"5 M parameters, 2000 steps of 126,000 tokens; {ESTIMATED}",
        ),
    },
    measure=measure,
    ship=(0, 1, 2),
    claims=_claims(),
)
