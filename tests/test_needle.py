"""diffbook.tasks.needle: the contract of both tests, and models whose score is known."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from diffbook.model import IGNORE, LanguageModel, ModelConfig
from diffbook.tasks import text
from diffbook.tasks.needle import CITIES, DEPTHS, NeedleTask, TextNeedleTask
from diffbook.train import TrainConfig, train

TASK = NeedleTask()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- Tokens: what a sequence is -------------------------------------------------------------

VARIANTS = [
    TASK,
    NeedleTask(seq_len=17),  # no haystack at all
    NeedleTask(seq_len=100, n_needles=8, n_queries=3, distractors=0.5),
    NeedleTask(seq_len=40, n_needles=1, n_cities=1, n_numbers=1, n_words=1),
    NeedleTask(seq_len=48, n_needles=6, n_cities=6, n_numbers=6, depth=1.0),
    NeedleTask(seq_len=48, distractors=1.0, depth=0.5),
]


@pytest.mark.parametrize("task", VARIANTS)
def test_contract_of_a_batch(task):
    batch = task.sample(50, seeded())
    n, r = task.n_needles, task.asked
    assert batch.tokens.shape == (50, task.seq_len)
    for field in batch[1:]:
        assert field.shape == (50, r)
    assert {field.dtype for field in batch} == {torch.int64}
    assert int(batch.tokens.min()) >= 0
    assert int(batch.tokens.max()) < task.vocab_size

    def at(positions: Tensor) -> Tensor:
        return batch.tokens.gather(1, positions)

    assert torch.equal(at(batch.answer_positions), batch.answers)
    assert torch.equal(at(batch.answer_positions - 1), at(batch.query_positions))
    assert bool((at(batch.query_positions - 1) == task.QUESTION).all())
    assert bool((batch.tokens[:, 0] == task.BOS).all())
    assert bool((batch.query_positions[:, -1] == task.seq_len - 1).all())

    end = task.seq_len - 2 * r  # where the questions start
    body, questions = batch.tokens[:, :end], batch.tokens[:, end:]
    assert bool((batch.answer_positions < end).all())
    is_number = (questions >= task.first_number) & (questions < task.first_word)
    assert not bool(is_number.any()), "no answer is written behind a question"
    assert bool((questions[:, 0::2] == task.QUESTION).all())
    for row, asked in zip(body, questions[:, 1::2], strict=True):
        row = row.tolist()
        where = [i for i, token in enumerate(row) if task.first_city <= token < task.first_number]
        cities, numbers = [row[i] for i in where], [row[i + 1] for i in where]
        assert len(where) == n
        assert len(set(cities)) == len(set(numbers)) == n, "needles differ in city and number"
        assert all(task.first_number <= number < task.first_word for number in numbers)
        assert len(set(asked.tolist())) == r
        assert set(asked.tolist()) <= set(cities)
        loose = [
            token for i, token in enumerate(row[1:], start=1)
            if i not in where and i - 1 not in where
        ]
        assert len(loose) == task.seq_len - 1 - 2 * n - 2 * r
        assert all(token >= (task.first_number if task.distractors else task.first_word)
                   for token in loose)


def words_before(task: NeedleTask, batch) -> Tensor:
    """Words of haystack before the needle asked first: (batch,)."""
    position = torch.arange(task.seq_len)[None]
    city = (batch.tokens >= task.first_city) & (batch.tokens < task.first_number)
    before = position < batch.answer_positions[:, :1] - 1
    needles = (city & before).sum(1)
    return before.sum(1) - 1 - 2 * needles  # without BOS and the needles before it


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("distractors", [0.0, 0.4])
def test_depth_is_exact_in_words_of_haystack(depth, distractors):
    task = NeedleTask(seq_len=101, n_needles=5, n_queries=3, depth=depth, distractors=distractors)
    words = 101 - 1 - 2 * 5 - 2 * 3
    assert words == 84  # a multiple of 4: every depth is a whole number of words
    batch = task.sample(64, seeded())
    assert words_before(task, batch).tolist() == [round(depth * 84)] * 64


def test_depth_is_spread_evenly_by_default():
    task = NeedleTask(seq_len=59, n_needles=2, n_queries=2)
    words = 59 - 1 - 4 - 4
    seen = words_before(task, task.sample(6000, seeded()))
    share = torch.bincount(seen, minlength=words + 1) / 6000
    assert share.shape == (words + 1,)
    torch.testing.assert_close(share, torch.full_like(share, 1 / (words + 1)), rtol=0, atol=0.01)


def test_every_needle_is_asked_first_equally_often():
    """Among needles in order of position: no place is preferred."""
    task = NeedleTask(n_queries=1)
    batch = task.sample(4000, seeded())
    city = (batch.tokens >= task.first_city) & (batch.tokens < task.first_number)
    rank = (city & (torch.arange(64)[None] < batch.answer_positions - 1)).sum(1)
    share = torch.bincount(rank, minlength=4) / 4000
    torch.testing.assert_close(share, torch.full((4,), 0.25), rtol=0, atol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_of_distractors(share):
    task = NeedleTask(seq_len=200, distractors=share)
    tokens = task.sample(100, seeded()).tokens
    number = (tokens >= task.first_number) & (tokens < task.first_word)
    words = 200 - 1 - 8 - 8
    found = (int(number.sum()) / 100 - 4) / words
    assert found == pytest.approx(share, abs=0.015)
    assert share not in (0.0, 1.0) or found == share


def test_the_generator_decides_everything():
    torch.manual_seed(0)
    first = TASK.sample(8, seeded(3))
    torch.manual_seed(1)
    second = TASK.sample(8, seeded(3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.tokens, TASK.sample(8, seeded(4)).tokens)


def test_names_of_tokens():
    names = [TASK.describe(token) for token in range(TASK.vocab_size)]
    assert len(set(names)) == TASK.vocab_size == 2 + 16 + 16 + 32
    assert names[:3] == ["BOS", "?", "Amsterdam"]
    assert (names[TASK.first_number], names[TASK.first_word]) == ("0", "w0")


# --- Tokens: training -----------------------------------------------------------------------


def test_curriculum_lengths_and_token_budget():
    task = NeedleTask(seq_len=64, curriculum=((0.25, 0.375), (0.4, 0.625)))
    lengths = {}
    for progress in (0.0, 0.249, 0.25, 0.399, 0.4, 0.99, 1.0):
        inputs, targets = task.training_batch(30, seeded(), progress)
        assert inputs.shape == targets.shape
        assert 30 * 64 - inputs.shape[1] < inputs.numel() <= 30 * 64
        lengths[progress] = inputs.shape[1]
    assert lengths == {0.0: 24, 0.249: 24, 0.25: 40, 0.399: 40, 0.4: 64, 0.99: 64, 1.0: 64}
    short = NeedleTask(seq_len=20, curriculum=((1.0, 0.1),))
    assert short.training_batch(4, seeded())[0].shape == (4, short.shortest)
    assert NeedleTask(curriculum=()).training_batch(4, seeded())[0].shape == (4, 64)


def test_targets_are_the_answers_at_the_queries_only():
    task = NeedleTask(n_queries=3, curriculum=())
    inputs, targets = task.training_batch(20, seeded(5))
    batch = task.sample(20, seeded(5))
    assert torch.equal(inputs, batch.tokens)
    assert torch.equal(targets.gather(1, batch.query_positions), batch.answers)
    assert int((targets != IGNORE).sum()) == 20 * 3


@pytest.mark.parametrize("attention", ["softmax", "diff"])
def test_a_small_model_learns_it(attention):
    """End to end in seconds: well above 1/2, the score of naming any needle's number."""
    task = NeedleTask(
        seq_len=10, n_needles=2, n_queries=1, n_cities=3, n_numbers=3, n_words=2, curriculum=())
    model = LanguageModel(ModelConfig(
        task.vocab_size, d_model=32, n_layers=2, n_heads=4, d_ff=64, attention=attention))
    before = task.evaluate(model)
    train(model, task, TrainConfig(
        steps=120, batch_size=128, lr=6e-3, warmup=20, weight_decay=0.0, device="cpu"))
    after = task.evaluate(model)
    assert before["accuracy"] < 0.6
    assert after["accuracy"] > 0.9
    assert after["loss"] < 0.3 < before["loss"]


# --- Tokens: models whose score is known ----------------------------------------------------


class Known(nn.Module):
    """Names, behind every city, the number of one of the sequence's needles (or any number)."""

    def __init__(self, task: NeedleTask, which: str, confidence: float = 50.0):
        super().__init__()
        self.task, self.which, self.confidence = task, which, confidence
        self.generator = seeded(99)
        self.tokens_seen = 0

    def forward(self, tokens: Tensor) -> Tensor:
        task = self.task
        self.tokens_seen += tokens.numel()
        logits = torch.zeros(*tokens.shape, task.vocab_size)
        city = (tokens >= task.first_city) & (tokens < task.first_number)
        after = torch.nn.functional.pad(city[:, :-1], (1, 0))
        number = (tokens >= task.first_number) & (tokens < task.first_word) & after
        for row in range(len(tokens)):
            numbers = tokens[row][number[row]]
            for position in city[row].nonzero().flatten().tolist():
                if self.which == "oracle":
                    first = int((tokens[row] == tokens[row, position]).int().argmax())
                    said = int(tokens[row, first + 1])
                elif self.which == "first needle":
                    said = int(numbers[0])
                elif self.which == "last needle":
                    said = int(numbers[-1])
                elif self.which == "some needle":
                    pick = torch.randint(len(numbers), (), generator=self.generator)
                    said = int(numbers[pick])
                else:
                    pick = torch.randint(task.n_numbers, (), generator=self.generator)
                    said = task.first_number + int(pick)
                logits[row, position, said] = self.confidence
        return logits


@pytest.mark.parametrize("which, expected", [
    ("oracle", 1.0), ("some needle", 1 / 4), ("some number", 1 / 16), ("first needle", 1 / 4),
])
def test_scores_of_known_models(which, expected):
    score = TASK.evaluate(Known(TASK, which), n=400)
    assert score["accuracy"] == (1.0 if expected == 1 else pytest.approx(expected, abs=0.04))
    # Sure and wrong costs 50 nats, sure and right nothing.
    assert score["loss"] == pytest.approx(50 * (1 - score["accuracy"]), abs=1e-3)


def test_one_that_copies_the_first_needle_is_exposed_by_depth():
    task = NeedleTask(seq_len=150, n_queries=1)
    for which, good, bad in (("first needle", 0.0, 1.0), ("last needle", 1.0, 0.0)):
        score = {
            depth: replace(task, depth=depth).evaluate(Known(task, which), n=100)["accuracy"]
            for depth in DEPTHS
        }
        assert score[good] > 0.9
        assert score[bad] < 0.1
        assert 0 < score[0.5] < 0.5  # first (last) of four when in the middle: 1/8


def test_loss_without_an_opinion_is_the_uniform_one():
    score = TASK.evaluate(Known(TASK, "oracle", confidence=0.0), n=10)
    assert score["loss"] == pytest.approx(float(torch.tensor(float(TASK.vocab_size)).log()))
    assert score["accuracy"] == 0.0  # argmax of equal logits is BOS


def test_evaluation_takes_exactly_n_and_the_same_for_every_model():
    long = NeedleTask(seq_len=2**17, n_needles=1)  # two sequences a forward pass at most
    calls = []

    class Recorder(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            calls.append(tokens.clone())
            return torch.zeros(*tokens.shape, 1).expand(-1, -1, 66)

    long.evaluate(Recorder(), n=3)
    assert [tuple(call.shape) for call in calls] == [(2, 2**17), (1, 2**17)]
    calls.clear()
    for seed in (0, 0, 1):
        TASK.evaluate(Recorder(), n=5, seed=seed)
    assert torch.equal(calls[0], calls[1])
    assert not torch.equal(calls[0], calls[2])
    with pytest.raises(ValueError, match="n=0: test on at least 1"):
        TASK.evaluate(Recorder(), n=0)


@pytest.mark.parametrize("change, message", [
    ({"n_needles": 0}, "n_needles=0: ask for at least one"),
    ({"n_queries": 0}, "n_queries=0 of n_needles=4"),
    ({"n_queries": 5}, "n_queries=5 of n_needles=4: ask for at least one needle and at most all"),
    ({"n_cities": 3}, "n_cities=3 is fewer than n_needles=4"),
    ({"n_numbers": 3}, "n_numbers=3 is fewer than n_needles=4"),
    ({"n_words": 0}, "n_words=0: the haystack needs at least 1 word"),
    ({"seq_len": 16}, "too short for 4 needles and 4 questions: give at least 17"),
    ({"distractors": 1.2}, "distractors=1.2 is a share"),
    ({"depth": -0.1}, "depth=-0.1 is a share of the haystack"),
])
def test_errors_name_the_value(change, message):
    with pytest.raises(ValueError) as error:
        replace(TASK, **change)
    assert message in str(error.value)


# --- Text: what a prompt is -----------------------------------------------------------------

SENTENCE = re.compile(r"The magic number of (\w+) is (\d+)\.")
QUESTION = re.compile(r"\nThe magic number of (\w+) is $")
# Verse, prose and tables: boundaries of every kind.
TEXTS = {
    "bytes": TextNeedleTask(),
    "bpe": TextNeedleTask(seq_len=300, tokenizer="bpe", n_needles=6, n_queries=3),
    "crowded": TextNeedleTask(seq_len=600, n_needles=12, n_queries=12, digits=2),
    "short, tables": TextNeedleTask(seq_len=160, n_needles=1, digits=7, parts=("world_factbook",)),
    "tiny bpe": TextNeedleTask(
        seq_len=80, n_needles=2, n_queries=2, digits=1, tokenizer="bpe", parts=("shakespeare",)),
}
texts = pytest.mark.parametrize("task", TEXTS.values(), ids=TEXTS.keys())


@texts
def test_contract_of_a_prompt(task):
    tokenizer = text.get_tokenizer(task.tokenizer)
    corpus = text.load_corpus("validation", task.parts).decode("utf-8")
    other = text.load_corpus("train", task.parts).decode("utf-8")
    for questions in task.sample(6, seeded(1)):
        assert len(questions) == task.n_queries
        bodies = []
        for question in questions:
            answer = tokenizer.encode(question.answer)
            assert question.tokens.dtype == torch.int64
            assert len(question.tokens) + len(answer) == task.seq_len  # exact, to the token
            assert tokenizer.decode(question.tokens) == question.prompt
            asked = QUESTION.search(question.prompt)
            assert asked is not None
            assert asked.group(1) == question.city
            body = question.prompt[: asked.start()]
            needles = dict(SENTENCE.findall(body))
            assert len(needles) == len(set(needles.values())) == task.n_needles
            assert set(needles) <= set(CITIES)
            assert needles[question.city] == question.answer
            assert {len(number) for number in needles.values()} == {task.digits}
            # What is left without the needles is one stretch of the right split, from the start
            # of a sentence on.
            plain = re.sub(r"^(The magic number of \w+ is \d+\.\n)+", "", body)
            plain = re.sub(r" The magic number of \w+ is \d+\.", "", plain)
            assert plain in corpus
            assert len(plain) < 100 or plain not in other  # tables repeat short phrases
            start = corpus.index(plain)
            assert re.search(r"(^|\s)$", corpus[max(0, start - 1) : start])
            bodies.append((plain, needles))
        # One haystack for all questions, but for the few tokens that a shorter question leaves.
        shortest = min((plain for plain, _ in bodies), key=len)
        assert all(plain.startswith(shortest) and len(plain) < len(shortest) + 60
                   and needles == bodies[0][1] for plain, needles in bodies)
        assert len({question.city for question in questions}) == task.n_queries


@texts
def test_needles_stand_at_sentence_boundaries_and_nearest_to_their_depth(task):
    for depth in DEPTHS:
        for questions in replace(task, depth=depth).sample(3, seeded(2)):
            question = questions[0]
            body = question.prompt[: question.prompt.rindex("\n")]
            for match in SENTENCE.finditer(body):
                before, behind = body[: match.start()], body[match.end() :]
                behind = re.sub(r"^( The magic number of \w+ is \d+\.)+", "", behind)
                if not re.sub(SENTENCE, "", before).strip():
                    assert behind.startswith("\n")
                elif behind:
                    assert behind[0].isspace(), (before[-30:], behind[:30])
                    before = re.sub(r"( The magic number of \w+ is \d+\.)+ $", "", before + " ")
                    ended = re.search(r"[.!?][\"')\]]*\s*$", before)
                    assert ended or re.match(r"\n\n|\n[A-Z][^\n]+: ", behind)
            # The asked one, in tokens of haystack: no boundary of the text is much nearer.
            place = body.index(f"The magic number of {question.city} is")
            hay_before = re.sub(SENTENCE, "", body[:place])
            hay = re.sub(SENTENCE, "", body)
            share = len(hay_before.strip()) / len(hay.strip())
            assert share == pytest.approx(question.depth, abs=0.12)
            if depth in (0.0, 1.0):
                assert question.depth == depth
                assert share == pytest.approx(depth, abs=0.03)
    # In a long text boundaries are dense: every depth is met.
    long = replace(task, seq_len=6000, depth=0.25, n_queries=1)
    depths = [questions[0].depth for questions in long.sample(6, seeded(3))]
    assert depths == pytest.approx([0.25] * 6, abs=0.06)


def test_mr_and_initials_end_no_sentence():
    from diffbook.tasks.needle import SENTENCE_END

    def ends(line: str) -> list[str]:
        data = line.encode()
        return [data[: match.start(1)].decode()[-4:] for match in SENTENCE_END.finditer(data)]

    assert ends("Mr. Bingley met Mrs. Hill and J. Q. Adams. He bowed.") == ["ams."]
    assert ends('"Go!" She went. (Alone.) Why? For 3.5 miles.') == ['Go!"', "ent.", "ne.)", "Why?"]
    assert ends("ACT II\n\nSCENE I. Rome") == ["T II"]
    assert ends("Area: 5 sq km\nCoastline: 9 km\nno entry") == ["q km"]


def test_training_takes_the_train_split_and_scores_the_digits_only():
    task = TextNeedleTask(n_queries=2, split="test")
    tokenizer = text.get_tokenizer("bytes")
    inputs, targets = task.training_batch(5, seeded())
    assert inputs.shape == targets.shape == (10, 511)
    train_text = text.load_corpus("train").decode("utf-8")
    for row, target, question in zip(
        inputs, targets, [q for qs in task.sample(5, seeded(), split="train") for q in qs],
        strict=True,
    ):
        scored = target != IGNORE
        assert tokenizer.decode(target[scored]) == question.answer
        assert scored.nonzero().flatten().tolist() == list(range(507, 511))
        # A target is the token after its input: prompt, then the answer's digits but the last.
        assert torch.equal(row[:508], question.tokens)
        assert torch.equal(row[508:], target[507:510])
        stretch = re.sub(r" The magic number of \w+ is \d+\.", "", question.prompt)
        stretch = re.sub(r"^(The magic number of \w+ is \d+\.\n)+", "", stretch)
        assert stretch[: stretch.rindex("\n")] in train_text


def test_bpe_needles_are_tokenized_as_running_text():
    """Cut and joined at a needle, the tokens are those of the whole text (but for its cut end)."""
    task = TEXTS["bpe"]
    tokenizer = text.get_tokenizer("bpe")
    for questions in task.sample(8, seeded(4)):
        question = questions[0]
        body = question.prompt[: question.prompt.rindex("\n")]
        last = max(match.end() for match in SENTENCE.finditer(body))
        ids = tokenizer.encode(body[:last])
        if question.depth < 1 and last < len(body):
            assert torch.equal(ids, question.tokens[: len(ids)])
    sentence = "The magic number of Lisbon is "
    joined = torch.cat((tokenizer.encode(sentence), tokenizer.encode("4721")))
    assert torch.equal(joined, tokenizer.encode(sentence + "4721"))


def test_text_prompts_follow_the_generator():
    task = TEXTS["bytes"]
    torch.manual_seed(0)
    first = [q.prompt for qs in task.sample(3, seeded(3)) for q in qs]
    torch.manual_seed(1)
    assert [q.prompt for qs in task.sample(3, seeded(3)) for q in qs] == first
    assert [q.prompt for qs in task.sample(3, seeded(4)) for q in qs] != first
    assert len(set(first)) == 3


# --- Text: models whose score is known ------------------------------------------------------


class Reader(nn.Module):
    """Reads the prompt as text and answers like a person would, or by a bad habit."""

    def __init__(self, task: TextNeedleTask, habit: str):
        super().__init__()
        self.tokenizer, self.habit = text.get_tokenizer(task.tokenizer), habit

    def generate(self, tokens: Tensor, max_new_tokens: int, *, temperature: float) -> Tensor:
        assert temperature == 0
        prompt = self.tokenizer.decode(tokens[0])
        needles = SENTENCE.findall(prompt)
        city = QUESTION.search(prompt).group(1)
        right = dict(needles)[city]
        said = {
            "oracle": right,
            "first needle": needles[0][1],
            "all but the last digit": right[:-1] + str((int(right[-1]) + 1) % 10),
            "prose": "and so"[: len(right)],
        }[self.habit]
        new = self.tokenizer.encode(said)
        assert len(new) == max_new_tokens
        return torch.cat((tokens, new[None]), dim=1)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_scores_of_known_readers(tokenizer):
    task = TextNeedleTask(tokenizer=tokenizer, seq_len=400)
    score = task.evaluate(Reader(task, "oracle"), n=20)
    assert score == {"exact_match": 1.0, "digits": 1.0, "other_needle": 0.0}
    score = task.evaluate(Reader(task, "first needle"), n=100)
    assert score["exact_match"] == pytest.approx(0.25, abs=0.12)
    assert score["exact_match"] + score["other_needle"] == 1.0
    score = task.evaluate(Reader(task, "all but the last digit"), n=10)
    assert score == {"exact_match": 0.0, "digits": 0.75, "other_needle": 0.0}
    for depth, expected in ((0.0, 1.0), (1.0, 0.0)):
        deep = replace(task, depth=depth)
        assert deep.evaluate(Reader(deep, "first needle"), n=20)["exact_match"] == expected
    if tokenizer == "bytes":
        score = task.evaluate(Reader(task, "prose"), n=5)
        assert score == {"exact_match": 0.0, "digits": 0.0, "other_needle": 0.0}
    with pytest.raises(ValueError, match="n=0: test on at least 1"):
        task.evaluate(Reader(task, "oracle"), n=0)


def test_a_real_model_can_be_tested_on_text():
    task = TextNeedleTask(seq_len=200, n_needles=1)
    model = LanguageModel(ModelConfig(256, d_model=16, n_layers=1, n_heads=2, d_ff=32))
    score = task.evaluate(model, n=3)
    assert score == task.evaluate(model, n=3)
    assert score["exact_match"] == 0.0
    result = train(model, task, TrainConfig(steps=2, batch_size=2, device="cpu", log_every=1))
    assert result.curve["step"] == [1, 2]


@pytest.mark.parametrize("change, message", [
    ({"n_queries": 5}, "n_queries=5, n_needles=4"),
    ({"n_needles": 65, "seq_len": 9000}, "at most all; there are 64 cities"),
    ({"n_queries": 0}, "n_queries=0"),
    ({"digits": 0}, "digits=0: give 1 to 9, and enough for distinct numbers"),
    ({"digits": 1, "n_needles": 10, "seq_len": 900}, "digits=1"),
    ({"depth": 1.5}, "depth=1.5 is a share"),
    ({"seq_len": 200}, "seq_len=200 has no room for 4 needles"),
    ({"tokenizer": "words"}, "tokenizer='words'"),
])
def test_text_errors_name_the_value(change, message):
    with pytest.raises(ValueError) as error:
        replace(TEXTS["bytes"], **change)
    assert message in str(error.value)


def test_a_text_too_short_for_the_haystack():
    for task in (
        TextNeedleTask(parts=("moby_dick",)),  # a single book, all of it for training
        TextNeedleTask(seq_len=300_000, parts=("austen",)),
    ):
        with pytest.raises(ValueError, match=r"too few for a haystack of .* take more parts"):
            task.sample(1, seeded())
    with pytest.raises(ValueError, match="split='dev'"):
        TEXTS["bytes"].sample(1, seeded(), split="dev")
    # The shortest length that is allowed has room, whatever cities are drawn.
    with pytest.raises(ValueError, match="give at least") as error:
        TextNeedleTask(seq_len=10, n_needles=3, n_queries=3)
    least = int(str(error.value).rpartition(" ")[2])
    for questions in TextNeedleTask(seq_len=least, n_needles=3, n_queries=3).sample(30, seeded()):
        assert {len(question.tokens) for question in questions} == {least - 4}
