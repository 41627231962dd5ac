"""What is trained, and on which prompts: the projector, or a small model with memory slots."""

from __future__ import annotations

import argparse
import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ctxcomp.generate.generator import Generator
from ctxcomp.generate.prompts import Prompt, mark_for, messages_for
from ctxcomp.latent.binding import generator_id
from ctxcomp.latent.losses import Batch
from ctxcomp.latent.networks import ProjectorNetwork, SlotsNetwork
from ctxcomp.latent.templates import PARAPHRASES, REPEAT
from ctxcomp.latent.warm import telling_words, warm_start
from ctxcomp.latent.weights import embedding_scale, save_projector, save_slots
from ctxcomp.types import CompressedLatents, CompressedMixed, CompressedText, Stats
from ctxcomp_eval.latent.data import Item, cut

NOTHING = Stats(0, 0, 0.0, "", "")
MIXED = 0.5
"""Share of the questions whose vectors stand behind text of another passage, as they do in a mixed context."""
BESIDE = 48
"""Tokens of that text."""


class Learner(ABC):
    """Vectors of passages from a network that learns, and the prompts they stand in."""

    network: nn.Module
    rates: tuple[float, float]
    """Peak learning rates of the two stages."""

    def __init__(self, generator: Generator, options: argparse.Namespace) -> None:
        self.generator, self.prompts, self.options = generator, generator.prompts, options
        self.hidden = generator.model.config.get_text_config(decoder=True).hidden_size
        self.end = [generator.model.config.eos_token_id]

    @property
    @abstractmethod
    def width(self) -> int:
        """Vectors of one passage."""

    @abstractmethod
    def vectors(self, items: Sequence[Item]) -> Tensor:
        """The vectors of passages, ``[items * width, hidden]``."""

    def prepare(self, items: Sequence[Item]) -> None:
        """Before the first step: what can be known from the training passages without the model; nothing by default."""
        return

    @abstractmethod
    def ask(self, chance: random.Random) -> str:
        """What stage 1 asks, with ``{vectors}`` in it."""

    @abstractmethod
    def save(self, out: Path) -> None:
        """Write the network as `load` reads it."""

    def paraphrase(self, items: Sequence[Item], chance: random.Random) -> Batch:
        """Prompts that ask for the passages, each answered by a window of it, half of them by its beginning."""
        prompts = [self.asked(self.ask(chance)) for _ in items]
        texts = [self.prompts.text_tokens(item.text) for item in items]
        size = self.options.window
        starts = [chance.randrange(max(1, len(ids) - size)) if chance.random() < 0.5 else 0 for ids in texts]
        return Batch.of(prompts, [ids[start : start + size] for ids, start in zip(texts, starts, strict=True)])

    def asked(self, template: str, width: int | None = None) -> Prompt:
        """A template as a chat, with the places of the vectors."""
        mark = mark_for(template)
        said = template.format(vectors=mark * (self.width if width is None else width))
        return self.prompts.marked(self.prompts.render([{"role": "user", "content": said}]), mark)

    def instruction(self, items: Sequence[Item], chance: random.Random) -> tuple[Batch, Batch]:
        """Questions over vectors, and over the full texts, both answered."""
        answers = [[*self.prompts.text_tokens(item.answer), *self.end] for item in items]
        short: list[Prompt] = []
        full: list[Prompt] = []
        for item in items:
            beside = chance.choice(items).text if chance.random() < MIXED else ""
            beside = cut(self.generator.tokenizer, beside, BESIDE)
            short.append(self.prompts.prompt(item.question, self.context(beside)))
            whole = f"{beside}\n\n{item.text}" if beside else item.text
            full.append((self.prompts.tokens(messages_for(item.question, whole)), []))
        return Batch.of(short, answers), Batch.of(full, answers)

    def context(self, beside: str = "") -> CompressedLatents | CompressedMixed:
        """The places of one passage's vectors, alone or behind text."""
        latents = CompressedLatents(
            vectors=np.zeros((self.width, self.hidden), np.float32),
            generator="",
            sources=(0,) * self.width,
            stats=NOTHING,
        )
        if not beside:
            return latents
        text = CompressedText(text=beside, spans=None, passages=(), passage_texts=(), stats=NOTHING)
        return CompressedMixed(parts=(text, latents), stats=NOTHING)


class ProjectorLearner(Learner):
    """xRAG: the retriever's vector through a small network."""

    width = 1
    rates = (2e-2, 4e-3)
    network: ProjectorNetwork

    def __init__(self, generator: Generator, options: argparse.Namespace) -> None:
        super().__init__(generator, options)
        self.network = ProjectorNetwork(options.retriever_size, self.hidden)
        self.network.reset(embedding_scale(generator.model))

    def prepare(self, items: Sequence[Item]) -> None:
        """The linear map onto telling words."""
        rows = [self.prompts.text_tokens(item.text) for item in items]
        embeddings = self.generator.model.get_input_embeddings().weight.detach().float()
        vectors = torch.from_numpy(np.stack([item.embedding for item in items]))
        warm_start(self.network, vectors, telling_words(rows, embeddings), embedding_scale(self.generator.model))

    def vectors(self, items: Sequence[Item]) -> Tensor:
        """One vector for each passage."""
        found: Tensor = self.network(torch.from_numpy(np.stack([item.embedding for item in items])))
        return found

    def ask(self, chance: random.Random) -> str:
        """One of the paraphrase templates."""
        return chance.choice(PARAPHRASES)

    def save(self, out: Path) -> None:
        """``projector.safetensors``."""
        made_for = generator_id(self.generator.model)
        save_projector(self.network, out / "projector.safetensors", self.options.retriever, made_for)


class SlotsLearner(Learner):
    """C3: a small model, here a copy of the generator, reads the passage into slots."""

    rates = (1e-3, 5e-4)
    network: SlotsNetwork

    def __init__(self, generator: Generator, options: argparse.Namespace) -> None:
        super().__init__(generator, options)
        encoder = copy.deepcopy(generator.model.base_model).requires_grad_(True)
        self.network = SlotsNetwork(encoder, options.slots, self.hidden)
        self.network.reset(embedding_scale(generator.model))

    @property
    def width(self) -> int:
        """As many as the options say."""
        return int(self.options.slots)

    def vectors(self, items: Sequence[Item]) -> Tensor:
        """``slots`` vectors for each passage."""
        ids, mask = self.generator._padded([self.prompts.text_tokens(item.text) for item in items])
        found: Tensor = self.network(ids, mask).flatten(0, 1)
        return found

    def ask(self, chance: random.Random) -> str:
        """To repeat the text, as the small model does with text, or the first of the paraphrase templates."""
        return chance.choice((f"{{vectors}}\n\nQuestion: {REPEAT}", PARAPHRASES[0]))

    def save(self, out: Path) -> None:
        """A folder ``model`` with the encoder, the slots and the projection."""
        save_slots(self.network, self.generator.tokenizer, out / "model", generator_id(self.generator.model))


LEARNERS: dict[str, type[Learner]] = {"projector": ProjectorLearner, "memory_slots": SlotsLearner}
