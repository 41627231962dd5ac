"""Where a scale of a layer's inputs can be folded into what produces them, found by running the block.

A norm feeds the linear layers that read its very output tensor; a linear layer feeds another channel by channel where
scaling its rows scales the other's inputs (``up_proj`` feeds ``down_proj``; ``v_proj`` feeds ``o_proj`` unless heads
share values). Every candidate is tried with powers of two, so that architectures need no list of names, and one whose
output would change is not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ctxcomp.generate.weights.models import Block, first_tensor, hooked, weight_of

TOLERANCE = 0.02
"""Relative change that rounding to bfloat16 may cause; a wrong fold by powers of two changes more than half."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Input channels j of the targets can be divided by ``s_j`` in their source.

    Parameters
    ----------
    source: a norm, or a linear layer.
    rows: the rows of that linear layer; None: it is a norm.
    offset: 1.0 where the norm multiplies with ``1 + weight``, else 0.0.
    targets: names of the linear layers in the block.
    linears: these layers.
    inspected: the module whose output tells how well the targets are quantized: their common parent, or a target fed
        by a linear layer itself.
    """

    source: nn.Module
    rows: slice | None
    offset: float
    targets: tuple[str, ...]
    linears: tuple[nn.Module, ...]
    inspected: nn.Module

    def apply(self, scales: Tensor) -> None:
        """Multiply column j of the targets by ``scales[j]`` and divide what feeds it."""
        for module in self.linears:
            weight = weight_of(module)
            weight.mul_(scales.to(weight.device, weight.dtype))
        for part in self.source_tensors():
            divided = (part.float() + self.offset) / scales.to(part.device).reshape(-1, *[1] * (part.dim() - 1))
            part.copy_(divided - self.offset)

    def source_tensors(self) -> list[Tensor]:
        """What is divided: weight and bias of the norm, or these rows of the linear layer's."""
        bias: Any = getattr(self.source, "bias", None)
        weight: Any = self.source.weight
        rows = self.rows
        if rows is None:
            return [weight.data] + ([] if bias is None else [bias.data])
        return [weight_of(self.source)[rows]] + ([] if bias is None else [bias.data[rows]])


class Trace:
    """One run of the block: what each linear layer read, what each norm wrote, which modules were called."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.reads: dict[str, Tensor] = {}
        self.writes: dict[str, Tensor] = {}
        self.called: set[str] = set()
        names = {id(module): name for name, module in block.module.named_modules()}
        linears = block.linears

        def before(module: nn.Module, args: tuple[Any, ...], _: dict[str, Any]) -> None:
            name = names[id(module)]
            self.called.add(name)
            if name in linears:
                self.reads.setdefault(name, args[0])

        def after(module: nn.Module, _: Any, output: Any) -> None:
            if _is_norm(module) and isinstance(output, torch.Tensor):
                self.writes.setdefault(names[id(module)], output)

        modules = dict(block.module.named_modules())
        handles = [module.register_forward_hook(after) for module in modules.values()]
        try:
            with hooked(modules.values(), before):
                (self.output,) = block.run(block.inputs[:1])
        finally:
            for handle in handles:
                handle.remove()


def find_folds(block: Block) -> list[Fold]:
    """The folds of a block that were tried and hold, in the order in which the block reads its inputs."""
    trace = Trace(block)
    folds, done = [], set[str]()
    for name, read in trace.reads.items():
        if name in done:
            continue
        together = tuple(other for other, tensor in trace.reads.items() if tensor is read)
        done.update(together)
        fold = next((f for f in _candidates(block, trace, together) if _holds(block, trace, f)), None)
        if fold is not None:
            folds.append(fold)
    return folds


def _candidates(block: Block, trace: Trace, targets: tuple[str, ...]) -> list[Fold]:
    """Folds worth a trial, norms first."""
    modules = dict(block.module.named_modules())
    linears = tuple(modules[name] for name in targets)
    columns = weight_of(linears[0]).shape[1]
    norm = next((n for n, written in trace.writes.items() if written is trace.reads[targets[0]]), None)
    if norm is not None:
        inspected = modules[_common_parent(targets, trace.called)]
        return [Fold(modules[norm], None, offset, targets, linears, inspected) for offset in (0.0, 1.0)]
    if len(targets) > 1:
        return []
    found = []
    for name in trace.reads:
        if name in targets:
            break  # what comes later cannot feed it
        rows = weight_of(modules[name]).shape[0]
        starts = {rows - columns, 0} if rows >= columns else set()
        found += [Fold(modules[name], slice(s, s + columns), 0.0, targets, linears, linears[0]) for s in starts]
    return found


def _holds(block: Block, trace: Trace, fold: Fold) -> bool:
    """Whether a fold by random powers of two scales the targets' inputs and leaves the block's output as it is."""
    columns = weight_of(fold.linears[0]).shape[1]
    if fold.rows is None and len(fold.source_tensors()[0]) != columns:
        return False
    generator = torch.Generator().manual_seed(0)
    scales = 2.0 ** torch.randint(-1, 3, (columns,), generator=generator).float()
    changed = [weight_of(module) for module in fold.linears] + fold.source_tensors()
    before = [tensor.clone() for tensor in changed]
    read: list[Tensor] = []
    try:
        fold.apply(scales)
        with hooked(fold.linears[:1], lambda _, args, __: read.append(args[0])):
            (output,) = block.run(block.inputs[:1])
    finally:
        for tensor, old in zip(changed, before, strict=True):
            tensor.copy_(old)
    expected, was = trace.reads[fold.targets[0]], trace.output
    own = was - first_tensor(block.inputs)
    return _close(read[0] * scales.to(read[0]), expected, expected) and _close(output, was, own)


def _close(a: Tensor, b: Tensor, size: Tensor) -> bool:
    return bool((a.float() - b.float()).norm() <= TOLERANCE * size.float().norm())


def _common_parent(names: tuple[str, ...], called: set[str]) -> str:
    """The innermost module that was called and holds all of these; "" is the block."""
    parts = [name.split(".")[:-1] for name in names]
    depth = 0
    while all(len(p) > depth and p[depth] == parts[0][depth] for p in parts):
        depth += 1
    while depth and ".".join(parts[0][:depth]) not in called:
        depth -= 1
    return ".".join(parts[0][:depth])


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and weight.dim() == 1 and not any(True for _ in module.children())
