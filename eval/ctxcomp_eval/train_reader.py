"""Train the reader of the evaluation: which span of a context answers a question.

    python -m ctxcomp_eval.train_reader --out runs/reader
    python -m ctxcomp_eval.train_reader --evaluate runs/reader/best.safetensors

Contexts are made like those that compressors leave: a share loses sentences or words (never of the answer), a share
stands beside a passage that BM25 finds for the question, in the same sequence or in one of its own.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ctxcomp_eval.answers import exact_match, f1
from ctxcomp_eval.data import Example, data_dir, load
from ctxcomp_eval.reader import WINDOW, Reader, load_reader
from ctxcomp_eval.reader_data import Asked, asked, beside, distractors, thin_sentences, thin_words
from ctxcomp_eval.reader_model import PairTokenizer, Sequences, SpanHead
from ctxcomp_eval.train_token_head import draw

WARM = 60
"""Steps until the learning rate is at its peak."""
POOL = 32
"""Batches that are made together, sorted by length and cut: little padding, and still a new order each time."""
THIN, TOGETHER, APART, WORDS = 0.5, 0.1, 0.1, 0.15
"""Shares of contexts that lose sentences, get a passage beside, get one in a sequence of its own; lose words."""
CUT, SHORT = 0.75, 80
"""Share of examples in windows of at most so many positions: what they teach holds in long ones, at less cost."""
Draw = Callable[[Asked, random.Random], str]


def dress(example: Asked, other: Draw, generator: random.Random) -> tuple[Asked, list[str]]:
    """The example as training sees it, and the passages that stand apart."""
    apart = []
    kind = generator.random()
    if kind < THIN:
        example = thin_sentences(example, generator)
    elif kind < THIN + TOGETHER:
        example = thin_sentences(example, generator)
        example = beside(example, other(example, generator), before=generator.random() < 0.5)
    elif kind < THIN + TOGETHER + APART:
        apart = [other(example, generator)]
    if generator.random() < WORDS:
        example = thin_words(example, generator)
    return example, apart


def batches(
    examples: Sequence[Asked], encode: PairTokenizer, other: Draw, size: int, seed: int, skip: int = 0
) -> Iterator[list[Sequences]]:
    """Endless batches of like length; the same for the same seed, after ``skip`` of them."""
    count = POOL * size
    for number in range(skip // POOL, 1_000_000_000):
        generator = random.Random(f"{seed} {number}")
        places = range(number * count, (number + 1) * count)
        orders = {epoch: _order(len(examples), seed, epoch) for epoch in {p // len(examples) for p in places}}
        pool = []
        for place in places:
            epoch, at = divmod(place, len(examples))
            window = SHORT if generator.random() < CUT else WINDOW
            sequences = encode(*dress(examples[orders[epoch][at]], other, generator), window, generator)
            pool += [] if sequences is None else [sequences]
        pool.sort(key=len)
        # A few examples have no usable answer, so the batches are of this size or one less.
        cut = np.array_split(np.arange(len(pool)), POOL)
        generator.shuffle(cut)
        for part in cut[skip % POOL if number == skip // POOL else 0 :]:
            yield [pool[i] for i in part]


def _order(count: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed} epoch {epoch}").sample(range(count), count)


def measure(reader: Reader, examples: Sequence[Example]) -> dict[str, float]:
    """Exact match and F1 of the reader on full contexts."""
    contexts = ["\n\n".join(passage.text for passage in example.passages) for example in examples]
    found = reader.answer([example.question for example in examples], contexts)
    pairs = [(prediction, example.answers) for prediction, example in zip(found, examples, strict=True)]
    return {name: float(np.mean([how(*pair) for pair in pairs])) for name, how in (("em", exact_match), ("f1", f1))}


class Trainer:
    """The loop: its state lives in ``out`` and survives an interruption."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.out = options, Path(options.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.head = SpanHead(options.rank, options.scale, options.first_layer)
        self.step, self.best, self.stale = 0, -1.0, 0
        self.log: list[dict[str, float]] = []
        self.optimizer = torch.optim.AdamW(self.head.trainable().values(), lr=options.rate, weight_decay=0.01)
        # Constant between warm-up and decay, so that a run can be made longer or shorter until its decay begins.
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda s: min((s + 1) / WARM, 1.0, max(0.01, (options.steps - s) / options.decay))
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
        }

    def resume(self) -> None:
        """Go on where ``last.pt`` stopped, if it is there."""
        if not (self.out / "last.pt").is_file():
            return
        saved = torch.load(self.out / "last.pt", weights_only=True)
        # Another number of steps is the same run as long as neither of the two has begun its decay.
        steps = {"steps": self.options.steps}
        begun = min(self.options.steps, saved["options"]["steps"]) - self.options.decay
        if saved["options"] | steps != vars(self.options) or (
            saved["options"] != vars(self.options) and saved["step"] > begun
        ):
            raise SystemExit(f"{self.out} holds a run with other options {saved['options']}: give another --out")
        restore(self.head, saved["parameters"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.step, self.best, self.stale, self.log = saved["step"], saved["best"], saved["stale"], saved["log"]

    def run(self, train: Sequence[Asked], dev: Sequence[Example]) -> None:
        """Train to the last step, or until ``patience`` evaluations on the dev set in a row bring nothing."""
        options = self.options
        stream = batches(train, PairTokenizer(), distractors(train), options.batch, options.seed, self.step)
        losses: list[float] = []
        progress = tqdm(total=options.steps, initial=self.step, desc="reader", mininterval=5)
        while self.step < options.steps and self.stale < options.patience:
            loss = self.head.loss(next(stream))
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

    def checkpoint(self, loss: float, dev: Sequence[Example]) -> None:
        """Measure on the dev set, keep the best head, write state and curve."""
        self.head.save(self.out / "last.safetensors")
        found = measure(load_reader(self.out / "last.safetensors", threads=1), dev)
        self.log.append({"step": self.step, "loss": loss, **found, "choice": found["f1"]})
        self.stale = 0 if found["f1"] > self.best else self.stale + 1
        if not self.stale:
            self.best = found["f1"]
            self.head.save(self.out / "best.safetensors")
        torch.save(self.state(), self.out / "last.pt")
        draw(self.log, self.out)


def restore(head: SpanHead, parameters: dict[str, Tensor]) -> None:
    """Put saved values into exactly the trained parameters of ``head``."""
    trained = head.trainable()
    if trained.keys() != parameters.keys():
        raise SystemExit(f"the checkpoint holds other parameters than this head: {trained.keys() ^ parameters.keys()}")
    with torch.no_grad():
        for name, value in parameters.items():
            trained[name].copy_(value)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/reader", help="folder of checkpoints, curve and best.safetensors")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--scale", type=float, default=2.0, help="what B @ A is multiplied with")
    parser.add_argument("--first-layer", type=int, default=2, help="the lowest that gets adapters; below, no gradients")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--decay", type=int, default=200, help="last steps, in which the learning rate falls to 0")
    parser.add_argument("--batch", type=int, default=16, help="questions")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations")
    parser.add_argument("--patience", type=int, default=6, help="evaluations without gain before stopping")
    parser.add_argument("--dev", type=int, default=8, help="evaluate on every n-th question of span_dev")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", type=Path, help="a head file to measure instead of training")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    torch.set_num_threads(1)
    options = parse(arguments)
    if options.evaluate:
        reader = load_reader(options.evaluate)
        print(json.dumps({name: measure(reader, load(name)) for name in ("span_dev", "squad_dev")}, indent=1))
        return
    trainer = Trainer(options)
    trainer.resume()
    trainer.run(asked(data_dir(), "train"), load("span_dev")[:: options.dev])
    print(json.dumps(max(trainer.log, key=lambda row: row["choice"]), indent=1))


if __name__ == "__main__":
    main()
