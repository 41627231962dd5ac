"""What pruning saved: tokens of each page, operations predicted, seconds and bytes measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ctxcomp.visual.flops import has_experts, prefill_flops
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
    peak_bytes: that the prefill took beyond what was there before; on CUDA only.
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
        pages = [
            f"prompt {i + 1} page {j + 1}: {a} -> {b} visual tokens (keep {b / max(a, 1):.3f})"
            for i, (ins, outs) in enumerate(zip(self.tokens_in, self.tokens_out, strict=True))
            for j, (a, b) in enumerate(zip(ins, outs, strict=True))
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
                f"KV cache {self.before.kv_bytes} -> {self.after.kv_bytes} bytes"
            )
        return "\n".join(lines)


def report(pruned: PrunedPrompt, inputs: Mapping[str, Any] | None = None, *, repeats: int = 3) -> Report:
    """What one call of the pruner did.

    Parameters
    ----------
    inputs: of that call; with them both prompts are read ``repeats`` times and measured. Images are encoded once in
        both cases, since pruning does not change that.
    repeats: >= 1.
    """
    adapter = pruned.adapter
    rows = pruned.inputs["input_ids"].shape[0]
    before_tokens = pruned.before_length
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
        prune_seconds=sum(result.stats.seconds for result in pruned.results),
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
    return Prefill(prefill.tokens, prefill.flops, min(seconds), kv_bytes(cache), peak)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
