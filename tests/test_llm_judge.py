"""The language model as judge: prompts, strict verdicts, agreement with the exact judge."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from diffbook.measure.llm_judge import (
    Agreement,
    Case,
    answer_cases,
    cohen_kappa,
    hub_judge,
    judge_cases,
    parse_verdict,
    summary_cases,
)
from diffbook.tasks.faithful import FaithfulTask

TASK = FaithfulTask(words=6, conflict=0.5, unanswerable=0.25)
PRIOR = TASK.prior.tolist()


class ByHeart(nn.Module):
    """Answers everything with the prior; writes summaries of two sentences from it, every second
    without an end, every fifth with a "not stated"."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, TASK.vocab_size)
        for row, line in enumerate(tokens.tolist()):
            for at in range(2, len(line)):
                if line[at - 2] == TASK.QUESTION:
                    name, what = line[at - 1] - TASK.first_name, line[at] - TASK.first_attribute
                    logits[row, at, PRIOR[name][what]] = 1.0
        return logits

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float) -> Tensor:
        said = torch.full((len(tokens), max_new_tokens), TASK.END)
        for row, name in enumerate((tokens[:, -1] - TASK.first_name).tolist()):
            a = TASK.first_attribute
            said[row, :5] = torch.tensor(
                [a, PRIOR[name][0], TASK.first_name + name, a + 1, PRIOR[name][1]])
            if row % 5 == 1:
                said[row, 1] = TASK.NOT_STATED
            if row % 2 == 0:
                said[row, 5] = TASK.BOS
        return torch.cat((tokens, said), dim=1)


CASES = answer_cases(TASK, ByHeart(), n=40) + summary_cases(TASK, ByHeart(), n=40)
FIELDS = re.compile(
    r"\nDocument: (?P<document>.*?)\n\n(Question: .*\n\n)?Reference .*?\n\n"
    r"Proposed (answer|summary): (?P<proposed>.*?)\n\nExplain", re.DOTALL)


def careful(prompt: str) -> str:
    """Looks up every proposed sentence in the document."""
    found = FIELDS.search(prompt)
    proposed = found["proposed"]
    if proposed in ("The document does not say.", "(nothing)"):
        return "It states nothing.\nVerdict: yes"
    sentences = [f"{sentence.rstrip('.')}." for sentence in proposed.split(". ")
                 if not sentence.startswith("It is not stated")]
    ok = "..." not in proposed and all(one in found["document"] for one in sentences)
    return f"{len(sentences)} statements.\n\n**Verdict: {'Yes' if ok else 'No'}**"


def test_a_careful_reader_of_english_agrees_with_the_exact_judge():
    faithful = [case.faithful for case in CASES]
    assert 10 < sum(faithful) < 70
    assert any("..." in case.proposed for case in CASES)
    assert any("It is not stated where" in case.proposed for case in CASES)
    found = judge_cases(CASES, careful)
    assert list(found.verdicts) == faithful
    assert (found.agree, found.kappa, found.unclear) == (1.0, 1.0, 0)
    assert found.faithful == found.exact_faithful == sum(faithful) / 80


def test_a_judge_that_always_says_yes():
    found = judge_cases(CASES, lambda prompt: "Verdict: yes")
    assert found.faithful == 1.0 and found.kappa == 0.0
    assert found.agree == found.exact_faithful < 0.9


def test_unclear_verdicts_are_no_yes_and_are_counted_apart():
    found = judge_cases(CASES, lambda prompt: "I think so, yes.")
    assert (found.faithful, found.agree, found.unclear) == (0.0, 0.0, 80)
    assert math.isnan(found.kappa)
    replies = iter(["Verdict: yes", "hm", "Verdict: no", "Verdict: yes or Verdict: no"] * 20)
    half = judge_cases(CASES, lambda prompt: next(replies))
    assert (half.faithful, half.unclear) == (0.25, 40)
    assert "unclear 40" in half.text()


@pytest.mark.parametrize("reply, verdict", [
    ("All is there.\nVerdict: yes", True), ("verdict: NO.", False), ("**Verdict:** Yes", True),
    ("Verdict - no", False), ("Yes.", True), (" no\n", False), ("Verdict: yes\nVerdict: yes", True),
    ("", None), ("Verdict:", None), ("Verdict: maybe", None), ("Verdict: none", None),
    ("yes and no", None), ("There is no such statement.", None),
    ("Verdict: yes ... wait. Verdict: no", None), ("Verdict: yesterday", None),
])
def test_verdicts_are_read_strictly(reply, verdict):
    assert parse_verdict(reply) is verdict


def test_kappa_by_hand():
    # 20 + 15 of 50 agree; shares of yes 25 / 50 and 30 / 50: (0.7 - 0.5) / (1 - 0.5).
    pairs = ([(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10
             + [(False, False)] * 15)
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([(True, False), (False, True)]) == -1.0
    assert math.isnan(cohen_kappa([(True, True)] * 9)) and math.isnan(cohen_kappa([]))
    found = Agreement((True, True, False, False), (True, None, False, True))
    assert (found.faithful, found.agree, found.unclear) == (0.5, 0.5, 1)
    assert found.kappa == pytest.approx(0.4)  # of the three: (2/3 - 4/9) / (5/9)


def test_prompts_hold_what_the_protocol_asks_for():
    for case in CASES:
        assert case.document in case.prompt and case.reference in case.prompt
        assert f"Proposed {case.kind}: {case.proposed}" in case.prompt
        assert ("Question: " in case.prompt) == (case.kind == "answer")
        assert "{" not in case.prompt
    assert {case.kind for case in CASES} == {"answer", "summary"}
    assert any(case.reference == "The document does not say." for case in CASES)


def test_no_cases():
    with pytest.raises(ValueError, match="no cases: give at least one"):
        judge_cases([], careful)


@pytest.mark.parametrize("chat", [False, True])
def test_a_tiny_random_model_is_a_judge_that_says_nothing_clear(chat, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", *alphabet])}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    if chat:
        tokenizer.chat_template = (
            "{% for message in messages %}U: {{ message.content }}\nA: {% endfor %}")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ask = hub_judge(str(tmp_path), device="cpu", max_new_tokens=12)
    assert ask(CASES[0].prompt) == ask(CASES[0].prompt)
    found = judge_cases(CASES[:3], ask)
    assert (found.n, found.unclear, found.faithful) == (3, 3, 0.0)


def test_a_case_is_plain_data():
    case = Case("answer", "A.", "Q?", "R.", "P.", True)
    assert "Document: A." in case.prompt and "Question: Q?" in case.prompt
