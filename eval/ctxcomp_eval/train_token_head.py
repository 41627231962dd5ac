"""Train the default head of ``token_pruner``: which words of a text are worth keeping, whatever the question.

    python -m ctxcomp_eval.train_token_head --out runs/token_head            # LoRA and classifier
    python -m ctxcomp_eval.train_token_head --rank 0 --out runs/token_head0  # classifier alone
    python -m ctxcomp_eval.train_token_head --evaluate runs/token_head/best.pt

Source: the form is LLMLingua-2's (Pan et al. 2024), a two-class token classifier whose keep probability ranks
the words. Deviations: labels are soft, from how often a word is asked about (QAMR) or answers a question
(extractive QA), not GPT-4's deletions; a 6-layer encoder with adapters stands in for XLM-RoBERTa.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from ctxcomp_eval.data import data_dir
from ctxcomp_eval.token_head_data import Labelled, pack, qamr, ranking, spans, survival
from ctxcomp_eval.token_head_model import TokenHead

KEEPS = (0.5, 0.3)
_STOP_WORDS = (
    "a an the this that these those it its he she they them his her their we you i and or but nor so yet if then "
    "than as of in on at by for with from to into over under about after before between through during is are was "
    "were be been being am has have had having do does did will would shall should can could may might must not no "
    "which who whom whose what where when why how there here also such other some any each more most very just"
)


def batches(
    sentences: Sequence[Labelled], passages: Sequence[Labelled], size: int, seed: int
) -> Iterator[list[Labelled]]:
    """Endless batches, half QAMR sentences packed to passages, half span passages; the same for the same seed."""
    generator = random.Random(seed)
    queues: dict[str, list[Labelled]] = {"qamr": [], "span": []}
    while True:
        batch = []
        for place in range(size):
            source = "span" if passages and place % 2 else "qamr"
            if not queues[source]:
                fresh = list(passages) if source == "span" else pack(sentences, generator)
                generator.shuffle(fresh)
                queues[source] = fresh
            batch.append(queues[source].pop())
        yield batch


def loss_of(head: TokenHead, examples: Sequence[Labelled], span_weight: float) -> Tensor:
    """Mean binary cross-entropy against the soft label of each token's word, span passages weighted."""
    batch = head.encode(examples, longest=256)
    logits = head(batch)
    is_span = torch.tensor([example.source == "span" for example in examples])[:, None]
    logits = torch.where(is_span, logits * head.span_slope + head.span_offset, logits)
    used = batch.word >= 0
    rows = [
        torch.tensor(example.targets)[word.clamp(min=0)] for example, word in zip(examples, batch.word, strict=True)
    ]
    losses = binary_cross_entropy_with_logits(logits, torch.stack(rows), reduction="none")
    weights = used * torch.where(is_span, span_weight, 1.0)
    return (losses * weights).sum() / weights.sum()


def measure(examples: Sequence[Labelled], scores: Sequence[NDArray[np.float64]]) -> dict[str, float]:
    """AUC, average precision, and the share of answers that survive at each of ``KEEPS``."""
    auc, precision = ranking(examples, scores)
    return {"auc": auc, "ap": precision} | {f"survival_{keep}": survival(examples, scores, keep) for keep in KEEPS}


def measure_all(head: TokenHead, sets: dict[str, list[Labelled]]) -> dict[str, float]:
    """`measure` on each set, with "choice": the mean survival, by which checkpoints are chosen."""
    found = {f"{n}_{k}": v for n, part in sets.items() for k, v in measure(part, head.word_scores(part)).items()}
    return found | {"choice": float(np.mean([value for key, value in found.items() if "survival" in key]))}


def baselines(train: Sequence[Labelled], part: Sequence[Labelled]) -> dict[str, dict[str, float]]:
    """`measure` for random scores, and for inverse document frequency with stop words and punctuation last."""
    generator, stop = np.random.default_rng(0), frozenset(_STOP_WORDS.split())
    frequency = Counter(word for example in train for word in {example.text[a:b].lower() for a, b in example.words})

    def worth(word: str) -> float:
        plain = word.lower() not in stop and any(character.isalnum() for character in word)
        return float(np.log((len(train) + 1) / (frequency[word.lower()] + 0.5))) if plain else 0.0

    scores = {
        "random": [generator.random(len(example.words)) for example in part],
        "idf": [np.asarray([worth(example.text[a:b]) for a, b in example.words]) for example in part],
    }
    return {name: measure(part, score) for name, score in scores.items()}


class Trainer:
    """The loop: its state lives in ``out`` and survives an interruption."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.out = options, Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.head = TokenHead(options.rank, options.scale)
        self.step, self.best, self.stale = 0, -1.0, 0
        self.log: list[dict[str, float]] = []
        named = self.head.trainable()
        adapters = [p for name, p in named.items() if "lora" in name]
        rest = [p for name, p in named.items() if "lora" not in name]
        groups = [{"params": rest, "lr": options.head_rate}]
        groups += [{"params": adapters, "lr": options.rate}] if adapters else []
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        warm = max(options.steps // 20, 1)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda s: min((s + 1) / warm, max(0.05, 1 - s / options.steps))
        )

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs; the batches follow from the seed and the step."""
        return {
            "options": vars(self.options),
            "parameters": {name: p.detach() for name, p in self.head.trainable().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "best": self.best,
            "stale": self.stale,
            "log": self.log,
            "generator": torch.get_rng_state(),
        }

    def resume(self) -> None:
        """Go on where ``last.pt`` stopped, if it is there."""
        if not (self.out / "last.pt").is_file():
            return
        saved = torch.load(self.out / "last.pt", weights_only=True)
        if saved["options"] != vars(self.options):
            raise SystemExit(f"{self.out} holds a run with other options {saved['options']}: give another --out")
        restore(self.head, saved["parameters"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.step, self.best, self.stale, self.log = saved["step"], saved["best"], saved["stale"], saved["log"]
        torch.set_rng_state(saved["generator"])

    def run(self, train: dict[str, list[Labelled]], dev: dict[str, list[Labelled]]) -> None:
        """Train to the last step, or until ``patience`` evaluations on the dev sets in a row bring nothing."""
        options = self.options
        stream = batches(train["qamr"], train["span"], options.batch, options.seed)
        for _ in range(self.step):
            next(stream)
        self.head.train()
        losses: list[float] = []
        progress = tqdm(total=options.steps, initial=self.step, desc="token head")
        while self.step < options.steps and self.stale < options.patience:
            loss = loss_of(self.head, next(stream), options.span_weight)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.head.trainable().values(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.step += 1
            losses.append(loss.item())
            progress.update()
            if self.step % options.every == 0 or self.step == options.steps:
                self.checkpoint(float(np.mean(losses)), dev)
                losses.clear()
                progress.set_postfix(loss=f"{self.log[-1]['loss']:.3f}", choice=f"{self.log[-1]['choice']:.3f}")
        progress.close()

    def checkpoint(self, loss: float, dev: dict[str, list[Labelled]]) -> None:
        """Measure on the dev sets, keep the best head, write state and curve."""
        found = measure_all(self.head, dev)
        self.log.append({"step": self.step, "loss": loss, **found})
        self.stale = 0 if found["choice"] > self.best else self.stale + 1
        if not self.stale:
            self.best = found["choice"]
            self.head.save(self.out / "best.safetensors")
            torch.save(self.state(), self.out / "best.pt")
        torch.save(self.state(), self.out / "last.pt")
        draw(self.log, self.out)


def draw(log: Sequence[dict[str, float]], out: Path, keys: Sequence[str] = ("loss", "choice")) -> None:
    """Write the curve as CSV, and as PNG where matplotlib is installed."""
    with (out / "curve.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(log[0]))
        writer.writeheader()
        writer.writerows(log)
    try:
        figure = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError:
        return
    axes = figure.Figure(figsize=(7, 4), layout="tight").subplots()
    for key in keys:
        axes.plot([row["step"] for row in log], [row[key] for row in log], label=key)
    axes.set_xlabel("step")
    axes.legend()
    axes.figure.savefig(out / "curve.png")


def restore(head: TokenHead, parameters: dict[str, Tensor]) -> None:
    """Put saved values into exactly the trained parameters of ``head``."""
    trained = head.trainable()
    if trained.keys() != parameters.keys():
        raise SystemExit(f"the checkpoint holds other parameters than this head: {trained.keys() ^ parameters.keys()}")
    with torch.no_grad():
        for name, value in parameters.items():
            trained[name].copy_(value)


def load_best(path: Path) -> TokenHead:
    """The head of a checkpoint."""
    saved = torch.load(path, weights_only=True)
    head = TokenHead(saved["options"]["rank"], saved["options"]["scale"])
    restore(head, saved["parameters"])
    return head


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/token_head", help="folder of checkpoints, curve and best.safetensors")
    parser.add_argument("--rank", type=int, default=8, help="of the adapters; 0 trains the classifier alone")
    parser.add_argument("--scale", type=float, default=2.0, help="what B @ A is multiplied with")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=8, help="passages of up to 256 tokens")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the adapters")
    parser.add_argument("--head-rate", type=float, default=3e-3, help="learning rate of the classifier")
    parser.add_argument(
        "--span-weight", type=float, default=1.0, help="of span passages in the loss; 0 leaves them out"
    )
    parser.add_argument("--half", type=float, default=2.0, help="QAMR: answers that make a soft label of one half")
    parser.add_argument("--length-power", type=float, default=0.5, help="QAMR: discount of long answers")
    parser.add_argument(
        "--no-articles", action="store_true", help="label articles 0: answers are compared without them"
    )
    parser.add_argument("--every", type=int, default=70, help="steps between evaluations")
    parser.add_argument("--patience", type=int, default=4, help="evaluations without gain before stopping")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", type=Path, help="a best.pt to measure on the QAMR test split instead of training")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    torch.set_num_threads(1)
    options, folder = parse(arguments), data_dir()
    articles = not options.no_articles
    sentences = qamr(folder, "train", half=options.half, length_power=options.length_power, articles=articles)
    train = {"qamr": sentences, "span": spans(folder, "train", articles=articles) if options.span_weight else []}
    dev = {"qamr": qamr(folder, "dev"), "span": spans(folder, "dev")[:100]}
    if options.evaluate:
        test = qamr(folder, "test")
        known = [*train["qamr"], *train["span"]]
        found = baselines(known, test) | {"head": measure(test, load_best(options.evaluate).word_scores(test))}
        for name, numbers in baselines(known, dev["span"]).items():
            found[f"span_dev {name}"] = numbers
        found["span_dev head"] = measure(dev["span"], load_best(options.evaluate).word_scores(dev["span"]))
        print(json.dumps(found, indent=1))
        return
    trainer = Trainer(options)
    trainer.resume()
    trainer.run(train, dev)
    print(json.dumps(max(trainer.log, key=lambda row: row["choice"]), indent=1))


if __name__ == "__main__":
    main()
