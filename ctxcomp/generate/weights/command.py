"""``ctxcomp quantize``: a checkpoint in, a quantized checkpoint and a report out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ctxcomp.errors import InputError
from ctxcomp.fields import parse_value
from ctxcomp.generate.formats import save_quantized
from ctxcomp.generate.formats.base import form_of
from ctxcomp.generate.formats.registry import FORMATS, format_class
from ctxcomp.generate.load import find, load_model, load_tokenizer
from ctxcomp.generate.weights.calibration import SAMPLES, TOKENS
from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.method import WeightMethod
from ctxcomp.generate.weights.models import decoder_blocks, is_linear, weight_of
from ctxcomp.generate.weights.quantize import quantize
from ctxcomp.generate.weights.registry import LOSSLESS, METHODS
from ctxcomp.inputs import read_sources


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantize and save a model; the report goes to standard output, the progress to standard error.

    Raises
    ------
    CtxcompError: an argument cannot be used; nothing is written then.
    """
    from ctxcomp.cli import write_out  # which imports this module's package only when it is called for

    given = _parser().parse_args(arguments)
    out = _new_directory(given.out)
    source = find(given.model)
    calibration, held_out = (_texts(paths) for paths in (given.calibration, given.held_out))
    model = load_model(source, device=given.device, dtype=given.dtype)
    tokenizer = load_tokenizer(source)
    _check_format(model, given)
    report = quantize(
        model,
        given.method,
        calibration,
        tokenizer=tokenizer,
        bits=given.bits,
        group_size=given.group_size,
        eora_rank=given.eora_rank,
        samples=given.samples,
        tokens=given.tokens,
        held_out=held_out,
        progress=True,
        **_fields(given),
    )
    save_quantized(model, tokenizer, out, format=given.format)
    (out / "quantization_report.json").write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    write_out(f"{report}\nsaved to {out} as {given.format}")
    return 0


def _parser() -> argparse.ArgumentParser:
    from ctxcomp.cli import Parser

    parser = Parser(prog="ctxcomp quantize", description="Quantize the weights of a causal language model.")
    parser.add_argument("model", metavar="MODEL", help="a checkpoint directory, or a hub id in the local cache")
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write the quantized checkpoint")
    parser.add_argument("--method", choices=(*METHODS, LOSSLESS), default="awq", help="(default: awq)")
    parser.add_argument("--bits", type=int, default=4, metavar="N", help="2 to 8 (default: 4)")
    parser.add_argument(
        "--group-size", type=int, metavar="N", help="columns that share a scale; 0: whole rows (128, spqr 16)"
    )
    parser.add_argument("--symmetric", action="store_true", help="no zero points")
    parser.add_argument("--eora-rank", type=int, default=0, metavar="N", help="add a low-rank part of this rank")
    parser.add_argument(
        "--calibration", nargs="+", metavar="PATH", help="your documents: .txt, .md, .jsonl or folders of them"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"windows of them ({SAMPLES})")
    parser.add_argument("--tokens", type=int, default=TOKENS, metavar="N", help=f"tokens in a window ({TOKENS})")
    parser.add_argument("--held-out", nargs="+", metavar="PATH", help="other documents, to measure what was lost")
    parser.add_argument("--format", choices=tuple(FORMATS), default="native", help="of the checkpoint (native)")
    parser.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda where there is one)")
    parser.add_argument("--dtype", help="of the model, such as bfloat16 (default: the checkpoint's)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="configure the method; may be repeated"
    )
    return parser


def _fields(given: argparse.Namespace) -> dict[str, Any]:
    """The method's own fields."""
    fields: dict[str, Any] = {"symmetric": True} if given.symmetric else {}
    for text in given.set:
        field, sign, value = text.partition("=")
        if not sign or not field:
            raise InputError(f"--set takes FIELD=VALUE, got {text!r}")
        fields[field] = parse_value(value)
    return fields


def _texts(paths: Sequence[str] | None) -> list[str] | None:
    return None if paths is None else [source.passage.text for source in read_sources(paths)]


def _new_directory(path: str) -> Path:
    out = Path(path)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {path} exists and is not an empty directory: name a new one")
    return out


def _check_format(model: Any, given: argparse.Namespace) -> None:
    """Refuse a format that could not hold the result before the work is done, not after.

    Raises
    ------
    InputError: the format cannot hold such weights.
    """
    kind = format_class(given.format)
    if given.format != "native" and (given.eora_rank or given.method in ("spqr", "slim", LOSSLESS)):
        raise InputError(f"only --format native holds what eora, spqr, slim and {LOSSLESS} make, got {given.format}")
    if given.method == LOSSLESS:
        return
    shapes = {
        tuple(weight_of(module).shape): f"{name}.{inner}"
        for name, block in decoder_blocks(model)
        for inner, module in block.named_modules()
        if is_linear(module)
    }
    size = WeightMethod.group_size if given.group_size is None else given.group_size
    forms = {}
    for shape, name in shapes.items():
        nothing = torch.zeros(shape)
        weight = find_grid(nothing, given.bits, size, symmetric=given.symmetric).quantized(nothing)
        kind.encode(name, weight)
        forms[name] = form_of(weight)
    kind.holding(forms, [])
