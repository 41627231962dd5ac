"""Fit `sentence_pruner`'s second look: whether a question needs several passages, and what counts if it does.

    python -m ctxcomp_eval.train_second_look --data runs/pruner --head runs/pruner/dense/last.safetensors

The gate tells HotpotQA's training questions from the dev questions of one passage that ``train_fusion`` fits on. The
units' weights minimise the same listwise loss as there, on HotpotQA's questions and, counted by the gate, on those of
one passage: what looks as if it needed several passages is where the second look may do harm. Adds "several", "second"
and "probability_second" to ``ctxcomp/weights/sentence_fusion.json`` and leaves the first look as it is.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import candidates
from ctxcomp.text.second_look import Seen, Vocabulary, second_signals, several_signals
from ctxcomp.text.sentence_pruner import FUSION, SIGNALS, SentencePruner, fused
from ctxcomp.text.signals import cross_signals, look
from ctxcomp_eval.pruner_data import Group
from ctxcomp_eval.train_fusion import Labelled, fit, label, logistic, retrieved
from ctxcomp_eval.train_pruner import read_groups

Floats = NDArray[np.float64]


def measure(groups: Sequence[Group], pruner: SentencePruner, seed: int) -> tuple[list[Labelled], Floats]:
    """All signals of the second look with labels, and the gate's signals ``[questions, len(SEVERAL)]``."""
    scorer, encoder, rng = pruner.pair_scorer(), pruner.load_encoder("none"), random.Random(seed)
    found, gates = [], []
    for group in tqdm(groups, desc="signals"):
        order = rng.sample(range(len(group.passages)), len(group.passages))
        scores = [group.scores[i] if group.source != "hotpot" else None for i in order]
        passages = tuple(Passage(group.passages[i], score=score) for i, score in zip(order, scores, strict=True))
        units = candidates(Request(group.question, passages, Budget(keep=1)), "sentence")
        read = scorer.score([(group.question, passage.text) for passage in passages])
        cross = np.concatenate([cross_signals(units, p, one) for p, one in enumerate(read)])
        (first,) = look([units], encoder)
        signals = np.concatenate([first.signals, cross], axis=1)
        seen, words = Seen(units, fused("full", signals), first.passages, first.parts), Vocabulary(units)
        hops = encoder.embed([f"{group.question} {units.texts[i]}" for i in seen.evidence()])
        every = np.concatenate([signals, second_signals(seen, words, hops)], axis=1)
        found.append(Labelled(group, every, label(units, order, group)))
        gates.append(several_signals(seen, words))
    return found, np.stack(gates)


def gate(signals: Floats, several: NDArray[np.int64]) -> tuple[Floats, float]:
    """Weights and bias of a logistic regression, fitted on standardised signals."""
    mean, deviation = signals.mean(axis=0), signals.std(axis=0) + 1e-9
    weights, bias = logistic((signals - mean) / deviation, several)
    scaled = np.asarray(weights) / deviation
    return scaled, float(bias - mean @ scaled)


def calibrate(data: Sequence[Labelled], logits: Sequence[Floats], counts: Floats) -> dict[str, float]:
    """As ``train_fusion.calibrate``, without the requests that hold no evidence: the first look knows those."""
    rows = np.concatenate([np.stack([z, z - z.max()], axis=1) for z in logits])
    each = np.repeat(counts, [len(z) for z in logits])
    (scale, margin), bias = logistic(rows, np.concatenate([one.target for one in data]), each)
    return {"logit": round(scale, 5), "margin": round(margin, 5), "bias": round(bias, 5)}


def named(names: Sequence[str], weights: Floats, bias: float) -> dict[str, Any]:
    """A linear model as the fusion's file holds it."""
    pairs = zip(names, weights, strict=True)
    return {"weights": {name: round(float(weight), 5) for name, weight in pairs}, "bias": round(bias, 5)}


def learn(one: tuple[list[Labelled], Floats], more: tuple[list[Labelled], Floats]) -> dict[str, Any]:
    """The models, from questions of one passage and from those of several."""
    several = np.repeat([0, 1], [len(one[0]), len(more[0])])
    signals = np.concatenate([one[1], more[1]])
    weights, bias = gate(signals, several)
    likely = 1 / (1 + np.exp(-(signals @ weights + bias)))
    counts = np.where(several == 1, 1.0, likely)
    data = [*one[0], *more[0]]
    second, second_bias = fit(data, range(len(SIGNALS["second"])), counts)
    logits = [row.signals @ second + second_bias for row in data]
    means = likely[several == 0].mean(), likely[several == 1].mean()
    print(f"likely to need several: {means[0]:.3f} of those of one passage, {means[1]:.3f} of those of several")
    return {
        "several": named(SIGNALS["several"], weights, bias),
        "second": named(SIGNALS["second"], second, second_bias),
        "probability_second": calibrate(data, logits, counts),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("runs/pruner"), help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--head", type=Path, default=Path("runs/pruner/dense/last.safetensors"))
    parser.add_argument("--out", type=Path, default=FUSION)
    parser.add_argument("--limit", type=int, default=450, help="questions of one passage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pruner = SentencePruner(head=str(options.head))
    one = [group for group in read_groups(options.data / "dev.jsonl") if retrieved(group)][: options.limit]
    more = [group for group in read_groups(options.data / "train.jsonl") if group.source == "hotpot"]
    models = learn(measure(one, pruner, options.seed), measure(more, pruner, options.seed))
    held = json.loads(options.out.read_text(encoding="utf-8"))
    options.out.write_text(json.dumps({**held, **models}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
