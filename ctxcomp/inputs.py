"""Files to passages, for the command line: exact offsets, and clear words for what cannot be read."""

from __future__ import annotations

import codecs
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctxcomp.errors import InputError
from ctxcomp.fields import accepts, describe
from ctxcomp.types import Passage

FOLDER_SUFFIXES = (".txt", ".md", ".jsonl")
"""What is read from a folder; a file named on its own may have any name if it is text."""

SHEET_SUFFIXES = (".xlsx", ".xlsm", ".xls", ".csv", ".tsv")
"""What is read as sheets, one passage each: the passage's text shows all cells, its metadata holds the sheet."""

InputFormat = Literal["auto", "text", "jsonl"]
_JSONL_FIELDS = {"id": str, "title": str, "score": float, "metadata": dict[str, Any]}


@dataclass(frozen=True, slots=True)
class Source:
    """A passage and the name of the file it came from; its text is the file's own, undecorated."""

    passage: Passage
    name: str
    is_sheet: bool = False


def read_sources(paths: Sequence[str], input_format: InputFormat = "auto") -> list[Source]:
    """The passages of files, folders and "-" (standard input), in the order given; folders in sorted order.

    Raises
    ------
    InputError: a path is missing, unreadable, binary, wrongly encoded or malformed, or a folder has nothing to read.
    """
    if list(paths).count("-") > 1:
        raise InputError("- (standard input) can be read only once")
    return [source for path in paths for source in _read(path, input_format)]


def _read(path: str, input_format: InputFormat) -> Iterator[Source]:
    if path == "-":
        if sys.stdin is None:
            raise InputError("-: standard input is closed")
        if sys.stdin.isatty():
            sys.stderr.write("reading standard input: type the text and end it with Ctrl-D, or pipe it in\n")
        yield from _parse(sys.stdin.buffer.read(), "-", input_format)
        return
    if not os.path.exists(path):  # not Path.exists(): Path("") is the current folder, and long names raise
        raise InputError(f"{path or repr(path)}: no such file or folder")
    place = Path(path)
    if place.is_dir():
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in FOLDER_SUFFIXES and _visible(p, place))
        if not files:
            raise InputError(
                f"{path}: no {', '.join(FOLDER_SUFFIXES)} files in this folder: name other files one by one"
            )
        for file in files:
            yield from _parse(_bytes(file), str(file), input_format)
        return
    if input_format == "auto" and place.suffix.lower() in SHEET_SUFFIXES:
        yield from _sheets(_bytes(place), path)
    else:
        yield from _parse(_bytes(place), path, input_format)


def _visible(file: Path, root: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None


def _parse(data: bytes, name: str, input_format: InputFormat) -> Iterator[Source]:
    text = decode(data, name)
    if input_format == "jsonl" or (input_format == "auto" and _is_jsonl(text, name)):
        for number, line in enumerate(text.split("\n"), start=1):
            if line := line.strip("\ufeff \t\r"):
                yield Source(_passage(line, f"{name}:{number}"), name)
    else:
        yield Source(Passage(text, id=name), name)


def _sheets(data: bytes, name: str) -> Iterator[Source]:
    from ctxcomp.tables.packing import sheet_text  # only where there are sheets
    from ctxcomp.tables.readers import is_workbook, read_workbook

    for sheet in read_workbook(data, name=name):
        # A CSV file's text is its own, so that the spans of other methods index into it.
        text, id = (sheet_text(sheet), f"{name}#{sheet.name}") if is_workbook(data) else (decode(data, name), name)
        yield Source(Passage(text, id=id, title=sheet.name, metadata={"sheet": sheet}), name, is_sheet=True)


def decode(data: bytes, name: str) -> str:
    """UTF-8, or UTF-16 with its byte-order mark; a byte-order mark stays in the text, so that offsets are the file's.

    Raises
    ------
    InputError: the bytes are something else.
    """
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "UTF-16" if utf16 else "UTF-8"
    text = None if b"\0" in data and not utf16 else _decoded(data, name, encoding)
    if text is None or "\0" in text:
        raise InputError(f"{name}: binary, not text: convert it to text first (for a PDF, with pdftotext)")
    return text


def _decoded(data: bytes, name: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not {encoding} text (byte 0x{data[error.start]:02x} at offset {error.start}): "
            "convert it first, for example `iconv -f latin1 -t utf-8`"
        ) from None


def _is_jsonl(text: str, name: str) -> bool:
    if name != "-":
        return name.lower().endswith(".jsonl")
    try:
        first = json.loads(text.lstrip("\ufeff").split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and "text" in first


def _passage(line: str, where: str) -> Passage:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise InputError(f"{where}: not JSON ({why}): a .jsonl file holds one JSON object a line") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise InputError(
            f'{where}: no "text", or not a string: a passage is {{"text": "…", "id": "…", "title": "…", "score": 1.0}}'
        )
    given = {key: row[key] for key in _JSONL_FIELDS if row.get(key) is not None}
    if isinstance(given.get("id"), int) and not isinstance(given["id"], bool):
        given["id"] = str(given["id"])
    for key, value in given.items():
        if not accepts(_JSONL_FIELDS[key], value):
            raise InputError(f"{where}: {key!r} must be {describe(_JSONL_FIELDS[key])}, got {value!r}")
    return Passage(row["text"], **{"id": where, **given})
