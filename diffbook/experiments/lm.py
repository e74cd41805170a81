"""Language modeling on real text: Transformer and DIFF, same data, same initial weights."""

from __future__ import annotations

import torch

from diffbook.experiments.experiment import Experiment, Preset, choose
from diffbook.measure.recall import recall_losses
from diffbook.model import LanguageModel, ModelConfig
from diffbook.records.compare import Claim
from diffbook.tasks.text import TextTask, get_tokenizer
from diffbook.train import TrainConfig

LOSS_CLAIM = Claim(
    text="a lower validation loss at equal size and tokens",
    where="Table 6, Fig. 3a", paper="3.087 / 3.062 (1.4 B parameters, 10 B tokens)",
    measure="validation loss", says="lower", chapter=8,
    scale="about a million parameters and a few million tokens",
)

# Zoology's own rule needs tokens that are no single bytes.
RECALL_CLAIM = Claim(
    text="a lower loss on tokens that could be recalled from the context",
    where="Table 6", paper="0.898 / 0.880 (1.4 B parameters, 10 B tokens)",
    measure="AR-hit loss", says="lower", chapter=16,
    scale="4096 BPE tokens, 1.1 million parameters, 1.2 million tokens",
)

PROMPTS = (
    "Mr. President, ",
    "In the beginning ",
    "It was a dark evening, and the captain ",
    "The economy of the island ",
)


def measure(model: LanguageModel, task: TextTask) -> dict[str, float]:
    """Loss in nats per token on the whole of the sampled validation and test windows."""
    device = next(model.parameters()).device
    numbers = {}
    for split in ("validation", "test"):
        for name, value in task.evaluate(model, device, split=split).items():
            numbers[f"{split} {name}"] = value
    return numbers


def measure_recall(model: LanguageModel, task: TextTask) -> dict[str, float]:
    """These, and the loss on tokens that could have been recalled from the context (Table 6)."""
    return {**measure(model, task), **recall_losses(model, task)}


def samples(model: LanguageModel) -> dict[str, str]:
    """200 tokens after each prompt, sampled with a fixed seed."""
    tokenizer = get_tokenizer("bytes" if model.config.vocab_size == 256 else "bpe")
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(0)
    texts = {}
    for prompt in PROMPTS:
        tokens = torch.as_tensor(tokenizer.encode(prompt)).long()[None].to(device)
        out = model.generate(tokens, 200, temperature=0.8, generator=generator)
        texts[prompt] = tokenizer.decode(out[0, tokens.shape[1] :].cpu())
    return texts


# Nobody has run these yet: the minutes are arithmetic (operations / 20 % of the peak).
ESTIMATED = "minutes are an estimate, not measured"

LM = Experiment(
    name="lm",
    title="Byte-level language modeling on public-domain English",
    variants=choose("softmax", "diff", "softmax_norm", "softmax_wide"),
    presets={
        "cpu": Preset(
            ModelConfig(256, d_model=128, n_layers=4, n_heads=4),
            TrainConfig(
                steps=1200, batch_size=16, lr=2e-3, warmup=60, log_every=10, eval_every=120,
                checkpoint_every=120, device="cpu",
            ),
            TextTask(seq_len=256), 9, "0.87 M parameters, 4.9 M bytes; one core each",
        ),
        "t4": Preset(
            ModelConfig(256, d_model=256, n_layers=6, n_heads=8),
            TrainConfig(
                steps=2000, batch_size=32, lr=1e-3, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=200,
            ),
            TextTask(seq_len=512), 12, f"4.9 M parameters, 33 M bytes; {ESTIMATED}",
        ),
        "h100": Preset(
            ModelConfig(256, d_model=384, n_layers=8, n_heads=6),
            TrainConfig(
                steps=2200, batch_size=64, lr=1e-3, warmup=100, log_every=20, eval_every=200,
                checkpoint_every=200, compile=True,
            ),
            TextTask(seq_len=1024), 1.5, f"14 M parameters, 144 M bytes; {ESTIMATED}",
        ),
    },
    measure=measure,
    samples=samples,
    ship=(0,),
    claims=(LOSS_CLAIM,),
)

LM_BPE = Experiment(
    name="lm-bpe",
    title="Language modeling on the same text in BPE tokens (4096)",
    variants=choose("softmax", "diff"),
    presets={
        "cpu": Preset(
            ModelConfig(4096, d_model=96, n_layers=3, n_heads=4),
            TrainConfig(
                steps=600, batch_size=8, lr=2e-3, warmup=60, log_every=10, eval_every=100,
                checkpoint_every=100, device="cpu",
            ),
            TextTask(seq_len=256, tokenizer="bpe"), 2,
            "1.1 M parameters, 1.2 M tokens; one core each",
        ),
        "h100": Preset(
            ModelConfig(4096, d_model=384, n_layers=8, n_heads=6),
            TrainConfig(
                steps=1000, batch_size=32, lr=1e-3, warmup=100, log_every=20, eval_every=100,
                checkpoint_every=100, compile=True,
            ),
            TextTask(seq_len=1024, tokenizer="bpe"), 1,
            f"17 M parameters, 33 M tokens; {ESTIMATED}",
        ),
    },
    measure=measure_recall,
    samples=samples,
    claims=(LOSS_CLAIM, RECALL_CLAIM),
)

LM_124M = Experiment(
    name="lm-124m",
    title="The size of GPT-2 small, as in nanoGPT, for its speed",
    variants=choose("softmax", "diff"),
    presets={
        "h100": Preset(
            # GPT-2's vocabulary, rounded up as nanoGPT does, though our tokens use 4096 of it:
            # the speed is then that of the setting everyone knows.
            ModelConfig(
                50304, d_model=768, n_layers=12, n_heads=12, d_ff=2048, tie_embeddings=True),
            TrainConfig(
                steps=400, batch_size=96, lr=6e-4, warmup=40, log_every=10, eval_every=100,
                checkpoint_every=200, accumulation=4, compile=True,
            ),
            TextTask(seq_len=1024, tokenizer="bpe"), 3, f"124 M parameters, 39 M tokens; "
            f"{ESTIMATED}",
        ),
    },
    measure=measure,
    claims=(),
)
