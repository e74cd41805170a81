"""Many needles, many places (Table 2, Fig. 5, Table 3): the needle pair trained to the end."""

from __future__ import annotations

from dataclasses import replace

from diffbook import paper
from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.experiments.lm import ESTIMATED
from diffbook.experiments.needle import TASK
from diffbook.experiments.needle import measure as needle_measures
from diffbook.measure.needles import TABLE2, retrieval_measures
from diffbook.measure.noise_canceling import attention_measures
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.needle import NeedleTask
from diffbook.train import TrainConfig


def measure(model: LanguageModel, task: NeedleTask) -> dict[str, float | list[float]]:
    """What is found (Table 2, Fig. 5), and where attention goes (Fig. 1, Table 3)."""
    return {
        **needle_measures(model, task),
        **retrieval_measures(model, task),
        **attention_measures(model, task),
    }


# On a GPU: eight needles as in Fig. 5, more cities and words, longer contexts.
LONG_TASK = replace(
    TASK, seq_len=2048, n_needles=8, n_cities=64, n_numbers=64, n_words=256,
    curriculum=((0.15, 1 / 32), (0.3, 1 / 16), (0.5, 1 / 4), (0.65, 1 / 2)),
)
SHORT_TASK = replace(LONG_TASK, seq_len=512, curriculum=((0.2, 1 / 8), (0.4, 1 / 4), (0.6, 1 / 2)))


def _claims() -> tuple[Claim, ...]:
    table, figure = paper.load("table2"), paper.load("fig5")
    scale = "token level, 64 tokens in training, 0.1 M parameters"
    cells = tuple(
        Claim(
            text=f"more needles found with N={needles}, R={queries}",
            where="Table 2", paper=f"{table['softmax'][at]:.2f} / {table['diff'][at]:.2f}",
            measure=f"N={needles}, R={queries}, 1x", says="higher", chapter=11,
            scale=f"{scale}; tested at the training length, as the paper does",
        )
        for at, (needles, queries) in enumerate(TABLE2) if needles > 1
    )
    average, start = figure["rows"].index("avg"), figure["rows"].index("25")
    means = [sum(figure[kind][average]) / len(figure["lengths"]) for kind in ("softmax", "diff")]
    longest = [figure[kind][average][-1] for kind in ("softmax", "diff")]
    hard = [figure[kind][start][-1] for kind in ("softmax", "diff")]
    beyond = f"{scale}; tested beyond that length, where the paper had trained at 64K"
    return (
        *cells,
        Claim(
            text="more found over all depths and lengths", where="Fig. 5",
            paper=f"{means[0]:.2f} / {means[1]:.2f} (mean of the map)",
            measure="N=8, R=1, all", says="higher", chapter=11, scale=beyond,
        ),
        Claim(
            text="more found in the longest context", where="Fig. 5",
            paper=f"{longest[0]:.2f} / {longest[1]:.2f} (64K, mean over depths)",
            measure="N=8, R=1, 8x", says="higher", chapter=11, scale=beyond,
        ),
        Claim(
            text="more found in the first half of the longest context", where="Fig. 5",
            paper=f"{hard[0]:.2f} / {hard[1]:.2f} (64K, 25 % depth)",
            measure="depth 25 %, 8x", says="higher", chapter=11, scale=beyond,
        ),
    )


def _attention_claims() -> tuple[Claim, ...]:
    """Table 3 twice: the paper does not print how the scores of DIFF were normalized."""
    table = paper.load("table3")
    claims = []
    for kind, formula in (("absolute", "|A| / Σ|A|"), ("signed", "A / ΣA")):
        for what, says in (("answer", "higher"), ("noise", "lower")):
            means = [
                sum(table[f"{model}_{what}"]) / len(table["depths"])
                for model in ("softmax", "diff")
            ]
            claims.append(Claim(
                text=f"{'more' if what == 'answer' else 'less'} attention to the "
                     f"{'answer' if what == 'answer' else 'noise'}, {kind}",
                where="Table 3", paper=f"{means[0]:.2f} / {means[1]:.2f} (mean of five depths)",
                measure=f"table3 {what} {kind} 1x", says=says, chapter=12,
                scale=f"token level, two layers, 64 tokens, 0.1 M parameters; shares as {formula}",
            ))
    return tuple(claims)


MULTINEEDLE = Experiment(
    name="multineedle",
    title="Multi-needle retrieval on token level: N needles, R questions, depth and length",
    variants=choose("softmax", "diff", "softmax_norm", "softmax_wide_norm", "diff_frozen"),
    presets={
        "cpu": Preset(
            ModelConfig(TASK.vocab_size, d_model=64, n_layers=2, n_heads=4, d_ff=160),
            TrainConfig(
                steps=1000, batch_size=64, lr=3e-3, warmup=30, weight_decay=0.0, log_every=10,
                eval_every=100, checkpoint_every=200, device="cpu",
            ),
            TASK, 1.2, "0.1 M parameters, 1000 steps of 4096 tokens; one core each",
        ),
        "t4": Preset(
            ModelConfig(SHORT_TASK.vocab_size, d_model=128, n_layers=4, n_heads=4),
            TrainConfig(
                steps=2000, batch_size=64, lr=2e-3, warmup=100, weight_decay=0.0, log_every=20,
                eval_every=200, checkpoint_every=200, precision="fp16",
            ),
            SHORT_TASK, 5, f"0.9 M parameters, 2000 steps of 32,768 tokens; {ESTIMATED}",
        ),
        "h100": Preset(
            ModelConfig(
                LONG_TASK.vocab_size, d_model=256, n_layers=6, n_heads=4, max_seq_len=8192),
            TrainConfig(
                steps=1500, batch_size=64, lr=1e-3, warmup=100, weight_decay=0.0, log_every=20,
                eval_every=150, checkpoint_every=150,
            ),
            LONG_TASK, 3, f"4.9 M parameters, 1500 steps of 131,072 tokens, tested to 8192; "
            f"{ESTIMATED}",
        ),
    },
    measure=measure,
    ship=(0, 1, 2),
    claims=(*_claims(), *_attention_claims()),
)
