"""The command line: ``ctxcomp compress`` and ``ctxcomp list``.

Exit status: 0 done; 2 for usage or bad input, 1 for a failure, each with one line on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.fields import parse_value
from ctxcomp.inputs import Source, read_sources
from ctxcomp.registry import DEFAULT_METHOD, load, methods
from ctxcomp.types import Budget, CompressedText
from ctxcomp.version import __version__

PROGRESS_DELAY_SECONDS = 1.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        self.exit(2, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    logging.basicConfig(format="ctxcomp: %(message)s", level=logging.WARNING)
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except InputError as error:
        return _say(error, 2)
    except CtxcompError as error:
        return _say(error, 1)
    except BrokenPipeError:  # the reader, `head` for example, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, MemoryError) as error:
        return _say(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _say(message: object, status: int) -> int:
    sys.stderr.write("ctxcomp: " + " ".join(str(message).split()) + "\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ctxcomp", description="Compress retrieved passages under a hard token budget.")
    parser.add_argument("--version", action="version", version=f"ctxcomp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    compress = commands.add_parser("compress", help="keep the best of files, folders or standard input")
    compress.add_argument(
        "paths", nargs="+", metavar="PATH", help=".txt, .md, .jsonl, a folder, or - for standard input"
    )
    compress.add_argument("-q", "--query", default="", help="what the context is for")
    budget = compress.add_mutually_exclusive_group(required=True)
    budget.add_argument("--tokens", type=int, metavar="N", help="keep at most N tokens")
    budget.add_argument("--keep", type=float, metavar="F", help="keep at most this share of the tokens, in (0, 1]")
    compress.add_argument(
        "--method",
        default=DEFAULT_METHOD,
        help=f"one of `ctxcomp list`, or several joined by + (default: {DEFAULT_METHOD})",
    )
    compress.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="configure the method; may be repeated"
    )
    compress.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="counts the budget: a tiktoken encoding, an OpenAI model or a tokenizer's path",
    )
    compress.add_argument(
        "--format", choices=("text", "json", "highlight"), default="text", help="what to print (default: text)"
    )
    compress.add_argument(
        "--input-format",
        choices=("auto", "text", "jsonl"),
        default="auto",
        help="how to read the input (default: by name)",
    )
    compress.set_defaults(run=_compress)

    listing = commands.add_parser("list", help="show the methods")
    listing.set_defaults(run=_list)
    return parser


def _list(_: argparse.Namespace) -> int:
    known = methods()
    width = max(map(len, known))
    print("\n".join(f"{name:<{width}}  {method.summary}" for name, method in known.items()))
    return 0


def _compress(arguments: argparse.Namespace) -> int:
    budget = Budget(tokens=arguments.tokens, keep=arguments.keep)
    fields = dict(_setting(text) for text in arguments.set)
    if arguments.tokenizer is not None:
        fields["counter"] = arguments.tokenizer
    compressor = load(arguments.method, **fields)
    sources = read_sources(arguments.paths, arguments.input_format)
    with _progress():
        result = compressor.compress(arguments.query, [source.passage for source in sources], budget)
    _write(_formatted(result, sources, arguments.format, fields.get("counter")))
    if arguments.format != "json":
        sys.stderr.write(f"{result.stats}\n")
    return 0


def _setting(text: str) -> tuple[str, Any]:
    field, sign, value = text.partition("=")
    if not sign or not field:
        raise InputError(f"--set takes FIELD=VALUE, got {text!r}")
    return field.replace(".", "__"), parse_value(value)


def _formatted(result: CompressedText, sources: list[Source], form: str, counter: str | None) -> str:
    if form == "json":
        return json.dumps(as_json(result, sources, counter), ensure_ascii=False, indent=2)
    if form == "highlight":
        from ctxcomp.highlight import highlight

        names = tuple(_name(source) for source in sources)
        return highlight(result, names, color="NO_COLOR" not in os.environ)
    return result.text


def _name(source: Source) -> str:
    own = source.passage.id
    return own if own.startswith(source.name) else f"{source.name}: {own}"


def as_json(result: CompressedText, sources: list[Source], counter: str | None) -> dict[str, Any]:
    """The result as plain values; spans index into the source's own text."""
    from ctxcomp.counting import resolve_counter

    spans: list[list[dict[str, Any]]] = [[] for _ in sources]
    for span in result.spans or ():
        spans[span.passage].append({"start": span.start, "end": span.end, "score": span.score})
    tokens = resolve_counter(counter).count_batch(result.passage_texts)
    stats = result.stats
    return {
        "text": result.text,
        "passages": [
            {"id": source.passage.id, "source": source.name, "text": text, "tokens": n, "spans": own}
            for source, text, n, own in zip(sources, result.passage_texts, tokens, spans, strict=True)
        ],
        "stats": {
            "tokens_in": stats.tokens_in,
            "tokens_out": stats.tokens_out,
            "keep": stats.keep,
            "seconds": stats.seconds,
            "counter": stats.counter,
            "method": stats.method,
        },
    }


def _write(text: str) -> None:
    # Bytes, because a lone surrogate of the input has no UTF-8 and must not end in a traceback.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + (b"" if text.endswith("\n") else b"\n"))


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """A bar on standard error for work that takes longer than a second."""
    from tqdm import tqdm

    from ctxcomp.progress import listen

    with tqdm(desc="encoding", unit="batch", delay=PROGRESS_DELAY_SECONDS, leave=False, file=sys.stderr) as bar:

        def advance(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh() if done == total else bar.update(0)

        with listen(advance):
            yield
