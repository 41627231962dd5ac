"""Train the adapter of `sentence_pruner`: which sentences of which passage answer the question.

    python -m ctxcomp_eval.pruner_data --out runs/pruner
    python -m ctxcomp_eval.train_pruner --data runs/pruner --out runs/pruner/r32   # goes on where it stopped

Source: the form is Provence's (Chirkova et al. 2025): one cross-encoder with a rank and a token output. Deviations:
labels are answer spans and supporting facts, not a language model's citations; the loss is listwise over all
sentences of a question's passages, for the score decides across passages under one budget; token types are all 0.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from ctxcomp.encode.load import load_encoder
from ctxcomp_eval.data import data_dir, read_rows
from ctxcomp_eval.pruner_data import Group, hop_groups
from ctxcomp_eval.pruner_model import PairBatch, PairModel
from ctxcomp_eval.token_head_data import Labelled, qamr, spans
from ctxcomp_eval.train_token_head import batches

NO_QUERY_EVERY = 6
"""One step in so many is without questions: what of a text is asked about must survive."""
SPAN_OFFSET = -2.0
"""Added to the keep logits of passages with a few questions each, where most words that matter are not asked about."""


def read_groups(path: Path) -> list[Group]:
    """The groups of a file that ``pruner_data`` wrote."""
    return [Group.read(row) for row in read_rows(path)]


class Trainer:
    """Adapters and heads, their optimiser and the log, as saved in ``last.pt``."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.step = options, 0
        self.model = PairModel(options.rank, options.scale, options.first_layer)
        adapters = [p for name, p in self.model.trainable().items() if "lora_" in name]
        heads = [p for name, p in self.model.trainable().items() if "lora_" not in name]
        self.optimiser = torch.optim.AdamW(
            [{"params": adapters, "lr": options.rate}, {"params": heads, "lr": options.rate}], weight_decay=0.01
        )
        warm = max(1, options.steps // 20)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min((step + 1) / warm, max(0.02, 1 - step / options.steps))
        )
        self.log: list[dict[str, float]] = []
        self.pool = ThreadPoolExecutor(options.threads)
        self.teacher = (
            load_encoder("minilm", head=options.teacher, threads=options.threads) if options.teacher else None
        )
        options.out.mkdir(parents=True, exist_ok=True)

    def save(self) -> None:
        """Write the state, the adapter, and the adapter again as the best if it is."""
        state = {
            "step": self.step, "log": self.log, "model": self.model.trainable(),
            "optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict(),
        }  # fmt: skip
        torch.save(state, self.options.out / "part.pt")
        (self.options.out / "part.pt").replace(self.options.out / "last.pt")
        self.model.save(self.options.out / "last.safetensors")
        if self.log and self.log[-1]["mrr"] >= max(row["mrr"] for row in self.log):
            self.model.save(self.options.out / "best.safetensors")

    def resume(self) -> None:
        """Go on from ``last.pt`` if it is there; else start from the weights of ``--init``, if given."""
        path = self.options.out / "last.pt"
        if not path.is_file():
            if self.options.init:
                self.model.adopt(torch.load(self.options.init, weights_only=False)["model"])
            return
        state = torch.load(path, weights_only=False)
        self.model.adopt(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.log = state["step"], state["log"]

    def loss(self, batch: PairBatch, questions: Tensor) -> Tensor:
        """Listwise over sentences and passages of each question, and binary on tokens and pairs.

        ``questions`` int64 ``[pairs]``: which pairs belong to one question.
        """
        rank, keep, _ = self.model(batch)
        sentences = self.model.sentence_logits(batch, keep)
        joint = sentences + rank[batch.pair_of]
        sure = batch.target >= 0
        loss = listwise(joint, questions[batch.pair_of], batch.target)
        held = torch.zeros(len(rank)).scatter_reduce(0, batch.pair_of, batch.target.float(), "amax")
        loss = loss + 0.5 * listwise(rank, questions, held.long())
        # In a passage with evidence the keep logit alone must find it.
        inside = held[batch.pair_of] > 0
        loss = loss + 0.5 * listwise(sentences[inside], batch.pair_of[inside], batch.target[inside])
        loss = loss + 0.2 * binary_cross_entropy_with_logits(rank, held)
        binary = binary_cross_entropy_with_logits(
            sentences[sure], batch.target[sure].float(), pos_weight=torch.tensor(2.0)
        )
        return loss + 0.5 * binary

    def train_step(self, groups: Sequence[Group], rng: random.Random) -> float:
        """Each thread takes a share of the questions: on busy cores threads inside one product wait for each other."""
        picked = [(group, chosen(group, self.options.negatives, rng)) for group in groups]
        shares = [picked[i :: self.options.threads] for i in range(self.options.threads)]
        return self._update(list(self.pool.map(self._gradients, shares)))

    def _gradients(self, picked: Sequence[tuple[Group, list[int]]]) -> tuple[float, tuple[Tensor, ...]]:
        pairs = [(group.question, group.passages[i]) for group, indices in picked for i in indices]
        evidence = [group.evidence[i] for group, indices in picked for i in indices]
        ignored = [group.ignored[i] for group, indices in picked for i in indices]
        questions = torch.tensor([number for number, (_, indices) in enumerate(picked) for _ in indices])
        return self._differentiate(self.loss(self.model.batch(pairs, evidence, ignored), questions))

    def _differentiate(self, loss: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        gradients = torch.autograd.grad(
            loss, list(self.model.trainable().values()), allow_unused=True, materialize_grads=True
        )
        return float(loss.detach()), gradients

    def free_step(self, texts: Sequence[Labelled]) -> float:
        """A step without questions: each word's logit against how often it is asked about, and against the teacher's.

        The teacher's are probabilities of the same tokens by a head that was trained for nothing else.
        """
        pairs = [(None, one.text) for one in texts]
        *_, word_logits = self.model(self.model.batch(pairs, [()] * len(texts), [()] * len(texts)))
        _, offsets, begins = self.model.encode(pairs)
        taught = self.teacher.keep_probs([one.text for one in texts]) if self.teacher else None
        targets, logits, offset, soft = [], [], [], []
        for row, (one, places, begin) in enumerate(zip(texts, offsets, begins, strict=True)):
            first = np.asarray([start for start, _ in one.words])
            word = np.searchsorted(first, [start for start, _ in places], side="right") - 1
            targets.append(torch.tensor(one.targets)[word.clip(0)])
            logits.append(word_logits[row, begin : begin + len(places)])
            offset.append(torch.full([len(places)], SPAN_OFFSET * (one.source == "span")))
            if taught is not None:
                soft.append(torch.from_numpy(taught[row][1][: len(places)]))
        found = torch.cat(logits)
        loss = binary_cross_entropy_with_logits(found + torch.cat(offset), torch.cat(targets).float())
        if soft:
            loss = loss + binary_cross_entropy_with_logits(found, torch.cat(soft))
        return self._update([self._differentiate(loss)])

    def _update(self, parts: Sequence[tuple[float, tuple[Tensor, ...]]]) -> float:
        for i, parameter in enumerate(self.model.trainable().values()):
            parameter.grad = torch.stack([gradients[i] for _, gradients in parts]).mean(0)
        torch.nn.utils.clip_grad_norm_(self.model.trainable().values(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return float(np.mean([loss for loss, _ in parts]))

    def run(self, train: Sequence[Group], dev: Sequence[Group], free: Iterator[list[Labelled]]) -> None:
        """Train to the last step, measuring on ``dev`` now and then; ``free`` gives batches without questions."""
        rng = random.Random(self.options.seed + self.step)
        stream, recent = endless(train, self.options.questions, rng), []
        for _ in tqdm(range(self.step, self.options.steps), desc="training"):
            without = self.step % NO_QUERY_EVERY == NO_QUERY_EVERY - 1
            value = self.free_step(next(free)) if without else self.train_step(next(stream), rng)
            if not without:
                recent.append(value)
            if self.step % self.options.every == 0 or self.step == self.options.steps:
                self.log.append({"step": self.step, "loss": float(np.mean(recent)), **evaluate(self.model, dev)})
                recent = []
                print(json.dumps(self.log[-1]), flush=True)
                self.save()
                write_curve(self.options.out / "curve.csv", self.log)


def listwise(logits: Tensor, lists: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each positive against the negatives of its list, over all lists with one.

    Positives of one list do not compete with each other, and entries of target -1 take no part.
    """
    total = logits.new_zeros(())
    found = 0
    for one in torch.unique(lists[target == 1]):
        mine = lists == one
        negative = torch.logsumexp(logits[mine & (target == 0)], 0)
        positive = logits[mine & (target == 1)]
        total = total + torch.nn.functional.softplus(negative - positive).mean()
        found += 1
    return total / max(found, 1)


def chosen(group: Group, negatives: int, rng: random.Random) -> list[int]:
    """A passage with evidence (two where there are), and negatives, the best-ranked most often."""
    positive = [i for i, spans in enumerate(group.evidence) if spans]
    rest = [i for i, spans in enumerate(group.evidence) if not spans]
    picked = sorted(rest, key=lambda i: rest.index(i) * rng.random())[:negatives]
    return rng.sample(positive, min(2, len(positive))) + picked


def endless(groups: Sequence[Group], size: int, rng: random.Random) -> Iterator[list[Group]]:
    """Batches of questions, in a new order each round."""
    while True:
        order = rng.sample(range(len(groups)), len(groups))
        for at in range(0, len(order) - size + 1, size):
            yield [groups[i] for i in order[at : at + size]]


@torch.inference_mode()
def evaluate(model: PairModel, groups: Sequence[Group]) -> dict[str, float]:
    """How high the evidence stands among all sentences of a question's passages: mean reciprocal rank, hits."""
    ranks = []
    for group in groups:
        order = sorted(range(len(group.passages)), key=lambda i: len(group.passages[i]))
        joint, target = [], []
        for at in range(0, len(order), 10):
            part = order[at : at + 10]
            batch = model.batch(
                [(group.question, group.passages[i]) for i in part],
                [group.evidence[i] for i in part], [group.ignored[i] for i in part],
            )  # fmt: skip
            rank, keep, _ = model(batch)
            joint.append(model.sentence_logits(batch, keep) + rank[batch.pair_of])
            target.append(batch.target)
        scores, labels = torch.cat(joint), torch.cat(target)
        best = scores[labels != 0].max() if (labels != 0).any() else scores.min()
        ranks.append(1 + int((scores[labels == 0] > best).sum()))
    found = np.asarray(ranks)
    hits = {f"hit{k}": float((found <= k).mean()) for k in (1, 2, 5, 10)}
    return {"mrr": float((1 / found).mean()), **hits}


def write_curve(path: Path, log: Sequence[dict[str, float]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, list(log[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(log)


def parse(arguments: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("runs/pruner"), help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--out", type=Path, default=Path("runs/pruner/r32"), help="folder of checkpoints and curve")
    parser.add_argument("--init", type=Path, help="last.pt of another run, whose weights training starts from")
    parser.add_argument("--teacher", type=Path, help="head file that the steps without question learn from too")
    parser.add_argument("--hops", type=int, default=0, help="rounds over HotpotQA, with evidence behind questions")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--first-layer", type=int, default=0, help="the lowest layer that is adapted")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=8, help="per step")
    parser.add_argument("--negatives", type=int, default=3, help="passages without evidence per question")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--every", type=int, default=250, help="steps between evaluations")
    parser.add_argument("--dev", type=int, default=120, help="dev questions per evaluation")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(1)
    dev = [group for group in read_groups(options.data / "dev.jsonl") if group.source != "hotpot"]
    trainer = Trainer(options)
    trainer.resume()
    folder = data_dir()
    free = batches(
        qamr(folder, "train", articles=False), spans(folder, "train", articles=False), 8, options.seed + trainer.step
    )
    train = read_groups(options.data / "train.jsonl")
    rng = random.Random(options.seed)
    for _ in range(options.hops):
        train += hop_groups(folder, rng)
    trainer.run(train, dev[: options.dev], free)


if __name__ == "__main__":
    main()
