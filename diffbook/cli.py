"""The command line: ``python -m diffbook train | record | needle | generate | bench | grade``."""

from __future__ import annotations

import argparse
import os
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
  python -m diffbook needle --model Qwen/Qwen2.5-0.5B --lengths 1024,4096 --out qwen.json
  python -m diffbook record --list
  python -m diffbook bench --seq 256,1024 --threads 1
  python -m diffbook grade hand-ins/ --assignment A2 --out results/
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

    sub = command(
        "record", _record, "make the record of an experiment, run by run",
        "The most valuable runs first; each is kept as soon as it is finished, and the same "
        "command again makes what is left.",
    )
    _add_record(sub)

    sub = command(
        "needle", _needle, "test a model on needles, by length and depth",
        "A model of this book, or any causal language model of Hugging Face. Stopped? With --out "
        "the same command goes on behind the last finished cell.",
    )
    _add_needle(sub)

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

    sub = command(
        "grade", _grade, "grade a folder of hand-ins of an assignment",
        "Each runs in a box apart. Stopped? The same command goes on; what is graded is kept.")
    _add_grade(sub)
    return parser


def _add_record(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("what")
    group.add_argument("experiment", nargs="?", help="its name; leave out with --list")
    group.add_argument(
        "--list", action="store_true", help="show experiments, what they cost, and their records")
    group.add_argument("--preset", default="cpu", help="the size, by kind of machine")
    group.add_argument("--seeds", default="0-2", help="as 0-7 or 0,3,5")
    group.add_argument("--variants", help="some only, as softmax,diff")
    group.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs")
    group.add_argument(
        "--publish", action="store_true", help="write the record of all finished runs in OUT, and "
        "the checkpoints it ships, into the package (from a source tree)")
    group.add_argument(
        "--again", action="store_true", help="measure finished runs again, without training them")
    group = sub.add_argument_group("when and where")
    group.add_argument(
        "--minutes", type=float, help="begin nothing that takes longer; a run that does not fit "
        "stops behind a checkpoint")
    group.add_argument(
        "--jobs", type=int, help="runs at the same time; default: on a CPU one for each physical "
        "core, with one thread; one for each GPU (small models leave much of a GPU idle: with 2 "
        "to 4 all are probably done sooner, but each takes longer than its record should say); "
        "all workers of a cluster")
    group.add_argument(
        "--backend", choices=("loky", "dask", "ray"), default="loky", help="processes of this "
        "machine, or a running cluster (extra: cluster); all its workers must see OUT under the "
        "same name")
    group.add_argument(
        "--scheduler", metavar="ADDRESS", help="of the cluster; default: DASK_SCHEDULER_ADDRESS "
        "or RAY_ADDRESS of the environment")


def _add_needle(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("which model")
    group.add_argument(
        "folder", nargs="?", metavar="model", help="folder of a model of this book, or a shipped "
        "one such as needle-cpu/diff-0")
    group.add_argument(
        "--model", metavar="NAME", help="the same, or a causal language model of Hugging Face, by "
        "folder or name, such as Qwen/Qwen2.5-0.5B; it needs the extra llm")
    group = sub.add_argument_group("what is asked")
    group.add_argument(
        "--lengths", help="tokens of a sequence, as 64,128,256 (512,1024,2048 for a Hugging Face "
        "model, in its own tokens)")
    group.add_argument("--needles", type=int, default=4, help="N, needles in the haystack")
    group.add_argument("-n", type=int, help="sequences for each length and depth: 200, Hugging "
                       "Face 50 as in the paper")
    group.add_argument("--text", choices=("bytes", "bpe"),
                       help="for a model of this book: real text instead of abstract tokens")
    group = sub.add_argument_group("Hugging Face models")
    group.add_argument("--batch-size", type=int, default=8, help="prompts at the same time")
    group.add_argument("--digits", type=int, default=4, help="of a magic number")
    group.add_argument("--seed", type=int, default=0, help="of haystacks and needles")
    group.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: the best there")
    group.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                       help="default: half precision on a GPU, float32 elsewhere")
    sub.add_argument(
        "--out", type=Path, help="file of the results (JSON); a heat map is drawn beside it (PNG)")


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
                       help="default: bf16 on a GPU (fp16 before compute capability 8), "
                       "float32 on a CPU")
    group.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: the best there")
    group.add_argument("--compile", action="store_true", help="torch.compile the model")
    group.add_argument("--eval-every", type=int, default=100, help="steps")
    group.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    group.add_argument("--tensorboard", action="store_true", help="curves for TensorBoard (extra)")


def _add_grade(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("what")
    group.add_argument("folder", type=Path, help="of hand-ins: ada-A2.ipynb or ada/A2.ipynb are "
                       "ada's; or one file")
    group.add_argument("--assignment", help="such as A2; its bundle is in BUNDLES")
    group.add_argument("--bundles", type=Path, default=Path("book/assignments/bundles"),
                       help="folder of bundles")
    group.add_argument("--bundle", type=Path, help="the file of a bundle, in their place")
    group.add_argument("--roster", type=Path, help="table (CSV) with the columns file and student, "
                       "where names of files are not ids")
    group.add_argument("--student", default="", help="the id, for a single hand-in")
    group = sub.add_argument_group("results")
    group.add_argument("--out", type=Path, default=Path("results"), help="folder of the results")
    group.add_argument("--gradescope", type=Path, metavar="FILE",
                       help="results.json of a single hand-in, as Gradescope reads it")
    group.add_argument("--again", action="store_true", help="grade finished ones, too")
    group = sub.add_argument_group("how")
    group.add_argument("--jobs", type=int, default=2, help="hand-ins at the same time")
    group.add_argument("--isolation", choices=("namespaces", "user", "limits"),
                       help="how strong the box is; default: the strongest this machine can, but "
                       "not limits, which has to be asked for")
    group.add_argument("--quiet", action="store_true", help="no progress bar")


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
    # Started by torchrun or accelerate launch: one of the processes speaks for all.
    first = os.environ.get("RANK", "0") == "0"
    if first:
        print(f"{options.attention}: {count_parameters(model)['total']:,} parameters")
    result = train(
        model, task, settings, options.out, resume=not options.fresh,
        tensorboard=options.tensorboard,
    )
    if not first:
        return
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
    from diffbook.experiments.publish import parse_seeds, publish
    from diffbook.experiments.runner import listing, record

    seeds = parse_seeds(options.seeds)
    if options.list or not options.experiment:
        names = [options.experiment] if options.experiment else EXPERIMENTS
        print(listing([_experiment(name) for name in names], len(seeds), options.jobs))
        return
    experiment = _experiment(options.experiment)
    report = record(
        experiment, options.preset, seeds, options.out,
        variants=options.variants.split(",") if options.variants else None,
        minutes=options.minutes, jobs=options.jobs, backend=options.backend,
        scheduler=options.scheduler, again=options.again, say=print,
    )
    print(report.text())
    if report.failed:
        first = report.failed[0]
        raise RuntimeError(
            f"{len(report.failed)} of {len(report.units)} runs failed, "
            + ("nothing is published; " if options.publish else "")
            + f"the first: {first.unit.name}: {first.message}"
        )
    if options.publish:
        print(publish(experiment, options.preset, options.out))


def _experiment(name: str) -> Any:
    from diffbook.experiments import EXPERIMENTS

    if name not in EXPERIMENTS:
        raise ValueError(f"no experiment {name!r}: there are {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _model(name: str) -> Any:
    from diffbook import records
    from diffbook.model import load_model

    if "/" in name and name.partition("/")[0] in records.available() and not Path(name).exists():
        return records.model(name)
    return load_model(name).eval()


def _needle(options: Any) -> None:
    from diffbook.tasks import hub_needle

    if (options.folder is None) == (options.model is None):
        raise ValueError(
            "which model? Give the folder of one of this book's, or --model with a name of the "
            "Hugging Face Hub, and not both"
        )
    name = options.model or options.folder
    try:
        lengths = [int(length) for length in options.lengths.split(",")] if options.lengths else []
    except ValueError:
        raise ValueError(f"lengths {options.lengths!r}: write them as 64,128,256") from None
    if _from_hugging_face(name, maybe=options.model is not None):
        if options.batch_size < 1:
            raise ValueError(f"batch_size={options.batch_size}: give at least 1")
        test = hub_needle.HubNeedleTest(
            lengths=tuple(lengths) or (512, 1024, 2048), n_needles=options.needles,
            n=50 if options.n is None else options.n, digits=options.digits, seed=options.seed,
        )
        results = hub_needle.measure(
            name, test, options.out, batch_size=options.batch_size, device=options.device,
            dtype=options.dtype,
        )
    else:
        results = _needle_of_ours(name, lengths or [64, 128, 256], options)
        if options.out:
            hub_needle.write(options.out, results)
    _show_needles(results, options.out)


def _from_hugging_face(name: str, maybe: bool) -> bool:
    """Whether ``name`` is a model of transformers: a folder whose config says so, or, if ``maybe``,
    a name that is neither a folder nor one of our records."""
    import json

    from diffbook import records

    config = Path(name) / "config.json"
    if config.is_file():
        try:
            return "model_type" in json.loads(config.read_text())
        except ValueError:
            return False  # load_model says what is wrong with it
    ours = name.partition("/")[0] in records.available()
    return maybe and not ours and not Path(name).exists()


def _needle_of_ours(name: str, lengths: list[int], options: Any) -> dict[str, Any]:
    """Cells like those of :func:`diffbook.tasks.hub_needle.measure`, for a model of this book."""
    from diffbook.tasks.needle import DEPTHS, NeedleTask, TextNeedleTask

    model = _model(name)
    n = 200 if options.n is None else options.n
    cells = []
    for depth in DEPTHS:
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
                    f"{name} knows {model.config.vocab_size} tokens, this test has "
                    f"{task.vocab_size}: give a model trained on it (or --text bytes|bpe)"
                )
            share = next(iter(task.evaluate(model, n=n).values()))
            cells.append({"length": length, "depth": depth, "n": n, "right": round(share * n)})
    test = {"lengths": lengths, "depths": list(DEPTHS), "n_needles": options.needles, "n": n}
    return {"model": name, "test": test, "cells": cells}


def _show_needles(results: dict[str, Any], out: Path | None) -> None:
    """The grid as text, and as a picture beside ``out``."""
    from diffbook.tasks.hub_needle import grid

    lengths, depths = results["test"]["lengths"], results["test"]["depths"]
    cells = grid(results).tolist()
    print("depth   " + "".join(f"{length:>8}" for length in lengths))
    for depth, row in zip(depths, cells, strict=True):
        print(f"{depth:<8.0%}" + "".join(f"{value:8.2f}" for value in row))
    if out is None:
        return
    import matplotlib.pyplot as plt

    from diffbook.show.retrieval import depth_map
    from diffbook.show.style import style

    style()
    fig, ax = plt.subplots(figsize=(max(3.5, 1.5 + 0.7 * len(lengths)), 3.4))
    depth_map(ax, cells, [f"{length:,}" for length in lengths], depths)
    ax.set(xlabel="length in tokens", ylabel="depth of the answer",
           title=f"{Path(results['model']).name}, N = {results['test']['n_needles']}")
    fig.savefig(out.with_suffix(".png"))
    plt.close(fig)
    print(f"results: {out}, picture: {out.with_suffix('.png')}")


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


def _grade(options: Any) -> None:
    import json

    from diffbook.grade import batch, box, bundle, report

    box.not_inspectable()
    if (options.assignment is None) == (options.bundle is None):
        raise ValueError("which assignment? Give --assignment A2, or --bundle FILE, and not both")
    path = options.bundle or options.bundles / f"{options.assignment}.json"
    chosen = bundle.load(path)
    results = batch.grade_folder(
        options.folder, chosen, options.out, jobs=options.jobs, level=options.isolation,
        roster=batch.read_roster(options.roster) if options.roster else None,
        student=options.student, again=options.again, progress=not options.quiet,
    )
    if options.gradescope:
        if len(results) != 1:
            raise ValueError(f"--gradescope is for one hand-in, there are {len(results)}")
        text = json.dumps(report.gradescope(results[0], chosen), ensure_ascii=False)
        report.write_text(options.gradescope, text)
    print(report.summary(results, chosen))
    for result in results:
        for reason in result.look:
            print(f"look at {result.student}: {reason}")
    print(f"{len(results)} hand-ins, reports and scores.csv in {options.out}")
