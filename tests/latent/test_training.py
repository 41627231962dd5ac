"""Training learns, goes on where it stopped, and writes what the methods load: a tiny model, a made-up language."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ctxcomp import Budget, Passage, load
from ctxcomp.latent.losses import nll, target_logits
from ctxcomp.latent.networks import ProjectorNetwork
from ctxcomp.latent.warm import telling_words, warm_start

pytest.importorskip("ctxcomp_eval")

from ctxcomp_eval.latent.data import Item
from ctxcomp_eval.latent.measure import Losses, answers, ladder, passages
from ctxcomp_eval.latent.train import Trainer, mixed, parse

TOPICS = ["apple tree garden leaf", "boat river sail wind", "clock hour minute day", "drum song voice choir"]


def items(n, asked=False, seed=0):
    """Texts of one topic's words each, with the topic as the retriever's vector."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        topic = int(rng.integers(4))
        text = " ".join(rng.choice(TOPICS[topic].split(), 6))
        vector = np.eye(12, dtype=np.float32)[topic]
        found.append(Item(text, vector, "What is it about?" if asked else "", TOPICS[topic] if asked else ""))
    return found


def trainer(generator, tmp_path, method="projector", *more):
    options = parse([method, "--out", str(tmp_path), "--batch", "8", "--retriever", "hashing", "--every", "6", *more])
    options.retriever_size = 12
    return Trainer(options, generator)


SETS = ((items(32), items(16, asked=True)), (items(8, seed=1), items(8, asked=True, seed=1)))


@pytest.mark.parametrize("method", ["projector", "memory_slots"])
def test_it_learns_resumes_and_loads(generator, tmp_path, method, retriever):
    sizes = ("--steps", "12", "--stage2", "6", "--slots", "2", "--seed", "3", "--rate", "0.02", "--rate2", "0.02")
    whole = trainer(generator, tmp_path / "whole", method, *sizes)
    before = {name: p.clone() for name, p in generator.model.named_parameters()}
    whole.run(*SETS)
    log = whole.log
    assert log[-1]["passages"] < log[0]["passages"] + 0.05
    assert log[-1]["answers"] < log[0]["answers"]
    assert all(torch.equal(before[name], p) for name, p in generator.model.named_parameters())

    half = trainer(generator, tmp_path / "half", method, *sizes)
    end = half.options.steps, half.options.stage2
    stop = half.checkpoint

    def interrupted(loss, dev):
        stop(loss, dev)
        raise KeyboardInterrupt

    half.checkpoint = interrupted
    with pytest.raises(KeyboardInterrupt):
        half.run(*SETS)
    rest = trainer(generator, tmp_path / "half", method, *sizes)
    rest.resume()
    assert rest.step == 6
    assert end == (rest.options.steps, rest.options.stage2)
    rest.run(*SETS)
    assert rest.log[-1]["passages"] == pytest.approx(log[-1]["passages"], abs=1e-4)
    for a, b in zip(whole.parameters, rest.parameters, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    record = json.loads((tmp_path / "whole" / "log.json").read_text())
    assert record["log"] == log
    assert (tmp_path / "whole" / "curve.csv").is_file()

    weights = tmp_path / "whole" / ("projector.safetensors" if method == "projector" else "model")
    more = {"retriever": retriever} if method == "projector" else {}
    made = load(method, generator=generator, weights=weights, **more)
    given = [Passage(one.text, embedding=one.embedding.tolist()) for one in SETS[1][0]]
    found = made.compress("", given, Budget(tokens=99))
    with torch.no_grad():
        expected = whole.learner.vectors(SETS[1][0]).numpy()
    np.testing.assert_allclose(found.vectors, expected, atol=1e-4)


def test_stage_two_is_nll_and_twice_the_divergence_from_the_full_text(generator, tmp_path):
    own = trainer(generator, tmp_path)
    asked = SETS[1][1]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = float(own.loss(asked, "x"))
        import random

        batch, full = own.learner.instruction(asked, random.Random("x"))
        student = target_logits(generator.model, batch, own.learner.vectors(asked))
        teacher = target_logits(generator.model, full, torch.zeros(0, 32))
    p, q = torch.softmax(teacher, -1), torch.log_softmax(student, -1)
    divergence = (p * (p.log() - q)).sum(-1).mean()
    assert found == pytest.approx(float(nll(student, batch).mean() + 2.0 * divergence), rel=1e-4)


def test_the_warm_start_is_the_ridge_regression():
    torch.manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(500, 20), dim=1)
    targets = vectors @ torch.randn(20, 8) + 0.01 * torch.randn(500, 8)
    network = ProjectorNetwork(20, 8)
    warm_start(network, vectors, targets, 0.3)
    found = network(vectors).detach()
    assert float(found.square().mean().sqrt()) == pytest.approx(0.3, rel=0.2)
    for row in range(8):
        correlation = np.corrcoef(found[:, row], targets[:, row])[0, 1]
        assert correlation > 0.97


def test_passages_of_several_lengths_take_turns():
    assert mixed([["a", "b", "c"], ["A", "B"]]) == ["a", "A", "b", "B"]


def test_telling_words_leave_out_what_all_texts_share():
    embeddings = torch.eye(6)
    found = telling_words([[0, 1, 2], [0, 1, 3], [0, 4, 3], [0, 4, 2]], embeddings)
    assert torch.allclose(found.mean(0), torch.zeros(6), atol=1e-6)
    assert (found[:, 0] == 0).all()
    assert found[0, 1] > 0 > found[2, 1]


def test_what_is_measured(generator, projector):
    losses = Losses(generator)
    own, asked = SETS[1]
    rows = {row["condition"]: row for row in passages(losses, projector, own, 6) if row["against"] == "empty"}
    assert {row["what"] for row in rows.values()} == {"passage of 6 tokens"}
    assert rows.keys() == {"empty", "own", "wrong", "random", "plain"}
    assert rows["empty"]["below"] == 0
    assert rows["own"]["below"] == pytest.approx(rows["empty"]["loss"] - rows["own"]["loss"], abs=1e-6)
    assert rows["own"]["low"] <= rows["own"]["below"] <= rows["own"]["high"]
    prompt, places = losses.paraphrase(1)
    text = losses.prompts.text_tokens(own[0].text)
    vector = projector.encode([Passage(own[0].text, embedding=own[0].embedding.tolist())])[0]
    with torch.no_grad():
        table = generator.model.get_input_embeddings().weight
        embedded = table[torch.tensor(prompt + text)].clone()
        embedded[places] = torch.from_numpy(vector)
        logits = generator.model(inputs_embeds=embedded[None]).logits[0, len(prompt) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(text))
    assert float(losses.passages([own[0].text], [vector])[0]) == pytest.approx(float(expected), abs=0.02)
    assert {row["condition"] for row in answers(losses, projector, asked)} >= {"own", "full text"}

    from ctxcomp.latent import Ladder

    compared = ladder(losses, Ladder(latents=projector, pruner="bm25"), asked, own, [0.5])
    by_name = {row["condition"]: row for row in compared}
    assert by_name["pruning"]["tokens"] <= by_name["ladder"]["tokens"]
