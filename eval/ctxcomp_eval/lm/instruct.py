"""Teach the small model what a passage in short is: an instruction stage, on text alone.

    python -m ctxcomp_eval.lm.instruct --model runs/lm/model --out runs/lm_instruct

xRAG supposes a language model that follows instructions; the one of ``ctxcomp_eval.lm.train`` has never seen
"Background: ... means the same as". Here it goes on from its last weights, on its former documents mixed with passages
behind the prompts of the latent methods and with answers to questions, where the background is nothing, a few telling
words, the first sentence or a part of the text. It stays an ordinary language model: no vector, retriever or projector
takes part.
"""

from __future__ import annotations

import argparse
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ctxcomp.generate.prompts import BACKGROUND, messages_for
from ctxcomp.latent.templates import PARAPHRASES
from ctxcomp_eval.data import read_rows
from ctxcomp_eval.lm import documents as plain
from ctxcomp_eval.lm.documents import Sources, beginning, quote
from ctxcomp_eval.lm.tokenizer import ASSISTANT, END, USER
from ctxcomp_eval.lm.train import Batch, Trainer, parse, windows

KINDS = {"former": 0.55, "paraphrase": 0.3, "answer": 0.15}
"""Share of the documents."""
SHORT = {"nothing": 0.2, "words": 0.6, "sentence": 0.1, "part": 0.1}
"""What stands for a passage, and how often."""
MOST = 16
"""Telling words of a passage, at most."""
STAGES = ((0.6, 512), (0.88, 1024), (1.0, 2048))


class Apart(Sources):
    """The training texts without those that begin like a held-out one or like a passage of the evaluation sets."""

    @cached_property
    def reported(self) -> set[str]:
        """Beginnings of all that a figure is reported on."""
        dev = Sources("dev", self.folder)
        texts = [*dev.wiki, *(row["context"] for row in dev.questions)]
        for name in ("nq20", "hotpot10"):
            texts += [p["text"] for row in read_rows(self.folder / f"eval/{name}.jsonl.gz") for p in row["passages"]]
        texts += [row["context"] for row in read_rows(self.folder / "eval/squad_dev.jsonl.gz")]
        return {beginning(text) for text in texts}

    @cached_property
    def wiki(self) -> list[str]:
        """Wikipedia passages."""
        return [text for text in Sources(self.split, self.folder).wiki if beginning(text) not in self.reported]

    @cached_property
    def questions(self) -> list[dict[str, Any]]:
        """Questions with a context and a span."""
        found = Sources(self.split, self.folder).questions
        return [row for row in found if beginning(row["context"]) not in self.reported]


class Shortener:
    """Says in short what a passage is about; words tell the more the fewer passages they are in."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._seen = Counter(word for text in texts for word in set(_words(text)))
        self._texts = len(texts)

    def idf(self, word: str) -> float:
        """Inverse document frequency, >= 0."""
        return max(0.0, math.log(self._texts / (1 + self._seen[word])))

    def words(self, text: str, chance: random.Random) -> str:
        """1 to 16 different words in random order, drawn by the square of their idf: few more often than many."""
        own = sorted(set(_words(text)))
        most = round(math.exp(chance.uniform(0, math.log(MOST))))
        # The k largest of u^(1/w) are a draw without replacement, by the weights w.
        keys = {word: chance.random() ** (1 / max(self.idf(word) ** 2, 1e-6)) for word in own}
        drawn = sorted(own, key=lambda word: -keys[word])[:most]
        chance.shuffle(drawn)
        return " ".join(drawn)

    def short(self, text: str, chance: random.Random) -> str:
        """One of the forms of ``SHORT``."""
        kind = chance.choices(list(SHORT), list(SHORT.values()))[0]
        if kind == "nothing":
            return ""
        if kind == "words":
            return self.words(text, chance)
        sentences = re.split(r"(?<=[.!?]) +", text)
        if kind == "sentence":
            return sentences[0]
        share = chance.uniform(0.2, 0.7)
        return " ".join(word for word in text.split(" ") if chance.random() < share)


def documents(shortener: Shortener, sources: Sources, seed: int, words: int) -> Iterator[str]:
    """Endless documents, the former ones among those of this stage; the same for the same seed."""
    chance = random.Random(f"instruct {sources.split} {seed}")
    former = plain.documents(sources, seed, words)
    while True:
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == "former":
            yield next(former)
        elif kind == "paraphrase":
            text = chance.choice(sources.wiki)
            said = chance.choice(PARAPHRASES).format(vectors=shortener.short(text, chance))
            yield f"{USER}{said}{END}{ASSISTANT}{text}"
        else:
            yield answer(shortener, sources, chance)


def answer(shortener: Shortener, sources: Sources, chance: random.Random) -> str:
    """A question over its passage in short, alone or among others in full and in short, as contexts of vectors are."""
    asked = quote(chance.choice(sources.questions), [], chance, 0)
    if chance.random() < 0.5:
        said = shortener.short(asked.context, chance)
        context = f"{BACKGROUND}{said}" if said else ""
    else:
        own = asked.context if chance.random() < 0.6 else shortener.words(asked.context, chance)
        parts = [own]
        for other in chance.sample(sources.wiki, chance.randint(1, 3)):
            parts.append(other if chance.random() < 0.4 else shortener.words(other, chance))
        chance.shuffle(parts)
        context = "\n\n".join(parts)
    said = messages_for(asked.question, context)[0]["content"]
    return f"{USER}{said}{END}{ASSISTANT}{asked.answer}"


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


class Instruction(Trainer):
    """The same loop, from a trained model on, over this stage's documents."""

    stages = STAGES

    def new_model(self) -> LlamaForCausalLM:
        """The trained model."""
        place = self.options.model
        model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(place, local_files_only=True, dtype=torch.float32)
        model.train()
        return model

    def stream(self, sources: Sources, length: int) -> Iterator[Batch]:
        """Windows of this stage's documents."""
        make = partial(documents, self.shortener)
        return windows(self.tokenizer, sources, self.seed, length, make)

    @cached_property
    def shortener(self) -> Shortener:
        """Counts words in the training passages."""
        return Shortener(Apart.of("train").wiki)


def main(arguments: Sequence[str] | None = None) -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--model", default="runs/lm/model", help="where to go on from; it stays as it is")
    known, rest = own.parse_known_args(arguments)
    defaults = ["--out", "runs/lm_instruct", "--steps", "260", "--rate", "1e-3", "--decay", "0.85", "--every", "20"]
    options = parse([*defaults, *rest])
    options.model = known.model
    trainer = Instruction(options, PreTrainedTokenizerFast.from_pretrained(known.model))
    Path(options.out).mkdir(parents=True, exist_ok=True)
    trainer.resume()
    trainer.run(Apart.of("train"), Sources.of("dev"))


if __name__ == "__main__":
    main()
