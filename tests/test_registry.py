"""Names to compressors: fields, chains, nearest names, plug-ins."""

from __future__ import annotations

import copy
import pickle

import pytest

from ctxcomp import Chain, InputError, MissingDependencyError, UnknownMethodError, load, methods
from ctxcomp.registry import DEFAULT_METHOD, METHODS
from ctxcomp.text.bm25 import Bm25
from ctxcomp.text.truncate import Truncate


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_loads_under_its_own_name_and_can_be_copied(name):
    compressor = load(name)
    assert compressor.name == name
    assert isinstance(hash(compressor), int)
    for twin in (load(name), pickle.loads(pickle.dumps(compressor)), copy.deepcopy(compressor)):
        assert twin == compressor
        assert hash(twin) == hash(compressor)
    assert repr(compressor).startswith(type(compressor).__name__ + "(")
    assert "counter=None" in repr(compressor)


def test_the_default_method():
    assert load().name == DEFAULT_METHOD


def test_fields_are_the_configuration():
    assert load("bm25", k1=2, unit="word") == Bm25(k1=2, unit="word")
    assert load("bm25", protect=["digits"]).protect == ("digits",)
    assert load("bm25", bm25__b=0.5) == Bm25(b=0.5)


def test_a_chain_gives_each_stage_the_fields_it_has():
    chain = load("bm25+truncate", unit="passage", side="tail", truncate__fill=True, widen=2)
    assert chain == Chain(
        stages=(Bm25(unit="passage"), Truncate(unit="passage", side="tail", fill=True)), widen=2
    )  # fmt: skip
    assert chain.name == "bm25+truncate"
    assert pickle.loads(pickle.dumps(chain)) == chain
    twice = load("bm25+bm25", bm25__unit="word")
    assert [stage.unit for stage in twice.stages] == ["word", "word"]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("bm26", {}, "no method 'bm26': did you mean 'bm25'"), ("Bm25 ", {}, "did you mean 'bm25'"),
        ("", {}, "no method '': there are bm25,"), ("bm25++truncate", {}, "no method ''"),
        ("bm25+truncat", {}, "no method 'truncat': did you mean 'truncate'"),
        ("bm25", {"unitt": 1}, "bm25 has no field 'unitt': did you mean 'unit'"),
        ("bm25", {"name": 1}, "bm25 has no field 'name'"), ("bm25", {"widen": 2}, "no field 'widen'"),
        ("bm25+truncate", {"unitt": 1}, r"bm25\+truncate has no field 'unitt': did you mean 'unit'"),
        ("bm25+truncate", {"truncate__k1": 1}, "truncate has no field 'k1'"),
        ("bm25+truncate", {"random__seed": 1}, "has no stage 'random'"),
    ],
)  # fmt: skip
def test_unknown_names_are_answered_with_the_nearest(name, fields, message):
    with pytest.raises(UnknownMethodError, match=message):
        load(name, **fields)


@pytest.mark.parametrize("name", [None, 5, b"bm25", ["bm25"]])
def test_a_name_is_a_str(name):
    with pytest.raises(InputError, match="takes the name of a method"):
        load(name)


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed distribution with two entry points, one of them broken, and one that shadows a built-in."""
    info = tmp_path / "shouter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ctxcomp.methods]\nshout = shouter_plugin:Shout\nbroken = shouter_gone:Shout\n"
        "nothing = shouter_plugin:Nothing\nbm25 = shouter_plugin:Shout\n"
    )
    (tmp_path / "shouter_plugin.py").write_text(
        "from dataclasses import dataclass\nimport numpy as np\nfrom ctxcomp import Selector\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Shout(Selector):\n    volume: int = 1\n\n"
        "    def score(self, batch):\n"
        "        return [np.array([float(t.count('!')) for t in units.texts]) for units in batch]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_plugins_are_methods_and_cannot_replace_built_in_ones(plugin):
    from ctxcomp import Budget, Passage

    assert methods()["shout"].summary == "plug-in of shouter"
    assert type(load("bm25")) is Bm25
    shout = load("shout", volume=3)
    result = shout.compress("", [Passage("Calm words. Loud words! Calm again.")], Budget(tokens=4))
    assert (shout.volume, result.text, result.stats.method) == (3, "Loud words!", "shout")
    assert load("bm25+shout").name == "bm25+shout"


@pytest.mark.parametrize(("name", "why"), [("broken", "shouter_gone"), ("nothing", "Nothing")])
def test_a_broken_plugin_is_named(plugin, name, why):
    with pytest.raises(MissingDependencyError, match=why):
        load(name)
