"""Calibration: the user's own documents as token windows, and the walk through the blocks that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.weights.models import Block, Call, decoder_blocks, hooked

SAMPLES = 128
TOKENS = 512
"""Windows and tokens per window: AutoAWQ's calibration."""


class _Reached(Exception):  # noqa: N818 - no error: the first block was reached
    """Ends a forward pass once the inputs of the first block are known."""


def token_windows(
    texts: Tensor | Sequence[Any], tokenizer: Any = None, *, samples: int = SAMPLES, tokens: int = TOKENS
) -> Tensor:
    """Documents as windows of tokens, int64 [n, length], spread evenly over all of them.

    Parameters
    ----------
    texts: strings, or passages (anything with a ``text``); token ids [n, length] are taken as they are.
    tokenizer: of the model; not needed for token ids.
    samples: at most so many windows.
    tokens: length of a window; the documents are put end to end, and fewer tokens than one window make one short one.

    Raises
    ------
    InputError: there are no texts, or no tokenizer for them, or fewer than two tokens.
    """
    if isinstance(texts, torch.Tensor):
        if texts.dim() != 2 or texts.is_floating_point() or not texts.numel():
            raise InputError(f"token ids must be whole numbers [n, length], got {texts.dtype} {list(texts.shape)}")
        return texts[:samples].long()
    if isinstance(texts, (str, bytes)) or not len(texts):
        raise InputError("calibration texts must be a list of texts that is not empty")
    if tokenizer is None:
        raise InputError("texts need a tokenizer: give tokenizer=, or token ids [n, length] instead of texts")
    ids: list[int] = []
    for text in texts:
        ids += tokenizer(getattr(text, "text", text), verbose=False)["input_ids"]
    length = min(tokens, len(ids))
    if length < 2:
        raise InputError(f"the calibration texts hold {len(ids)} tokens: give at least a page")
    windows = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
    picked = torch.linspace(0, len(windows) - 1, min(samples, len(windows))).round().long()
    return windows[picked]


@torch.no_grad()
def walk(model: nn.Module, ids: Tensor | None, *, follow: bool = True) -> Iterator[Block]:
    """The decoder blocks in order, each with the inputs that the blocks before it give.

    Parameters
    ----------
    model: a causal language model of transformers.
    ids: [n, length]; None: the blocks have no inputs.
    follow: whether what is done to a block meanwhile shows in the inputs of the next.

    Raises
    ------
    ModelError: the model's structure is not understood.
    """
    blocks = decoder_blocks(model)
    if ids is None:
        yield from (Block(name, module) for name, module in blocks)
        return
    calls = _calls(model, [module for _, module in blocks], ids)
    inputs = _first_inputs(model, blocks[0][1], ids)
    for (name, module), call in zip(blocks, calls, strict=True):
        block = Block(name, module, inputs, call)
        before = [] if follow else block.run()
        yield block
        inputs = block.run() if follow else before


def run_model(model: nn.Module, ids: Tensor) -> Any:
    """The model's output for ids [n, length], on its own device and without a cache."""
    return model(input_ids=ids.to(next(model.parameters()).device), use_cache=False)


def _calls(model: nn.Module, blocks: list[nn.Module], ids: Tensor) -> list[Call]:
    """The arguments of each block beside the hidden states.

    Raises
    ------
    ModelError: they depend on the tokens, so that one sample's do not serve for all.
    """
    first, last = (_recorded(model, blocks, ids[i : i + 1]) for i in (0, len(ids) - 1))
    for one, other in zip(first, last, strict=True):
        if not _same(one, other):
            raise ModelError(f"{type(model).__name__} gives its blocks inputs of each token: it cannot be calibrated")
    return first


def _recorded(model: nn.Module, blocks: list[nn.Module], ids: Tensor) -> list[Call]:
    recorded: list[Call] = []
    with hooked(blocks, lambda _, args, kwargs: recorded.append(_without_states(args, kwargs)[1])):
        run_model(model, ids)
    if len(recorded) != len(blocks):
        raise ModelError(f"{type(model).__name__} does not call its {len(blocks)} blocks once each")
    return recorded


def _first_inputs(model: nn.Module, block: nn.Module, ids: Tensor) -> list[Tensor]:
    inputs: list[Tensor] = []

    def reached(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs.append(_without_states(args, kwargs)[0])
        raise _Reached

    with hooked([block], reached):
        for row in ids:
            try:
                run_model(model, row[None])
            except _Reached:
                continue
    return inputs


def _without_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Call]:
    """The hidden states, and the other arguments of a block."""
    if args:
        return args[0], (args[1:], dict(kwargs))
    others = dict(kwargs)
    return others.pop("hidden_states"), ((), others)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return True
