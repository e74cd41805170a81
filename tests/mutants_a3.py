"""Hand-ins for A3 as people write them; see mutants_a2."""

from __future__ import annotations

from mutants_a2 import Mutant

# The training at the end takes seconds and decides about no task.
BASE = [("SEEDS, STEPS = range(3), 120", "SEEDS, STEPS = range(2), 2"),
        ("show.figure(plot(runs), alt=(", "len(str(")]

FORWARD = """\
        x = x + self.attention(self.attention_norm(x), rope=rope)
        z = self.ffn_norm(x)
        hidden = F.silu(self.gate_proj(z)) * self.up_proj(z)
        return x + self.down_proj(hidden)
"""
PAIR = """\
    torch.manual_seed(seed)
    transformer = SmallModel(**SHAPE, attention="softmax")
    diff = SmallModel(**SHAPE, attention="diff")
    diff.load_state_dict(transformer.state_dict(), strict=False)
    return transformer, diff
"""
BATCH = """\
    generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
    return sample(generator)
"""
STEP = """\
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
HALF = "    mean, half = gap.mean(), T[n] * gap.std(ddof=1) / np.sqrt(n)\n"
CURVE = "            ax.plot(range(1, len(losses) + 1), losses, lw=0.9,\n"
EACH = "        for number, losses in enumerate(curves):\n"

RIGHT: dict[str, list[tuple[str, str]]] = {
    "model": [],
    "in other words": [
        (FORWARD, """\
        y = self.attention(self.attention_norm(x), rope=rope)
        y += x
        normed = self.ffn_norm(y)
        gate = self.gate_proj(normed)
        return self.down_proj(gate * torch.sigmoid(gate) * self.up_proj(normed)) + y
"""),
        (PAIR, """\
    generator = torch.Generator().manual_seed(seed)
    models = [SmallModel(**SHAPE, attention=kind) for kind in ("softmax", "diff")]
    for name, weight in models[0].named_parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.1, generator=generator)
        dict(models[1].named_parameters())[name].data.copy_(weight.data)
    for name, weight in models[1].named_parameters():
        if "lambda_" in name:
            nn.init.normal_(weight, std=0.1, generator=generator)
    return models
"""),
        (BATCH, """\
    number = np.random.SeedSequence([seed, step]).generate_state(1)[0]
    return sample(torch.Generator().manual_seed(int(number)))
"""),
        (HALF, """\
    mean = sum(gap) / n
    scatter = math.sqrt(sum((g - mean) ** 2 for g in gap) / (n - 1))
    half = T[n] * scatter / math.sqrt(n)
"""),
    ],
    "two panels and a band": [
        ("    fig, ax = plt.subplots()\n",
         "    fig, both = plt.subplots(1, 2, sharey=True)\n    both[0].set_ylabel('loss in nats')\n"),
        ("    for kind, curves in runs.items():\n        for number, losses in enumerate(curves):\n",
         "    for ax, (kind, curves) in zip(both, runs.items()):\n"
         "        ax.set_title(names[kind])\n"
         "        ax.plot(range(1, len(curves[0]) + 1), np.mean(curves, axis=0), 'k')\n"
         "        for number, losses in enumerate(curves):\n"),
        ('    ax.set(xlabel="step", ylabel="loss on the batch (nats)")\n    ax.legend()\n',
         '    ax.set(xlabel="step")\n'),
        (STEP, """\
        for parameter in model.parameters():
            parameter.grad = None
        loss.backward()
        norm = sum((p.grad ** 2).sum() for p in model.parameters()).sqrt()
        for parameter in model.parameters():
            parameter.grad *= min(1.0, 1.0 / float(norm))
"""),
    ],
}

WRONG: dict[str, Mutant] = {
    "no residual": Mutant(
        [("        x = x + self.attention(", "        x = self.attention("),
         ("        return x + self.down_proj(hidden)", "        return self.down_proj(hidden)")],
        {"A3.1": 2}, {"no-residual"}, "not added back"),
    "parallel": Mutant(
        [("        x = x + self.attention(", "        y = x + self.attention("),
         ("        return x + self.down_proj(hidden)", "        return y + self.down_proj(hidden)")],
        {"A3.1": 1.5}, {"parallel"}, "Both halves read the block's input"),
    "no norm": Mutant(
        [("self.attention(self.attention_norm(x), rope", "self.attention(x, rope"),
         ("z = self.ffn_norm(x)", "z = x")], {"A3.1": 1}, {"no-norm"}, "without a norm"),
    "one norm": Mutant(
        [("z = self.ffn_norm(x)", "z = self.attention_norm(x)")], {"A3.1": 1}, {"one-norm"},
        "One norm serves both"),
    "gate and up swapped": Mutant(
        [("F.silu(self.gate_proj(z)) * self.up_proj(z)", "self.gate_proj(z) * F.silu(self.up_proj(z))")],
        {"A3.1": 1}, {"gate-swapped"}, "SiLU is taken of the `up` branch"),
    "ReLU for SiLU": Mutant(
        [("F.silu(self.gate_proj(z))", "F.relu(self.gate_proj(z))")], {"A3.1": 1}, {"relu"},
        "The gate is ReLU"),
    "only the first sum": Mutant(
        [("        return x + self.down_proj(hidden)", "        return self.down_proj(hidden)")],
        {"A3.1": 1}, {"half-residual"}, "ends in + Y"),
    "LayerNorm": Mutant(
        [("        self.attention_norm = nn.RMSNorm(d_model, eps=1e-5)\n",
          "        self.attention_norm = nn.LayerNorm(d_model, bias=False)\n"),
         ("        self.ffn_norm = nn.RMSNorm(d_model, eps=1e-5)\n",
          "        self.ffn_norm = nn.LayerNorm(d_model, bias=False)\n")], {"A3.1": 1}, {"layer-norm"},
        "stands for RMSNorm"),
    "sigmoid for SiLU": Mutant(
        [("F.silu(self.gate_proj(z))", "torch.sigmoid(self.gate_proj(z))")], {"A3.1": 1}, {"sigmoid"},
        "The gate is a sigmoid"),
    "a gain of width d": Mutant(
        [("both + depth * 6 * head_width", "both + depth * 5 * head_width")], {"A3.2": 1}, {"gain-d"},
        "width of the value, 2d"),
    "two matrices": Mutant(
        [("3 * width * shape", "2 * width * shape")], {"A3.2": 1}, {"two-matrices"}, "three matrices"),
    "tied": Mutant(
        [('both = 2 * shape["vocab_size"]', 'both = shape["vocab_size"]')], {"A3.2": 1}, {"tied"},
        "two matrices here"),
    "n_heads not halved": Mutant(
        [("n_heads // 2, layer)", "n_heads, layer)")], {"A3.3": 2}, {"heads-not-halved"},
        "counts the *baseline's* heads"),
    "no positions": Mutant(
        [("            x = layer(x, self.rope)", "            x = layer(x, None)")], {"A3.3": 1.5},
        {"no-rope"}, "order of the tokens"),
    "no last norm": Mutant(
        [("self.head(self.norm(x))", "self.head(x)")], {"A3.3": 1}, {"no-final-norm"},
        "norm before the output is missing"),
    "all layers the first": Mutant(
        [("n_heads // 2, layer)", "n_heads // 2, 1)")], {"A3.3": 1}, {"same-layer"},
        "the same in all layers"),
    "seeded once for both": Mutant(
        [("    diff.load_state_dict(transformer.state_dict(), strict=False)\n", "")], {"A3.4": 2},
        {"unpaired"}, "start from different numbers"),
    "seeded before each": Mutant(
        [("    diff = SmallModel(**SHAPE, attention=\"diff\")\n"
          "    diff.load_state_dict(transformer.state_dict(), strict=False)\n",
          "    torch.manual_seed(seed)\n    diff = SmallModel(**SHAPE, attention=\"diff\")\n")],
        {"A3.4": 1.5}, {"shifted"}, "the stream of random numbers shifts"),
    "shared tensors": Mutant(
        [("    diff.load_state_dict(transformer.state_dict(), strict=False)\n",
          "    diff.load_state_dict(transformer.state_dict(), strict=False)\n"
          "    diff.embedding = transformer.embedding\n")], {"A3.4": 2}, {"shared"},
        "*same* tensors"),
    "seed not used": Mutant(
        [("    torch.manual_seed(seed)\n    transformer", "    torch.manual_seed(0)\n    transformer")],
        {"A3.4": 1.5}, {"seed-ignored"}, "Two different seeds"),
    "not seeded": Mutant(
        [("    torch.manual_seed(seed)\n    transformer", "    transformer")],
        {"A3.4": 1.5}, {"not-repeatable"}, "other weights the second time"),
    "one generator for all": Mutant(
        [("def batch(seed, step):\n", "everyones = torch.Generator().manual_seed(0)\n\n\n"
          "def batch(seed, step):\n"), (BATCH, "    return sample(everyones)\n")],
        {"A3.5": 2}, {"history"}, "depends on what was drawn before"),
    "step not used": Mutant(
        [("1_000_003 * (seed + 1) + step", "seed")], {"A3.5": 2}, {"step-ignored"},
        "All steps of a run"),
    "seed plus step": Mutant(
        [("1_000_003 * (seed + 1) + step", "seed + step")], {"A3.5": 1.5}, {"sum"}, "mixes them up"),
    "a small factor": Mutant(
        [("1_000_003 * (seed + 1) + step", "1000 * seed + step")], {"A3.5": 0.5}, {"overlap"},
        "much larger factor"),
    "a very small factor": Mutant(
        [("1_000_003 * (seed + 1) + step", "100 * seed + step")], {"A3.5": 0.5}, {"overlap"},
        "batch(0, 100)"),
    "seed times step": Mutant(
        [("1_000_003 * (seed + 1) + step", "seed * step")], {"A3.5": 1.5}, {"product"},
        "All steps of seed 0"),
    "digits": Mutant(
        [("1_000_003 * (seed + 1) + step", 'int(f"{seed}{step}")')], {"A3.5": 1},
        {"written-together"}, "where the seed ends"),
    "seed xor step": Mutant(
        [("1_000_003 * (seed + 1) + step", "seed ^ step")], {"A3.5": 3}, set(),
        "two different pairs"),
    "other data": Mutant(
        [("    return sample(generator)\n",
          "    return torch.randint(40, (8, 12), generator=generator), None\n")],
        {"A3.5": 3}, set(), "not what sample(generator) draws"),
    "default betas": Mutant(
        [("betas=(0.9, 0.95), ", "")], {"A3.6": 1}, {"default-betas"}, "left alone"),
    "default decay": Mutant(
        [("weight_decay=0.1)", "weight_decay=0.01)")], {"A3.6": 1}, {"default-decay"}, "it is 0.01"),
    "Adam": Mutant(
        [("torch.optim.AdamW(", "torch.optim.Adam(")], {"A3.6": 1}, {"adam"}, "AdamW shrinks"),
    "SGD": Mutant(
        [("betas=(0.9, 0.95), ", ""), ("torch.optim.AdamW(", "torch.optim.SGD(")],
        {"A3.6": 6}, set(), "look at the optimizer"),
    "schedule of the call": Mutant(
        [("lr_at(step, steps)\n", "lr_at(step, steps if stop is None else stop)\n")],
        {"A3.6": 1.5}, {"schedule-shortened"}, "the length of the whole run"),
    "targets of -100 scored": Mutant(
        [("targets.flatten())", "targets.clamp(min=0).flatten())")], {"A3.6": 6}, set(),
        "targets that are not -100"),
    "no zero_grad": Mutant(
        [("        optimizer.zero_grad()\n", "")], {"A3.6": 2}, {"no-zero-grad"}, "added up"),
    "no clipping": Mutant(
        [("        nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n", "")], {"A3.6": 1}, {"no-clip"},
        "not limited to 1"),
    "no schedule": Mutant(
        [('            group["lr"] = lr_at(step, steps)', '            group["lr"] = 0.01')],
        {"A3.6": 1}, {"no-schedule"}, "The learning rate stays"),
    "AdamW forgotten": Mutant(
        [('        optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))\n', "")], {"A3.6": 2},
        {"optimizer-forgotten"}, "AdamW's averages"),
    "data from the start": Mutant(
        [("tokens, targets = data(step)", "tokens, targets = data(step - first)")], {"A3.6": 1.5},
        {"data-restart"}, "data of the first steps again"),
    "schedule from the start": Mutant(
        [('group["lr"] = lr_at(step, steps)', 'group["lr"] = lr_at(step - first, steps)')],
        {"A3.6": 1.5}, {"schedule-restart"}, "begins the learning rate's schedule again"),
    "all steps again": Mutant(
        [('        first = state["step"]\n', "")], {"A3.6": 2}, {"starts-again"},
        "does all steps again"),
    "weights not loaded": Mutant(
        [('        model.load_state_dict(state["model"])\n', "")], {"A3.6": 2}, {"weights-forgotten"},
        "new model's own weights"),
    "live tensors": Mutant(
        [("    return losses, copy.deepcopy(kept)", "    return losses, kept")], {"A3.6": 1.5},
        {"by-reference"}, "holds the live tensors"),
    "live tensors all over": Mutant(
        [("    return losses, copy.deepcopy(kept)", "    return losses, kept"),
         ('copy.deepcopy(state["optimizer"])', 'state["optimizer"]')], {"A3.6": 1.5},
        {"by-reference"}, "holds the live tensors"),
    "two groups": Mutant(
        [(HALF, "    scatter = np.sqrt(np.var(a, ddof=1) + np.var(b, ddof=1))\n"
          "    mean, half = gap.mean(), T[n] * scatter / np.sqrt(n)\n")], {"A3.7": 2},
        {"unpaired-test"}, "no seeds in common"),
    "1.96": Mutant([("T[n] * gap", "1.96 * gap")], {"A3.7": 1}, {"normal"}, "Student's t"),
    "std with n": Mutant([("gap.std(ddof=1)", "gap.std()")], {"A3.7": 1}, {"population"}, "ddof=1"),
    "no root of n": Mutant([(" / np.sqrt(n)\n", "\n")], {"A3.7": 1}, {"no-root-n"}, "smaller by √n"),
    "root of n - 1": Mutant(
        [(" / np.sqrt(n)\n", " / np.sqrt(n - 1)\n")], {"A3.7": 0.5}, {"root-n-1"}, "n - 1 already"),
    "words of one's own": Mutant(
        [('"reproduced"', '"yes"')], {"A3.7": 1}, {"other-words"}, "the three of the task"),
    "verdict by the mean": Mutant(
        [("    if high < 0:", "    if mean < 0:"), ("    elif low > 0:", "    elif mean > 0:")],
        {"A3.7": 1.5}, {"eager-verdict"}, "however pretty its mean"),
    "the best seed": Mutant(
        [(EACH, "        for number, losses in enumerate([min(curves, key=lambda c: c[-1])]):\n")],
        {"A3.8": 1.5}, {"one-seed"}, "who chose?"),
    "means only": Mutant(
        [(EACH, "        for number, losses in enumerate([np.mean(curves, axis=0)]):\n")],
        {"A3.8": 1}, {"mean-only"}, "draw every seed"),
    "smoothed": Mutant(
        [(CURVE, "            losses = np.convolve(losses, np.ones(5) / 5, 'valid')\n" + CURVE)],
        {"A3.8": 1}, {"smoothed"}, "not those measured"),
    "two scales": Mutant(
        [(EACH, "        if kind == 'diff':\n            ax.set(xlabel='step', ylabel='loss (nats)')\n"
          "            ax.legend()\n            ax = ax.twinx()\n" + EACH)],
        {"A3.8": 1.5}, {"two-scales"}, "different scales"),
    "cut axis": Mutant(
        [("    ax.legend()\n    return fig", "    ax.legend()\n    ax.set_ylim(1, 2)\n    return fig")],
        {"A3.8": 0.5}, {"cropped"}, "outside the axis"),
    "no labels": Mutant(
        [('    ax.set(xlabel="step", ylabel="loss on the batch (nats)")\n', "")], {"A3.8": 1},
        {"no-labels"}, "no label"),
    "no unit": Mutant([("loss on the batch (nats)", "loss")], {"A3.8": 0.5}, {"no-unit"}, "in nats"),
    "no legend": Mutant(
        [("    ax.legend()\n    return fig", "    return fig")], {"A3.8": 0.5}, {"no-names"},
        "which curves are DIFF's"),
}
