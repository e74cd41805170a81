"""The figures' JavaScript as real code: style, its own tests under node, and equality with Python.

The same random inputs go through both, and the answers agree to 1e-6.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from javascript import FOLDER, call, needs_node

from diffbook import show, signals
from diffbook.attention import MultiheadDiffAttention, diff_attention_map, lambda_init

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("diffbook/show/js", "tests/js", "_static", "_extra/_static/slides")
CLOSE = {"rtol": 0, "atol": 1e-6}


def biome() -> str | None:
    beside = Path(sys.executable).with_name("biome")
    return str(beside) if beside.exists() else shutil.which("biome")


@pytest.mark.skipif(biome() is None, reason="biome is not installed (make install-test)")
def test_style():
    done = subprocess.run([biome(), "check", *SCRIPTS], cwd=ROOT, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_node
def test_unit_tests():
    files = sorted(map(str, (ROOT / "tests" / "js").glob("*.test.js")))
    done = subprocess.run(["node", "--test", *files], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "# fail 0" in done.stdout and "# pass 0" not in done.stdout


def test_every_figure_is_used():
    """A script of no chapter and no page would be dead weight."""
    used = "".join(
        path.read_text(encoding="utf-8")
        for folder, kind in (("book", "*.ipynb"), ("_ext", "*.py"), ("diffbook", "**/*.py"))
        for path in (ROOT / folder).glob(kind)
    ) + "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js"))
    idle = [file.stem for file in FOLDER.glob("*.js")
            if f'"{file.stem}"' not in used and f"{file.stem}.js" not in used
            and f'data-figure=\\"{file.stem}\\"' not in used]
    assert idle == []


# ---------------------------------------------------------------- core.js


@needs_node
@pytest.mark.parametrize("signed", [True, False])
def test_colors_are_those_of_the_pictures(signed):
    values = np.linspace(-1 if signed else 0, 1, 101)
    colors = call("core", [("heatColor", (float(v), 1, signed)) for v in values])
    table = matplotlib.colormaps[show.DIVERGING if signed else show.SEQUENTIAL]
    expected = 255 * table((values + 1) / 2 if signed else values)[:, :3]
    np.testing.assert_allclose(colors, expected, rtol=0, atol=1.01)


@needs_node
def test_names_of_colors_are_those_of_the_style():
    program = f'import {{COLORS}} from "{FOLDER}/core.js"; console.log(JSON.stringify(COLORS))'
    done = subprocess.run(["node", "--input-type=module", "-e", program], capture_output=True,
                          text=True, check=True)
    import json

    assert json.loads(done.stdout) == show.COLORS


# ---------------------------------------------------------------- chapter 1


@needs_node
def test_noise_of_one_softmax():
    rng = np.random.default_rng(0)
    n, m, s = rng.uniform(1, 1e6, 60), rng.uniform(-4, 20, 60), rng.uniform(0, 3, 60)
    eps = rng.uniform(0.01, 0.99, 60)
    np.testing.assert_allclose(
        call("signals", [("noiseMass", row) for row in zip(n, m, s)]),
        signals.noise_mass(n, m, s), **CLOSE)
    half = call("signals", [("halfNoiseContext", row) for row in zip(m, s)])
    np.testing.assert_allclose(half, signals.half_noise_context(m, s), rtol=1e-9)
    np.testing.assert_allclose(
        call("signals", [("requiredMargin", row) for row in zip(n, s, eps)]),
        signals.required_margin(n, s, eps), **CLOSE)


# ---------------------------------------------------------------- chapter 2


@needs_node
def test_amplifier():
    rng = np.random.default_rng(1)
    for gain, cmrr in ((3.0, 20.0), (100.0, 90.0)):
        gains, = call("signals", [("amplifierGains", (gain, cmrr))])
        assert signals.amplifier_cmrr_db(*gains) == pytest.approx(cmrr, abs=1e-6)
    # The four-resistor circuit, through its two gains: output for any inputs
    resistors = (1.01, 9.9, 0.99, 10.1)
    gains = signals.difference_amplifier(*resistors)
    plus, minus = rng.standard_normal((2, 50))
    ratio = resistors[1] / resistors[0]
    p = (1 + ratio) * resistors[3] / (resistors[2] + resistors[3])
    out, = call("signals", [("amplified", (plus, minus, gains))])
    np.testing.assert_allclose(out, p * plus - ratio * minus, **CLOSE)
    cmrr, = call("signals", [("amplifierCmrrDb", gains)])
    assert cmrr == pytest.approx(signals.amplifier_cmrr_db(*gains), abs=1e-6)


@needs_node
def test_melody_is_the_chapters():
    sound, = call("signals", [("melody", (16000, 8000))])
    np.testing.assert_allclose(sound, signals._melody(16000, 8000), **CLOSE)


# ---------------------------------------------------------------- chapter 3


@needs_node
def test_maps_and_their_difference():
    generator = torch.Generator().manual_seed(2)
    z1, z2 = 3 * torch.randn(2, 7, 7, generator=generator, dtype=torch.float64)
    lam = 0.7
    keys = torch.eye(7, dtype=torch.float64)[None, None]
    queries = [math.sqrt(7) * z[None, None] for z in (z1, z2)]  # q k^T / sqrt(d) = z
    expected = diff_attention_map(queries[0], keys, queries[1], keys, lam)[0, 0]
    a1, a2 = call("signals", [("causalMap", (z1,)), ("causalMap", (z2,))])
    got, = call("signals", [("difference", (a1, a2, lam))])
    np.testing.assert_allclose(got, expected, **CLOSE)


@needs_node
def test_signal_to_noise_of_a_row():
    rng = np.random.default_rng(3)
    rows = rng.dirichlet(np.ones(6), (20, 2))
    lams = rng.uniform(0, 2, 20)
    results = call("signals", [("rowSignal", (a1, a2, lam, 0))
                               for (a1, a2), lam in zip(rows, lams)])
    for (a1, a2), lam, got in zip(rows, lams, results):
        gain = signals.measure_snr_gain_db(a1[None], a2[None], lam)
        assert got["gain"] == pytest.approx(gain, abs=1e-6)
        noise = lambda x, a=a1, b=a2: np.sum((a - x * b)[1:] ** 2)  # noqa: E731
        assert noise(got["threshold"]) == pytest.approx(noise(0), abs=1e-9)
        assert noise(got["bestNoise"]) <= min(noise(got["bestNoise"] + d) for d in (-0.01, 0.01))
        assert a1[0] - got["vanishes"] * a2[0] == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------- chapter 4


@needs_node
def test_lambda():
    layers = list(range(1, 29))
    np.testing.assert_allclose(
        call("signals", [("lambdaInit", (n,)) for n in layers]),
        [lambda_init(n) for n in layers], **CLOSE)
    torch.manual_seed(4)
    for layer in (1, 5):
        module = MultiheadDiffAttention(16, 2, layer).double()
        with torch.no_grad():
            for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
                getattr(module, name).normal_(0, 0.7)
        a = float(module.lambda_q1 @ module.lambda_k1)
        b = float(module.lambda_q2 @ module.lambda_k2)
        lam, = call("signals", [("lambdaOf", (a, b, layer))])
        assert lam == pytest.approx(float(module.lam()), abs=1e-6)


@needs_node
def test_starts_of_lambda_are_distributed_as_in_the_model():
    """The share of negative starts, from the figure's draws and from vectors of normal numbers."""
    rng = np.random.default_rng(5)
    for d in (16, 128):
        q1, k1, q2, k2 = rng.normal(0, 0.1, (4, 20_000, d))
        lam = np.exp((q1 * k1).sum(1)) - np.exp((q2 * k2).sum(1)) + lambda_init(1)
        pairs = 0.01 * np.asarray(call("lambda", [("unitProducts", (d, 4000, 1))])[0])
        ours = np.exp(pairs[:, 0]) - np.exp(pairs[:, 1]) + lambda_init(1)
        assert np.mean(ours < 0) == pytest.approx(np.mean(lam < 0), abs=0.015)
        assert np.std(ours) == pytest.approx(np.std(lam), rel=0.06)
