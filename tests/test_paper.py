"""diffbook.paper: the paper's numbers are whole and say what the paper says of them."""

from __future__ import annotations

import numpy as np
import pytest

from diffbook import paper


def test_every_entry_names_its_source_and_has_two_equal_sides():
    for name in paper.names():
        entry = paper.load(name)
        kind, number = ("Table", name[5:]) if name.startswith("table") else ("Fig.", name[3:])
        assert entry["source"].startswith(f"{kind} {number}, page"), name
        sides = {key for key in entry if key.startswith(("softmax", "diff"))}
        for side in sides:
            if side.startswith("softmax"):
                twin = side.replace("softmax", "diff")
                assert np.shape(entry[side]) == np.shape(entry[twin]), (name, side)
    entry["source"] = "changed"
    assert paper.load(name)["source"] != "changed"  # a copy: no chapter can change it for another


def test_an_unknown_name_tells_those_there_are():
    with pytest.raises(KeyError, match="no numbers of 'table99': there are table1, table2"):
        paper.load("table99")


def test_the_tables_agree_with_what_the_paper_says_elsewhere():
    # Fig. 1's right side is Table 2's last column; its left side Table 3 at half depth.
    table2, table3, fig1 = (paper.load(name) for name in ("table2", "table3", "fig1"))
    assert (table2["softmax"][-1], table2["diff"][-1]) == (0.55, 0.85)
    for kind in ("softmax", "diff"):
        assert sum(fig1[kind]) == pytest.approx(1)
        assert fig1[kind][1] + fig1[kind][3] == pytest.approx(table3[f"{kind}_noise"][2])
        assert fig1[kind][2] == table3[f"{kind}_answer"][2]
    # Table 6's first row is the 1.4 B point of Fig. 3a; Fig. 8 at 16 bits is Table 8's HellaSwag.
    table6, fig3a = paper.load("table6"), paper.load("fig3a")
    assert [table6["loss"][0], table6["loss"][3]] == [fig3a["softmax"][1], fig3a["diff"][1]]
    fig8, table8 = paper.load("fig8"), paper.load("table8")
    at = table8["tasks"].index("HellaSwag")
    assert (fig8["softmax"][0], fig8["diff"][0]) == (
        table8["softmax_0shot"][at], table8["diff_0shot"][at])
    # The printed averages, to their last digit.
    for shots in ("0shot", "5shot"):
        for kind in ("softmax", "diff"):
            row = table8[f"{kind}_{shots}"]
            assert np.mean(row[:-1]) == pytest.approx(row[-1], abs=0.0501)
    table1 = paper.load("table1")
    for model in ("openllama_3b_v2", "stablelm_base_alpha_3b_v2", "diff"):
        assert np.mean(table1[model][:-1]) == pytest.approx(table1[model][-1], abs=0.0501)
    # Fig. 5's rows: depths, then the mean of the five, as printed.
    fig5 = paper.load("fig5")
    for kind in ("softmax", "diff"):
        rows = np.array(fig5[kind])
        assert rows[:5].mean(axis=0) == pytest.approx(rows[5], abs=0.0051)
    # "76 % improvement" at 64K and 25 %: points, not a ratio.
    assert fig5["diff"][1][-1] - fig5["softmax"][1][-1] == pytest.approx(0.76)


def test_the_fitted_curves_give_the_savings_the_paper_claims():
    fig3a = paper.load("fig3a")

    def curve(kind: str, billions: float) -> float:
        e, a, b = fig3a["fit"][kind]
        return e + a * billions**-b

    for kind in ("softmax", "diff"):
        for billions, loss in zip(fig3a["x_params_B"], fig3a[kind], strict=True):
            assert curve(kind, billions) == pytest.approx(loss, abs=0.02)
    for claim in fig3a["claims"]:
        small, large = claim["diff_params_B"], claim["equals_softmax_B"]
        assert small / large == pytest.approx(claim["share"], abs=0.01)
        assert curve("diff", small) == pytest.approx(curve("softmax", large), abs=0.003)
