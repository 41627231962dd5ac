"""Summaries by T5 and its family, from a checkpoint on disk: batched, greedy unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ctxcomp.errors import InputError, ModelError
from ctxcomp.loading import pick_device, resolve
from ctxcomp.optional import require
from ctxcomp.progress import tracked
from ctxcomp.rewriter import Draft, filled

if TYPE_CHECKING:
    from pathlib import Path

RECOMP_PROMPT = "Question: {query}\n Document: {passages}\n Summary: "
"""The input that RECOMP's abstractive compressors were trained on, to the letter."""
PLAIN_PROMPT = "summarize: {passages}"
"""T5's own, for texts without a question."""


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOptions:
    """How a T5-like checkpoint runs.

    Parameters
    ----------
    device: "auto", "cpu", "cuda", "cuda:1", ...
    batch: texts per forward pass, >= 1.
    beams: 1 is greedy.
    source_tokens: tokens of the prompt at most, >= 16; of longer ones the end of the passages is not read, and
        ``stats.notes`` says so.
    target_tokens: tokens written at most, >= 1.
    """

    device: str = "auto"
    batch: int = 8
    beams: int = 1
    source_tokens: int = 1024
    target_tokens: int = 512

    def check_seq2seq(self) -> None:
        """Refuse what is out of range."""
        if self.batch < 1 or self.beams < 1 or self.source_tokens < 16 or self.target_tokens < 1:
            raise InputError(
                "batch, beams and target_tokens must be 1 or more and source_tokens 16 or more, got "
                f"{self.batch}, {self.beams}, {self.target_tokens} and {self.source_tokens}"
            )


def write_seq2seq(
    model: str, prompts: Sequence[str], texts: Sequence[str], queries: Sequence[str], options: Seq2SeqOptions
) -> list[Draft]:
    """A summary of each text.

    Parameters
    ----------
    model: a checkpoint directory, or a hub id that is in the local cache.
    prompts: the template of each, with ``{passages}`` and perhaps ``{query}``.

    Raises
    ------
    ModelError: there is no such checkpoint, or it is no sequence-to-sequence model.
    """
    torch = require("torch", extra="models")
    network, tokenizer = _load(resolve(model), pick_device(options.device))
    inputs = [
        _prompt(tokenizer, template, text, query, options.source_tokens)
        for template, text, query in zip(prompts, texts, queries, strict=True)
    ]
    written: list[str] = []
    batches = [inputs[i : i + options.batch] for i in range(0, len(inputs), options.batch)]
    for part in tracked(batches):
        encoded = tokenizer([prompt for prompt, _ in part], padding=True, return_tensors="pt").to(network.device)
        with torch.inference_mode():
            ids = network.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                do_sample=False,
                num_beams=options.beams,
                max_new_tokens=options.target_tokens,
            )
        written += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [Draft(text.strip(), notes) for text, (_, notes) in zip(written, inputs, strict=True)]


def _prompt(tokenizer: Any, template: str, text: str, query: str, limit: int) -> tuple[str, tuple[str, ...]]:
    """The whole prompt, its end included: what is too long loses the end of the passages, not the word "Summary"."""
    whole = filled(template, {"query": query, "passages": text})
    tokens = len(tokenizer(whole, verbose=False)["input_ids"])
    if tokens <= limit:
        return whole, ()
    frame = len(tokenizer(filled(template, {"query": query, "passages": ""}), verbose=False)["input_ids"])
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    room = max(limit - frame, 1)
    shorter = text[: offsets[room - 1][1]] if room <= len(offsets) else text
    note = f"read the first {min(room, len(offsets))} of {len(offsets)} tokens: raise source_tokens, or select first"
    return filled(template, {"query": query, "passages": shorter}), (note,)


@lru_cache(maxsize=4)
def _load(path: Path, device: str) -> tuple[Any, Any]:
    transformers = require("transformers", extra="models")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
        network = transformers.AutoModelForSeq2SeqLM.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{path} cannot be read as a sequence-to-sequence checkpoint ({error}): give a directory of T5, FLAN-T5 "
            "or BART with its tokenizer"
        ) from error
    return network.to(device).eval(), tokenizer
