"""The command line: ``python -m diffbook train | record | needle | generate | bench``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

EPILOG = """\
examples
  python -m diffbook train --task needle --attention diff --out runs/needle-diff
  python -m diffbook train --task text --attention diff --d-model 384 --layers 8 --heads 6 \\
      --seq-len 1024 --batch-size 64 --steps 2000 --compile --out runs/lm-diff
  python -m diffbook generate runs/lm-diff/model --prompt "In the beginning"
  python -m diffbook needle runs/needle-diff/model
  python -m diffbook record --list
  python -m diffbook bench --seq 256,1024 --threads 1
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 when all went well, 2 for a wrong argument or file."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        # One clear line; what the package raises already names the value and the remedy.
        print(f"diffbook {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse prints the whole usage in front of an error; one line says it better."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m diffbook", description="Train, measure and use small Transformers and "
        "Differential Transformers.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Callable[[Any], None], summary: str, detail: str = "") -> Any:
        sub = commands.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {detail}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "train", _train, "train one model on one task",
        "Killed? The same command goes on from the last checkpoint.",
    )
    _add_train(sub)

    sub = command("record", _record, "make the record of an experiment, run by run")
    sub.add_argument("experiment", nargs="?", help="its name; leave out with --list")
    sub.add_argument("--list", action="store_true", help="show experiments, presets and records")
    sub.add_argument("--preset", default="cpu", help="the size, by kind of machine")
    sub.add_argument("--seeds", default="0-2", help="as 0-7 or 0,3,5")
    sub.add_argument("--variants", help="some only, as softmax,diff")
    sub.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    sub.add_argument(
        "--publish", action="store_true", help="write the record of all finished runs in OUT, and "
        "the checkpoints it ships, into the package (from a source tree)")

    sub = command("needle", _needle, "test a trained model on needles, by length and depth")
    sub.add_argument("model", help="folder of a model, or a shipped one such as needle-cpu/diff-0")
    sub.add_argument("--lengths", default="64,128,256", help="tokens of a sequence")
    sub.add_argument("--needles", type=int, default=4, help="N, needles in the haystack")
    sub.add_argument("--text", choices=("bytes", "bpe"), help="the test on real text instead")
    sub.add_argument("-n", type=int, default=200, help="sequences for each length and depth")

    sub = command("generate", _generate, "continue a text with a trained model")
    sub.add_argument("model", help="folder of a model, or a shipped one such as lm-cpu/diff-0")
    sub.add_argument("--prompt", default="In the beginning ")
    sub.add_argument("--tokens", type=int, default=300, help="how many to add")
    sub.add_argument("--temperature", type=float, default=0.8, help="0 = the most probable")
    sub.add_argument("--top-k", type=int, help="sample from the k most probable only")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(
        "bench", _bench, "time all ways to compute differential attention on this machine",
        "The attention core alone, against that of a Transformer with the same parameters.")
    sub.add_argument("--seq", default="256,1024,4096", help="tokens of a sequence")
    sub.add_argument("--batch", type=int, default=1, help="sequences")
    sub.add_argument("--heads", type=int, default=4, help="differential heads; the baseline has 2x")
    sub.add_argument("--d", type=int, default=32, help="width of a map; values have 2x")
    sub.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    sub.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    sub.add_argument("--threads", type=int, help="of the CPU; default: as torch has it")
    sub.add_argument("--repeats", type=int, default=5, help="turns of each; the fastest counts")
    return parser


def _add_train(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("what")
    group.add_argument("--task", choices=("text", "needle", "text-needle"), default="text")
    group.add_argument("--attention", choices=("softmax", "diff"), default="diff")
    group.add_argument("--out", type=Path, required=True, help="folder of the run")
    group.add_argument("--fresh", action="store_true", help="replace a run that is in OUT")
    group = sub.add_argument_group("data")
    group.add_argument("--seq-len", type=int, help="tokens of a sequence (text 256, needle 64)")
    group.add_argument("--tokenizer", choices=("bytes", "bpe"), default="bytes")
    group.add_argument("--hub", help="a data set of the Hugging Face Hub instead of the corpus")
    group.add_argument("--hub-column", default="text", help="its column of text")
    group.add_argument("--needles", type=int, default=4, help="N, needles in the haystack")
    group = sub.add_argument_group("model")
    group.add_argument("--d-model", type=int, default=128)
    group.add_argument("--layers", type=int, default=4)
    group.add_argument("--heads", type=int, default=4, help="of the baseline; DIFF has half")
    group.add_argument("--seed", type=int, default=0, help="of weights and data order")
    group = sub.add_argument_group("training")
    group.add_argument("--steps", type=int, default=1000)
    group.add_argument("--batch-size", type=int, default=16, help="sequences a step")
    group.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    group.add_argument("--warmup", type=int, default=40, help="steps")
    group.add_argument("--weight-decay", type=float, default=0.1)
    group.add_argument("--accumulation", type=int, default=1, help="rounds a step is split into")
    group.add_argument("--precision", choices=("no", "bf16", "fp16"),
                       help="default: bf16 on a GPU, float32 on a CPU")
    group.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: the best there")
    group.add_argument("--compile", action="store_true", help="torch.compile the model")
    group.add_argument("--eval-every", type=int, default=100, help="steps")
    group.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    group.add_argument("--tensorboard", action="store_true", help="curves for TensorBoard (extra)")


def _train(options: Any) -> None:
    from diffbook.model import LanguageModel, ModelConfig, count_parameters
    from diffbook.train import TrainConfig, train

    task = _task(options)
    config = ModelConfig(
        task.vocab_size, options.d_model, options.layers, options.heads, options.attention,
        seed=options.seed, max_seq_len=max(4096, task.seq_len),
    )
    settings = TrainConfig(
        steps=options.steps, batch_size=options.batch_size, lr=options.lr, warmup=options.warmup,
        weight_decay=options.weight_decay, accumulation=options.accumulation, seed=options.seed,
        precision=options.precision, compile=options.compile, device=options.device,
        eval_every=options.eval_every, checkpoint_every=options.checkpoint_every,
    )
    model = LanguageModel(config)
    print(f"{options.attention}: {count_parameters(model)['total']:,} parameters")
    result = train(
        model, task, settings, options.out, resume=not options.fresh,
        tensorboard=options.tensorboard,
    )
    final = {k: v[-1] for k, v in result.validation.items() if k != "step"}
    print(", ".join(f"{name} {value:.4f}" for name, value in final.items()))
    print(f"{result.tokens:,} tokens in {result.seconds:.0f} s on {result.device}; "
          f"the model is in {options.out / 'model'}")


def _task(options: Any) -> Any:
    from diffbook.tasks.needle import NeedleTask, TextNeedleTask
    from diffbook.tasks.text import TextTask

    if options.task == "needle":
        return NeedleTask(seq_len=options.seq_len or 64, n_needles=options.needles)
    if options.task == "text-needle":
        return TextNeedleTask(
            seq_len=options.seq_len or 512, n_needles=options.needles, tokenizer=options.tokenizer
        )
    return TextTask(
        seq_len=options.seq_len or 256, tokenizer=options.tokenizer, hub=options.hub,
        hub_column=options.hub_column,
    )


def _record(options: Any) -> None:
    from diffbook.experiments import EXPERIMENTS
    from diffbook.experiments.experiment import run_one
    from diffbook.experiments.publish import parse_seeds, publish
    from diffbook.records import available

    if options.list or not options.experiment:
        for experiment in EXPERIMENTS.values():
            print(f"{experiment.name}: {experiment.title}")
            for name, preset in experiment.presets.items():
                record = f"{experiment.name}-{name}"
                state = "recorded" if record in available() else "no record yet"
                print(f"  --preset {name:5} {preset.note}; {state}")
        return
    if options.experiment not in EXPERIMENTS:
        raise ValueError(
            f"no experiment {options.experiment!r}: there are {', '.join(EXPERIMENTS)}"
        )
    experiment = EXPERIMENTS[options.experiment]
    if options.preset not in experiment.presets:
        raise ValueError(
            f"{experiment.name} has no preset {options.preset!r}: it has "
            + ", ".join(experiment.presets)
        )
    variants = options.variants.split(",") if options.variants else list(experiment.variants)
    if unknown := set(variants) - set(experiment.variants):
        raise ValueError(
            f"{experiment.name} has no variant {', '.join(sorted(unknown))}: it has "
            + ", ".join(experiment.variants)
        )
    for seed in parse_seeds(options.seeds):
        for variant in variants:  # pair by pair: what is finished can be compared
            print(run_one(experiment, options.preset, variant, seed, options.out))
    if options.publish:
        print(publish(experiment, options.preset, options.out))


def _model(name: str) -> Any:
    from diffbook import records
    from diffbook.model import load_model

    if "/" in name and name.partition("/")[0] in records.available() and not Path(name).exists():
        return records.model(name)
    return load_model(name).eval()


def _needle(options: Any) -> None:
    from diffbook.tasks.needle import DEPTHS, NeedleTask, TextNeedleTask

    model = _model(options.model)
    try:
        lengths = [int(length) for length in options.lengths.split(",")]
    except ValueError:
        raise ValueError(f"lengths {options.lengths!r}: write them as 64,128,256") from None
    print("depth   " + "".join(f"{length:>8}" for length in lengths))
    for depth in DEPTHS:
        row = []
        for length in lengths:
            if options.text:
                task: Any = TextNeedleTask(
                    length, options.needles, depth=depth, tokenizer=options.text
                )
            else:
                task = NeedleTask(length, options.needles, n_queries=1)
                task = replace(task, depth=depth)
            if task.vocab_size != model.config.vocab_size:
                raise ValueError(
                    f"{options.model} knows {model.config.vocab_size} tokens, this test has "
                    f"{task.vocab_size}: give a model trained on it (or --text bytes|bpe)"
                )
            row.append(next(iter(task.evaluate(model, n=options.n).values())))
        print(f"{depth:<8.0%}" + "".join(f"{value:8.2f}" for value in row))


def _generate(options: Any) -> None:
    import torch

    from diffbook.tasks.text import get_tokenizer

    model = _model(options.model)
    tokenizer = get_tokenizer("bytes" if model.config.vocab_size == 256 else "bpe")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"{options.model} knows {model.config.vocab_size} tokens, text has 256 (bytes) or "
            f"{tokenizer.vocab_size} (bpe): give a model trained with --task text"
        )
    tokens = torch.as_tensor(tokenizer.encode(options.prompt)).long()[None]
    generator = torch.Generator().manual_seed(options.seed)
    out = model.generate(
        tokens, options.tokens, temperature=options.temperature, top_k=options.top_k,
        generator=generator,
    )
    print(tokenizer.decode(out[0]))


def _bench(options: Any) -> None:
    import torch

    from diffbook.measure.speed import bench, table

    try:
        seqs = [int(seq) for seq in options.seq.split(",")]
    except ValueError:
        raise ValueError(f"seq {options.seq!r}: write it as 256,1024,4096") from None
    rows = bench(
        seqs, batch=options.batch, heads=options.heads, d=options.d, device=options.device,
        dtype=getattr(torch, options.dtype), threads=options.threads, repeats=options.repeats,
    )
    where = torch.cuda.get_device_name() if options.device == "cuda" else (
        f"CPU, {options.threads or torch.get_num_threads()} thread(s)")
    print(f"torch {torch.__version__}, {where}, {options.dtype}; batch {options.batch}, "
          f"{options.heads} differential heads, d {options.d}; fastest of {options.repeats}")
    print(table(rows))
