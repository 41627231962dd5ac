"""``ctxcomp index``: files to a searchable index, and passages out of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.index.files import check_target, read_manifest
from ctxcomp.index.index import Index, Pair
from ctxcomp.index.presets import PRESETS
from ctxcomp.index.split import PASSAGE_TOKENS, split
from ctxcomp.inputs import read_sources
from ctxcomp.types import Passage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; results go to standard output, progress to standard error.

    Raises
    ------
    CtxcompError: an argument cannot be used; the index is then as it was.
    """
    given = _parser().parse_args(arguments)
    status: int = given.run(given)
    return status


def _parser() -> argparse.ArgumentParser:
    from ctxcomp.cli import Parser

    parser = Parser(prog="ctxcomp index", description="Build, extend and search a compressed index.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    build = commands.add_parser("build", help="files, folders or standard input to an index")
    _add_inputs(build)
    build.add_argument("--out", required=True, metavar="DIR", help="where; an index that is there is replaced")
    presets = "; ".join(f"{preset.name}: {preset.summary}" for preset in PRESETS.values())
    build.add_argument("--preset", default="tiny", metavar="NAME", help=f"{presets} (default: tiny)")
    build.add_argument(
        "--model", default="minilm", help="the encoder: a checkpoint directory or a cached hub id (minilm)"
    )
    build.add_argument("--recall", type=float, default=0.98, metavar="F", help="to reach on held-out queries (0.98)")
    build.add_argument("--queries", metavar="FILE", help="real queries to measure with, one a line")
    build.add_argument("--pairs", metavar="FILE", help='.jsonl of {"query": ..., "id": a passage}, what `tuned` learns')
    build.set_defaults(run=_build)

    add = commands.add_parser("add", help="add files to an index")
    add.add_argument("index", metavar="DIR")
    _add_inputs(add)
    add.set_defaults(run=_add)

    search = commands.add_parser("search", help="the passages nearest to a query")
    search.add_argument("index", metavar="DIR")
    search.add_argument("-q", "--query", required=True)
    search.add_argument("-k", type=int, default=10, metavar="N", help="how many (default: 10)")
    search.add_argument(
        "--format", choices=("text", "jsonl"), default="text", help="jsonl is what `ctxcomp compress -` reads"
    )
    search.add_argument("--no-verify", action="store_true", help="compare sizes only, not checksums: for large indexes")
    search.set_defaults(run=_search)

    info = commands.add_parser("info", help="what an index holds, with its checksums compared")
    info.add_argument("index", metavar="DIR")
    info.set_defaults(run=_info)
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help=".txt, .md, .jsonl, a folder, or -")
    parser.add_argument(
        "--passage-tokens", type=int, default=PASSAGE_TOKENS, metavar="N", help=f"of a passage ({PASSAGE_TOKENS})"
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the encoder (default: its own choice)")


def _build(given: argparse.Namespace) -> int:
    from ctxcomp.cli import progress, write_out

    check_target(Path(given.out))
    pairs = None if given.pairs is None else _pairs(given.pairs)
    queries = None if given.queries is None else _lines(given.queries)
    passages = _passages(given)
    with progress("indexing"):
        model = EncoderOptions(model=given.model, threads=given.threads)
        index = Index.build(
            passages, preset=given.preset, model=model, recall=given.recall, queries=queries, pairs=pairs
        ).save(given.out)
    write_out("\n".join(filter(None, [str(index.report), index.note, f"saved to {given.out}"])))
    return 0


def _add(given: argparse.Namespace) -> int:
    from ctxcomp.cli import progress, write_out

    index = Index.load(given.index)
    passages = _passages(given)
    with progress("indexing"):
        encoder = index.source.encoder
        if encoder is not None and given.threads:
            index = Index.load(given.index, model=EncoderOptions(model=encoder.model, threads=given.threads))
        grown = index.add(passages).measured().save(given.index)
    write_out(f"{grown.report}\nadded {len(grown) - len(index):,} passages to {given.index}")
    return 0


def _search(given: argparse.Namespace) -> int:
    from ctxcomp.cli import write_out

    found = Index.load(given.index, verify=not given.no_verify).search(given.query, given.k, embeddings=False)
    if given.format == "jsonl":
        write_out("\n".join(json.dumps(_row(passage), ensure_ascii=False) for passage in found), "backslashreplace")
    else:
        write_out("\n\n".join(f"{p.score:.3f}  {p.id}\n{p.text}" for p in found) or "the index is empty")
    return 0


def _info(given: argparse.Namespace) -> int:
    from ctxcomp.cli import write_out

    manifest = read_manifest(Path(given.index))
    index = Index.load(given.index, verify=False)
    on_disk = sum(file["bytes"] for file in manifest["files"].values())
    source = manifest["source"]
    lines = {
        "preset": index.preset.name,
        "passages": f"{len(index):,}",
        "vectors": f"{index.vectors.shape[1]} numbers by {source['name'] or 'a model of yours'}, {index.metric}",
        "in memory": f"{index.bytes_per_vector} bytes a vector, {index.bytes_per_vector * len(index):,} in all",
        "on disk": f"{on_disk:,} bytes, checksums right",
        "shortlist": f"{index.shortlist} for the best ten" if index.codes is not None else "none",
        "measured": index.report,
        "written": manifest["created"],
    }
    write_out("\n".join(f"{name:<10} {value}" for name, value in lines.items()))
    return 0


def _row(passage: Passage) -> dict[str, Any]:
    row = {"text": passage.text, "id": passage.id, "title": passage.title, "score": passage.score}
    return {**row, "metadata": dict(passage.metadata)}


def _passages(given: argparse.Namespace) -> list[Passage]:
    return list(split((source.passage for source in read_sources(given.paths)), given.passage_tokens))


def _lines(path: str) -> list[str]:
    text = read_sources([path], "text")[0].passage.text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"--queries {path}: no query in it, one a line is needed")
    return lines


def _pairs(path: str) -> list[Pair]:
    pairs: list[Pair] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
            pairs.append((str(row["query"]), str(row["id"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(f'--pairs {path} line {number}: needs {{"query": "...", "id": "a passage"}}') from None
    return pairs
