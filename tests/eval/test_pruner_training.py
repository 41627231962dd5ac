import argparse
import itertools
import random

import numpy as np
import pytest
import torch

from ctxcomp.encode.pairs import load_pair_scorer
from ctxcomp.text.sentence_pruner import probabilities
from ctxcomp_eval.pruner_data import Group, crop, detokenise, occurrences
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
        rank, keep = trained.model(batch)
    for row, scores in enumerate(found):
        inside = batch.sentence[row] >= 0
        assert scores.rank == pytest.approx(rank[row].item(), abs=0.15)  # trained in bfloat16
        assert scores.keep == pytest.approx(keep[row][inside].numpy(), abs=0.25)


def test_the_fusion_finds_the_signal_that_tells_and_calibrates_it():
    rng = np.random.default_rng(0)
    data = []
    for _ in range(60):
        target = np.zeros(30, np.int64)
        target[rng.integers(30)] = 1
        signals = np.stack([rng.normal(size=30), 3.0 * target + rng.normal(size=30)], axis=1)
        data.append(Signals(GROUP, signals, target))
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
        rank = np.repeat(np.arange(10.0), 2)
        signals = np.zeros((20, 7))
        signals[:, 5] = rank
        data.append(Signals(GROUP, signals, target))
    found = calibrate(data, logits)
    assert found["margin"] > 3 * abs(found["logit"])
    best = [probabilities(z, found)[0] for z in logits]
    assert np.mean(best) > 0.3 > np.mean([probabilities(z, found)[1:].mean() for z in logits])


def test_logistic_regression_recovers_known_coefficients():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40_000, 2)) * 2
    target = (rng.random(40_000) < 1 / (1 + np.exp(-(0.5 * x[:, 0] - 0.2 * x[:, 1] - 1)))).astype(np.int64)
    target[:100] = -1
    (first, second), bias = logistic(x, target)
    assert (first, second, bias) == tuple(pytest.approx(value, abs=0.05) for value in (0.5, -0.2, -1))
