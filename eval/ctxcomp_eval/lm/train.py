"""Train the small language model that the generator's compression is measured on.

    python -m ctxcomp_eval.lm.train --out runs/lm

A Llama of 8.5 million parameters on Wikipedia passages, old books and questions answered by quotation, 2,048 positions.
Hidden matrices by Muon, the rest by AdamW; the rate is constant until the decay begins, so a run can be made longer or
shorter until then. An interrupted run goes on where its last checkpoint stands. On a CPU it is a quarter faster with
``MALLOC_MMAP_THRESHOLD_=34359738368 MALLOC_TRIM_THRESHOLD_=34359738368``, which keep freed memory in the process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ctxcomp_eval.lm.documents import Sources, documents
from ctxcomp_eval.lm.loss import LinearCrossEntropy
from ctxcomp_eval.lm.tokenizer import ASSISTANT, END, PAD, id_of, train_tokenizer
from ctxcomp_eval.train_token_head import draw

WARM = 40
STAGES = ((0.35, 256), (0.65, 512), (0.88, 1024), (1.0, 2048))
"""Positions of a window until this share of the steps: copying is learnt sooner in many short windows."""
ANSWER_WEIGHT = 4.0
"""What a token of an answer counts, where one of plain text counts 1."""
Batch = tuple[Tensor, Tensor]


def new_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model: grouped-query attention, rotary positions, tied embeddings."""
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 128,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=id_of(tokenizer, END),
        pad_token_id=id_of(tokenizer, PAD),
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = model.config.eos_token_id
    return model


def windows(
    tokenizer: PreTrainedTokenizerFast,
    sources: Sources,
    seed: int,
    length: int,
    make: Callable[[Sources, int, int], Iterator[str]] = documents,
) -> Iterator[Batch]:
    """Endless windows of ``length + 1`` token ids with the weight of each: documents one after the other."""
    end, assistant = id_of(tokenizer, END), id_of(tokenizer, ASSISTANT)
    ids: list[int] = []
    weights: list[float] = []
    stream = make(sources, seed, length // 2)
    while True:
        texts = list(islice(stream, 64))
        for new in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            at = new.index(assistant) if assistant in new else len(new)
            ids += [*new, end]
            weights += [1.0] * min(at + 1, len(new)) + [ANSWER_WEIGHT] * (len(new) - at - 1) + [1.0]
        while len(ids) > length:
            yield torch.tensor(ids[: length + 1]), torch.tensor(weights[: length + 1])
            ids, weights = ids[length:], weights[length:]


def loss_of(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of each next token, in nats."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
    share = weights[:, 1:].flatten()
    loss: Tensor = LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden.flatten(0, 1).to(torch.bfloat16), model.lm_head.weight, ids[:, 1:].flatten(), share / share.sum()
    )
    return loss


class Trainer:
    """The loop: its state lives in ``out`` and survives an interruption."""

    stages: tuple[tuple[float, int], ...] = STAGES

    def __init__(self, options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(options.seed)
        self.options, self.out, self.tokenizer = options, Path(options.out), tokenizer
        self.model = self.new_model()
        hidden = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in self.model.named_parameters() if p.ndim < 2 or "embed" in name]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(hidden, lr=options.rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=options.rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        self.step, self.log = 0, list[dict[str, float]]()

    def new_model(self) -> LlamaForCausalLM:
        """What training begins with."""
        return new_model(self.options, self.tokenizer)

    def rate(self) -> float:
        """The share of the peak rate at this step."""
        left = (self.options.steps - self.step) / (self.options.decay * self.options.steps)
        return float(min((self.step + 1) / WARM, 1.0, max(0.02, left)))

    def resume(self) -> None:
        """Go on where ``last.pt`` stopped, if it is there."""
        if (self.out / "last.pt").is_file():
            saved = torch.load(self.out / "last.pt", weights_only=True)
            self.model.load_state_dict(saved["model"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            self.step, self.log = saved["step"], saved["log"]

    @property
    def seed(self) -> int:
        """Another one after each stop, so that a resumed run reads new text."""
        return int(1000 * self.options.seed + self.step)

    def stream(self, sources: Sources, length: int) -> Iterator[Batch]:
        """Windows of the training documents."""
        return windows(self.tokenizer, sources, self.seed, length)

    def batches(self, sources: Sources, length: int) -> Iterator[Batch]:
        """Windows by the batch."""
        stream = self.stream(sources, length)
        while True:
            ids, weights = zip(*islice(stream, self.options.tokens // length), strict=True)
            yield torch.stack(ids), torch.stack(weights)

    def run(self, train: Sources, dev: Sources) -> None:
        """Train to the last step."""
        progress = tqdm(total=self.options.steps, initial=self.step, desc="lm", mininterval=10)
        losses: list[float] = []
        length = 0
        stream: Iterator[Batch] = iter(())
        while self.step < self.options.steps:
            wanted = next(size for until, size in self.stages if self.step < until * self.options.steps)
            if wanted != length:
                length, stream = wanted, self.batches(train, wanted)
            losses.append(self.update(*next(stream)))
            self.step += 1
            progress.update()
            if self.step % self.options.every == 0 or self.step == self.options.steps:
                self.checkpoint(sum(losses) / len(losses), dev)
                progress.write(json.dumps(self.log[-1]))
                losses.clear()
        progress.close()

    def update(self, ids: Tensor, weights: Tensor) -> float:
        """One step of both optimizers, the batch in pieces that fit into memory and cache."""
        total = 0.0
        pieces = max(1, ids.numel() // self.options.piece)
        for part, share in zip(ids.chunk(pieces), weights.chunk(pieces), strict=True):
            loss = loss_of(self.model, part, share) * (len(part) / len(ids))
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.options.rate * self.rate()
            optimizer.step()
            optimizer.zero_grad()
        return total

    @torch.no_grad()
    def checkpoint(self, loss: float, dev: Sources) -> None:
        """Measure on held-out text, write the model as a checkpoint of transformers, the state and the curve."""
        self.model.train(False)
        batch = [next(windows(self.tokenizer, dev, seed, 512)) for seed in range(24)]
        ids, weights = (torch.stack(column) for column in zip(*batch, strict=True))
        parts = {"text": (weights == 1).float(), "answers": (weights > 1).float()}
        found = {name: loss_of(self.model, ids, part).item() for name, part in parts.items()}
        self.model.train()
        self.log.append({"step": self.step, "loss": loss, **found})
        torch.save(self.state(), self.out / "last.pt.new")
        (self.out / "last.pt.new").replace(self.out / "last.pt")
        half: LlamaForCausalLM = LlamaForCausalLM(self.model.config).bfloat16()
        half.load_state_dict(self.model.state_dict())
        half.save_pretrained(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")
        record = {"options": vars(self.options), "log": self.log}
        (self.out / "log.json").write_text(json.dumps(record, indent=1) + "\n")
        draw(self.log, self.out, ("loss", "text", "answers"))

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "log": self.log,
        }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", default="runs/lm", help="folder of the tokenizer, checkpoints and the model")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--decay", type=float, default=0.35, help="share of the steps in which the rate falls to 0")
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch")
    parser.add_argument("--piece", type=int, default=4096, help="tokens that go through the model at once")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--hidden", type=int, default=256, help="a multiple of 128")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    out = Path(options.out)
    train, dev = Sources.of("train"), Sources.of("dev")
    if (out / "tokenizer" / "tokenizer.json").is_file():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    else:
        texts = [*train.wiki[::4], *train.books[::40], *(row["context"] for row in train.questions[::8])]
        tokenizer = train_tokenizer(texts, options.vocabulary, out / "tokenizer")
    trainer = Trainer(options, tokenizer)
    trainer.resume()
    trainer.run(train, dev)


if __name__ == "__main__":
    main()
