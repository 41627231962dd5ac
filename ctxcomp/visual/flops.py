"""Floating-point operations of a prefill, counted from the model's own modules."""

from __future__ import annotations

from typing import Any

from ctxcomp.errors import ModelError


def prefill_flops(language: Any, head: Any, tokens: int, *, rows: int = 1) -> int:
    """Operations to read a prompt and score its last token; a multiplication and an addition count as two.

    It counts what ``torch.utils.flop_counter`` counts: products of matrices. Attention is counted in full, as that
    counter does, though a causal kernel may leave out half of it.

    Parameters
    ----------
    language: the language model without its head.
    head: its output projection; None leaves it out.
    tokens: of each prompt, padding included.
    rows: prompts in the batch.

    Raises
    ------
    ModelError: how much of the model runs depends on the tokens (mixture of experts).
    """
    config = language.config
    if has_experts(language):
        raise ModelError(f"a {config.model_type} model routes tokens to experts: its operations cannot be told ahead")
    heads = config.num_attention_heads
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    total = sum(2 * rows * tokens * wide * high for wide, high in _projections(language))
    total += config.num_hidden_layers * 4 * rows * heads * width * tokens * tokens
    if head is not None:
        total += 2 * rows * head.in_features * head.out_features
    return int(total)


def has_experts(language: Any) -> bool:
    """Whether the language model is a mixture of experts."""
    return any(getattr(language.config, name, None) for name in ("num_experts", "num_local_experts"))


def _projections(language: Any) -> list[tuple[int, int]]:
    """Sizes of every linear map, quantized ones included."""
    return [
        (int(module.in_features), int(module.out_features))
        for module in language.modules()
        if hasattr(module, "in_features") and hasattr(module, "out_features")
    ]
