"""diffbook.model: the matched pair, the cache, checkpoints, and two outside implementations."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from diffbook.attention import DiffMaps, lambda_init
from diffbook.model import (
    CheckpointError,
    LanguageModel,
    ModelConfig,
    count_parameters,
    load_model,
    pair,
)
from diffbook.rope import Rotary

SMALL = ModelConfig(vocab_size=37, d_model=32, n_layers=3, n_heads=4, d_ff=48, max_seq_len=32)
KINDS = {
    "softmax": SMALL,
    "diff": replace(SMALL, attention="diff"),
    "softmax GQA": replace(SMALL, n_kv_heads=2),
    "diff GQA": replace(SMALL, attention="diff", n_kv_heads=2),
    "softmax norm": replace(SMALL, headwise_norm=True),
    "diff tied": replace(SMALL, attention="diff", tie_embeddings=True),
}
kinds = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())


def draw(*shape: int, vocab: int = 37, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def shaken(config: ModelConfig, seed: int = 5) -> LanguageModel:
    """A model whose gains and λ are not at their special starting values."""
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5, generator=generator)
            elif "lambda_" in name:
                weight.normal_(std=0.4, generator=generator)
            else:
                weight.mul_(2.0)
    return model.eval().requires_grad_(False)


# --- The pair -------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    SMALL,
    replace(SMALL, n_kv_heads=2, tie_embeddings=True),
    ModelConfig(256, d_model=96, n_layers=2, n_heads=6),
], ids=["plain", "GQA, tied", "default widths"])
def test_pair_has_the_same_parameters_line_by_line(config):
    softmax, diff = (count_parameters(model) for model in pair(config))
    d, width, layers = config.d_model // config.n_heads, config.d_model, config.n_layers
    for group in ("embedding", "attention", "ffn", "norms", "output"):
        assert softmax[group] == diff[group], group
    assert (softmax["lambda"], softmax["head norm"]) == (0, 0)
    assert (diff["lambda"], diff["head norm"]) == (4 * d * layers, 2 * d * layers)
    assert diff["total"] - softmax["total"] == 6 * d * layers

    kv = (config.n_kv_heads or config.n_heads) * d
    by_hand = (
        config.vocab_size * width * (1 if config.tie_embeddings else 2)
        + layers * (2 * width**2 + 2 * width * kv + 3 * width * config.ffn_width + 2 * width)
        + width
    )
    assert softmax["total"] == by_hand
    total = sum(p.numel() for p in LanguageModel(replace(config, attention="diff")).parameters())
    assert diff["total"] == total


def test_ffn_width_is_eight_thirds_in_steps_of_32():
    assert ModelConfig(8, 768, 1, 12).ffn_width == 2048
    assert ModelConfig(8, 128, 1, 4).ffn_width == 352  # 341.3 -> 352
    assert ModelConfig(8, 8, 1, 2).ffn_width == 32
    assert SMALL.ffn_width == 48


def test_pair_shares_every_common_weight_and_the_seed_decides_them():
    torch.manual_seed(1)
    softmax, diff = pair(SMALL)
    torch.manual_seed(2)
    again = LanguageModel(SMALL)
    other = LanguageModel(replace(SMALL, seed=1))
    common, more = softmax.state_dict(), diff.state_dict()
    for name, weight in common.items():
        assert torch.equal(weight, more[name]), name
        assert torch.equal(weight, again.state_dict()[name]), name
        if weight.ndim == 2:
            assert not torch.equal(weight, other.state_dict()[name]), name
    extra = {name.rpartition(".")[2] for name in more.keys() - common.keys()}
    assert extra == {"weight", "lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"}
    assert softmax.config == SMALL
    assert diff.config == replace(SMALL, attention="diff")


def test_weights_have_the_promised_spread():
    model = LanguageModel(ModelConfig(512, d_model=256, n_layers=8, n_heads=4, attention="diff"))
    state, fan = model.state_dict(), 1 / math.sqrt(256)
    residual = 1 / math.sqrt(2 * 8)
    ffn = 1 / math.sqrt(3 * model.config.ffn_width)
    for name, std in {
        "embedding.weight": fan,
        "head.weight": fan,
        "blocks.3.attention.q_proj.weight": fan / math.sqrt(3),
        "blocks.3.attention.o_proj.weight": fan / math.sqrt(3) * residual,
        "blocks.3.ffn.up_proj.weight": fan / math.sqrt(3),
        "blocks.3.ffn.down_proj.weight": ffn * residual,
    }.items():
        assert float(state[name].std()) == pytest.approx(std, rel=0.02), name
    vectors = torch.cat([w.flatten() for n, w in state.items() if "lambda_" in n])
    assert float(vectors.std()) == pytest.approx(0.1, rel=0.05)
    assert all(bool((w == 1).all()) for n, w in state.items() if "norm" in n)
    # Logits of unit spread: the first loss is ln(vocab) + 1/2, not a number in the hundreds.
    tokens = draw(4, 64, vocab=512)
    first = float(model(tokens[:, :-1], tokens[:, 1:]).detach())
    assert first == pytest.approx(math.log(512) + 0.5, abs=0.25)


def test_lambdas_start_near_the_schedule_and_ablations_reach_the_layers():
    lambdas = LanguageModel(KINDS["diff"]).lambdas()
    for layer, lam in enumerate(lambdas, start=1):
        assert lam == pytest.approx(lambda_init(layer), abs=0.15)
        assert lam != lambda_init(layer)
    assert LanguageModel(SMALL).lambdas() == []
    model = LanguageModel(replace(
        KINDS["diff"], lambda_init=0.5, learn_lambda=False, headwise_norm=False, output_scale=False
    ))
    assert all(layer.attention.lambda_init == 0.5 for layer in model.blocks)
    assert all(layer.attention.output_scale == 1.0 for layer in model.blocks)
    assert count_parameters(model)["head norm"] == 0
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert len(frozen) == 4 * 3
    assert all("lambda_" in name for name in frozen)
    normed = count_parameters(LanguageModel(KINDS["softmax norm"]))
    assert normed["head norm"] == 3 * 8


@pytest.mark.parametrize("change, message", [
    ({"attention": "linear"}, "attention='linear' is not known: choose one of 'softmax', 'diff'"),
    ({"vocab_size": 0}, "vocab_size=0: give a whole number of at least 1"),
    ({"n_layers": 1.5}, "n_layers=1.5: give a whole number"),
    ({"d_model": 30}, "d_model=30 and n_heads=4 give a head width of 7.5"),
    ({"d_model": 12}, "head width of 3: it must be whole and even"),
    ({"attention": "diff", "n_heads": 1}, "n_heads=1 counts the baseline's heads"),
    ({"attention": "diff", "n_kv_heads": 1}, "n_kv_heads=1 counts the baseline's heads"),
    ({"n_kv_heads": 3}, "n_kv_heads=3 does not divide n_heads=4"),
    ({"n_kv_heads": 0}, "n_kv_heads=0 does not divide n_heads=4"),
])
def test_config_errors_name_the_value(change, message):
    with pytest.raises(ValueError) as error:
        replace(SMALL, **change)
    assert message in str(error.value)


# --- What a language model must do ----------------------------------------------------------


@kinds
def test_causality(config):
    model = shaken(config)
    tokens = draw(2, 20)
    changed = tokens.clone()
    changed[:, 11] = (changed[:, 11] + 1) % config.vocab_size
    before, after = model(tokens), model(changed)
    assert before.shape == (2, 20, 37)
    torch.testing.assert_close(before[:, :11], after[:, :11], rtol=0, atol=0)
    assert float((before[:, 11:] - after[:, 11:]).abs().amax(dim=(0, 2)).min()) > 1e-3


@kinds
def test_loss_ignores_and_equals_cross_entropy_by_hand(config):
    model = shaken(config)
    tokens, targets = draw(3, 12), draw(3, 12, seed=1)
    log_p = model(tokens).log_softmax(-1)
    picked = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)  # (3, 12)
    assert float(model(tokens, targets)) == pytest.approx(-float(picked.mean()), rel=1e-5)
    keep = draw(3, 12, vocab=3, seed=2) == 0
    assert 0 < int(keep.sum()) < keep.numel()
    masked = torch.where(keep, targets, -100)
    assert float(model(tokens, masked)) == pytest.approx(-float(picked[keep].mean()), rel=1e-5)


PART = torch.where(torch.arange(12) % 3 == 0, draw(3, 12, seed=1), -100)  # targets, some ignored


@kinds
def test_a_compiled_step_is_one_graph_with_the_same_loss_and_gradients(config):
    """No look at a number on the way: on a GPU each one is a wait, in a graph a break."""
    results = []
    for compiled in (True, False):
        model = LanguageModel(config).train()
        torch.compiler.reset()
        run = torch.compile(model, backend="eager", fullgraph=True) if compiled else model
        loss = run(draw(3, 12), PART)
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


@kinds
def test_off_the_cpu_nothing_waits_for_a_number(config):
    """Tensors without numbers stand for a GPU: whoever asks them for one gets an error."""
    model = LanguageModel(config).to("meta").train()
    assert model.rope.cos.device.type == "meta"  # the table moves with the model
    model(draw(3, 12).to("meta"), PART.to("meta")).backward()
    assert all(weight.grad is not None for weight in model.parameters())
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        bool((PART.to("meta") != -100).all())  # what would be noticed


@pytest.mark.filterwarnings("error:Mismatch dtype")  # RMSNorm without its fused kernel
@pytest.mark.parametrize("name", ["softmax norm", "diff"])
def test_autocast_keeps_the_norms_fused(name):
    model = LanguageModel(KINDS[name])
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(draw(3, 12), PART)
    loss.backward()
    assert float(loss) == pytest.approx(float(model(draw(3, 12), PART)), rel=0.02)


@pytest.mark.parametrize("name", ["softmax", "diff", "softmax GQA", "diff GQA"])
def test_generation_with_a_cache_equals_generation_without(name):
    model = shaken(KINDS[name])
    prompt = draw(3, 5)
    for settings in ({"temperature": 0}, {"temperature": 0.9}, {"temperature": 1.3, "top_k": 7}):
        texts = [
            model.generate(
                prompt, 12, use_cache=cached, generator=torch.Generator().manual_seed(3), **settings
            )
            for cached in (True, False)
        ]
        assert texts[0].shape == (3, 17)
        assert torch.equal(texts[0], texts[1])
        assert torch.equal(texts[0][:, :5], prompt)
    # Greedy by hand: argmax of the full forward pass, one token at a time.
    by_hand = prompt
    for _ in range(12):
        by_hand = torch.cat((by_hand, model(by_hand)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(model.generate(prompt, 12, temperature=0), by_hand)
    assert torch.equal(model.generate(prompt, 12, top_k=1), by_hand)
    assert torch.equal(model.generate(prompt, 0), prompt)


def test_cached_logits_equal_full_logits_at_every_position():
    """Not only the argmax: a cache with a wrong position would shift the logits first."""
    from diffbook.attention import KVCache

    for name in ("softmax GQA", "diff"):
        model = shaken(KINDS[name])
        tokens = draw(2, 16)
        caches = [KVCache() for _ in model.blocks]
        steps = [model(tokens[:, :6], caches=caches)]
        steps += [model(tokens[:, i : i + 1], caches=caches) for i in range(6, 10)]
        steps += [model(tokens[:, 10:], caches=caches)]  # several at once after some
        torch.testing.assert_close(torch.cat(steps, dim=1), model(tokens), rtol=1e-4, atol=1e-5)


def test_sampling_follows_the_distribution_and_top_k():
    model = shaken(replace(SMALL, vocab_size=6))
    prompt = draw(1, 4, vocab=6).expand(4000, -1)
    probability = model(prompt[:1])[0, -1].softmax(-1)
    drawn = model.generate(prompt, 1, generator=torch.Generator().manual_seed(0))[:, -1]
    share = torch.bincount(drawn, minlength=6) / 4000
    torch.testing.assert_close(share, probability, rtol=0, atol=0.03)
    drawn = model.generate(prompt, 1, top_k=2, generator=torch.Generator().manual_seed(0))[:, -1]
    best = probability.topk(2)
    assert set(drawn.tolist()) == set(best.indices.tolist())
    share = float((drawn == best.indices[0]).float().mean())
    assert share == pytest.approx(float(best.values[0] / best.values.sum()), abs=0.03)


def test_bad_tokens_and_settings_are_named():
    model = LanguageModel(SMALL)
    with pytest.raises(ValueError, match="reaches position 33, the model knows 32"):
        model(draw(1, 33))
    with pytest.raises(ValueError, match=r"reaches position 33.*larger max_seq_len"):
        model.generate(draw(1, 30), 4)
    for wrong in (draw(5), torch.zeros(2, 0, dtype=torch.long), draw(1, 2, 3)):
        with pytest.raises(ValueError, match=r"tokens are \(batch, seq\), not empty"):
            model(wrong)
    for wrong, name in (([[0, 37]], "token 37"), ([[-1, 3]], "token -1")):
        with pytest.raises(ValueError, match=f"{name} is out of range: the model knows 0 to 36"):
            model(torch.tensor(wrong))
    for settings in ({"temperature": -1.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match="must be >= 0 and top_k"):
            model.generate(draw(1, 3), 2, **settings)


@kinds
def test_attention_maps_times_values_are_the_layer(config):
    """The maps that figures show are those the model uses: rebuild each layer from them."""
    model = shaken(config)
    tokens = draw(2, 10)
    x = model.embedding(tokens)
    d = config.d_model // config.n_heads
    for block, maps in zip(model.blocks, model.attention_maps(tokens), strict=True):
        layer, inside = block.attention, block.attention_norm(x)
        if config.attention == "diff":
            assert isinstance(maps, DiffMaps)
            a, width = maps.difference, 2 * d
            torch.testing.assert_close(
                a.sum(-1), torch.full(a.shape[:-1], 1 - float(maps.lam)), rtol=0, atol=1e-5)
            assert float(a.min()) < 0
        else:
            a, width = maps, d
            torch.testing.assert_close(a.sum(-1), torch.ones(a.shape[:-1]))
        assert a.shape == (2, config.d_model // width, 10, 10)
        assert bool((a.triu(1) == 0).all())
        v = (inside @ layer.v_proj.weight.T).view(2, 10, -1, width).transpose(1, 2)
        v = v.repeat_interleave(a.shape[1] // v.shape[1], dim=1)
        heads = a @ v
        if layer.head_norm is not None:
            heads = heads / (heads.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
            heads = heads * layer.head_norm.weight
        if config.attention == "diff":
            heads = heads * (1 - layer.lambda_init)
        out = heads.transpose(1, 2).reshape(2, 10, -1) @ layer.o_proj.weight.T
        torch.testing.assert_close(out, layer(inside, rope=model.rope), rtol=1e-4, atol=1e-5)
        x = block(x, model.rope)


# --- Checkpoints ----------------------------------------------------------------------------


@kinds
def test_checkpoints_come_back(config, tmp_path):
    model = shaken(config)
    model.save_pretrained(tmp_path)
    tokens = draw(2, 9)
    for again in (load_model(tmp_path), LanguageModel.from_pretrained(tmp_path)):
        assert again.config == config
        assert torch.equal(again.eval()(tokens), model(tokens))
        assert (again.head.weight is again.embedding.weight) == config.tie_embeddings
        assert count_parameters(again) == count_parameters(model)


def test_config_comes_from_a_plain_dictionary():
    config = json.loads(json.dumps(asdict(KINDS["diff"])))
    assert LanguageModel(config).config == KINDS["diff"]


def test_bf16_checkpoint_is_read_into_float32(tmp_path):
    model = shaken(KINDS["diff"])
    model.bfloat16().save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert {weight.dtype for weight in again.parameters()} == {torch.float32}
    for name, weight in again.state_dict().items():
        assert torch.equal(weight.bfloat16(), model.state_dict()[name]), name


def test_broken_checkpoints_are_named(tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(CheckpointError, match=r"config.json is missing: a checkpoint is a folder"):
        load_model(folder)
    LanguageModel(SMALL).save_pretrained(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    good, whole = config.read_text(), weights.read_bytes()

    def refused(message: str) -> None:
        with pytest.raises(CheckpointError, match=message) as error:
            load_model(folder)
        assert str(folder) in str(error.value)

    again = "it is damaged or was saved by another version; fetch or train it again"
    changes = [{"window": 7}, {"attention": "cubic"}, {"d_model": 64}]
    changed = [json.dumps({**json.loads(good), **change}) for change in changes]
    for text in ("{", "[]", "", *changed):
        config.write_text(text)
        refused(again)
    config.write_text(json.dumps({**json.loads(good), "attention": "diff"}))
    refused("lambda_q1")  # the weights lack what the config asks for
    config.write_text(good)
    for data in (b"", whole[:-100], whole[:5], b"\xff" * 64):
        weights.write_bytes(data)
        refused(again)
    weights.unlink()
    refused("model.safetensors is missing")
    weights.write_bytes(whole)
    assert load_model(folder).config == SMALL


def test_a_half_precision_model_keeps_positions_and_lambda_in_float32():
    reference = shaken(KINDS["diff"])
    with torch.no_grad():
        for block in reference.blocks:  # exp(λq1·λk1) about 2.5: bf16 knows it to 0.016 only
            for vector in ("lambda_q1", "lambda_k1"):
                getattr(block.attention, vector).copy_(torch.linspace(0.2, 0.45, 8))
    model = shaken(KINDS["diff"])
    model.load_state_dict(reference.state_dict())
    model.bfloat16()
    assert model.rope.cos.dtype == model.rope.sin.dtype == torch.float32
    for block in model.blocks:
        a = block.attention
        assert a.lambda_q1.dtype == torch.bfloat16
        assert a.lam().dtype == torch.float32
        q1, k1, q2, k2 = (
            getattr(a, f"lambda_{n}").double() for n in ("q1", "k1", "q2", "k2"))
        exact = (q1 @ k1).exp() - (q2 @ k2).exp() + a.lambda_init
        assert float(a.lam()) == pytest.approx(float(exact), abs=1e-6)
        rough = (a.lambda_q1 @ a.lambda_k1).exp() - (a.lambda_q2 @ a.lambda_k2).exp()
        assert abs(float(rough) + a.lambda_init - float(exact)) > 1e-4  # what bf16 would say
    tokens = draw(2, 30)
    out = model(tokens)
    assert out.dtype == torch.bfloat16
    expected = reference(tokens)
    error = (out.float() - expected).pow(2).mean() / expected.pow(2).mean()
    assert float(error) < 2e-3


# --- Rotary positions -----------------------------------------------------------------------


def test_rope_is_a_rotation_of_neighbours():
    """Independently: channels (2j, 2j+1) as one complex number, times exp(i p base^(-2j/d))."""
    x = torch.randn(2, 3, 50, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    angle = torch.arange(50)[:, None] * 500.0 ** (-torch.arange(4, dtype=torch.float64) * 2 / 8)
    turned = torch.view_as_complex(x.view(2, 3, 50, 4, 2)) * torch.polar(
        torch.ones_like(angle), angle)
    expected = torch.view_as_real(turned).flatten(-2)
    rope = Rotary(8, 50, base=500.0)
    torch.testing.assert_close(rope(x), expected, rtol=0, atol=1e-6)
    assert torch.equal(rope(x)[:, :, 0], x[:, :, 0])
    torch.testing.assert_close(rope(x[:, :, 20:], start=20), rope(x)[:, :, 20:])


def test_rope_scores_depend_on_the_distance_only():
    generator = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, 16, generator=generator, dtype=torch.float64)
    rope = Rotary(16, 3000)

    def score(i: int, j: int) -> float:
        return float(
            rope(q.view(1, 1, 1, 16), start=i).flatten() @ rope(k.view(1, 1, 1, 16), j).flatten())

    near = [score(p + 7, p) for p in (0, 1, 50, 700, 2900)]
    assert near == pytest.approx([near[0]] * 5, abs=1e-5)
    assert abs(score(9, 0) - near[0]) > 1e-2
    assert score(12, 12) == pytest.approx(float(q @ k), abs=1e-6)
    assert score(0, 7) != pytest.approx(near[0], abs=1e-2)  # it knows before from behind


def test_rope_input_errors():
    with pytest.raises(ValueError, match="head width must be even, got 7"):
        Rotary(7, 10)
    with pytest.raises(ValueError, match="reaches position 12, the model knows 10"):
        Rotary(8, 10)(torch.zeros(1, 1, 4, 8), start=8)


# --- Outside implementations ----------------------------------------------------------------


def _half_split(weight: torch.Tensor, d: int) -> torch.Tensor:
    """Rows of a q or k projection, from neighbours (2j, 2j+1) to Llama's (j, j + d/2)."""
    heads = weight.unflatten(0, (-1, d))
    return torch.cat((heads[:, 0::2], heads[:, 1::2]), dim=1).flatten(0, 1)


def _maps_apart(weight: torch.Tensor, d: int) -> torch.Tensor:
    """Maps from pairs of neighbours (2i, 2i+1) to DiffLlama's (i, i + half)."""
    maps = weight.unflatten(0, (-1, d))
    return torch.cat((maps[0::2], maps[1::2])).flatten(0, 1)


def _as_llama(model: LanguageModel, permute: bool = True) -> dict[str, torch.Tensor]:
    """The state of ``model`` under the names and in the row order of transformers."""
    d = model.config.d_model // model.config.n_heads
    paired = model.config.attention == "diff"
    renamed = {
        "embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }
    parts = {
        "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attention": "self_attn", "ffn": "mlp",
    }
    state = {}
    for name, weight in model.state_dict().items():
        if name.startswith("blocks."):
            _, layer, part, *rest = name.split(".")
            if rest[0] == "head_norm":
                continue
            if paired and rest[0] in ("q_proj", "k_proj", "v_proj"):
                weight = _maps_apart(weight, d)
            if permute and rest[0] in ("q_proj", "k_proj"):
                weight = _half_split(weight, d)
            state[".".join(("model.layers", layer, parts[part], *rest))] = weight
        else:
            state[renamed[name]] = weight
    return state


@pytest.mark.parametrize("attention", ["softmax", "diff"])
@pytest.mark.parametrize("n_kv_heads", [8, 4], ids=["", "GQA"])
def test_whole_model_equals_transformers(attention, n_kv_heads):
    """LlamaForCausalLM and DiffLlamaForCausalLM, after permuting rows. Their DIFF has no gain
    in the headwise norm, so ours is left at one."""
    transformers = pytest.importorskip("transformers")
    config = ModelConfig(
        41, d_model=64, n_layers=3, n_heads=8, n_kv_heads=n_kv_heads, attention=attention, d_ff=80)
    model = shaken(config).double()
    for block in model.blocks:
        if block.attention.head_norm is not None:
            torch.nn.init.ones_(block.attention.head_norm.weight)
    kind = "Llama" if attention == "softmax" else "DiffLlama"
    settings = getattr(transformers, f"{kind}Config")(
        vocab_size=41, hidden_size=64, intermediate_size=80, num_hidden_layers=3,
        num_attention_heads=8, num_key_value_heads=n_kv_heads, max_position_embeddings=64,
        rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    theirs = getattr(transformers, f"{kind}ForCausalLM")(settings).double().eval()
    missing, unexpected = theirs.load_state_dict(_as_llama(model), strict=False)
    assert not unexpected
    assert all("rotary" in name for name in missing)
    tokens = draw(2, 24, vocab=41)
    with torch.no_grad():
        ours = model(tokens)
        torch.testing.assert_close(theirs(tokens).logits, ours, rtol=0, atol=2e-5)
        # Without the permutation for RoPE it is another model: the test can see the difference.
        theirs.load_state_dict(_as_llama(model, permute=False), strict=False)
        assert float((theirs(tokens).logits - ours).abs().max()) > 1e-2
        targets = tokens.roll(-1, dims=1)
        expected = F.cross_entropy(ours.flatten(0, 1), targets.flatten())
        assert float(model(tokens, targets)) == pytest.approx(float(expected), rel=1e-6)
