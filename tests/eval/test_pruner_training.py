import argparse
import gzip
import itertools
import json
import random

import numpy as np
import pytest
import torch

from ctxcomp.encode.load import load_encoder
from ctxcomp.encode.pairs import load_pair_scorer
from ctxcomp.text.fusion import probabilities, standing
from ctxcomp_eval.pruner_data import Group, crop, detokenise, hop_groups, occurrences
from ctxcomp_eval.pruner_model import PairModel
from ctxcomp_eval.token_head_data import Labelled
from ctxcomp_eval.train_fusion import Labelled as Signals
from ctxcomp_eval.train_fusion import calibrate, fit, hits, logistic, reliability
from ctxcomp_eval.train_pruner import Trainer, chosen, listwise, parse

TEXT = "The Arle rises in the hills. Its bridge was opened in 1874. Trout are common."
GROUP = Group(
    "1", "test", "When was the bridge opened?", ("1874",), (TEXT, "Pasta is boiled.", "The bridge is of stone."),
    (((54, 58),), (), ()), ((), (), ()), (2.0, 0.1, 1.0),
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_tokenised_text_is_written_as_people_write():
    assert detokenise("Gregor ( born 1822 ) , a friar , said `` yes '' .") == 'Gregor (born 1822), a friar, said "yes".'
    assert (
        detokenise("the Court 's opinion -- a German - speaking one") == "the Court's opinion – a German-speaking one"
    )


def test_a_crop_holds_the_first_span_at_its_new_place():
    text = " ".join(f"w{i}" for i in range(400))
    span = (text.index("w250"), text.index("w250") + 4)
    for seed in range(20):
        piece, (inside,) = crop(text, [span], random.Random(seed))
        assert piece[slice(*inside)] == "w250"
        assert len(piece.split()) == 100
    assert crop("short text", [(0, 5)], random.Random(0)) == ("short text", ((0, 5),))


def test_occurrences_are_whole_words_in_any_case():
    assert occurrences("In 1874 and 18740, ARLE and arle.", ["1874", "Arle"]) == ((3, 7), (19, 23), (28, 32))
    assert occurrences("anything", []) == ()


def test_listwise_sets_each_positive_against_the_negatives_of_its_list():
    logits = torch.tensor([2.0, 1.0, 0.5, 3.0, 9.0, 1.0])
    lists, target = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 1, -1, 0])
    first = (np.log1p(np.exp(0.5 - 2)) + np.log1p(np.exp(0.5 - 1))) / 2
    second = np.log1p(np.exp(1 - 3))  # the entry of target -1 takes no part
    assert listwise(logits, lists, target).item() == pytest.approx((first + second) / 2, abs=1e-5)
    assert listwise(logits, lists, torch.zeros(6, dtype=torch.int64)).item() == 0


def test_sentences_get_the_labels_of_their_spans():
    model = PairModel(rank=2, scale=1.0, first=5)
    batch = model.batch([(GROUP.question, TEXT), ("", "One here. Two.")], [((54, 58),), ()], [((4, 8),), ()])
    assert batch.target.tolist() == [-1, 1, 0, 0, 0]
    assert batch.pair_of.tolist() == [0, 0, 0, 1, 1]
    assert int((batch.sentence[1] >= 0).sum()) == 5  # One here . Two .


def test_a_question_keeps_its_evidence_and_takes_negatives():
    for seed in range(5):
        picked = chosen(GROUP, 1, random.Random(seed))
        assert picked[0] == 0
        assert len(picked) == 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trainer:
    out = tmp_path_factory.mktemp("pruner")
    options: argparse.Namespace = parse(
        ["--out", str(out), "--rank", "4", "--first-layer", "4", "--steps", "13", "--every", "13", "--questions", "2",
         "--rate", "0.01"]
    )  # fmt: skip
    words = [(m, m + 3) for m in (0, 4)]
    free = itertools.repeat([Labelled("One two", tuple(words), (1.0, 0.0), (), "qamr")] * 8)
    trainer = Trainer(options)
    trainer.run([GROUP] * 4, [GROUP], free)
    return trainer


def test_training_finds_the_evidence_and_goes_on_where_it_stopped(trained):
    assert trained.log[-1]["hit1"] == 1
    again = Trainer(trained.options)
    again.resume()
    assert again.step == 13
    for name, parameter in trained.model.trainable().items():
        assert torch.equal(parameter, again.model.trainable()[name])


def test_what_is_saved_scores_the_same_in_the_library(trained):
    path = trained.options.out / "last.safetensors"
    pairs = [(GROUP.question, TEXT), ("", TEXT), (GROUP.question, "Pasta is boiled.")]
    found = load_pair_scorer("minilm", head=str(path)).score(pairs)
    batch = trained.model.batch(pairs, [()] * 3, [()] * 3)
    with torch.inference_mode():
        rank, keep, _ = trained.model(batch)
    for row, scores in enumerate(found):
        inside = batch.sentence[row] >= 0
        assert scores.rank == pytest.approx(rank[row].item(), abs=0.15)  # trained in bfloat16
        assert scores.keep == pytest.approx(keep[row][inside].numpy(), abs=0.25)


def test_what_is_saved_scores_words_of_texts_read_alone(trained):
    encoder = load_encoder("minilm", head=trained.options.out / "last.safetensors")
    ((_, found),) = encoder.keep_probs([TEXT], label=encoder.labels.index("word"))
    with torch.inference_mode():
        *_, word = trained.model(trained.model.batch([(None, TEXT)], [()], [()]))
    assert found == pytest.approx(torch.sigmoid(word[0, 1:-1]).numpy(), abs=0.03)


def test_a_run_of_two_outputs_is_gone_on_from(trained):
    state = {name: parameter.detach() for name, parameter in trained.model.trainable().items()}
    two = {**state, **{f"classifier.{part}": state[f"classifier.{part}"][:2] for part in ("weight", "bias")}}
    model = PairModel(rank=4, scale=1.0, first=4)
    model.adopt(two)
    for part in ("weight", "bias"):
        found = model.trainable()[f"classifier.{part}"]
        assert torch.equal(found, torch.cat([two[f"classifier.{part}"], two[f"classifier.{part}"][1:]]))


def test_hops_ask_for_the_other_passage(tmp_path):
    folder = tmp_path / "qa"
    folder.mkdir()
    texts = ("Ada wrote Weir. It won.", "Weir is a town. It has a mill.", "Cheese keeps well.")
    row = {
        "question": "Which town?", "answers": ["Weir"],
        "passages": [
            {"title": "", "text": text, "support": support}
            for text, support in zip(texts, ([[0, 15]], [[0, 15]], []), strict=True)
        ],
    }  # fmt: skip
    rows = [json.dumps({**row, "id": str(n)}) for n in range(30)]
    (folder / "hotpot_train.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    plain, first, second, astray = list(hop_groups(tmp_path, random.Random(0)))[:4]
    assert (plain.question, plain.passages) == ("Which town?", texts)
    assert (first.question, first.passages) == ("Which town? Ada wrote Weir.", texts[1:])
    assert first.evidence == (((0, 15),), ())
    assert (second.question, second.passages) == ("Which town? Weir is a town.", (texts[0], texts[2]))
    assert (astray.question, astray.passages) == ("Which town? Cheese keeps well.", texts[:2])
    assert astray.evidence == (((0, 15),), ((0, 15),))


def test_the_fusion_finds_the_signal_that_tells_and_calibrates_it():
    rng = np.random.default_rng(0)
    data = []
    for _ in range(60):
        target = np.zeros(30, np.int64)
        target[rng.integers(30)] = 1
        signals = np.stack([rng.normal(size=30), 3.0 * target + rng.normal(size=30)], axis=1)
        data.append(Signals(GROUP, signals, target, np.arange(30) // 3))
    weights, bias = fit(data, (0, 1))
    assert weights[1] > 5 * abs(weights[0])
    logits = [one.signals @ weights + bias for one in data]
    assert hits(data, logits)["hit5"] > 0.9
    plain = [1 / (1 + np.exp(-z)) for z in logits]
    assert np.mean(np.concatenate(plain)) == pytest.approx(1 / 30, abs=0.005)
    assert sum(row["sentences"] for row in reliability(data, plain)) == 60 * 30


def test_the_margin_to_the_best_enters_the_probability():
    rng = np.random.default_rng(0)
    data, logits = [], []
    for _ in range(80):
        level = rng.normal() * 3  # of the question: says nothing about its sentences
        target = np.eye(1, 20, 0, dtype=np.int64)[0]
        logits.append(level + 3.0 * target + rng.normal(size=20))
        data.append(Signals(GROUP, np.zeros((20, 7)), target, np.arange(20) // 2))
    found = calibrate(data, logits)
    assert found["margin"] > 3 * abs(found["logit"])
    likely = [probabilities(z, one.passage, found) for one, z in zip(data, logits, strict=True)]
    assert np.mean([p[0] for p in likely]) > 0.3 > np.mean([p[1:].mean() for p in likely])


def test_where_a_passage_stands_enters_the_probability():
    found = standing(np.array([1.0, 3.0, 0.0, 2.0, -1.0]), np.array([0, 0, 2, 2, 1]))
    assert found[:, 1].tolist() == [-2, 0, -3, -1, -4]
    assert np.expm1(found[:, 2]) == pytest.approx([0, 0, 1, 1, 2])
    assert standing(np.empty(0), np.empty(0, np.int64)).shape == (0, 3)


def test_logistic_regression_recovers_known_coefficients():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40_000, 2)) * 2
    target = (rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * x[:, 0] - 0.2 * x[:, 1] - 1)))).astype(np.int64)
    target[:100] = -1
    (first, second), bias = logistic(x, target)
    assert (first, second, bias) == tuple(pytest.approx(value, abs=0.05) for value in (0.5, -0.2, -1))
