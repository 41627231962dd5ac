"""The instruction stage: passages in short, no reported text among them, a run that goes on."""

from __future__ import annotations

import gzip
import json
import random
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("ctxcomp_eval")

from transformers import AutoModelForCausalLM

from ctxcomp_eval.latent import data
from ctxcomp_eval.lm import instruct, train
from ctxcomp_eval.lm.documents import Sources, beginning
from ctxcomp_eval.lm.instruct import SHORT, Apart, Shortener, documents

TEXT = "The river Elbe runs by the town of Meissen. It is long. Nobody swims in it today."


def sentences(chance, count):
    return " ".join("The " + " ".join(chance.choices("abcdefghij", k=9)) + "." for _ in range(count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder of the shared one's shape; one passage in eight is in an evaluation set too."""
    chance = random.Random(0)
    wiki = [f"{i} {sentences(chance, 12)}" for i in range(400)]
    again = [text.replace(". ", " . ") for text in wiki[::2]]
    spans = [
        {"id": str(i), "question": "What?", "context": f"Ada saw {i}. {sentences(chance, 4)}"}
        | {"answers": [{"text": str(i), "start": 8}]}
        for i in range(200)
    ]
    files = {
        "lm/wiki_pool": [{"title": None, "text": text} for text in [*wiki, *again]],
        "lm/books": [{"title": f"Book {i}", "text": sentences(chance, 60)} for i in range(80)],
        "qa/span_train": spans,
        "eval/nq20": [{"passages": [{"text": text.replace(" ", "  ")} for text in wiki[::8]]}],
        "eval/hotpot10": [],
        "eval/squad_dev": [{"context": row["context"]} for row in spans[::8]],
    }
    found = tmp_path_factory.mktemp("data")
    for name, rows in files.items():
        path = found / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
    return found


@pytest.fixture
def shared(folder, monkeypatch):
    monkeypatch.setenv("CTXCOMP_DATA", str(folder))
    data._other_beginnings.cache_clear()
    yield
    data._other_beginnings.cache_clear()


def test_telling_words_are_the_texts_own_and_the_rare_ones_more_often():
    shortener = Shortener([TEXT, *["The town is long. It runs by the river of today."] * 40])
    found = [shortener.words(TEXT, random.Random(seed)).split() for seed in range(200)]
    own = set(TEXT.replace(".", "").split())
    assert all(1 <= len(words) <= 16 and len(words) == len(set(words)) and own >= set(words) for words in found)
    counts = {word: sum(word in words for words in found) for word in own}
    assert min(counts["Elbe"], counts["Meissen"], counts["swims"]) > max(counts["The"], counts["town"], counts["is"])
    assert len({len(words) for words in found}) > 5
    assert shortener.words("", random.Random(0)) == ""


def test_a_passage_in_short_has_every_form():
    shortener = Shortener([TEXT, "Something else."])
    found = [shortener.short(TEXT, random.Random(seed)) for seed in range(400)]
    assert found.count("") == pytest.approx(400 * SHORT["nothing"], abs=40)
    assert "The river Elbe runs by the town of Meissen." in found
    assert all(set(short.split()) <= set(TEXT.replace(".", "").split()) | set(TEXT.split()) for short in found)


def test_no_reported_text_is_trained_on(shared):
    all_of, apart = Sources.of("train"), Apart.of("train")
    assert 0 < len(apart.wiki) < len(all_of.wiki)
    assert 0 < len(apart.questions) < len(all_of.questions)
    left = {beginning(text) for text in [*apart.wiki, *(row["context"] for row in apart.questions)]}
    assert not left & apart.reported
    assert left <= {beginning(text) for text in [*all_of.wiki, *(row["context"] for row in all_of.questions)]}


def test_no_text_stands_in_both_splits_however_it_is_spaced(shared, generator):
    class Retriever:
        def embed(self, texts):
            return np.zeros((len(texts), 2), np.float32)

    found = {split: data.passages(split, generator.tokenizer, 40, 999, Retriever()) for split in ("train", "dev")}
    begins = {split: {beginning(item.text)[:10] for item in items} for split, items in found.items()}
    assert len(begins["dev"]) > 1
    assert not begins["train"] & begins["dev"]
    all_of = {split: {beginning(text)[:10] for text in Sources.of(split).wiki} for split in ("train", "dev")}
    assert all_of["train"] & all_of["dev"]


def test_documents_are_the_prompts_that_are_measured(shared):
    sources = Apart.of("train")
    shortener = Shortener(sources.wiki)
    stream = documents(shortener, sources, 0, 100)
    found = [next(stream) for _ in range(1500)]
    again = documents(shortener, sources, 0, 100)
    assert found == [next(again) for _ in range(1500)]
    empty = "<|user|>Background:  means the same as<|end|><|assistant|>"
    assert any(text.startswith(empty) for text in found)
    assert any(text.startswith("<|user|>Refer to the background document: ") for text in found)
    passages = [text.partition("<|assistant|>")[2] for text in found if text.startswith("<|user|>Background: ")]
    assert passages
    assert set(passages) <= set(sources.wiki)


def test_a_stopped_stage_goes_on_and_leaves_its_model_alone(shared, tmp_path, monkeypatch):
    monkeypatch.setattr(instruct.Instruction, "stages", ((1.0, 64),))
    sizes = "--hidden 128 --layers 1 --vocabulary 400 --tokens 512 --piece 512 --every 2".split()
    train.main(["--out", str(tmp_path / "lm"), "--steps", "2", *sizes])
    model = tmp_path / "lm" / "model"
    before = (model / "model.safetensors").read_bytes()
    run = partial(instruct.main, ["--model", str(model), "--out", str(tmp_path / "new"), "--steps", "4", *sizes])
    step = instruct.Instruction.update
    losses = []

    def interrupted(self, ids, weights):
        losses.append(step(self, ids, weights))
        if len(losses) == 3:
            raise KeyboardInterrupt
        return losses[-1]

    monkeypatch.setattr(instruct.Instruction, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    run()
    assert len(losses) == 5
    log = json.loads((tmp_path / "new" / "log.json").read_text())
    assert [row["step"] for row in log["log"]] == [2, 4]
    assert log["options"]["model"] == str(model)
    assert (model / "model.safetensors").read_bytes() == before
    old, new = (AutoModelForCausalLM.from_pretrained(path) for path in (model, tmp_path / "new" / "model"))
    assert not torch.equal(old.get_input_embeddings().weight, new.get_input_embeddings().weight)
