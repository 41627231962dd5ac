"""What pruning saved: tokens of each page, operations predicted, seconds and bytes measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ctxcomp.visual.flops import has_experts, prefill_flops
from ctxcomp.visual.memory import peak_bytes
from ctxcomp.visual.prompt import PrunedPrompt


@dataclass(frozen=True)
class Prefill:
    """Reading one batch of prompts.

    Parameters
    ----------
    tokens: of each prompt, padding included.
    flops: predicted, see ``prefill_flops``; None for a mixture of experts.
    seconds: the fastest of the runs; None where nothing was measured.
    kv_bytes: of the KV cache after the prefill; None where nothing was measured.
    peak_bytes: the most that the prefill took at once beyond what was there before: on CUDA what the allocator gave
        out, elsewhere the tensors alive, in a run of its own; None where nothing was measured.
    """

    tokens: int
    flops: int | None
    seconds: float | None = None
    kv_bytes: int | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """One call of the pruner.

    Parameters
    ----------
    method: its name.
    tokens_in, tokens_out: visual tokens of each page of each prompt.
    before, after: the prefill of the full and of the shorter prompts.
    encode_seconds: of the vision tower.
    prune_seconds: of everything from features to the shorter prompt.
    """

    method: str
    tokens_in: tuple[tuple[int, ...], ...]
    tokens_out: tuple[tuple[int, ...], ...]
    before: Prefill
    after: Prefill
    encode_seconds: float
    prune_seconds: float

    def __str__(self) -> str:
        numbers = [(i + 1, j + 1) for i, ins in enumerate(self.tokens_in) for j in range(len(ins))]
        return self.text([f"prompt {i} page {j}" for i, j in numbers])

    def text(self, names: Sequence[str]) -> str:
        """The report for people.

        Parameters
        ----------
        names: what to call each page of each prompt.
        """
        counts = [
            pair
            for ins, outs in zip(self.tokens_in, self.tokens_out, strict=True)
            for pair in zip(ins, outs, strict=True)
        ]
        pages = [
            f"{name}: {a} -> {b} visual tokens (keep {b / max(a, 1):.3f})"
            for name, (a, b) in zip(names, counts, strict=True)
        ]
        lines = [
            f"{self.method}: vision tower {_ms(self.encode_seconds)}, pruning {_ms(self.prune_seconds)}",
            *pages,
            f"prompt of {self.before.tokens} -> {self.after.tokens} tokens",
        ]
        if self.before.flops is not None and self.after.flops is not None:
            lines[-1] += f", prefill {self.before.flops / 1e9:.3f} -> {self.after.flops / 1e9:.3f} GFLOP"
        if self.before.seconds is not None and self.after.seconds is not None:
            lines.append(
                f"prefill measured {_ms(self.before.seconds)} -> {_ms(self.after.seconds)}, "
                f"KV cache {self.before.kv_bytes} -> {self.after.kv_bytes} bytes, "
                f"peak {self.before.peak_bytes} -> {self.after.peak_bytes} bytes"
            )
        return "\n".join(lines)


def report(pruned: PrunedPrompt, inputs: Mapping[str, Any] | None = None, *, repeats: int = 3) -> Report:
    """What one call of the pruner did.

    Parameters
    ----------
    inputs: of that call, or ``pruned.given``; with them both prompts are read ``repeats`` times and measured. Images
        are encoded once in both cases, since pruning does not change that.
    repeats: >= 1.
    """
    adapter = pruned.adapter
    rows = pruned.inputs["input_ids"].shape[0]
    before_tokens = pruned.given["input_ids"].shape[1]
    after_tokens = pruned.inputs["input_ids"].shape[1]
    head = adapter.model.get_output_embeddings()
    before, after = (
        Prefill(n, None if has_experts(adapter.language) else prefill_flops(adapter.language, head, n, rows=rows))
        for n in (before_tokens, after_tokens)
    )
    if inputs is not None:
        before = _measured(before, adapter.model, lambda: _whole(pruned, inputs), repeats)
        after = _measured(after, adapter.model, pruned.model_inputs, repeats)
    return Report(
        method=pruned.results[0].stats.method,
        tokens_in=tuple(result.tokens_in for result in pruned.results),
        tokens_out=tuple(result.tokens_out for result in pruned.results),
        before=before,
        after=after,
        encode_seconds=pruned.encoded.seconds,
        prune_seconds=pruned.seconds,
    )


def _whole(pruned: PrunedPrompt, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The full prompt with images that are encoded already."""
    return {**pruned.whole(inputs), "use_cache": True}


def _measured(prefill: Prefill, model: Any, given: Any, repeats: int) -> Prefill:
    from ctxcomp.generate.usage import kv_bytes

    cuda = model.device.type == "cuda"
    seconds, cache, peak = [], None, None
    for _ in range(max(repeats, 1)):
        arguments = given()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        began = time.perf_counter()
        with torch.inference_mode():
            cache = model(**arguments, logits_to_keep=1).past_key_values
        if cuda:
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - held
        seconds.append(time.perf_counter() - began)
    if not cuda:
        arguments = given()
        with torch.inference_mode():
            peak = peak_bytes(lambda: model(**arguments, logits_to_keep=1))
    return Prefill(prefill.tokens, prefill.flops, min(seconds), kv_bytes(cache), peak)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
