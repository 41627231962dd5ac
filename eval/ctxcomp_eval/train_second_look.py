"""Fit `sentence_pruner`'s second look: whether a question needs several passages, and what counts if it does.

    python -m ctxcomp_eval.train_second_look --data runs/pruner --head runs/pruner/third/last.safetensors

The gate tells HotpotQA's dev questions from the dev questions of one passage that ``train_fusion`` fits on; the adapter
has seen neither. The units' weights minimise the same listwise loss as there, on HotpotQA's questions and, counted by
the gate, on those of one passage: what looks as if it needed several passages is where the second look may do harm.
Folds of HotpotQA's questions say what is gained; what is written is fitted on all. Adds "several", "second" and
"probability_second" to ``ctxcomp/weights/sentence_fusion.json`` and leaves the first look as it is.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import candidates
from ctxcomp.text.fusion import FUSION, SIGNALS, fused, probabilities, sigmoid, standing, stored
from ctxcomp.text.second_look import Seen, Vocabulary, second_signals, several_signals
from ctxcomp.text.sentence_pruner import SentencePruner
from ctxcomp.text.signals import cross_signals, look
from ctxcomp_eval.pruner_data import Group
from ctxcomp_eval.train_fusion import Labelled, calibration, fit, label, logistic, retrieved, targets
from ctxcomp_eval.train_pruner import read_groups

Floats = NDArray[np.float64]
FOLDS = 5
KEEPS = (0.1, 0.25, 0.4)
Measured = tuple[list[Labelled], Floats]


def measure(groups: Sequence[Group], pruner: SentencePruner, seed: int) -> Measured:
    """All signals of the second look with labels, and the gate's signals ``[questions, len(SEVERAL)]``."""
    scorer, encoder, rng = pruner.pair_scorer(), pruner.load_encoder("none"), random.Random(seed)
    found, gates = [], []
    for group in tqdm(groups, desc="signals"):
        order = rng.sample(range(len(group.passages)), len(group.passages))
        scores = [group.scores[i] if any(group.scores) else None for i in order]
        passages = tuple(Passage(group.passages[i], score=score) for i, score in zip(order, scores, strict=True))
        units = candidates(Request(group.question, passages, Budget(keep=1)), "sentence")
        read = scorer.score([(group.question, passage.text) for passage in passages])
        cross = np.concatenate([cross_signals(units, p, one) for p, one in enumerate(read)])
        (first,) = look([units], encoder)
        signals = np.concatenate([first.signals, cross], axis=1)
        seen, words = Seen(units, fused("full", signals)), Vocabulary(units)
        hops = encoder.embed([f"{group.question} {units.texts[i]}" for i in seen.evidence()])
        every = np.concatenate([signals, second_signals(seen, words, first.parts, hops)], axis=1)
        found.append(Labelled(group, every, label(units, order, group), units.passage))
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
    rows = np.concatenate([standing(z, one.passage) for one, z in zip(data, logits, strict=True)])
    each = np.repeat(counts, [len(z) for z in logits])
    return calibration(rows, targets(data), each)


def named(names: Sequence[str], weights: Floats, bias: float) -> dict[str, Any]:
    """A linear model as the fusion's file holds it."""
    pairs = zip(names, weights, strict=True)
    return {"weights": {name: round(float(weight), 5) for name, weight in pairs}, "bias": round(bias, 5)}


def learn(one: Measured, more: Measured) -> dict[str, Any]:
    """The models, from questions of one passage and from those of several."""
    several = np.repeat([0, 1], [len(one[0]), len(more[0])])
    signals = np.concatenate([one[1], more[1]])
    weights, bias = gate(signals, several)
    likely = sigmoid(signals @ weights + bias)
    counts = np.where(several == 1, 1.0, likely)
    data = [*one[0], *more[0]]
    second, second_bias = fit(data, range(len(SIGNALS["second"])), counts)
    logits = [row.signals @ second + second_bias for row in data]
    return {
        "several": named(SIGNALS["several"], weights, bias),
        "second": named(SIGNALS["second"], second, second_bias),
        "probability_second": calibrate(data, logits, counts),
        "likely": {
            "one": round(float(likely[several == 0].mean()), 3),
            "several": round(float(likely[several == 1].mean()), 3),
        },
    }


def mixed(row: Labelled, signals: Floats, models: Mapping[str, Any], share: float | None = None) -> Floats:
    """Probabilities of a question's units as `sentence_pruner` mixes them, with the gate's share or another."""
    first = probabilities(fused("full", row.signals[:, : len(SIGNALS["full"])]), row.passage, stored()["probability"])
    second = probabilities(fused("second", row.signals, models), row.passage, models["probability_second"])
    likely = float(sigmoid(fused("several", signals, models))) if share is None else share
    return np.asarray(first ** (1 - likely) * second**likely)


def complete(row: Labelled, scores: Floats, keep: float) -> bool:
    """Whether the best sentences, as many as ``keep`` of the sentences' number, hold all evidence."""
    best = np.argsort(-scores, kind="stable")[: max(1, round(keep * len(scores)))]
    return set(np.flatnonzero(row.target == 1)) <= set(best.tolist())


def held_out(one: Measured, more: Measured) -> dict[str, dict[str, float]]:
    """Of HotpotQA's questions with all evidence kept, by the first look alone and by fits that did not see them."""
    found: dict[str, list[list[bool]]] = {"first": [], "mixed": []}
    for fold in range(FOLDS):
        rest = [i for i in range(len(more[0])) if i % FOLDS != fold]
        models = learn(one, ([more[0][i] for i in rest], more[1][rest]))
        for i in range(fold, len(more[0]), FOLDS):
            for name, share in (("first", 0.0), ("mixed", None)):
                scores = mixed(more[0][i], more[1][i], models, share)
                found[name].append([complete(more[0][i], scores, keep) for keep in KEEPS])
    return {
        name: dict(zip(map(str, KEEPS), np.mean(rows, axis=0).round(3).tolist(), strict=True))
        for name, rows in found.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("runs/pruner"), help="folder with dev.jsonl")
    parser.add_argument("--head", type=Path, default=Path("runs/pruner/third/last.safetensors"))
    parser.add_argument("--out", type=Path, default=FUSION)
    parser.add_argument("--limit", type=int, default=450, help="questions of one passage")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pruner = SentencePruner(head=str(options.head))
    dev = read_groups(options.data / "dev.jsonl")
    one = [group for group in dev if retrieved(group)][: options.limit]
    more = [group for group in dev if group.source == "hotpot"]
    measured = measure(one, pruner, options.seed), measure(more, pruner, options.seed)
    models = learn(*measured)
    print("likely to need several passages:", models["likely"], "all evidence kept:", held_out(*measured))
    held = json.loads(options.out.read_text(encoding="utf-8"))
    options.out.write_text(json.dumps({**held, **models}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
