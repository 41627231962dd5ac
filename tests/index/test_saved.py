"""Indexes on disk: what was saved comes back, what is damaged is refused, what is interrupted leaves the old one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("faiss")

from ctxcomp import InputError, Passage
from ctxcomp.encode.options import EncoderOptions
from ctxcomp.index import PRESETS, Index
from ctxcomp.index.files import MANIFEST

UNTUNED = [name for name in PRESETS if name != "tuned"]
METADATA = {"page": 3, "tags": ["a", "ü"], "nested": {"none": None, "x": 0.5}}


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(120, 24)).astype(np.float32)


@pytest.fixture
def index(vectors) -> Index:
    passages = [Passage(f"text {i} ü 北京 \ud800\n\x00", id=f"p{i}", title=None, metadata=METADATA) for i in range(120)]
    return Index.build(passages, vectors=vectors, vectors_of="mine")


def hits(index: Index, vector: np.ndarray) -> list[tuple[str, float | None]]:
    return [(p.id, p.score) for p in index.search(vector, 10)]


@pytest.mark.parametrize("preset", UNTUNED)
def test_what_is_saved_comes_back(tmp_path, vectors, preset):
    passages = [Passage(f"text {i} ü 北京 \ud800\n", id=f"p{i}", title="T", metadata=METADATA) for i in range(120)]
    index = Index.build(passages, preset=preset, vectors=vectors, vectors_of="mine")
    saved = index.save(tmp_path / "a" / "index")
    loaded = Index.load(tmp_path / "a" / "index")
    for other in (saved, loaded):
        assert hits(other, vectors[3]) == hits(index, vectors[3])
        assert other.report == index.report
        assert list(other.passages) == passages
        np.testing.assert_array_equal(other.vectors, index.vectors)
    assert isinstance(loaded.vectors, np.memmap)
    assert hits(loaded.add(["more"], vectors=vectors[:1]).remove(["p0"]), vectors[0])[0][0] == ""


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def test_nothing_on_disk_is_a_pickle(tmp_path, index):
    index.save(tmp_path)
    assert {p.name for p in files(tmp_path)} == {
        "index.json", "codes.faiss", "offsets.npy", "passages.jsonl", "vectors.npy",
    }  # fmt: skip
    assert not any(p.read_bytes()[:2] in (b"\x80\x04", b"\x80\x05") for p in files(tmp_path))


@pytest.mark.parametrize("name", ["codes.faiss", "offsets.npy", "passages.jsonl", "vectors.npy", "index.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "missing"])
def test_damage_is_found_and_named(tmp_path, index, name, damage):
    index.save(tmp_path)
    file = next(p for p in files(tmp_path) if p.name == name)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    if damage == "missing":
        file.unlink()
    else:
        truncated = bytes(data[:middle])
        data[middle] ^= 1
        file.write_bytes({"flip": data, "truncate": truncated, "empty": b""}[damage])
    expected = "no index" if (name, damage) == ("index.json", "missing") else "damaged"
    with pytest.raises(InputError, match=expected):
        Index.load(tmp_path)


def test_a_flipped_bit_passes_only_where_no_checksum_is_wanted(tmp_path, index):
    index.save(tmp_path)
    file = next(tmp_path.glob("data-*/vectors.npy"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert len(Index.load(tmp_path, verify=False)) == 120
    with pytest.raises(InputError, match=r"vectors.npy does not match its checksum"):
        Index.load(tmp_path)


def test_a_later_format_is_not_guessed_at(tmp_path, index, monkeypatch):
    monkeypatch.setattr("ctxcomp.index.files.FORMAT", 99)
    index.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 99"):
        Index.load(tmp_path)


def test_readers_keep_what_they_opened_while_the_index_is_replaced(tmp_path, index, vectors):
    index.save(tmp_path)
    reader = Index.load(tmp_path)
    writer = Index.load(tmp_path)
    expected = hits(index, vectors[5])
    writer.remove(["p5"]).save(tmp_path)
    assert hits(reader, vectors[5]) == expected
    assert reader.passages[5].text.startswith("text 5")
    assert len(Index.load(tmp_path)) == 119
    assert len(list(tmp_path.glob("data-*"))) == 1


def test_a_lost_update_is_refused(tmp_path, index, vectors):
    index.save(tmp_path)
    one, two = Index.load(tmp_path), Index.load(tmp_path)
    kept = one.add(["one"], vectors=vectors[:1]).save(tmp_path)
    with pytest.raises(InputError, match="was changed since it was read"):
        two.add(["two"], vectors=vectors[:1]).save(tmp_path)
    assert len(kept.add(["three"], vectors=vectors[:1]).save(tmp_path)) == 122


def test_an_interrupted_write_leaves_the_old_index(tmp_path, index, vectors, monkeypatch):
    index.save(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ctxcomp.index.files.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        index.remove(["p1"]).save(tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.glob("data-*"))) == 1
    assert len(Index.load(tmp_path)) == 120


def test_a_killed_writer_leaves_the_old_index_and_its_rest_goes_away(tmp_path, index):
    index.save(tmp_path)
    rest = tmp_path / "data-0123456789ab"
    rest.mkdir()
    (rest / "vectors.npy").write_bytes(b"half")
    (tmp_path / f"{MANIFEST}.{rest.name}").write_text("{")
    assert len(Index.load(tmp_path)) == 120
    index.save(tmp_path)
    assert not rest.exists()
    assert sorted(p.name for p in tmp_path.iterdir())[-1] == MANIFEST


def test_nothing_else_is_overwritten(tmp_path, index):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no index"):
        index.save(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        index.save(tmp_path / "thesis.txt")
    with pytest.raises(InputError, match="no index in"):
        Index.load(tmp_path)


def test_another_encoder_is_refused(tmp_path, index):
    index.save(tmp_path / "own")
    assert len(Index.load(tmp_path / "own", model="mine")) == 120
    with pytest.raises(InputError, match="of 'mine', not of 'theirs'"):
        Index.load(tmp_path / "own", model="theirs")
    Index.build(["a text"], preset="exact").save(tmp_path / "texts")
    assert Index.load(tmp_path / "texts", model=EncoderOptions(threads=1)).search("a text", 1)[0].text == "a text"
    manifest = json.loads((tmp_path / "texts" / MANIFEST).read_text())
    from ctxcomp.index.source import Source

    other = {**manifest["source"], "weights_hash": "0" * 64}
    with pytest.raises(InputError, match="built with 'minilm', weights 000000000000; the model there has now"):
        Source.from_dict(other, None).embed(["x"])
    with pytest.raises(InputError, match="give the same model"):
        Source.from_dict(other, "minilm")


def test_an_empty_index_is_saved_too(tmp_path):
    Index.build([]).save(tmp_path)
    assert Index.load(tmp_path).search("x") == []


def test_importing_the_package_imports_no_faiss():
    code = "import sys, ctxcomp.index; print(sorted({'faiss', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_faiss_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "import ctxcomp\nfrom ctxcomp.index import Index\n"
        "try:\n    Index.build(['a'])\nexcept ctxcomp.MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ctxcomp[index]'" in done.stdout
