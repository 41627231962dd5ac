"""``ctxcomp compress`` on page images, as a user types it."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

from PIL import Image
from tiny_chat import tiny_chat
from visual.checkpoints import saved

from ctxcomp.cli import main


@pytest.fixture
def run(capsysbinary):
    def run(*argv):
        try:
            status = main(["compress", *map(str, argv)])
        except SystemExit as stop:
            status = stop.code
        out, err = capsysbinary.readouterr()
        return status, out.decode(), err.decode().rpartition("\r")[2]

    return run


@pytest.fixture
def files(tmp_path):
    pages = [tmp_path / "Rechnung é.png", tmp_path / "two.JPG"]
    Image.linear_gradient("L").resize((60, 90)).save(pages[0])
    Image.new("CMYK", (80, 40)).save(pages[1])
    return pages


def test_pages_are_reported_and_drawn(run, files, checkpoints, tmp_path):
    model, drawn = saved("qwen2_vl", checkpoints), tmp_path / "new/pictures"
    status, out, _ = run(*files, "-q", "合計は?", "--model", model, "--keep", 0.5, "--pictures", drawn)
    assert status == 0
    counts = re.findall(r"^(.*): (\d+) -> (\d+) visual tokens", out, re.MULTILINE)
    assert [name for name, _, _ in counts] == [str(file) for file in files]
    assert sum(int(b) for _, _, b in counts) == sum(int(a) for _, a, _ in counts) // 2
    assert re.search(r"prompt of \d+ -> \d+ tokens, prefill 0\.\d+ -> 0\.\d+ GFLOP", out)
    assert "measured" not in out
    names = sorted(file.name for file in drawn.iterdir())
    assert names == ["001-Rechnung é.png", "002-two.png"]
    with Image.open(drawn / names[0]) as shown:
        assert shown.size == (60, 90)
    assert f"pictures in {drawn}" in out


def test_json_and_measured(run, files, checkpoints, tmp_path):
    options = ["--model", saved("llava_next", checkpoints), "--tokens", 40, "--format", "json", "--measure"]
    settings = ["--method", "visionzip", "--set", "floor=3", "--pictures", tmp_path / "drawn"]
    status, out, _ = run(*files, *options, *settings)
    found = json.loads(out)
    assert status == 0
    assert [page["source"] for page in found["pages"]] == [str(file) for file in files]
    assert sum(page["tokens_out"] for page in found["pages"]) == found["stats"]["tokens_out"] == 40
    assert len(list((tmp_path / "drawn").iterdir())) == len({page["picture"] for page in found["pages"]}) == 2
    before, after = found["prefill"]["before"], found["prefill"]["after"]
    assert all(before[name] > after[name] > 0 for name in ("tokens", "flops", "kv_bytes", "peak_bytes"))
    assert min(before["seconds"], after["seconds"]) > 0
    assert found["stats"]["method"] == "visionzip"


def test_wrong_usage_is_one_line(run, files, checkpoints, tmp_path):
    model, page = saved("llava", checkpoints), files[0]
    text, broken = tmp_path / "notes.txt", tmp_path / "broken.png"
    text.write_text("It rained.")
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    textual = tiny_chat(tmp_path / "tiny", max_positions=64)
    keep, with_model = ["--keep", 0.5], ["--keep", 0.5, "--model", model]
    for argv, status, message in (
        ([page, *keep], 2, "page images need --model"),
        ([page, text, *with_model], 2, "notes.txt is no page image"),
        ([text, *with_model], 2, "--model is for page images"),
        ([text, *keep, "--measure"], 2, "--measure is for page images"),
        ([broken, *with_model], 2, "not an image that Pillow reads"),
        ([tmp_path / "none.png", *with_model], 2, "none.png: cannot be read: No such file"),
        ([page, *keep, "--model", tmp_path / "nowhere"], 1, "no model at"),
        ([page, *keep, "--model", textual], 1, "has no 'mm_encoder_outputs'"),
        ([page, *keep, "--model", saved("mistral3", checkpoints)], 1, "run `pip install torchvision`"),
        ([page, *with_model, "--method", "globalcom"], 2, "did you mean 'globalcom2'?"),
        ([page, *with_model, "--method", "retriever"], 2, "needs the retriever's map"),
        ([page, *with_model, "--set", "flor=2"], 2, "pages have no field 'flor': did you mean 'floor'?"),
        ([page, *with_model, "--set", "floor=x"], 2, "floor must be a whole number, got 'x'"),
        ([page, *with_model, "--tokenizer", "gpt-4o"], 2, "no --tokenizer"),
        ([page, *with_model, "--format", "highlight"], 2, "no highlight"),
        ([page, "--model", model, "--tokens", 0], 2, "a budget of 0 visual tokens"),
        ([page, *with_model, "--pictures", text], 2, "no folder for pictures"),
    ):
        found, out, err = run(*argv)
        assert (found, out) == (status, ""), argv
        assert message in err
        assert err.count("\n") == 1
