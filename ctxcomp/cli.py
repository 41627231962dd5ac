"""The command line: ``ctxcomp compress``, ``eval``, ``serve``, ``quantize``, ``plan``, ``index`` and ``list``.

Exit status: 0 done; 2 for usage or bad input, 1 for a failure, each with one line on standard error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ctxcomp.counting import CounterLike, resolve_counter
from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.fields import parse_value
from ctxcomp.inputs import Source, read_sources
from ctxcomp.optional import require
from ctxcomp.registry import DEFAULT_METHOD, LATENT_METHODS, load, methods
from ctxcomp.types import Budget, CompressedText
from ctxcomp.version import __version__
from ctxcomp.visual.pages import SUFFIXES

PAGE_METHOD = "globalcom2"
PROGRESS_DELAY_SECONDS = 1.0
MESSAGE_CHARACTERS = 1000


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, with the status of bad input."""

    def error(self, message: str) -> NoReturn:
        """One line instead of the whole usage."""
        sys.exit(_say(f"{_short(message)} (see `{self.prog} --help`)", 2))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    shown = logging.StreamHandler()
    shown.setLevel(logging.WARNING)  # libraries that set their own level would write through the root's
    logging.basicConfig(format="ctxcomp: %(message)s", handlers=[shown])
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments)
        return status
    except InputError as error:
        return _say(error, 2)
    except CtxcompError as error:
        return _say(error, 1)
    except BrokenPipeError:  # the reader, `head` for example, has enough
        return 0
    except (OSError, MemoryError) as error:
        return _say(f"{type(error).__name__}: {error}", 1)
    except KeyboardInterrupt as stop:
        return _say(": ".join(["interrupted", *map(str, stop.args)]), 130)


def _say(message: object, status: int) -> int:
    _to_stderr(f"ctxcomp: {_short(message)}")
    return status


def _to_stderr(line: str) -> None:
    if sys.stderr is not None:  # it is None where the caller closed it
        sys.stderr.write(line + "\n")


def _short(message: object) -> str:
    """In one line, without the control characters that a file's name or content may hold."""
    line = "".join(c if c.isprintable() else "�" for c in " ".join(str(message).split()))
    return line if len(line) <= MESSAGE_CHARACTERS else line[:MESSAGE_CHARACTERS] + " …"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="ctxcomp", description="Compress retrieved passages under a hard token budget.")
    parser.add_argument("--version", action="version", version=f"ctxcomp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    compress = commands.add_parser("compress", help="keep the best of files, folders or standard input")
    compress.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help=".txt, .md, .jsonl, .xlsx, .csv, .tsv, a folder of texts, or - for standard input; "
        "or page images (.png, .jpg, .tiff ...) with --model",
    )
    compress.add_argument("-q", "--query", default="", help="what the context is for")
    budget = compress.add_mutually_exclusive_group(required=True)
    budget.add_argument("--tokens", type=int, metavar="N", help="keep at most N tokens")
    budget.add_argument("--keep", type=float, metavar="F", help="keep at most this share of the tokens, in (0, 1]")
    compress.add_argument(
        "--method",
        help=f"one of `ctxcomp list`, or several joined by + (default: {DEFAULT_METHOD}; sheets for spreadsheets; "
        f"of pages {PAGE_METHOD}, or another one of ctxcomp/visual/README.md)",
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
    compress.add_argument("--model", metavar="PATH", help="the vision-language checkpoint that page images are for")
    compress.add_argument("--pictures", metavar="FOLDER", help="where to draw what is kept of each page image")
    compress.add_argument("--measure", action="store_true", help="time the prefill of the pages, whole and pruned")
    compress.set_defaults(run=_compress)

    # Its options are its own: a sign that no argument begins with makes all of them positional here.
    evaluate = commands.add_parser("eval", help="measure methods on questions", add_help=False, prefix_chars="\0")
    evaluate.add_argument("arguments", nargs="*")
    evaluate.set_defaults(run=_eval)

    serve = commands.add_parser("serve", help="run the HTTP service", add_help=False, prefix_chars="\0")
    serve.add_argument("arguments", nargs="*")
    serve.set_defaults(run=_serve)

    planning = commands.add_parser("plan", help="what of a local generator fits into a GPU's memory")
    planning.add_argument("model", metavar="MODEL", help="a checkpoint directory, or a hub id in the local cache")
    planning.add_argument("--memory", required=True, metavar="SIZE", help="what there is, such as 24GB or 80GiB")
    planning.add_argument("--document-tokens", type=int, required=True, metavar="N", help="of a prompt")
    planning.add_argument("--answer-tokens", type=int, default=512, metavar="N", help="of an answer (default: 512)")
    planning.add_argument("--batch", type=int, default=1, metavar="N", help="requests at a time (default: 1)")
    planning.add_argument("--measure", action="store_true", help="load the model and measure the plan at work")
    planning.set_defaults(run=_plan)

    quantizing = commands.add_parser("quantize", help="make a model's weights small", add_help=False, prefix_chars="\0")
    quantizing.add_argument("arguments", nargs="*")
    quantizing.set_defaults(run=_quantize)

    indexing = commands.add_parser("index", help="build, extend and search an index", add_help=False, prefix_chars="\0")
    indexing.add_argument("arguments", nargs="*")
    indexing.set_defaults(run=_index)

    listing = commands.add_parser("list", help="show the methods")
    listing.set_defaults(run=_list)
    return parser


def _list(_: argparse.Namespace) -> int:
    known = methods()
    width = max(map(len, known))
    write_out("\n".join(f"{name:<{width}}  {method.summary}" for name, method in known.items()))
    return 0


def _compress(arguments: argparse.Namespace) -> int:
    budget = Budget(tokens=arguments.tokens, keep=arguments.keep)
    fields = dict(_setting(text) for text in arguments.set)
    if arguments.tokenizer is not None:
        fields["counter"] = arguments.tokenizer
    if arguments.method in LATENT_METHODS:
        raise InputError(
            f"{arguments.method} needs a local generator and makes vectors for it, and this command prints text: use "
            f"load({arguments.method!r}, generator=..., weights=...) from Python, or a text method, {DEFAULT_METHOD!r}"
        )
    if arguments.input_format == "auto" and any(path.lower().endswith(SUFFIXES) for path in arguments.paths):
        return _pages(arguments, budget, fields)
    for option in ("model", "pictures", "measure"):
        if getattr(arguments, option):
            raise InputError(f"--{option} is for page images ({', '.join(SUFFIXES)}), and there are none")
    sources = read_sources(arguments.paths, arguments.input_format)
    default = "sheets" if any(source.is_sheet for source in sources) else DEFAULT_METHOD
    compressor = load(arguments.method or default, **fields)
    with progress("compressing"):
        result = compressor.compress(arguments.query, [source.passage for source in sources], budget)
    if arguments.format == "json":
        counter = getattr(compressor, "counter", None)
        # What has no UTF-8, a lone surrogate, is a backslash escape in JSON as it is in Python.
        write_out(json.dumps(as_json(result, sources, counter), ensure_ascii=False, indent=2), "backslashreplace")
    else:
        write_out(result.text if arguments.format == "text" else _highlighted(result, sources))
        _to_stderr(str(result.stats))
    return 0


def _pages(arguments: argparse.Namespace, budget: Budget, fields: dict[str, Any]) -> int:
    others = [path for path in arguments.paths if not path.lower().endswith(SUFFIXES)]
    if others:
        raise InputError(f"{others[0]} is no page image: compress texts and pages apart (`settle` shares one budget)")
    if arguments.model is None:
        raise InputError("page images need --model, the vision-language checkpoint that they are for")
    if arguments.tokenizer is not None or arguments.format == "highlight":
        raise InputError("pages are counted in visual tokens and shown by --pictures: no --tokenizer, no highlight")
    for package in ("torch", "transformers", "PIL"):
        require(package, extra="vision")
    from ctxcomp.visual.command import compress_files

    with progress("compressing"):
        text = compress_files(
            arguments.paths, arguments.query, budget, arguments.model, arguments.method or PAGE_METHOD, fields,
            pictures=arguments.pictures, measure=arguments.measure, as_json=arguments.format == "json",
        )  # fmt: skip
    write_out(text, "backslashreplace")
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    with _interrupts():
        status: int = require("ctxcomp_eval.command", extra="eval").main(arguments.arguments)
    return status


def _serve(arguments: argparse.Namespace) -> int:
    for package in ("fastapi", "uvicorn", "httpx", "pydantic_settings", "prometheus_client"):
        require(package, extra="service")
    status: int = require("ctxcomp_service.serve", extra="service").main(arguments.arguments)
    return status


def _quantize(arguments: argparse.Namespace) -> int:
    for package in ("torch", "transformers"):
        require(package, extra="generate")
    with _interrupts():
        status: int = require("ctxcomp.generate.weights.command", extra="generate").main(arguments.arguments)
    return status


def _index(arguments: argparse.Namespace) -> int:
    require("faiss", extra="index")
    with _interrupts():
        status: int = require("ctxcomp.index.command", extra="index").main(arguments.arguments)
    return status


def _plan(arguments: argparse.Namespace) -> int:
    for package in ("torch", "transformers"):
        require(package, extra="generate")
    from ctxcomp.generate.planner import parse_bytes, plan

    memory, tokens = parse_bytes(arguments.memory), arguments.document_tokens
    found = plan(memory, arguments.model, tokens, batch=arguments.batch, answer_tokens=arguments.answer_tokens)
    write_out(str(found.measure(found.generator(arguments.model)) if arguments.measure else found))
    return 0


def _setting(text: str) -> tuple[str, Any]:
    field, sign, value = text.partition("=")
    if not sign or not field:
        raise InputError(f"--set takes FIELD=VALUE, got {text!r}")
    return field.replace(".", "__"), parse_value(value)


def _highlighted(result: CompressedText, sources: list[Source]) -> str:
    from ctxcomp.highlight import highlight

    return highlight(result, tuple(_name(source) for source in sources), color="NO_COLOR" not in os.environ)


def _name(source: Source) -> str:
    own = source.passage.id
    return own if own.startswith(source.name) else f"{source.name}: {own}"


def as_json(result: CompressedText, sources: list[Source], counter: CounterLike) -> dict[str, Any]:
    """The result as plain values; spans index into the source's own text, and are null where text was generated."""
    spans: list[list[dict[str, Any]]] = [[] for _ in sources]
    for span in result.spans or ():
        spans[span.passage].append({"start": span.start, "end": span.end, "score": span.score})
    tokens = resolve_counter(counter).count_batch(result.passage_texts)
    stats = result.stats
    return {
        "text": result.text,
        "passages": [
            {
                "id": source.passage.id,
                "source": source.name,
                "text": text,
                "tokens": n,
                "spans": None if result.spans is None else own,
            }
            for source, text, n, own in zip(sources, result.passage_texts, tokens, spans, strict=True)
        ],
        "stats": {
            "tokens_in": stats.tokens_in,
            "tokens_out": stats.tokens_out,
            "keep": stats.keep,
            "seconds": stats.seconds,
            "counter": stats.counter,
            "method": stats.method,
            "fallback": stats.fallback,
            "notes": list(stats.notes),
        },
    }


def write_out(text: str, errors: str = "replace") -> None:
    """To standard output as UTF-8, whatever the terminal's encoding.

    Raises
    ------
    OSError: it is closed, or takes no more.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed")
    try:
        sys.stdout.buffer.write(text.encode("utf-8", errors) + (b"" if text.endswith("\n") else b"\n"))
        sys.stdout.buffer.flush()
    except OSError:
        # What is left in the buffer must not fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


@contextlib.contextmanager
def progress(what: str) -> Iterator[None]:
    """A bar on standard error for work that takes longer than a second."""
    from tqdm import tqdm

    from ctxcomp.progress import listen

    bar = tqdm(desc=what, unit="batch", delay=PROGRESS_DELAY_SECONDS, leave=False, disable=sys.stderr is None)
    # Whatever the method does, and whether or not it runs in batches, one sign of life.
    first = threading.Timer(PROGRESS_DELAY_SECONDS, bar.update, (0,))
    first.daemon = True

    def advance(done: int, total: int) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        bar.total = total
        bar.update(done - bar.n)

    first.start()
    try:
        with _interrupts() as interrupted, listen(advance):
            yield
    finally:
        first.cancel()
        first.join()
        bar.close()


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Remember an interrupt: the import of an extension module can swallow the exception or turn it into another."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def remember(*_: object) -> NoReturn:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield interrupted
    except ImportError:
        if interrupted.is_set():
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, before)
