"""python -m diffbook: help, one clear line for what is wrong, and the way through all commands."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from test_records import TINY

from diffbook import records
from diffbook.cli import main
from diffbook.experiments import EXPERIMENTS, publish
from diffbook.model import LanguageModel, ModelConfig, load_model
from diffbook.records import record
from diffbook.tasks.needle import NeedleTask

COMMANDS = ("train", "record", "needle", "generate")
SMALL = ["--d-model", "16", "--layers", "1", "--heads", "2", "--steps", "3", "--batch-size", "2",
         "--device", "cpu", "--eval-every", "0"]


def failed(capsys, arguments: list[str]) -> str:
    """Run what must fail; its one line on stderr."""
    try:
        code = main(arguments)
    except SystemExit as error:  # argparse
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2, (arguments, out, err)
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([command, "--help"] if command else ["--help"])
    assert error.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m diffbook {command}".rstrip())
    if command:
        assert "%(default)" not in out
    else:
        assert all(f"\n    {name} " in out for name in COMMANDS)
        assert "examples" in out


def test_the_module_runs_and_returns_its_code(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "diffbook", "generate", str(tmp_path / "nothing")],
        capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("diffbook generate: ")
    assert "config.json is missing" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments, message", [
    ([], "required: command; see python -m diffbook --help"),
    (["dance"], "invalid choice: 'dance'"),
    (["train"], "required: --out; see python -m diffbook train --help"),
    (["train", "--out", "OUT", "--task", "chess"], "invalid choice: 'chess'"),
    (["train", "--out", "OUT", "--steps", "many"], "invalid int value: 'many'"),
    (["train", "--out", "OUT", "--steps", "0"], "steps=0: give at least 1"),
    (["train", "--out", "OUT", "--layers", "0"], "n_layers=0: give a whole number"),
    (["train", "--out", "OUT", "--heads", "3", "--d-model", "96"], "give an even number"),
    (["train", "--out", "OUT", "--seq-len", "-4"], "seq_len=-4"),
    (["train", "--out", "OUT", "--task", "needle", "--needles", "40"], "n_cities=16 is fewer"),
    (["train", "--out", "OUT", "--task", "text-needle", "--seq-len", "50"], "seq_len=50 has no"),
    (["train", "--out", "OUT", "--batch-size", "6", "--accumulation", "4"], "does not divide"),
    (["train", "--out", "OUT", "--hub", "a/b"], "datasets"),
    (["record", "nothing"], "no experiment 'nothing': there are"),
    (["record", "lm", "--preset", "moon"], "lm has no preset 'moon': it has"),
    (["record", "lm", "--variants", "softmax,quadratic"], "lm has no variant quadratic: it has"),
    (["record", "lm", "--seeds", "one"], "seeds 'one': write them as 0-2 or 0,3,5"),
    (["needle", "OUT"], "config.json is missing: a checkpoint is a folder"),
    (["needle", "MODEL", "--lengths", "64,long"], "lengths '64,long': write them as 64,128,256"),
    (["needle", "MODEL", "--lengths", "8"], "seq_len=8 is too short"),
    (["needle", "MODEL", "--lengths", "99999"], "the model knows 256"),
    (["needle", "MODEL", "-n", "0"], "n=0: test on at least 1"),
    (["needle", "MODEL", "--text", "bytes", "--lengths", "400"], "66 tokens, this test has 256"),
    (["needle", "MODEL", "--text", "words"], "invalid choice: 'words'"),
    (["generate", "OUT"], "config.json is missing: a checkpoint is a folder"),
    (["generate", "MODEL"], "knows 66 tokens, text has 256 (bytes)"),
])
def test_one_clear_line_for_what_is_wrong(arguments, message, capsys, tmp_path, needle_model):
    if "--hub" in arguments:
        try:
            import datasets  # noqa: F401
        except ImportError:
            pass
        else:
            pytest.skip("the data set library is installed")
    places = {"OUT": str(tmp_path / "out"), "MODEL": str(needle_model)}
    assert message in failed(capsys, [places.get(word, word) for word in arguments])
    assert not (tmp_path / "out" / "model").exists()


@pytest.fixture(scope="module")
def needle_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("needle") / "model"
    vocab = NeedleTask().vocab_size
    LanguageModel(ModelConfig(vocab, 16, 1, 2, max_seq_len=256)).save_pretrained(folder)
    return folder


def test_text_model_trains_goes_on_writes_and_is_tested(tmp_path, capsys):
    out = tmp_path / "run"
    train = ["train", "--task", "text", "--attention", "diff", "--seq-len", "32", "--out", str(out),
             *SMALL]
    assert main(train) == 0
    said = capsys.readouterr().out
    assert said.startswith("diff: ")
    assert "bits_per_byte" in said
    assert re.search(r"\n192 tokens in \d+ s on cpu, 1 thread; the model is in ", said)
    assert said.endswith(f"{out / 'model'}\n")
    model = load_model(out / "model")
    assert (model.config.attention, model.config.vocab_size) == ("diff", 256)

    # The same command again goes on (here: is done); another one is refused, --fresh replaces.
    before = (out / "metrics.jsonl").read_text()
    assert main(train) == 0
    assert (out / "metrics.jsonl").read_text() == before
    capsys.readouterr()
    assert "--fresh" in failed(capsys, [*train, "--lr", "0.5"])
    assert main([*train, "--lr", "0.5", "--fresh"]) == 0
    assert (out / "metrics.jsonl").read_text() != before
    capsys.readouterr()

    texts = []
    for seed in ("0", "0", "1"):
        assert main(["generate", str(out / "model"), "--prompt", "It was", "--tokens", "20",
                     "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert all(text.startswith("It was") for text in texts)
    assert texts[0] == texts[1] != texts[2]
    greedy = ["generate", str(out / "model"), "--temperature", "0", "--tokens", "4"]
    assert main(greedy) == 0
    assert capsys.readouterr().out.startswith("In the beginning ")
    assert "not empty" in failed(capsys, ["generate", str(out / "model"), "--prompt", ""])
    assert "temperature=-1.0" in failed(
        capsys, ["generate", str(out / "model"), "--temperature", "-1"])

    assert main(["needle", str(out / "model"), "--text", "bytes", "--lengths", "300,400",
                 "--needles", "1", "-n", "1"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["depth", "300", "400"]
    assert [line.split()[0] for line in table[1:]] == ["0%", "25%", "50%", "75%", "100%"]
    assert "this test has 66" in failed(capsys, ["needle", str(out / "model"), "--lengths", "64"])


def test_needle_model_trains_and_is_tested(tmp_path, capsys):
    out, extra = tmp_path / "run", []
    if importlib.util.find_spec("tensorboard"):
        extra = ["--tensorboard"]
    assert main(["train", "--task", "needle", "--attention", "softmax", "--out", str(out),
                 "--needles", "2", "--seq-len", "24", *extra, *SMALL]) == 0
    assert "softmax: " in capsys.readouterr().out
    assert (out / "tensorboard").is_dir() == bool(extra)
    assert main(["needle", str(out / "model"), "--lengths", "32,64", "--needles", "2",
                 "-n", "20"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["depth", "32", "64"]
    model = load_model(out / "model")
    task = NeedleTask(32, 2, n_queries=1, depth=0.25)
    expected = task.evaluate(model, n=20)["accuracy"]
    assert rows[2] == ["25%", f"{expected:.2f}", rows[2][2]]


def test_record_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)
    for module in (record, publish):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "shelf")
    (tmp_path / "shelf").mkdir()
    records.load.cache_clear()
    command = ["record", "tiny", "--seeds", "0,1", "--variants", "diff", "--out", str(tmp_path)]
    assert main(["record", "--list"]) == 0
    assert re.search(
        r"\ntiny: A tiny one\n  cpu +~0\.01 +6 +\d+ +1 min   no record yet\n +nothing\n",
        capsys.readouterr().out)
    assert main(command) == 0
    *made, last = capsys.readouterr().out.splitlines()
    assert sorted(made) == [
        f"diff-{seed}: finished, {tmp_path / 'tiny-cpu' / f'diff-{seed}' / 'run.json'}"
        for seed in (0, 1)]
    assert re.fullmatch(
        r"tiny-cpu: all 2 runs are finished, 2 of them now, in \d\.\d minutes", last)
    assert main([*command, "--publish"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny-cpu: all 2 runs are finished", str(tmp_path / "shelf" / "tiny-cpu.json")]
    assert main(["record"]) == 0  # without a name: the list
    assert re.search(
        r"\n  cpu .* seeds 0-1, cpu, 1 thread, 20\d\d-\d\d-\d\d\n", capsys.readouterr().out)
    assert [run.seed for run in records.load("tiny-cpu").of("diff")] == [0, 1]
    # A shipped model is found by its name.
    from diffbook.cli import _model

    weights = _model("tiny-cpu/diff-1").state_dict()
    assert torch.equal(
        weights["head.weight"], records.model("tiny-cpu/diff-1").state_dict()["head.weight"])
    assert "is shipped; there are tiny-cpu/diff-1" in failed(
        capsys, ["generate", "tiny-cpu/diff-0"])
    records.load.cache_clear()


def test_a_stop_by_the_reader_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffbook.train.train", stopped)
    assert main(["train", "--out", str(tmp_path / "run"), *SMALL]) == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
