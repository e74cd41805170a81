"""Language modeling on real text: Transformer and DIFF, same data, same initial weights."""

from __future__ import annotations

import torch

from diffbook.experiments.experiment import Experiment, Preset
from diffbook.model import LanguageModel, ModelConfig
from diffbook.tasks.text import TextTask, get_tokenizer
from diffbook.train import TrainConfig

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


LM = Experiment(
    name="lm",
    title="Byte-level language modeling on public-domain English",
    variants=("softmax", "diff"),
    presets={
        "cpu": Preset(
            ModelConfig(256, d_model=128, n_layers=4, n_heads=4),
            TrainConfig(
                steps=1200, batch_size=16, lr=2e-3, warmup=60, log_every=10, eval_every=120,
                checkpoint_every=120, device="cpu",
            ),
            TextTask(seq_len=256),
            "about 8 minutes a run on one core",
        ),
    },
    measure=measure,
    samples=samples,
    ship=(0,),
)
