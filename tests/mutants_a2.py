"""Hand-ins for A2 as people write them: right in different ways, and wrong in typical ones.

Each is the model solution with some text replaced. ``WRONG``: what is replaced, the points each
task should lose, the mistakes that should be named, and words that the student should read.
"""

from __future__ import annotations

from typing import NamedTuple

from assignments import FOLDER, parse, with_solution


class Mutant(NamedTuple):
    changes: list[tuple[str, str]]
    lost: dict[str, float]
    mistakes: set[str]
    says: str


def solution(name: str) -> str:
    """The instructor's code as one script, a cell for each cell."""
    cells = [with_solution(cell.text) for cell in parse(FOLDER / f"{name}.py").cells
             if cell.kind == "code" and cell.role == "" and cell.text.strip() != "# SETUP"]
    return "\n\n".join(f"# %%\n{cell}" for cell in cells) + "\n"


def changed(source: str, changes: list[tuple[str, str]]) -> str:
    for old, new in changes:
        assert source.count(old) == 1, f"{source.count(old)} times in the solution: {old!r}"
        source = source.replace(old, new)
    return source


MAP = """\
    n, d = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / math.sqrt(d)
    visible = torch.ones(n, n, dtype=torch.bool).tril()
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
"""
DIFF = "    return softmax_map(q1, k1) - lam * softmax_map(q2, k2)\n"
NORM = """\
    root = (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return (1 - init) * heads / root
"""
SPLIT = """\
    batch, seq, d_model = q.shape
    q, k = (x.reshape(batch, seq, 2 * n_heads, -1).transpose(1, 2)
            for x in (q, k))
    v = v.reshape(batch, seq, n_heads, -1).transpose(1, 2)
    return q[:, 0::2], k[:, 0::2], q[:, 1::2], k[:, 1::2], v
"""
LAM = "    return first - second + init\n"
FORWARD = """\
        out = diff_map(q1, k1, q2, k2, lam_) @ v  # (batch, heads, seq, 2d)
        out = self.gain * head_norm(out, self.init)
        return self.o_proj(out.transpose(1, 2).flatten(-2))
"""

RIGHT: dict[str, list[tuple[str, str]]] = {
    "model": [],
    "loops": [
        (MAP, """\
    batch, heads, n, d = q.shape
    out = torch.zeros(batch, heads, n, n)
    for b in range(batch):
        for h in range(heads):
            for i in range(n):
                scores = [float(q[b, h, i] @ k[b, h, j]) / d**0.5 for j in range(i + 1)]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                for j in range(i + 1):
                    out[b, h, i, j] = weights[j] / sum(weights)
    return out
"""),
        (NORM, """\
    out = torch.empty_like(heads)
    for h in range(heads.shape[1]):
        for p in range(heads.shape[2]):
            x = heads[:, h, p]
            rms = torch.sqrt(torch.mean(x * x, dim=-1) + 1e-5)
            out[:, h, p] = (1 - init) * x / rms[:, None]
    return out
"""),
        (SPLIT, """\
    d = q.shape[-1] // (2 * n_heads)
    def take(x, start, width):
        return x[:, :, start:start + width]
    q1 = torch.stack([take(q, 2 * i * d, d) for i in range(n_heads)], dim=1)
    k1 = torch.stack([take(k, 2 * i * d, d) for i in range(n_heads)], dim=1)
    q2 = torch.stack([take(q, (2 * i + 1) * d, d) for i in range(n_heads)], dim=1)
    k2 = torch.stack([take(k, (2 * i + 1) * d, d) for i in range(n_heads)], dim=1)
    vs = torch.stack([take(v, 2 * i * d, 2 * d) for i in range(n_heads)], dim=1)
    return [q1, k1, q2, k2, vs]
"""),
    ],
    "einsum": [
        (MAP, """\
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.size(-1) ** -0.5
    future = torch.triu(torch.full(scores.shape[-2:], float("-inf")), diagonal=1)
    return torch.softmax(scores + future, -1)
"""),
        (FORWARD, """\
        maps = diff_map(q1, k1, q2, k2, lam_)
        heads = head_norm(torch.einsum("bhij,bhjv->bihv", maps, v), self.init) * self.gain
        return self.o_proj(heads.reshape(x.shape))
"""),
        ("    first = (lambda_q1 * lambda_k1).sum().exp()\n",
         "    first = torch.exp(torch.einsum('d,d->', lambda_q1, lambda_k1))\n"),
    ],
    "sdpa": [
        (MAP, """\
    eye = torch.eye(k.shape[-2]).expand(*k.shape[:-1], k.shape[-2])
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, eye, is_causal=True, scale=q.shape[-1] ** -0.5)
"""),
        (FORWARD, """\
        sdpa = torch.nn.functional.scaled_dot_product_attention
        scale = q1.shape[-1] ** -0.5
        out = sdpa(q1, k1, v, is_causal=True, scale=scale)
        out = out - lam_ * sdpa(q2, k2, v, is_causal=True, scale=scale)
        out = torch.nn.functional.rms_norm(out, out.shape[-1:], self.gain, 1e-5)
        return self.o_proj((1 - self.init) * out.transpose(1, 2).reshape(x.shape))
"""),
    ],
    "by hand": [
        (MAP, """\
    s = (q / q.shape[-1] ** 0.25) @ (k / k.shape[-1] ** 0.25).mT
    s = s - s.amax(-1, keepdim=True)
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])
    s = torch.where(j > i, torch.tensor(-1e30), s)
    s = s - s.amax(-1, keepdim=True)
    e = s.exp()
    return e / e.sum(-1, keepdim=True)
"""),
        (LAM, "    return init + (first - second)\n"),
        ("    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))\n",
         "    depth = layer - 1\n    return 0.2 + 0.6 * (1 - math.exp(-0.3 * depth))\n"),
    ],
}

WRONG: dict[str, Mutant] = {
    "layers from 0": Mutant(
        [("(layer - 1))\n", "layer)\n")], {"A2.3": 1}, {"layer-from-0"}, "counted from 1"),
    "layers one late": Mutant(
        [("(layer - 1))\n", "(layer - 2))\n")], {"A2.3": 1}, {"layer-one-late"},
        "Was 1 subtracted"),
    "the same λ_init in all layers": Mutant(
        [("    return 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))\n", "    return 0.2\n")], {"A2.3": 2},
        {"same-everywhere"}, "grow with the layer"),
    "parentheses missing": Mutant(
        [("-0.3 * (layer - 1))\n", "-0.3 * layer - 1)\n")], {"A2.3": 1}, {"no-parentheses"},
        "parentheses are missing"),
    "maps swapped": Mutant(
        [("return q[:, 0::2], k[:, 0::2], q[:, 1::2], k[:, 1::2], v",
          "return q[:, 1::2], k[:, 1::2], q[:, 0::2], k[:, 0::2], v")], {"A2.6": 1},
        {"maps-swapped"}, "map 1 is the even one"),
    "halves paired": Mutant(
        [("return q[:, 0::2], k[:, 0::2], q[:, 1::2], k[:, 1::2], v",
          "return (q[:, :n_heads], k[:, :n_heads], q[:, n_heads:],\n"
          "            k[:, n_heads:], v)")],
        {"A2.6": 2}, {"halves"}, "neighbors belong together"),
    "softmax after subtracting": Mutant(
        [(DIFF, """\
    d = q1.shape[-1]
    s = (q1 @ k1.transpose(-2, -1) - lam * (q2 @ k2.transpose(-2, -1))) / math.sqrt(d)
    n = s.shape[-1]
    s = s.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf)
    return s.softmax(-1)
""")], {"A2.2": 3}, {"subtract-scores"}, "did you subtract before the softmax?"),
    "no (1 - λ_init)": Mutant(
        [("    return (1 - init) * heads / root", "    return heads / root")],
        {"A2.5": 1}, {"no-output-scale"}, "The factor (1 - λ_init)"),
    "scale by 2d": Mutant(
        [("/ math.sqrt(d)\n", "/ math.sqrt(2 * d)\n")], {"A2.1": 1}, {"scale-2d"}, "√(2d)"),
    "no scale": Mutant(
        [(" / math.sqrt(d)\n", "\n")], {"A2.1": 1}, {"no-scale"}, "not divided by √d"),
    "no causal mask": Mutant(
        [("scores.masked_fill(~visible, -torch.inf)", "scores")], {"A2.1": 2}, {"no-mask"},
        "see the future"),
    "scores masked with 0": Mutant(
        [("masked_fill(~visible, -torch.inf)", "masked_fill(~visible, 0.0)")], {"A2.1": 2},
        {"mask-zero"}, "exp(0) = 1"),
    "mask turned round": Mutant(
        [("dtype=torch.bool).tril()", "dtype=torch.bool).triu()")], {"A2.1": 2}, {"mask-turned"},
        "not the past"),
    "keys ask": Mutant(
        [("q @ k.transpose(-2, -1)", "k @ q.transpose(-2, -1)")], {"A2.1": 2}, {"roles-swapped"},
        "Rows belong to the keys"),
    "scale by d": Mutant(
        [("/ math.sqrt(d)\n", "/ d\n")], {"A2.1": 1}, {"scale-d"}, "divides by its root"),
    "mask after the softmax": Mutant(
        [("scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)",
          "scores.softmax(dim=-1) * visible")], {"A2.1": 2}, {"mask-after"}, "after the softmax"),
    "softmax over queries": Mutant(
        [("-torch.inf).softmax(dim=-1)", "-torch.inf).softmax(dim=-2)")], {"A2.1": 2},
        {"wrong-axis"}, "The columns sum to 1"),
    "norm over all heads": Mutant(
        [("heads.square().mean(-1, keepdim=True)", "heads.square().mean((1, 3), keepdim=True)")],
        {"A2.5": 2}, {"norm-all-heads"}, "its *own* root mean square"),
    "LayerNorm": Mutant(
        [("    root = (heads", "    heads = heads - heads.mean(-1, keepdim=True)\n"
          "    root = (heads")], {"A2.5": 1}, {"layer-norm"}, "LayerNorm"),
    "norm over positions": Mutant(
        [("heads.square().mean(-1, keepdim=True)", "heads.square().mean(-2, keepdim=True)")],
        {"A2.5": 2}, {"norm-positions"}, "over its 2d numbers"),
    "another eps": Mutant(
        [(" + 1e-5).sqrt()", " + 1e-6).sqrt()")], {"A2.5": 0.5}, set(), "eps is 1e-5"),
    "norm without eps": Mutant(
        [(" + 1e-5).sqrt()", ").sqrt()")], {"A2.5": 0.5}, {"no-eps"}, "eps = 1e-5"),
    "K1 with Q2": Mutant(
        [(DIFF, "    return softmax_map(q1, k2) - lam * softmax_map(q2, k1)\n")], {"A2.2": 2},
        {"crossed"}, "K1 with Q2"),
    "plus": Mutant(
        [("softmax_map(q1, k1) - lam", "softmax_map(q1, k1) + lam")], {"A2.2": 2}, {"plus"},
        "1 + λ"),
    "λ forgotten": Mutant(
        [("- lam * softmax_map", "- softmax_map")], {"A2.2": 2}, {"no-lambda"}, "sum to 0"),
    "softmax of the difference": Mutant(
        [(DIFF, "    return (softmax_map(q1, k1) - lam * softmax_map(q2, k2)).softmax(-1)\n")],
        {"A2.2": 2}, {"softmax-again"}, "ends with the subtraction"),
    "absolute value": Mutant(
        [(DIFF, "    return abs(softmax_map(q1, k1) - lam * softmax_map(q2, k2))\n")], {"A2.2": 1},
        {"absolute"}, "the absolute value was taken"),
    "first map alone": Mutant(
        [(DIFF, "    return softmax_map(q1, k1)\n")], {"A2.2": 2}, {"second-missing"},
        "the first map alone"),
    "rows divided by 1 - λ": Mutant(
        [(DIFF, "    return (softmax_map(q1, k1) - lam * softmax_map(q2, k2)) / (1 - lam)\n")],
        {"A2.2": 2}, {"renormalized"}, "divided by 1 - λ"),
    "negative weights cut off": Mutant(
        [(DIFF, "    return torch.relu(softmax_map(q1, k1) - lam * softmax_map(q2, k2))\n")],
        {"A2.2": 1}, {"clipped"}, "negative weights were cut off"),
    "λ per head": Mutant(
        [(f"        self.lambda_{name} = nn.Parameter(0.1 * torch.randn(d))\n",
          f"        self.lambda_{name} = nn.Parameter(0.1 * torch.randn(n_heads, d))\n")
         for name in ("q1", "k1", "q2", "k2")]
        + [("""\
        lam_ = lam(self.lambda_q1, self.lambda_k1, self.lambda_q2,
                   self.lambda_k2, self.init)
""", """\
        lam_ = torch.stack([lam(*vectors, self.init) for vectors in zip(
            self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2)])[:, None, None]
""")], {"A2.7": 2}, {"lambda-per-head"}, "share one λ"),
    "λ detached": Mutant(
        [(LAM, "    return (first - second + init).detach()\n")], {"A2.4": 2}, {"detached"},
        "no gradient reaches"),
    "half of λ detached": Mutant(
        [(LAM, "    return first - second.detach() + init\n")], {"A2.4": 2}, {"detached"},
        "or some of them"),
    "sum of exponentials": Mutant(
        [("    first = (lambda_q1 * lambda_k1).sum().exp()\n"
          "    second = (lambda_q2 * lambda_k2).sum().exp()\n",
          "    first = (lambda_q1 * lambda_k1).exp().sum()\n"
          "    second = (lambda_q2 * lambda_k2).exp().sum()\n")], {"A2.4": 2}, {"sum-of-exps"},
        "sum first"),
    "λ as a Python number": Mutant(
        [(LAM, "    return float(first - second) + init\n")], {"A2.4": 2}, {"detached"},
        "no gradient reaches"),
    "λ fixed when built": Mutant(
        [("""\
        lam_ = lam(self.lambda_q1, self.lambda_k1, self.lambda_q2,
                   self.lambda_k2, self.init)
""", """\
        with torch.no_grad():
            lam_ = lam(self.lambda_q1, self.lambda_k1, self.lambda_q2,
                       self.lambda_k2, self.init)
""")], {"A2.7": 2}, {"detached"}, "no gradient reaches"),
    "exp before the sum": Mutant(
        [("    first = (lambda_q1 * lambda_k1).sum().exp()\n"
          "    second = (lambda_q2 * lambda_k2).sum().exp()\n",
          "    first = (lambda_q1 * lambda_k1).exp()\n"
          "    second = (lambda_q2 * lambda_k2).exp()\n"),
         ("        lam_ = lam(self.lambda_q1, self.lambda_k1, self.lambda_q2,\n"
          "                   self.lambda_k2, self.init)\n",
          "        lam_ = lam(self.lambda_q1.sum()[None] * 0, self.lambda_k1[:1],\n"
          "                   self.lambda_q2[:1] * 0, self.lambda_k2[:1], self.init)\n")],
        {"A2.4": 2, "A2.7": 5}, {"lambda-per-entry"}, "sum before exp"),
    "λ_init not added": Mutant(
        [(LAM, "    return first - second\n")], {"A2.4": 1}, {"no-lambda-init"}, "not added"),
    "no exp": Mutant(
        [("    first = (lambda_q1 * lambda_k1).sum().exp()\n"
          "    second = (lambda_q2 * lambda_k2).sum().exp()\n",
          "    first = (lambda_q1 * lambda_k1).sum()\n"
          "    second = (lambda_q2 * lambda_k2).sum()\n")], {"A2.4": 2}, {"no-exp"},
        "without exp"),
    "float16 softmax": Mutant(
        [("scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)",
          "scores.masked_fill(~visible, -torch.inf).half().softmax(dim=-1).float()")],
        {"A2.1": 1}, {"half"}, "float16"),
    "bfloat16 softmax": Mutant(
        [("scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)",
          "scores.masked_fill(~visible, -torch.inf).bfloat16().softmax(dim=-1).float()")],
        {"A2.1": 1}, {"half"}, "bfloat16"),
    "V not doubled": Mutant(
        [("    v = v.reshape(batch, seq, n_heads, -1)",
          "    v = v.reshape(batch, seq, 2 * n_heads, -1)"),
         (FORWARD, """\
        maps = diff_map(q1, k1, q2, k2, lam_)
        out = torch.cat((maps @ v[:, 0::2], maps @ v[:, 1::2]), -1)
        out = self.gain * head_norm(out, self.init)
        return self.o_proj(out.transpose(1, 2).flatten(-2))
""")], {"A2.6": 2}, {"v-not-doubled"}, "one value of width 2d"),
    "reshape for transpose": Mutant(
        [("x.reshape(batch, seq, 2 * n_heads, -1).transpose(1, 2)",
          "x.reshape(batch, 2 * n_heads, seq, -1)"),
         ("v.reshape(batch, seq, n_heads, -1).transpose(1, 2)",
          "v.reshape(batch, n_heads, seq, -1)")], {"A2.6": 2}, {"view-not-transpose"},
        "needs a transpose"),
    "no W^O": Mutant(
        [("return self.o_proj(out.transpose(1, 2).flatten(-2))",
          "return out.transpose(1, 2).flatten(-2)")], {"A2.7": 2}, {"no-o-proj"}, "W^O"),
    "gain forgotten": Mutant(
        [("self.gain * head_norm", "head_norm")], {"A2.7": 1}, {"gain-missing"}, "self.gain"),
    "heads joined unmoved": Mutant(
        [("out.transpose(1, 2).flatten(-2)", "out.reshape(x.shape)")], {"A2.7": 2},
        {"heads-not-joined"}, "moving them behind"),
    "two at once in one task": Mutant(
        [("scores.masked_fill(~visible, -torch.inf)", "scores"),
         ("/ math.sqrt(d)\n", "/ math.sqrt(2 * d)\n")], {"A2.1": 3}, {"no-mask", "scale-2d"},
        "see the future"),
    "one in each task": Mutant(
        [("/ math.sqrt(d)\n", "/ math.sqrt(2 * d)\n"),
         ("softmax_map(q1, k1) - lam", "softmax_map(q1, k1) + lam"),
         ("(layer - 1))\n", "layer)\n"),
         ("    return (1 - init) * heads / root", "    return heads / root")],
        {"A2.1": 1, "A2.2": 2, "A2.3": 1, "A2.5": 1},
        {"scale-2d", "plus", "layer-from-0", "no-output-scale"}, "√(2d)"),
    "layer ignores the pieces": Mutant(
        [("        out = diff_map(q1, k1, q2, k2, lam_) @ v  # (batch, heads, seq, 2d)\n",
          "        a1 = (q1 @ k1.mT / math.sqrt(q1.shape[-1])).softmax(-1)\n"
          "        a2 = (q2 @ k2.mT / math.sqrt(q1.shape[-1])).softmax(-1)\n"
          "        out = (a1 - lam_ * a2) @ v\n")], {"A2.7": 2}, {"no-mask"}, "see the future"),
    "random numbers": Mutant(
        [(DIFF, "    return torch.rand(*q1.shape[:-1], k1.shape[-2])\n")],
        {"A2.2": 4, "A2.7": 5}, set(), "see the future"),
}
