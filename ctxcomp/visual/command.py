"""``ctxcomp compress`` on page images: what is kept of each, what that saves, and pictures of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.fields import field_types, nearest
from ctxcomp.generate.generator import Generator
from ctxcomp.types import Budget
from ctxcomp.visual.methods import method_of
from ctxcomp.visual.pages import open_pages
from ctxcomp.visual.pictures import picture
from ctxcomp.visual.prompt import PrunedPrompt
from ctxcomp.visual.pruner import VisualPruner
from ctxcomp.visual.reporting import Prefill, Report, report


def compress_files(
    paths: Sequence[str],
    query: str,
    budget: Budget,
    model: str,
    method: str,
    fields: Mapping[str, Any],
    *,
    pictures: str | None = None,
    measure: bool = False,
    as_json: bool = False,
) -> str:
    """What the command prints; see ``ctxcomp compress --help``.

    Raises
    ------
    CtxcompError: an argument cannot be used.
    """
    method_of(method)
    known = sorted(set(field_types(VisualPruner)) - {"model", "method"})
    for name in fields:
        if name not in known:
            raise UnknownMethodError(f"pages have no field {name!r}: {nearest(name, known)}")
    loaded = [(path, page) for path in paths for page in open_pages([path])]
    folder = None if pictures is None else _folder(pictures)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # the command line has its own
    pruner = VisualPruner(model=Generator.from_pretrained(model), method=method, **fields)
    pruned = pruner.prune_pages(query, [page for _, page in loaded], budget)
    files = [] if folder is None else _draw(pruned, loaded, folder)
    found = report(pruned, pruned.given if measure else None)
    if as_json:
        return json.dumps(_plain(pruned, found, [path for path, _ in loaded], files), ensure_ascii=False, indent=2)
    return "\n".join([found.text([path for path, _ in loaded]), *([f"pictures in {folder}"] if files else [])])


def _folder(path: str) -> Path:
    place = Path(path)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: no folder for pictures: {error.strerror}") from None
    return place


def _draw(pruned: PrunedPrompt, loaded: Sequence[tuple[str, Any]], folder: Path) -> list[str]:
    """The pages as the model gets them, one PNG each."""
    files = []
    for i, (path, page) in enumerate(loaded):
        file = folder / f"{i + 1:03d}-{Path(path).stem}.png"
        try:
            picture(pruned, i, page).save(file)
        except OSError as error:
            raise InputError(f"{file}: cannot be written: {error.strerror or error}") from None
        files.append(str(file))
    return files


def _plain(pruned: PrunedPrompt, found: Report, paths: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """The result as plain values."""
    (result,) = pruned.results
    counts = zip(paths, result.tokens_in, result.tokens_out, strict=True)
    return {
        "pages": [
            {
                "source": path,
                "tokens_in": tokens_in,
                "tokens_out": tokens_out,
                "picture": files[i] if files else None,
            }
            for i, (path, tokens_in, tokens_out) in enumerate(counts)
        ],
        "prefill": {"before": _prefill(found.before), "after": _prefill(found.after)},
        "stats": {
            "tokens_in": result.stats.tokens_in,
            "tokens_out": result.stats.tokens_out,
            "keep": result.stats.keep,
            "seconds": result.stats.seconds,
            "encode_seconds": found.encode_seconds,
            "prune_seconds": found.prune_seconds,
            "counter": result.stats.counter,
            "method": result.stats.method,
        },
    }


def _prefill(one: Prefill) -> dict[str, Any]:
    names = ("tokens", "flops", "seconds", "kv_bytes", "peak_bytes")
    return {name: getattr(one, name) for name in names}
