"""Train what turns passages into vectors for a frozen language model.

    python -m ctxcomp_eval.latent.train projector --model runs/lm_instruct/model --out runs/latent/projector
    python -m ctxcomp_eval.latent.train memory_slots --model runs/lm_instruct/model --out runs/latent/memory_slots

Stage 1 asks for the passage itself (paraphrase, reconstruction), stage 2 for answers, with the same model reading the
full text as the teacher. Matrices learn by Muon, the rest by AdamW (xRAG: all by AdamW). Progress is shown, ``last.pt``
lets an interrupted run go on, ``curve.png`` is the loss, and the same seed gives the same run.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ctxcomp.generate.generator import Generator
from ctxcomp.latent.losses import KL_WEIGHT, distillation, nll, target_logits
from ctxcomp_eval.latent import data
from ctxcomp_eval.latent.data import Item
from ctxcomp_eval.latent.learners import LEARNERS, Learner
from ctxcomp_eval.train_token_head import draw

WARM = 0.03
"""Share of a stage's steps in which the rate rises; from there it falls to 0."""
HELD_OUT = 48
"""Passages, and as many questions, that a checkpoint is measured on."""


class Trainer:
    """The loop: its state lives in ``out`` and survives an interruption."""

    def __init__(self, options: argparse.Namespace, generator: Generator) -> None:
        torch.manual_seed(options.seed)
        self.options, self.out, self.generator = options, Path(options.out), generator
        self.model = generator.model.float().requires_grad_(False)
        self.learner: Learner = LEARNERS[options.method](generator, options)
        named = dict(self.learner.network.named_parameters())
        self.parameters = list(named.values())
        hidden = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name and name != "slots"]
        rest = [p for p in self.parameters if all(p is not other for other in hidden)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step, self.log = 0, list[dict[str, float]]()

    def rate(self) -> float:
        """The learning rate at this step: each stage has its own peak."""
        first = self.step < self.options.steps
        done, of = (self.step, self.options.steps) if first else (self.step - self.options.steps, self.options.stage2)
        rates = (self.options.rate, self.options.rate2)
        peak = rates[not first] or self.learner.rates[not first]
        return float(peak * max(0.02, min((done + 1) / (WARM * of + 1), 1.0, 1 - done / of)))

    def resume(self) -> None:
        """Go on where ``last.pt`` stopped, if it is there."""
        if (self.out / "last.pt").is_file():
            saved = torch.load(self.out / "last.pt", weights_only=True)
            self.learner.network.load_state_dict(saved["network"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.log = saved["step"], saved["log"]

    def run(self, train: tuple[list[Item], list[Item]], dev: tuple[list[Item], list[Item]]) -> None:
        """Train to the last step; the texts are passages for stage 1 and questions for stage 2."""
        last = self.options.steps + self.options.stage2
        if self.step == 0:
            self.learner.prepare(train[0])
        progress = tqdm(total=last, initial=self.step, desc=self.options.method, mininterval=10)
        losses: list[float] = []
        while self.step < last:
            items = train[0] if self.step < self.options.steps else train[1]
            losses.append(self.update(self.drawn(items)))
            self.step += 1
            progress.update()
            if self.step % self.options.every == 0 or self.step in (self.options.steps, last):
                self.checkpoint(sum(losses) / len(losses), dev)
                progress.write(json.dumps(self.log[-1]))
                losses.clear()
        progress.close()

    def drawn(self, items: Sequence[Item]) -> list[Item]:
        """The batch of this step: every epoch has its own order, so that a resumed run reads what it would have."""
        size = self.options.batch
        first = self.step if self.step < self.options.steps else self.step - self.options.steps
        per_epoch = max(1, len(items) // size)
        order = list(range(len(items)))
        random.Random(f"{self.options.seed} {first // per_epoch} {len(items)}").shuffle(order)
        start = first % per_epoch * size
        return [items[i] for i in order[start : start + size]]

    def loss(self, items: Sequence[Item], seed: str) -> Tensor:
        """Stage 1 for passages, stage 2 for questions; ``seed`` decides templates and distractors."""
        chance = random.Random(seed)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            vectors = self.learner.vectors(items)
            if not items[0].question:
                batch = self.learner.paraphrase(items, chance)
                return nll(target_logits(self.model, batch, vectors), batch).mean()
            batch, full = self.learner.instruction(items, chance)
            student = target_logits(self.model, batch, vectors)
            with torch.no_grad():
                teacher = target_logits(self.model, full, vectors[:0])
        return nll(student, batch).mean() + KL_WEIGHT * distillation(student, teacher)

    def update(self, items: Sequence[Item]) -> float:
        """One step of the optimizer."""
        loss = self.loss(items, f"{self.options.seed} {self.step}")
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate()
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def checkpoint(self, loss: float, dev: tuple[list[Item], list[Item]]) -> None:
        """Measure on held-out texts, write the weights, the state and the curve."""
        found = {
            name: self.loss(items[:HELD_OUT], "held out").item()
            for name, items in zip(("passages", "answers"), dev, strict=True)
        }
        self.log.append({"step": self.step, "loss": loss, **found})
        self.out.mkdir(parents=True, exist_ok=True)
        torch.save(self.state(), self.out / "last.pt.new")
        (self.out / "last.pt.new").replace(self.out / "last.pt")
        self.learner.save(self.out)
        record = {"options": vars(self.options), "log": self.log}
        (self.out / "log.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(self.log, self.out, ("loss", "passages", "answers"))

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "network": self.learner.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "log": self.log,
        }


def mixed(sets: Sequence[Sequence[Item]]) -> list[Item]:
    """One of each set in turn."""
    return [item for row in zip(*sets, strict=False) for item in row]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method", choices=list(LEARNERS))
    parser.add_argument(
        "--model", default="runs/lm_instruct/model", help="the generator's checkpoint; it stays as it is"
    )
    parser.add_argument("--out", required=True, help="folder of the weights, checkpoints and the curve")
    parser.add_argument("--steps", type=int, default=400, help="of stage 1")
    parser.add_argument("--stage2", type=int, default=150, help="steps of stage 2")
    parser.add_argument("--rate", type=float, help="peak learning rate of stage 1 (default: the method's)")
    parser.add_argument("--rate2", type=float, help="peak learning rate of stage 2 (default: the method's)")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 96], help="of a passage: as many of each length")
    parser.add_argument("--window", type=int, default=48, help="tokens of a passage that one step of stage 1 asks for")
    parser.add_argument("--question-tokens", type=int, default=160, help="of a question's passage, about")
    parser.add_argument("--passages", type=int, default=10240, help="of each length")
    parser.add_argument("--questions", type=int, default=1024)
    parser.add_argument("--retriever", default="minilm", help="an encoder as `load_encoder` takes it")
    parser.add_argument("--slots", type=int, default=8, help="vectors of a passage, for memory_slots")
    parser.add_argument("--every", type=int, default=25, help="steps between checkpoints")
    parser.add_argument("--embeddings", default="runs/latent/embeddings", help="where the retriever's vectors are kept")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    generator = Generator.from_pretrained(options.model, device="cpu", dtype="float32")
    retriever = data.Retriever(options.retriever, Path(options.embeddings))
    options.retriever_size = retriever.encoder.hidden_size
    sets = [
        (
            mixed([data.passages(split, generator.tokenizer, n, passages, retriever) for n in options.tokens]),
            data.questions(split, generator.tokenizer, options.question_tokens, questions, retriever),
        )
        for split, passages, questions in (("train", options.passages, options.questions), ("dev", 512, 512))
    ]
    trainer = Trainer(options, generator)
    trainer.resume()
    trainer.run(*sets)


if __name__ == "__main__":
    main()
