"""Fit how `sentence_pruner` weighs its signals, and calibrate it: dev questions with 19 BM25 distractors each.

    python -m ctxcomp_eval.train_fusion --data runs/pruner --head runs/pruner/third/last.safetensors

Weights minimise a listwise loss over all sentences of a question's passages; then a logistic model of the log-odds, and
of their standing among the question's, makes the probabilities true. Each question counts once more, with 0.3, without
its evidence, so that nothing needs to be kept. Five folds say what was gained; what is written is fitted on all.
Writes ``ctxcomp/weights/sentence_fusion.json``, ``results/reliability.csv`` and its picture.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp import Budget, Passage, Request
from ctxcomp.candidates import Candidates, candidates
from ctxcomp.text.fusion import FUSION, STANDING, probabilities, standing
from ctxcomp.text.fusion import SIGNALS as MODELS
from ctxcomp.text.sentence_pruner import SentencePruner
from ctxcomp.text.signals import cheap_signals, cross_signals
from ctxcomp_eval import provenance
from ctxcomp_eval.pruner_data import Group
from ctxcomp_eval.train_pruner import read_groups

Matrix = NDArray[np.float64]
FOLDS = 5
SIGNALS = MODELS["full"]
PENALTY = 1e-3
NO_ANSWER = 0.3


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question's sentences.

    Parameters
    ----------
    signals: ``[n, signals]``.
    target: 1 for evidence, 0 for none, -1 for neither, ``[n]``.
    passage: whose each is, ``[n]``.
    """

    group: Group
    signals: Matrix
    target: NDArray[np.int64]
    passage: NDArray[np.int64]


def retrieved(group: Group) -> bool:
    """Whether the retriever itself would have returned the evidence among so many passages.

    Otherwise its score says the opposite of what it says in use: negatives are there because they score high.
    HotpotQA's passages carry no scores.
    """
    return group.source != "hotpot" and group.scores[0] > min(group.scores[1:])


def label(units: Candidates, order: Sequence[int], group: Group) -> NDArray[np.int64]:
    """1 where a unit overlaps evidence, -1 where only the answer's words occur, else 0."""
    target = np.zeros(len(units), np.int64)
    for p, i in enumerate(order):
        mine = units.units_of(p)
        for value, spans in ((-1, group.ignored[i]), (1, group.evidence[i])):
            for a, b in spans:
                target[mine][(units.start[mine] < b) & (units.end[mine] > a)] = value
    return target


def measure(groups: Sequence[Group], head: Path, seed: int) -> list[Labelled]:
    """Signals and labels of all questions, their passages shuffled."""
    pruner, rng = SentencePruner(head=str(head)), random.Random(seed)
    scorer, encoder = pruner.pair_scorer(), pruner.load_encoder("none")
    found = []
    for group in tqdm(groups, desc="signals"):
        order = rng.sample(range(len(group.passages)), len(group.passages))
        passages = tuple(Passage(group.passages[i], score=group.scores[i]) for i in order)
        units = candidates(Request(group.question, passages, Budget(keep=1)), "sentence")
        scores = scorer.score([(group.question, passage.text) for passage in passages])
        cross = np.concatenate([cross_signals(units, p, one) for p, one in enumerate(scores)])
        signals = np.concatenate([cheap_signals([units], encoder)[0], cross], axis=1)
        found.append(Labelled(group, signals, label(units, order, group), units.passage))
    return found


def fit(
    data: Sequence[Labelled], columns: Sequence[int], counts: NDArray[np.float64] | None = None
) -> tuple[Matrix, float]:
    """Weights ``[columns]`` by the listwise loss, scaled and shifted to log-odds.

    Parameters
    ----------
    counts: how much each question counts, ``[questions]``; None for all alike.
    """
    counts = np.ones(len(data)) if counts is None else counts
    every = np.concatenate([one.signals[:, columns] for one in data])
    mean, deviation = every.mean(axis=0), every.std(axis=0) + 1e-9
    lists = [
        (torch.from_numpy((one.signals[:, columns] - mean) / deviation), torch.from_numpy(one.target), float(count))
        for one, count in zip(data, counts, strict=True)
        if (one.target == 1).any()
    ]
    all_counts = sum(count for *_, count in lists)
    weights = torch.zeros(len(columns), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        total = PENALTY * (weights**2).sum()
        for x, target, count in lists:
            z = x @ weights
            margin = torch.logsumexp(z[target == 0], 0) - z[target == 1]
            total = total + torch.nn.functional.softplus(margin).mean() * (count / all_counts)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    scaled = weights.detach().numpy() / deviation
    logits = np.concatenate([one.signals[:, columns] @ scaled for one in data])
    each = np.repeat(counts, [len(one.target) for one in data])
    (scale,), bias = logistic(logits[:, None], targets(data), each)
    return scaled * scale, bias


def targets(data: Sequence[Labelled]) -> NDArray[np.int64]:
    """The targets of all sentences in a row."""
    return np.concatenate([one.target for one in data])


def logistic(x: Matrix, target: NDArray[np.int64], weight: Matrix | None = None) -> tuple[list[float], float]:
    """Coefficients and bias of a logistic regression on ``x`` ``[n, k]``; rows of target -1 take no part."""
    sure = target >= 0
    features, y = torch.from_numpy(x[sure]), torch.from_numpy(target[sure].astype(np.float64))
    weights = None if weight is None else torch.from_numpy(weight[sure])
    parameters = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        z = features @ parameters[:-1] + parameters[-1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z, y, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    *coefficients, bias = parameters.detach().tolist()
    return coefficients, bias


def calibrate(data: Sequence[Labelled], logits: Sequence[Matrix]) -> dict[str, float]:
    """How log-odds and their standing in the request become a probability, as `probabilities` reads it."""
    rows, labels, weights = [], [], []
    for one, z in zip(data, logits, strict=True):
        empty = ~np.isin(one.passage, one.passage[one.target == 1])
        for part, weight in ((np.ones(len(z), bool), 1.0), (empty, NO_ANSWER)):
            if part.any():
                rows.append(standing(z[part], np.unique(one.passage[part], return_inverse=True)[1]))
                labels.append(one.target[part])
                weights.append(np.full(int(part.sum()), weight))
    return calibration(np.concatenate(rows), np.concatenate(labels), np.concatenate(weights))


def calibration(rows: Matrix, labels: NDArray[np.int64], weights: Matrix) -> dict[str, float]:
    """A logistic model of units' standing ``[units, len(STANDING)]``, as the fusion's file holds it."""
    values, bias = logistic(rows, labels, weights)
    return {name: round(value, 5) for name, value in zip((*STANDING, "bias"), (*values, bias), strict=True)}


def held_out(data: Sequence[Labelled], columns: Sequence[int]) -> list[Matrix]:
    """Log-odds of each question's sentences by a fit that has not seen the question."""
    logits: list[Matrix] = [np.empty(0)] * len(data)
    for fold in range(FOLDS):
        rest = [one for i, one in enumerate(data) if i % FOLDS != fold]
        weights, bias = fit(rest, columns)
        for i in range(fold, len(data), FOLDS):
            logits[i] = data[i].signals[:, columns] @ weights + bias
    return logits


def hits(data: Sequence[Labelled], logits: Sequence[Matrix]) -> dict[str, float]:
    """Share of questions whose evidence is among the best k sentences."""
    ranks = []
    for one, z in zip(data, logits, strict=True):
        if (one.target == 1).any():
            ranks.append(1 + int((z[one.target == 0] > z[one.target == 1].max()).sum()))
    return {f"hit{k}": float(np.mean(np.asarray(ranks) <= k)) for k in (1, 2, 5, 10, 20)}


def reliability(data: Sequence[Labelled], found: Sequence[Matrix]) -> list[dict[str, float]]:
    """Predicted and observed probability by bin, with the number of sentences."""
    target = targets(data)
    p = np.concatenate(found)
    p, target = p[target >= 0], target[target >= 0]
    edges = [0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0001]
    rows = []
    for low, high in pairwise(edges):
        inside = (p >= low) & (p < high)
        if inside.any():
            row = {"predicted": float(p[inside].mean()), "observed": float(target[inside].mean())}
            rows.append({**row, "sentences": int(inside.sum())})
    return rows


def draw(rows: Sequence[dict[str, float]], path: Path) -> None:
    """The reliability curve, on logarithmic axes: most sentences are not needed."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.001, 1], [0.001, 1], color="0.7", label="perfect")
    axes.plot([row["predicted"] for row in rows], [max(row["observed"], 1e-4) for row in rows], "o-", label="held out")
    axes.set(xscale="log", yscale="log", xlabel="predicted keep probability", ylabel="share that was evidence")
    axes.legend()
    figure.savefig(path, dpi=120)


def write(data: Sequence[Labelled], options: argparse.Namespace, columns: Mapping[str, Sequence[int]]) -> None:
    """Fit on all questions, and say what folds gave."""
    stored: dict[str, Any] = {}
    for name, own in columns.items():
        weights, bias = fit(data, own)
        logits = held_out(data, own)
        found = {key: round(value, 4) for key, value in hits(data, logits).items()}
        named = {SIGNALS[c]: round(float(w), 5) for c, w in zip(own, weights, strict=True)}
        stored[name] = {"weights": named, "bias": round(bias, 5), "held_out": found}
        print(name, json.dumps(stored[name]))
    stored["probability"] = calibrate(data, logits)
    rows = reliability(
        data, [probabilities(z, one.passage, stored["probability"]) for one, z in zip(data, logits, strict=True)]
    )
    options.out.write_text(json.dumps({**stored, "questions": len(data)}, indent=1) + "\n", encoding="utf-8")
    with (options.results / "reliability.csv").open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, options.results / "reliability.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("runs/pruner"), help="folder with dev.jsonl")
    parser.add_argument("--head", type=Path, default=Path("runs/pruner/third/last.safetensors"))
    parser.add_argument("--out", type=Path, default=FUSION)
    parser.add_argument(
        "--results", type=Path, default=provenance.ROOT / "eval" / "results", help="folder of the curve"
    )
    parser.add_argument("--limit", type=int, default=450, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    groups = [group for group in read_groups(options.data / "dev.jsonl") if retrieved(group)]
    data = measure(groups[: options.limit], options.head, options.seed)
    first = {name: own for name, own in MODELS.items() if set(own) <= set(SIGNALS)}
    write(data, options, {name: [SIGNALS.index(one) for one in own] for name, own in first.items()})


if __name__ == "__main__":
    main()
