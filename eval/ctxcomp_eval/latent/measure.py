"""What a token is worth: the frozen model's loss on held-out passages and answers, by what stands in its context.

    python -m ctxcomp_eval.latent.measure --projector runs/latent/projector/projector.safetensors

Writes ``eval/results/latent.csv``: mean losses in nats a token, and how far below the empty context each is, with 95 %
bootstrap intervals over passages or questions. Nothing measured here was trained on, by the model or by the projector.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp.compressor import Compressor
from ctxcomp.generate.generator import Generator
from ctxcomp.generate.prompts import Context, Prompt, latent_parts
from ctxcomp.latent.base import LatentCompressor
from ctxcomp.latent.ladder import Ladder
from ctxcomp.latent.losses import Batch, nll, target_logits
from ctxcomp.latent.memory_slots import MemorySlots
from ctxcomp.latent.projector import Projector
from ctxcomp.latent.templates import PARAPHRASES
from ctxcomp.types import Budget, CompressedLatents, Passage, Stats
from ctxcomp_eval.bench.common import PACKAGES, RESULTS, write_csv
from ctxcomp_eval.latent import data
from ctxcomp_eval.latent.data import Item
from ctxcomp_eval.retention import bootstrap

Floats = NDArray[np.float64]
Row = dict[str, Any]
BATCH = 12
BESIDE = 4
"""Passages beside the one that is asked about, in the contexts of the ladder."""


class Losses:
    """Mean loss of texts behind prompts, in nats a token, one number for each text."""

    def __init__(self, generator: Generator) -> None:
        self.generator, self.prompts = generator, generator.prompts
        self.end = [generator.model.config.eos_token_id]

    def of(self, prompts: Sequence[Prompt], vectors: Sequence[NDArray[Any]], texts: Sequence[Sequence[int]]) -> Floats:
        """``[texts]``; ``vectors`` holds an array ``[places, hidden]`` for each prompt."""
        found: list[float] = []
        for start in range(0, len(texts), BATCH):
            part = slice(start, start + BATCH)
            batch = Batch.of(prompts[part], texts[part])
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
                values = torch.from_numpy(np.concatenate(vectors[part]).astype(np.float32))
                each = nll(target_logits(self.generator.model, batch, values), batch)
            ends = np.cumsum([0, *map(len, texts[part])])
            found += [float(each[a:b].mean()) for a, b in pairwise(ends)]
        return np.array(found)

    def passages(self, texts: Sequence[str], vectors: Sequence[NDArray[Any]]) -> Floats:
        """Of passages behind a paraphrase prompt with these vectors."""
        prompts = [self.paraphrase(len(own)) for own in vectors]
        return self.of(prompts, vectors, [self.prompts.text_tokens(text) for text in texts])

    def paraphrase(self, width: int) -> Prompt:
        """The first of the prompts of stage 1, with ``width`` vectors in it."""
        said = PARAPHRASES[0].format(vectors="\ue000" * width)
        return self.prompts.marked(self.prompts.render([{"role": "user", "content": said}]), "\ue000")

    def answers(self, items: Sequence[Item], contexts: Sequence[Context]) -> Floats:
        """Of the answers behind their questions and these contexts."""
        prompts = [self.prompts.prompt(item.question, context) for item, context in zip(items, contexts, strict=True)]
        hidden = self.generator.model.get_input_embeddings().weight.shape[1]
        vectors = [
            np.concatenate([np.zeros((0, hidden), np.float32), *(part.vectors for part in latent_parts(context))])
            for context in contexts
        ]
        return self.of(prompts, vectors, [[*self.prompts.text_tokens(item.answer), *self.end] for item in items])


def rows_of(what: str, method: str, losses: Mapping[str, Floats], base: str) -> list[Row]:
    """One row for each condition: its loss, and how far below ``base`` it is, paired."""
    rows = []
    for name, values in losses.items():
        below = bootstrap(losses[base] - values)
        rows.append(
            {
                "what": what, "method": method, "condition": name, "n": len(values), "tokens": "",
                "loss": float(values.mean()), "against": base,
                "below": below.mean, "low": below.low, "high": below.high,
            }
        )  # fmt: skip
    return rows


def conditions(vectors: Sequence[NDArray[Any]], seed: int = 0) -> dict[str, list[NDArray[Any]]]:
    """No vector, the passage's own, another passage's, and noise of the same size."""
    noise = np.random.default_rng(seed)
    sizes = [float(np.sqrt(np.square(own).mean())) for own in vectors]
    return {
        "empty": [own[:0] for own in vectors],
        "own": list(vectors),
        "wrong": [*vectors[1:], vectors[0]],
        "random": [noise.normal(0, s, own.shape).astype(np.float32) for own, s in zip(vectors, sizes, strict=True)],
    }


def passages(losses: Losses, method: LatentCompressor, items: Sequence[Item], tokens: int) -> list[Row]:
    """The loss on a passage given its vectors; ``tokens`` is what the passages were cut to."""
    given = method.encode([Passage(item.text, embedding=item.embedding.tolist()) for item in items])
    texts = [item.text for item in items]
    found = {name: losses.passages(texts, values) for name, values in conditions(given).items()}
    ids = [losses.prompts.text_tokens(text) for text in texts]
    end: Prompt = (losses.end, [])
    # As the model read passages in its own training: behind the end of the text before.
    found["plain"] = losses.of([end] * len(ids), [own[:0] for own in given], ids)
    what = f"passage of {tokens} tokens"
    return rows_of(what, method.name, found, "empty") + rows_of(what, method.name, found, "plain")


def answers(losses: Losses, method: LatentCompressor, items: Sequence[Item]) -> list[Row]:
    """The loss on an answer given the vectors of its passage."""
    given = method.encode([Passage(item.text, embedding=item.embedding.tolist()) for item in items])
    contexts: dict[str, Sequence[Context]] = {
        name: [_latents(losses.generator, own) for own in values] for name, values in conditions(given).items()
    }
    contexts["full text"] = [item.text for item in items]
    found = {name: losses.answers(items, own) for name, own in contexts.items()}
    return rows_of("answer", method.name, found, "empty")


def _latents(generator: Generator, vectors: NDArray[Any]) -> CompressedLatents:
    stats = Stats(0, len(vectors), 0.0, "", "")
    return CompressedLatents(vectors=vectors, generator="", sources=(0,) * len(vectors), stats=stats)


def ladder(
    losses: Losses, made: Ladder, items: Sequence[Item], others: Sequence[Item], keeps: Sequence[float]
) -> list[Row]:
    """The loss on an answer under the ladder and under its pruner alone, each at what the ladder costs."""
    rows = []
    contexts = [_retrieved(item, others, i) for i, item in enumerate(items)]
    for keep in keeps:
        found: dict[str, Floats] = {}
        tokens: dict[str, float] = {}
        budgets: list[Budget] = []
        for name, compress in _rivals(made).items():
            results = []
            for i, item in enumerate(tqdm(items, desc=f"{name} {keep}", mininterval=10)):
                budget = Budget(keep=keep) if name == "ladder" else budgets[i]
                results.append(compress.compress(item.question, contexts[i], budget))
            if name == "ladder":
                budgets = [Budget(tokens=result.stats.tokens_out) for result in results]
            found[name] = losses.answers(items, results)
            tokens[name] = float(np.mean([result.stats.tokens_out for result in results]))
        new = rows_of(f"answer, five passages, keep {keep}", f"{made.name}({made.text.name})", found, "pruning")
        rows += [{**row, "tokens": tokens[row["condition"]]} for row in new]
    return rows


def _rivals(made: Ladder) -> dict[str, Compressor[Any]]:
    return {"ladder": made, "pruning": made.text}


def _retrieved(item: Item, others: Sequence[Item], seed: int) -> list[Passage]:
    """The passage that is asked about among others, in random order, with no scores: the method has to find it."""
    chance = random.Random(seed)
    beside = chance.sample([other for other in others if other.text != item.text], BESIDE)
    found = [Passage(one.text, embedding=one.embedding.tolist()) for one in [item, *beside]]
    chance.shuffle(found)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="runs/lm_instruct/model", help="the generator's checkpoint")
    parser.add_argument("--projector", help="trained weights of the projector")
    parser.add_argument("--memory-slots", help="folder of trained memory slots")
    parser.add_argument("--n", type=int, default=192, help="passages, and as many questions")
    parser.add_argument("--tokens", type=int, nargs="+", default=[32, 96], help="of a passage")
    parser.add_argument("--ladder-n", type=int, default=128, help="questions that the ladder is measured on")
    parser.add_argument("--pruners", nargs="*", default=["bm25", "sentence_pruner"], help="the ladder's text methods")
    parser.add_argument("--keeps", type=float, nargs="*", default=[0.2, 0.35], help="budgets of the ladder")
    parser.add_argument("--embeddings", default="runs/latent/embeddings", help="where the retriever's vectors are kept")
    parser.add_argument("--out", default=str(RESULTS / "latent.csv"))
    options = parser.parse_args(arguments)
    generator = Generator.from_pretrained(options.model, device="cpu", dtype="float32")
    losses, retriever = Losses(generator), data.Retriever("minilm", Path(options.embeddings))
    # 512 are what training looks at, of which the first few decide nothing: all of them are held out.
    lengths = {n: data.passages("dev", generator.tokenizer, n, 512, retriever)[-options.n :] for n in options.tokens}
    asked = data.questions("dev", generator.tokenizer, 160, 512, retriever)[-options.n :]
    rows: list[Row] = []
    makers: list[tuple[str | None, Callable[..., LatentCompressor]]] = [
        (options.projector, Projector),
        (options.memory_slots, MemorySlots),
    ]
    for weights, kind in makers:
        if weights:
            method = kind(generator=generator, weights=weights)
            parts = [partial(passages, losses, method, texts, n) for n, texts in lengths.items()]
            parts.append(partial(answers, losses, method, asked))
            if isinstance(method, Projector):
                others = lengths[max(lengths)]
                for pruner in options.pruners:
                    made = Ladder(latents=method, pruner=pruner)
                    parts.append(partial(ladder, losses, made, asked[: options.ladder_n], others, options.keeps))
            for part in parts:  # an interrupted run leaves what it has
                rows += part()
                write_csv(Path(options.out), rows, (*PACKAGES, "torch", "transformers"))


if __name__ == "__main__":
    main()
