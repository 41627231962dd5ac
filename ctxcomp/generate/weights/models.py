"""The structure of a causal language model: its decoder blocks and their linear layers, whatever the architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ctxcomp.errors import ModelError
from ctxcomp.generate.weights.statistics import SAMPLE_TOKENS, Collector, LayerStatistics

if TYPE_CHECKING:
    from ctxcomp.generate.weights.folds import Fold

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments of one call of a module."""


def decoder_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The decoder blocks by name, in order.

    Raises
    ------
    ModelError: no list of modules is as long as the configuration says.
    """
    config: Any = getattr(model, "config", None)
    count = getattr(config.get_text_config(), "num_hidden_layers", None) if config is not None else None
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [(f"{name}.{i}", block) for i, block in enumerate(module)]
    raise ModelError(
        f"{type(model).__name__} has no list of {count} decoder blocks: it must be a causal model of transformers"
    )


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer in full precision (GPT-2's ``Conv1D`` is one, transposed)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def weight_of(module: nn.Module) -> Tensor:
    """The weight [N, K] of a linear layer; changed in place, it changes the layer."""
    parameter: Any = module.weight
    weight: Tensor = parameter.data
    return weight if isinstance(module, nn.Linear) else weight.T


@dataclass(eq=False)
class Block:
    """One decoder block with the inputs that calibrate it.

    Parameters
    ----------
    name: of the block in the model, for example "model.layers.3".
    module: the block.
    inputs: hidden states [1, tokens, hidden] of each calibration sample; empty without calibration.
    call: the other arguments, the same for every sample.
    """

    name: str
    module: nn.Module
    inputs: list[Tensor] = field(default_factory=list)
    call: Call = ((), {})

    @property
    def linears(self) -> dict[str, nn.Module]:
        """The linear layers that are still in full precision, by their name in the block."""
        return {name: module for name, module in self.module.named_modules() if is_linear(module)}

    @cached_property
    def folds(self) -> list[Fold]:
        """Where a scale of a layer's inputs can move into what feeds it; empty without calibration."""
        from ctxcomp.generate.weights.folds import find_folds

        return find_folds(self) if self.inputs else []

    def run(self, inputs: list[Tensor] | None = None) -> list[Tensor]:
        """The block's outputs for these inputs; for its own if None."""
        args, kwargs = self.call
        outputs = (self.module(x, *args, **kwargs) for x in (self.inputs if inputs is None else inputs))
        return [first_tensor(y) for y in outputs]

    def calls(self, module: nn.Module) -> list[Call]:
        """How the block calls one of its modules, for every sample."""
        calls: list[Call] = []
        with hooked([module], lambda _, args, kwargs: calls.append((args, dict(kwargs)))):
            self.run()
        return calls

    def statistics(self, *, hessian: bool = False) -> dict[str, LayerStatistics]:
        """Of the inputs of every linear layer, by name; layers that read the same tensor share one."""
        linears = self.linears
        if not self.inputs:
            return self._without_inputs()
        stride = max(1, sum(x.shape[0] * x.shape[1] for x in self.inputs) // SAMPLE_TOKENS)
        names = {id(module): name for name, module in linears.items()}
        collectors: dict[str, Collector] = {}
        last: list[tuple[Tensor, Collector]] = []

        def collect(module: nn.Module, args: tuple[Any, ...], _: dict[str, Any]) -> None:
            name, x = names[id(module)], args[0]
            if last and last[0][0] is x:
                collectors.setdefault(name, last[0][1])
                return
            collector = collectors.setdefault(name, Collector(hessian=hessian, stride=stride))
            collector.add(x)
            last[:] = [(x, collector)]

        with hooked(linears.values(), collect):
            self.run()
        made = {id(c): c.statistics() for c in collectors.values()}
        found = {name: replace(made[id(collector)], layer=name) for name, collector in collectors.items()}
        return self._without_inputs() | found

    def _without_inputs(self) -> dict[str, LayerStatistics]:
        weights = {name: weight_of(module) for name, module in self.linears.items()}
        return {name: LayerStatistics.empty(w.shape[1], w.device, layer=name) for name, w in weights.items()}


@contextmanager
def hooked(modules: Any, hook: Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Within the block ``hook(module, args, kwargs)`` is called before each call of these modules."""
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Tensor:
    """The hidden states of a module's output: the tensor itself, or the first of a tuple."""
    found: Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return found
