"""The text-level needle test on models of Hugging Face: same code path, tiny local models."""

from __future__ import annotations

import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffbook.cli import main
from diffbook.tasks import hub_needle, text
from diffbook.tasks.hub_needle import HubNeedleTest, ask, grid, measure
from diffbook.tasks.needle import DEPTHS, NEEDLE

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SENTENCE = re.compile(r"The magic number of (\w+) is (\d+)\.")
ASKED = re.compile(r"\nThe magic number of (\w+) is$")
SMALL = HubNeedleTest(lengths=(400,), n_needles=3, n=4)


def byte_tokenizer(**special):
    """Byte-level BPE without merges: one token a byte, no file needed."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


TOKENIZER = byte_tokenizer(pad_token="<pad>")


@pytest.fixture(scope="module", params=["Llama", "DiffLlama"])
def folder(request, tmp_path_factory):
    """A tiny model with random weights and its tokenizer, as AutoModel finds them."""
    place = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(
        vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )
    getattr(transformers, f"{request.param}ForCausalLM")(config).save_pretrained(place)
    TOKENIZER.save_pretrained(place)
    return place


class Reader(nn.Module):
    """Stands in for a model: reads the prompts as text and continues them by a habit."""

    def __init__(self, habit: str, limit: int | None = 4096, room: int = 10**9):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.habit, self.room, self.batches = habit, room, []
        self.config = SimpleNamespace(max_position_embeddings=limit)

    def generate(self, input_ids, attention_mask, max_new_tokens, do_sample, pad_token_id):
        assert not do_sample
        self.batches.append(len(input_ids))
        if input_ids.numel() > self.room:
            raise torch.OutOfMemoryError("no room")
        rows = []
        for row, mask in zip(input_ids, attention_mask, strict=True):
            assert (row[mask == 0] == pad_token_id).all()
            assert mask.tolist() == sorted(mask.tolist())  # padding on the left
            prompt = TOKENIZER.decode(row[mask == 1])
            needles = SENTENCE.findall(prompt)
            said = {
                "oracle": dict(needles)[ASKED.search(prompt).group(1)],
                "first needle": needles[0][1],
                "last needle": needles[-1][1],
                "last quarter": dict(SENTENCE.findall(prompt[3 * len(prompt) // 4 :])).get(
                    ASKED.search(prompt).group(1), "0000"),
                "prose": "a secret",
            }[self.habit]
            new = TOKENIZER(f" {said}. The")["input_ids"][:max_new_tokens]
            rows.append([*row.tolist(), *new, *[pad_token_id] * (max_new_tokens - len(new))])
        return torch.tensor(rows)


def stand_in(monkeypatch, reader: Reader) -> Reader:
    monkeypatch.setattr(hub_needle, "load", lambda *_: (reader, TOKENIZER))
    return reader


# --- Prompts --------------------------------------------------------------------------------


@pytest.mark.parametrize("length, n_needles", [(300, 1), (700, 4), (1500, 8)])
def test_contract_of_a_prompt(length, n_needles):
    test = HubNeedleTest(n_needles=n_needles, n=4)
    corpus = text.load_corpus("validation").decode("utf-8")
    for depth in DEPTHS:
        for question in test.draw(TOKENIZER, length, depth):
            used = len(TOKENIZER(question.prompt)["input_ids"])
            assert length - 60 < used <= length
            city = ASKED.search(question.prompt).group(1)
            body = question.prompt[: question.prompt.rindex("\n")]
            needles = SENTENCE.findall(body)
            assert len(needles) == len(dict(needles)) == n_needles
            assert dict(needles)[city] == question.answer
            assert {question.answer, *question.others} == {number for _, number in needles}
            assert len(question.others) == n_needles - 1
            # Without its needles the body is one stretch of held-out text.
            plain = re.sub(r"^(The magic number of \w+ is \d+\.\n)+", "", body)
            plain = re.sub(r" The magic number of \w+ is \d+\.", "", plain)
            assert plain in corpus
            before = re.sub(SENTENCE, "", body[: body.index(f"of {city} is")])
            share = len(before) / max(1, len(plain))
            assert share == pytest.approx(question.depth, abs=0.15)
            assert abs(question.depth - depth) < 0.5
            if depth in (0.0, 1.0):
                assert question.depth == depth


def test_a_cell_depends_on_nothing_but_its_seed_length_and_depth():
    one = [q.prompt for q in SMALL.draw(TOKENIZER, 500, 0.25)]
    assert one == [q.prompt for q in SMALL.draw(TOKENIZER, 500, 0.25)]
    assert one != [q.prompt for q in SMALL.draw(TOKENIZER, 500, 0.5)]
    other = HubNeedleTest(lengths=(400,), n_needles=3, n=4, seed=1)
    assert one != [q.prompt for q in other.draw(TOKENIZER, 500, 0.25)]
    assert len(set(one)) == 4


def test_depths_are_met_where_sentences_are_dense():
    test = HubNeedleTest(n_needles=2, n=6)
    found = [q.depth for q in test.draw(TOKENIZER, 8000, 0.25)]
    assert found == pytest.approx([0.25] * 6, abs=0.05)


# --- Scores of readers with known habits ----------------------------------------------------


@pytest.mark.parametrize("habit", ["oracle", "first needle", "last needle", "last quarter",
                                   "prose"])
def test_habits_show_in_the_grid(habit, monkeypatch):
    stand_in(monkeypatch, Reader(habit))
    test = HubNeedleTest(lengths=(1500,), n_needles=4, n=12)
    results = measure("stand-in", test, progress=False)
    right, other = grid(results)[:, 0], grid(results, "other_needle")[:, 0]
    start, end = right[0], right[-1]
    if habit == "oracle":
        assert right.tolist() == [1.0] * 5
        assert other.tolist() == [0.0] * 5
    elif habit == "first needle":
        assert start == 1 and end == 0
        assert (right + other).tolist() == [1.0] * 5
    elif habit == "last needle":
        assert start == 0 and end == 1
    elif habit == "last quarter":
        assert right[:3].tolist() == [0.0] * 3 and end == 1
    else:
        assert right.sum() == other.sum() == 0


def test_the_first_number_counts_and_nothing_behind_it():
    question = SMALL.draw(TOKENIZER, 400, 0.5)[:1]
    for habit, expected in (("oracle", question[0].answer), ("prose", "")):
        assert ask(Reader(habit), TOKENIZER, question) == [expected]


def test_memory_that_runs_out_halves_the_batch():
    questions = SMALL.draw(TOKENIZER, 400, 0.5)
    reader = Reader("oracle", room=2 * 400)
    assert ask(reader, TOKENIZER, questions, batch_size=4) == [q.answer for q in questions]
    assert reader.batches == [4, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        ask(Reader("oracle", room=10), TOKENIZER, questions, batch_size=4)


def test_batches_say_what_single_prompts_say(folder):
    """Left padding with a mask changes nothing: a real model, prompts of three lengths."""
    model, tokenizer = hub_needle.load(str(folder), device="cpu")
    assert next(model.parameters()).dtype == torch.float32
    questions = [SMALL.draw(tokenizer, length, 0.5)[0] for length in (260, 300, 420)]
    rows = [tokenizer(q.prompt)["input_ids"] for q in questions]
    width = max(map(len, rows))
    tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = (torch.arange(width) >= torch.tensor([[width - len(row)] for row in rows])).long()
    position = (mask.cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        together = model(tokens, attention_mask=mask, position_ids=position).logits[:, -1]
        alone = torch.cat([model(torch.tensor([row])).logits[:, -1] for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert ask(model, tokenizer, questions, batch_size=3) == ask(
        model, tokenizer, questions, batch_size=1)


# --- Resuming -------------------------------------------------------------------------------


def test_a_stopped_test_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    test = HubNeedleTest(lengths=(400, 500), depths=(0.0, 0.5, 1.0), n_needles=3, n=3)
    whole, out = tmp_path / "whole.json", tmp_path / "out.json"
    stand_in(monkeypatch, Reader("last quarter"))
    expected = measure("stand-in", test, whole, progress=False)
    assert len(expected["cells"]) == 6

    class Stopped(Exception):
        pass

    reader = Reader("last quarter")
    answer = reader.generate

    def stops_in_the_third_cell(**arguments):
        if len(reader.batches) == 2:
            raise Stopped
        return answer(**arguments)

    reader.generate = stops_in_the_third_cell
    stand_in(monkeypatch, reader)
    with pytest.raises(Stopped):
        measure("stand-in", test, out, progress=False)
    assert len(json.loads(out.read_text())["cells"]) == 2

    second = stand_in(monkeypatch, Reader("last quarter"))
    found = measure("stand-in", test, out, progress=False)
    assert len(second.batches) == 4  # the two finished cells were not asked again
    for results in (found, json.loads(out.read_text())):
        assert [{**cell, "seconds": 0} for cell in results["cells"]] == [
            {**cell, "seconds": 0} for cell in expected["cells"]]

    # Finished: the model is not even loaded. One length more: only that one is asked.
    monkeypatch.setattr(hub_needle, "load", None)
    assert measure("stand-in", test, out, progress=False) == found
    longer = HubNeedleTest(lengths=(400, 500, 600), depths=test.depths, n_needles=3, n=3)
    third = stand_in(monkeypatch, Reader("last quarter"))
    assert grid(measure("stand-in", longer, out, progress=False)).shape == (3, 3)
    assert len(third.batches) == 3


@pytest.mark.parametrize("change, message", [
    ({"n_needles": 4}, "n_needles=3, now it is 4: give another --out"),
    ({"n": 5}, "n=4, now it is 5"),
    ({"seed": 7}, "seed=0, now it is 7"),
])
def test_results_of_another_test_are_not_mixed(change, message, tmp_path, monkeypatch):
    stand_in(monkeypatch, Reader("oracle"))
    out = tmp_path / "out.json"
    measure("stand-in", HubNeedleTest((400,), (0.5,), 3, 4), out, progress=False)
    other = HubNeedleTest(**{"lengths": (400,), "depths": (0.5,), "n_needles": 3, "n": 4, **change})
    with pytest.raises(ValueError, match=message):
        measure("stand-in", other, out, progress=False)
    with pytest.raises(ValueError, match="is about stand-in, not another"):
        measure("another", HubNeedleTest((400,), (0.5,), 3, 4), out, progress=False)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": []}', '{"schema": 9, "cells": []}'])
def test_a_damaged_file_of_results_is_an_error(content, tmp_path):
    out = tmp_path / "out.json"
    out.write_text(content)
    with pytest.raises(ValueError, match=r"delete it"):
        measure("stand-in", SMALL, out, progress=False)
    assert out.read_text() == content


# --- The command ----------------------------------------------------------------------------


def test_the_command_on_a_local_model(folder, tmp_path, capsys):
    out = tmp_path / "results.json"
    command = ["needle", "--model", str(folder), "--lengths", "260,300", "--needles", "2", "-n",
               "2", "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == ["depth", "260", "300"]
    assert f"results: {out}, picture: {out.with_suffix('.png')}" in shown
    results = json.loads(out.read_text())
    assert len(results["cells"]) == 10
    assert all(cell["tokens"] <= cell["length"] for cell in results["cells"])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    before = out.read_text()
    assert main([*command[:1], str(folder), *command[3:]]) == 0  # a folder says itself what it is
    assert out.read_text() == before  # nothing is asked twice


def test_a_model_of_this_book_is_tested_as_before(tmp_path, capsys):
    out = tmp_path / "ours.json"
    common = ["--lengths", "64", "-n", "3"]
    assert main(["needle", "needle-cpu/diff-0", *common]) == 0
    shown = capsys.readouterr().out
    assert main(["needle", "--model", "needle-cpu/diff-0", *common, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(shown)
    assert len(json.loads(out.read_text())["cells"]) == 5
    assert out.with_suffix(".png").exists()


@pytest.mark.parametrize("arguments, message", [
    ([], "which model? Give the folder"),
    (["one", "--model", "two"], "and not both"),
    (["--model", "MODEL", "--lengths", "9000"], "reads up to 1024 tokens, answer included"),
    (["--model", "MODEL", "--lengths", "20"], "length 20 has no room for 4 needles"),
    (["--model", "MODEL", "--lengths", "many"], "lengths 'many': write them as"),
    (["--model", "MODEL", "--needles", "99"], "n_needles=99: give 1 to 64"),
    (["--model", "MODEL", "--digits", "0"], "digits=0: give 1 to 9"),
    (["--model", "MODEL", "-n", "0"], "n=0: test on at least 1"),
    (["--model", "MODEL", "--batch-size", "0"], "batch_size=0: give at least 1"),
])
def test_one_clear_line_for_what_is_wrong(arguments, message, folder, capsys):
    assert main(["needle", *[{"MODEL": str(folder)}.get(word, word) for word in arguments]]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("diffbook needle: ")


def test_a_name_that_does_not_exist_is_an_error(monkeypatch, capsys):
    def unknown(name, **_):
        raise OSError(f"{name} is not a local folder\nand is not a valid model identifier")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unknown)
    assert main(["needle", "--model", "nobody/nothing"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("diffbook needle: model 'nobody/nothing' cannot be loaded (nobody/")
    assert error.count("\n") == 1


def test_without_transformers_the_remedy_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["needle", "--model", "nobody/nothing"]) == 2
    assert "pip install transformers (or diffbook[llm])" in capsys.readouterr().err


def test_the_needle_is_the_one_of_the_book():
    question = SMALL.draw(TOKENIZER, 400, 0.0)[0]
    city = ASKED.search(question.prompt).group(1)
    assert question.prompt.startswith(NEEDLE.format(city=city, number=question.answer) + "\n")
