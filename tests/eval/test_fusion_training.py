"""The two scripts that weigh the signals write what the library reads."""

import json
from dataclasses import asdict, replace

import numpy as np

from ctxcomp.text.fusion import SIGNALS, STANDING, fused
from ctxcomp.text.sentence_pruner import DEFAULT_HEAD
from ctxcomp_eval import train_fusion, train_second_look
from ctxcomp_eval.pruner_data import Group

TOWNS = ("Arle", "Brede", "Corve", "Dane", "Esk", "Frome")


def group(town: str, n: int) -> Group:
    gold = f"{town} lies on a hill. The bridge of {town} was opened in {1870 + n}."
    others = tuple(f"{other} is known for its cheese. Many visit {other} in May." for other in TOWNS if other != town)
    evidence = ((gold.index("The bridge"), len(gold)),)
    return Group(
        str(n), "test", f"When was the bridge of {town} opened?", (str(1870 + n),), (gold, *others),
        (evidence, *[()] * len(others)), ((),) * 6, (3.0, 2.0, 1.0, 1.0, 1.0, 1.0),
    )  # fmt: skip


def two(town: str, n: int) -> Group:
    plain = group(town, n)
    writer = f"{town} Smith wrote The Weir. He was born in {town}."
    return replace(
        plain, id=f"h{n}", source="hotpot", question="When was the bridge opened where the author of The Weir is from?",
        passages=(plain.passages[0], writer, *plain.passages[2:]),
        evidence=(plain.evidence[0], ((0, len(writer)),), (), (), (), ()),
    )  # fmt: skip


def test_both_scripts_write_all_models(tmp_path, capsys):
    groups = [make(town, n) for n, town in enumerate(TOWNS) for make in (group, two)]
    lines = [json.dumps(asdict(one)) for one in groups]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = tmp_path / "fusion.json"
    common = ["--data", str(tmp_path), "--head", str(DEFAULT_HEAD), "--out", str(out)]
    train_fusion.main([*common, "--results", str(tmp_path)])
    train_second_look.main(common)
    models = json.loads(out.read_text(encoding="utf-8"))
    for name, signals in SIGNALS.items():
        assert tuple(models[name]["weights"]) == signals
        assert np.isfinite(fused(name, np.ones((3, len(signals))), models)).all()
    for name in ("probability", "probability_second"):
        assert set(models[name]) == {*STANDING, "bias"}
    assert models["questions"] == len(TOWNS)
    assert (tmp_path / "reliability.png").stat().st_size > 1000
    assert "all evidence kept: {'first':" in capsys.readouterr().out
