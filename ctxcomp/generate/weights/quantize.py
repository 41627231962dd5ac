"""One call from a causal language model to its quantized self."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.generate.weights.calibration import SAMPLES, TOKENS, token_windows, walk
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.models import Block, decoder_blocks, is_linear, weight_of
from ctxcomp.generate.weights.registry import LOSSLESS, load_method
from ctxcomp.generate.weights.report import LayerReport, QuantizationReport, Reference
from ctxcomp.generate.weights.rtn import Rtn
from ctxcomp.generate.weights.statistics import LayerStatistics
from ctxcomp.generate.weights.tensors import QuantizedWeight
from ctxcomp.progress import listen, tracked

Texts = Tensor | Sequence[Any]
"""Texts or passages, which need a tokenizer, or token ids [n, length]."""


@torch.no_grad()
def quantize(
    model: nn.Module,
    method: str = "awq",
    calibration: Texts | None = None,
    *,
    tokenizer: Any = None,
    bits: int = 4,
    group_size: int | None = None,
    eora_rank: int = 0,
    skip: Sequence[str] = (),
    samples: int = SAMPLES,
    tokens: int = TOKENS,
    held_out: Texts | None = None,
    progress: bool = False,
    **fields: Any,
) -> QuantizationReport:
    """Quantize the linear layers of a model's decoder blocks, in place.

    Blocks are quantized one after another, each calibrated on what the quantized blocks before it put out ("awq": on
    what the original ones did). Embeddings, norms and the output layer stay as they are; "dfloat11", which loses
    nothing, takes embeddings and the output layer too, and has no settings. Who listens to `ctxcomp.progress` hears of
    each block.

    Parameters
    ----------
    model: a causal language model of transformers, on any device. After an error it may be half quantized.
    method: one of `ctxcomp.generate.weights.registry.METHODS`, or "dfloat11".
    calibration: texts like those the model will read: your own documents. Only "rtn" and "dfloat11" need none.
    tokenizer: of the model, for texts.
    bits: of the codes.
    group_size: columns that share a scale; None is the method's own, 16 for "spqr" and 128 for the others. A layer with
        fewer columns gets one group per row.
    eora_rank: rank of a low-rank part that compensates the error on the calibration texts (EoRA); 0 for none.
    skip: layers to leave: their whole name, its last part, or a pattern such as ``"*.0.mlp.*"``.
    samples, tokens: calibration windows and tokens in each.
    held_out: texts to compare the quantized model with the original on.
    progress: show a bar on standard error.
    fields: of the method, for example ``clip=False``.

    Raises
    ------
    InputError: an argument is not what it must be.
    UnknownMethodError: no such method or field.
    ModelError: the model's structure is not understood.
    """
    if eora_rank < 0 or (eora_rank and method == LOSSLESS):
        raise InputError(f"eora_rank must be 0 or more, and 0 for {LOSSLESS}, got {eora_rank}")
    sizes = {} if group_size is None else {"group_size": group_size}
    chosen = None if method == LOSSLESS else load_method(method, bits=bits, **sizes, **fields)
    if chosen is None and fields:
        raise UnknownMethodError(f"{LOSSLESS} has no settings, got {', '.join(fields)}")
    if calibration is None and chosen is not None and (chosen.calibrated or eora_rank):
        raise InputError(f"{'eora' if eora_rank else method} needs calibration=: texts like those the model will read")
    ids = None if calibration is None else token_windows(calibration, tokenizer, samples=samples, tokens=tokens)
    held = None if held_out is None else token_windows(held_out, tokenizer, samples=SAMPLES, tokens=tokens)
    with _evaluating(model), _bar() if progress else nullcontext():
        reference = None if held is None else Reference(model, held)
        before, started = model_bytes(model), time.perf_counter()
        if chosen is None:
            layers = _encode(model, tuple(skip))
        else:
            layers = _quantize(model, method, chosen, ids, eora_rank, tuple(skip))
        seconds = time.perf_counter() - started
        return QuantizationReport(
            method=method + ("+eora" if eora_rank else ""),
            settings=({} if chosen is None else asdict(chosen)) | ({"eora_rank": eora_rank} if eora_rank else {}),
            layers=tuple(layers),
            left=_left(model),
            bytes_before=before,
            bytes_after=model_bytes(model),
            seconds=seconds,
            fidelity=None if reference is None else reference.compare(model),
        )


def model_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _quantize(
    model: nn.Module, name: str, method: WeightMethod, ids: Tensor | None, eora_rank: int, skip: tuple[str, ...]
) -> list[LayerReport]:
    if ids is not None:
        method.prepare_model(model, ids)
    layers = []
    steps = tracked(range(len(decoder_blocks(model))))
    for block, _ in zip(walk(model, ids, follow=method.follows), steps, strict=True):
        if ids is not None:
            method.prepare_block(block)
        statistics = block.statistics(hessian=method.needs_hessian or eora_rank > 0)
        for layer, module in block.linears.items():
            whole = f"{block.name}.{layer}"
            if not _matches(whole, skip):
                layers.append(_quantize_layer(block, layer, module, name, method, statistics[layer], eora_rank))
    return layers


def _encode(model: nn.Module, skip: tuple[str, ...]) -> list[LayerReport]:
    """Compress without loss."""
    from ctxcomp.generate.weights.dfloat11 import compress_lossless

    weights = {name: getattr(module, "weight", None) for name, module in model.named_modules()}
    sizes = {name: (w.shape, w.nbytes) for name, w in weights.items() if isinstance(w, torch.Tensor)}
    layers = []
    for name in compress_lossless(model, [name for name in weights if _matches(name, skip)]).layers:
        (rows, columns), before = sizes[name]
        after = sum(t.nbytes for t in model.get_submodule(f"{name}.encoded").buffers(recurse=False))
        layers.append(LayerReport(name, (rows, columns), LOSSLESS, before, after, error=0.0))
    return layers


def _matches(name: str, skip: tuple[str, ...]) -> bool:
    return any(name == s or name.endswith("." + s) or fnmatch.fnmatchcase(name, s) for s in skip)


def _left(model: nn.Module) -> tuple[str, ...]:
    """Linear layers in full precision, and experts, whose weights transformers keeps in one tensor of 3 dimensions."""
    linears = [name for name, module in model.named_modules() if is_linear(module)]
    return (*linears, *(name for name, parameter in model.named_parameters() if parameter.dim() == 3))


def _quantize_layer(
    block: Block,
    layer: str,
    module: nn.Module,
    name: str,
    method: WeightMethod,
    statistics: LayerStatistics,
    eora_rank: int,
) -> LayerReport:
    original = weight_of(module)
    weight = original.to(torch.float32, copy=True)  # methods may work in place
    if method.calibrated and not statistics.tokens:  # an expert that no calibration token was sent to
        name, method = "rtn", Rtn(bits=method.bits, group_size=method.group_size, symmetric=method.symmetric)
    quantized = method.quantize_weight(weight, statistics)
    if eora_rank and statistics.tokens:
        from ctxcomp.generate.weights.eora import compensate

        quantized = compensate(weight, quantized, statistics, eora_rank)
    bias: Any = getattr(module, "bias", None)
    block.module.set_submodule(layer, QuantizedLinear.from_weight(quantized, bias))
    return LayerReport(
        name=f"{block.name}.{layer}",
        shape=quantized.shape,
        method=name,
        bytes_before=original.numel() * original.element_size(),
        bytes_after=quantized.nbytes(),
        error=_error(weight, quantized, statistics),
    )


def _error(weight: Tensor, quantized: QuantizedWeight, statistics: LayerStatistics) -> float:
    """Relative error of the layer's outputs on sampled inputs; of the weight itself where there are none."""
    change = quantized.dequantize() - weight
    if statistics.tokens:
        change, weight = statistics.sample @ change.T, statistics.sample @ weight.T
    return float(change.norm() / weight.norm().clamp(min=torch.finfo(torch.float32).tiny))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _bar() -> Iterator[None]:
    from tqdm import tqdm

    with tqdm(desc="quantizing", unit="block") as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        with listen(advance):
            yield
