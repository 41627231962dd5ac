import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import ctxcomp.types
from ctxcomp_eval.token_head_data import Labelled, pack, qamr, ranking, soften, survival
from ctxcomp_eval.token_head_model import TokenHead
from ctxcomp_eval.train_token_head import Trainer, batches, loss_of, parse

WEIGHTS = Path(ctxcomp.types.__file__).parent / "weights"
HEAD = WEIGHTS / "token_head.safetensors"
SENTENCES = [
    "The bridge was designed by Isambard Brunel and it is in the city of Bristol .",
    "Marie Curie was the first woman that won a Nobel Prize , and she was born in Warsaw .",
    "In 1969 the astronaut Neil Armstrong was the first of them to walk on the Moon .",
]
NAMES = {"Isambard", "Brunel", "Bristol", "Marie", "Curie", "Nobel", "Warsaw", "1969", "Armstrong", "Moon"}
STOP_WORDS = {"The", "was", "by", "and", "it", "is", "in", "the", "of", "that", "a", "she", "to", ",", "."}


def labelled(text, source="qamr", target=0.5):
    words, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        words.append((at, at + len(word)))
        at += len(word)
    return Labelled(text, tuple(words), (target,) * len(words), (frozenset({0}),), source)


@pytest.fixture(scope="module")
def tensors():
    with safe_open(HEAD, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def head(tensors):
    """The committed weights in the training script's model, by plain torch and transformers."""
    values, metadata = tensors
    rank = next((value.shape[0] for name, value in values.items() if name.endswith("lora_A")), 0)
    model = TokenHead(rank, float(metadata["lora_scale"]))
    trained = {name.removeprefix("encoder."): parameter for name, parameter in model.trainable().items()}
    assert set(values) == {name for name in trained if not name.startswith("span_")}
    with torch.no_grad():
        for name, value in values.items():
            trained[name].copy_(value)
    return model.eval()


def test_keys_shapes_and_types(tensors):
    values, _ = tensors
    assert values["classifier.weight"].shape == (2, 384)
    assert values["classifier.bias"].shape == (2,)
    for name, value in values.items():
        assert value.dtype == torch.float16
        assert torch.isfinite(value).all()
        if name.endswith("lora_A"):
            other = values[name.removesuffix("A") + "B"]
            assert value.shape[0] == other.shape[1] <= 8
            assert name.startswith("encoder.layer.")
    assert HEAD.stat().st_size < 1_000_000


def test_metadata_names_the_base(tensors, head):
    _, metadata = tensors
    base = hashlib.sha256((head.base_path / "model.safetensors").read_bytes()).hexdigest()
    assert metadata["base_sha256"] == base
    assert base.startswith("53aa5117")
    assert base.endswith("fab128d9db")
    assert metadata["labels"] == "drop,keep"
    assert float(metadata["lora_scale"]) > 0


def test_names_score_above_stop_words(head):
    # Not each above each: the head finds "The" of a subject and pronouns fairly worth keeping (see the card).
    names, rest = [], []
    for sentence, scores in zip(SENTENCES, head.word_scores([labelled(s) for s in SENTENCES]), strict=True):
        words = sentence.split()
        assert len(scores) == len(words)
        assert scores.min() >= 0
        assert scores.max() <= 1
        names.append([score for word, score in zip(words, scores, strict=True) if word in NAMES])
        rest.append([score for word, score in zip(words, scores, strict=True) if word in STOP_WORDS])
        assert np.mean(names[-1]) > max(rest[-1])
    assert (np.concatenate(names)[:, None] > np.concatenate(rest)).mean() > 0.97


def test_batch_size_does_not_change_scores(head):
    examples = [labelled(sentence) for sentence in SENTENCES]
    together = head.word_scores(examples)
    alone = [head.word_scores([example])[0] for example in examples]
    for first, second in zip(together, alone, strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)


def test_the_library_reads_the_same_scores(head):
    from ctxcomp.encode import load_encoder

    example = labelled(SENTENCES[0])
    ((offsets, probabilities),) = load_encoder("minilm", head=HEAD).keep_probs([example.text], label=1)
    batch = head.encode([example])
    with torch.no_grad():
        expected = torch.sigmoid(head(batch))[0, 1:-1]  # without [CLS] and [SEP]
    assert len(offsets) == len(expected)
    np.testing.assert_allclose(probabilities, expected, atol=2e-3)


def test_model_card_names_data_and_licences():
    card = (WEIGHTS / "MODEL_CARD.md").read_text(encoding="utf-8")
    digest = hashlib.sha256(HEAD.read_bytes()).hexdigest()
    for fact in ("QAMR", "MIT", "SQuADShifts", "CC BY 4.0", "SQuAD", "CC BY-SA", "seed", "uncased", digest):
        assert fact in card


def test_save_and_adapters(tmp_path):
    model = TokenHead(2, 2.0).eval()
    example = [labelled(SENTENCES[0])]
    before = model.word_scores(example)[0]
    with torch.no_grad():
        model.trainable()["encoder.encoder.layer.5.output.dense.lora_B"].normal_(std=0.1)
    assert np.abs(model.word_scores(example)[0] - before).max() > 1e-3
    model.save(tmp_path / "head.safetensors")
    with safe_open(tmp_path / "head.safetensors", "pt") as saved:
        assert len(saved.keys()) == 2 + 6 * 6 * 2
        assert saved.get_tensor("encoder.layer.5.output.dense.lora_A").shape == (2, 1536)
        assert saved.get_tensor("encoder.layer.0.attention.self.query.lora_B").shape == (384, 2)


def test_a_few_steps_learn_the_labels():
    torch.manual_seed(0)
    model = TokenHead(0, 1.0)
    keep, drop = labelled("Brunel Bristol Warsaw Curie", target=1.0), labelled("the of and was", target=0.0)
    optimizer = torch.optim.Adam(model.trainable().values(), lr=0.02)
    model.eval()
    first = loss_of(model, [keep, drop], 1.0).item()
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(model, [keep, drop], 1.0)
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 3
    kept, dropped = model.word_scores([keep, drop])
    assert kept.min() > 0.5 > dropped.max()


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    class Interrupted(Trainer):
        def checkpoint(self, loss, dev):
            super().checkpoint(loss, dev)
            if self.step == 2:
                raise KeyboardInterrupt

    parts = {name: [labelled(sentence, name) for sentence in SENTENCES] for name in ("qamr", "span")}
    for name, part in parts.items():
        part.append(labelled("of the", name, target=0.0))

    def options(out):
        return parse(["--rank", "0", "--steps", "4", "--every", "2", "--batch", "2", "--out", str(tmp_path / out)])

    whole = Trainer(options("whole"))
    whole.run(parts, parts)
    with pytest.raises(KeyboardInterrupt):
        Interrupted(options("part")).run(parts, parts)
    resumed = Trainer(options("part"))
    resumed.resume()
    assert resumed.step == 2
    resumed.run(parts, parts)
    assert resumed.log == whole.log
    torch.testing.assert_close(resumed.head.classifier.weight, whole.head.classifier.weight)
    assert (tmp_path / "part" / "curve.csv").read_text().count("\n") == 3
    other = Trainer(parse(["--rank", "0", "--out", str(tmp_path / "part")]))
    with pytest.raises(SystemExit, match="other options"):
        other.resume()


def test_span_weight_zero_ignores_span_passages():
    torch.manual_seed(0)
    model = TokenHead(0, 1.0).eval()
    qamr, span = labelled(SENTENCES[0]), labelled(SENTENCES[1], "span", 1.0)
    assert loss_of(model, [qamr, span], 0.0).item() == pytest.approx(loss_of(model, [qamr], 1.0).item(), abs=1e-5)


def test_packing_keeps_words_and_targets():
    parts = [labelled(sentence, target=i / 10) for i, sentence in enumerate(SENTENCES)]
    packed = next(batches(parts, [], 1, seed=3))[0]
    words = [packed.text[start:end] for start, end in packed.words]
    assert packed.text.split() == words
    assert len(packed.targets) == len(words)
    import random

    everything = pack(parts, random.Random(0))
    assert sorted(t for p in everything for t in p.targets) == sorted(t for p in parts for t in p.targets)


def test_batches_repeat_with_the_seed():
    parts = [labelled(sentence) for sentence in SENTENCES]
    spans = [labelled(sentence, "span") for sentence in SENTENCES]
    first, second = batches(parts, spans, 4, seed=1), batches(parts, spans, 4, seed=1)
    for _ in range(5):
        assert next(first) == next(second)
    assert [example.source for example in next(first)] == ["qamr", "span", "qamr", "span"]


def test_survival_by_hand():
    example = Labelled(
        "a b c d", ((0, 1), (2, 3), (4, 5), (6, 7)), (0, 1, 1, 0), (frozenset({1}), frozenset({1, 2})), "q"
    )
    scores = np.asarray([0.1, 0.9, 0.5, 0.2])
    assert survival([example], [scores], 0.5) == 1.0
    assert survival([example], [scores], 0.25) == 0.5
    assert survival([example], [-scores], 0.5) == 0.0


def test_ranking_agrees_with_the_definition():
    generator = np.random.default_rng(0)
    targets = tuple((generator.random(60) < 0.3).astype(float))
    scores = generator.integers(0, 9, 60) / 9  # with ties
    example = Labelled("", (), targets, (), "q")
    yes, no = scores[np.asarray(targets) > 0], scores[np.asarray(targets) == 0]
    pairs = (yes[:, None] > no).mean() + 0.5 * (yes[:, None] == no).mean()
    auc, precision = ranking([example], [scores])
    assert auc == pytest.approx(pairs)
    steps = [((yes >= t).sum(), (no >= t).sum(), (yes == t).sum()) for t in np.unique(scores)]
    assert precision == pytest.approx(sum(hit * y / (y + n) for y, n, hit in steps) / len(yes))


def test_soft_labels():
    np.testing.assert_allclose(soften(np.asarray([0.0, 2.0, 6.0]), 2.0), [0, 0.5, 0.75])


def test_articles_can_be_labelled_useless(tmp_path):
    row = {"tokens": ["The", "bridge", "fell"], "qa": [{"question": "What fell?", "answer": [0, 1]}]}
    (tmp_path / "compression").mkdir()
    with gzip.open(tmp_path / "compression" / "qamr.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.write(json.dumps(row))
    share = 2**-0.5 / (2**-0.5 + 2)
    for articles, first in ((True, share), (False, 0.0)):
        found = [e for part in ("train", "dev", "test") for e in qamr(tmp_path, part, articles=articles)]
        assert found[0].targets == pytest.approx((first, share, 0.0))
        assert found[0].answers == (frozenset({1}),)


def test_real_labels_are_sane():
    from ctxcomp.errors import InputError
    from ctxcomp_eval.data import data_dir

    try:
        folder = data_dir()
    except InputError as error:
        pytest.skip(str(error))
    parts = {part: qamr(folder, part) for part in ("train", "dev", "test")}
    texts = {part: {example.text for example in found} for part, found in parts.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["dev"]
    assert 60 < len(parts["test"]) < 140
    by_word: dict[str, list[float]] = {}
    for example in parts["train"]:
        for (start, end), target in zip(example.words, example.targets, strict=True):
            by_word.setdefault(example.text[start:end], []).append(target)
    assert np.mean(by_word["of"]) < 0.4 < np.mean(by_word["Spain"])
