"""Damaged and hostile workbooks: no crash but ctxcomp's errors, no hang. Writes results/sheets_fuzz.csv.

    python -m ctxcomp_eval.bench.sheets_fuzz --files 1000

Real workbooks (sheets/xlsx of the shared data, or one that is generated where they are absent) are mutated, read and
compressed, each file in a worker process with a time and a memory limit. A file is fine if it is compressed, or
refused with a `CtxcompError`; any other exception, a dead worker or a passed limit is a failure, and the status is 1.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import random
import re
import resource
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.tables.compress import compress_sheet
from ctxcomp.tables.readers import read_workbook
from ctxcomp.types import Budget
from ctxcomp_eval import data
from ctxcomp_eval.bench.common import RESULTS, percentiles, write_csv

SECONDS = 60.0
BYTES = 3_000_000_000
LARGEST = 13_000
"""Bytes of a workbook that is mutated: more would only be slower."""
SHEET = "xl/worksheets/sheet1.xml"

Members = dict[str, bytes]
Mutation = Callable[[random.Random, Members], Members | bytes]


def packed(members: Members) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unpacked(data_: bytes) -> Members:
    with zipfile.ZipFile(io.BytesIO(data_)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _flip(dice: random.Random, members: Members) -> bytes:
    raw = bytearray(packed(members))
    for _ in range(dice.choice((1, 5, 50, 500))):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(raw)


def _truncate(dice: random.Random, members: Members) -> bytes:
    raw = packed(members)
    return raw[: dice.randrange(len(raw))]


def _damage_xml(dice: random.Random, members: Members) -> Members:
    name = dice.choice([n for n in members if n.endswith((".xml", ".rels"))])
    text = bytearray(members[name])
    for _ in range(dice.choice((1, 3, 20))):
        at = dice.randrange(max(len(text), 1))
        text[at : at + dice.randrange(30)] = dice.choice((b"", b"<", b"</c>", b"&", b"\xff", b'"', b"<x>", b"\0"))
    return {**members, name: bytes(text)}


def _values(dice: random.Random, members: Members) -> Members:
    """Numbers and words of a part replaced by others."""
    name = dice.choice([n for n in members if n.endswith((".xml", ".rels"))])
    wrong = (b"-1", b"99999999999", b"1e999", b"NaN", b"", b"abc", b"2147483648", b"A0", b"XFE1", b"\xc3\xa9")
    share = dice.choice((0.01, 0.1, 0.5))
    text = re.sub(rb'(?<=")[^"<>]{1,12}(?=")|(?<=<v>)[^<]+',
                  lambda m: dice.choice(wrong) if dice.random() < share else m[0], members[name])  # fmt: skip
    return {**members, name: text}


def _types(dice: random.Random, members: Members) -> Members:
    kinds = (b's"', b'b"', b'e"', b'd"', b'str"', b'inlineStr"', b'n"', b'x"')
    return _in_sheets(members, lambda t: re.sub(rb'(?<= t=")\w+"|(?<=<c )', lambda m: m[0] and dice.choice(kinds), t))


def _in_sheets(members: Members, change: Callable[[bytes], bytes]) -> Members:
    return {n: change(content) if n.startswith("xl/worksheets/sheet") else content for n, content in members.items()}


def _dimension(dice: random.Random, members: Members) -> Members:
    claims = (b"A1:XFD1048576", b"A1:ZZZ99999999", b"B2:A1", b"x", b"A1:A1")
    return _in_sheets(members, lambda t: re.sub(rb'(?<=<dimension ref=")[^"]*', dice.choice(claims), t))


def _far_cells(dice: random.Random, members: Members) -> Members:
    far = dice.choice(("XFD1048576", "A1048576", "XFD1", "ZZZ9999999"))
    number = re.sub(r"\D", "", far)
    row = f'<row r="{number}"><c r="{far}"><v>1</v></c></row></sheetData>'.encode()
    return _in_sheets(members, lambda t: t.replace(b"</sheetData>", row))


def _wide_rows(dice: random.Random, members: Members) -> Members:
    rows = "".join(f'<row r="{i}"><c r="XFD{i}"><v>{i}</v></c></row>' for i in range(5000, 5000 + dice.randrange(4000)))
    return _in_sheets(members, lambda t: t.replace(b"</sheetData>", rows.encode() + b"</sheetData>"))


def _merges(dice: random.Random, members: Members) -> Members:
    areas = ("A1:XFD1048576", "A1:A1048576", "B2:A1", "1:1", "A:XFD", "A1:B2:C3")
    cells = "".join(f'<mergeCell ref="{dice.choice(areas)}"/>' for _ in range(dice.choice((1, 2000))))
    return _in_sheets(
        members, lambda t: t.replace(b"</sheetData>", f"</sheetData><mergeCells>{cells}</mergeCells>".encode(), 1)
    )


def _nesting(dice: random.Random, members: Members) -> Members:
    name, depth = (
        dice.choice((SHEET, "xl/workbook.xml", "xl/styles.xml", "xl/sharedStrings.xml")),
        dice.choice((500, 50_000, 900_000)),
    )
    closed = dice.random() < 0.5
    deep = b"<a>" * depth + (b"</a>" * depth if closed else b"")
    content = members.get(name, b"<x></x>")
    at = content.rfind(b"</")
    return {**members, name: content[:at] + deep + content[at:]}


def _laughs(dice: random.Random, members: Members) -> Members:
    entities = '<!ENTITY l0 "lol">' + "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    outside = '<!ENTITY l9 SYSTEM "file:///etc/hostname">'
    doctype = f"<!DOCTYPE x [{dice.choice((entities, outside))}]>".encode()
    name = dice.choice([n for n in members if n.endswith((".xml", ".rels"))])
    content = members[name]
    if dice.random() < 0.3:
        return {**members, name: (doctype + content.partition(b"?>")[2]).decode("utf-8", "replace").encode("utf-16")}
    at = content.find(b"?>") + 2 if b"?>" in content[:200] else 0
    return {**members, name: content[:at] + doctype + content[at:].replace(b"</v>", b"&l9;</v>")}


def _bomb(dice: random.Random, members: Members) -> Members | bytes:
    size = dice.choice((50_000_000, 400_000_000))
    filler = b"<a/>" * (size // 4) if dice.random() < 0.5 else b" " * size
    if dice.random() < 0.5:
        return {**members, SHEET: members.get(SHEET, b"") + filler}
    raw = bytearray(packed({**members, "xl/media/x.xml": filler}))
    # The directory claims that nothing is large.
    for place in re.finditer(b"PK\x01\x02", bytes(raw)):
        raw[place.start() + 24 : place.start() + 28] = (1000).to_bytes(4, "little")
    return bytes(raw)


def _missing(dice: random.Random, members: Members) -> Members:
    gone = dice.sample(sorted(members), k=min(dice.choice((1, 2, 4)), len(members) - 1))
    return {name: content for name, content in members.items() if name not in gone}


def _swapped(dice: random.Random, members: Members) -> Members:
    a, b = dice.sample(sorted(members), k=2)
    return {**members, a: members[b], b: members[a]}


def _links(dice: random.Random, members: Members) -> Members:
    """Formulas, links and macros that reach out."""
    formula = dice.choice(('WEBSERVICE("http://127.0.0.1:9/")', "[1]x!A1", "cmd|'/c calc'!A0", "A1:XFD1048576", "("))
    cell = f'<row r="9999"><c r="A9999"><f>{formula}</f></c></row></sheetData>'.replace('"http', "&quot;http").encode()
    linked = _in_sheets(members, lambda t: t.replace(b"</sheetData>", cell))
    return {**linked, "xl/vbaProject.bin": dice.randbytes(5000), "xl/externalLinks/externalLink1.xml": b"<x/>"}


def _foreign(dice: random.Random, members: Members) -> bytes:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    return dice.choice((
        ole + dice.randbytes(3000), ole + "EncryptedPackage".encode("utf-16-le") * 3, b"", b"PK\x03\x04",
        packed({"mimetype": b"application/vnd.oasis.opendocument.spreadsheet"}), packed({"xl/workbook.bin": b"x"}),
        packed({"word/document.xml": b"<x/>"}), dice.randbytes(2000), b"a,b\n\"" + b"x" * 200_000, b"\xff\xfea\0,\0b\0",
    ))  # fmt: skip


MUTATIONS: dict[str, Mutation] = {
    "bytes": _flip, "truncated": _truncate, "xml": _damage_xml, "values": _values, "types": _types,
    "dimension": _dimension, "far cells": _far_cells, "wide rows": _wide_rows, "merges": _merges, "nesting": _nesting,
    "entities": _laughs, "bomb": _bomb, "missing parts": _missing, "swapped parts": _swapped, "links": _links,
    "foreign": _foreign,
}  # fmt: skip
RARE = {"bomb": 0.1, "nesting": 0.4}
"""These take seconds to make: this share of them, and flipped bytes for the rest."""


def seeds() -> list[bytes]:
    """Workbooks to mutate."""
    try:
        files = sorted((data.data_dir() / "sheets" / "xlsx").glob("*.xlsx"))
    except InputError:
        files = []
    return [f.read_bytes() for f in files if f.stat().st_size <= LARGEST] or [generated()]


def generated() -> bytes:
    """A small workbook with styles, merges, formulas, dates and two sheets."""
    import datetime

    import openpyxl

    book = openpyxl.Workbook()
    sheet: Any = book.active
    sheet.append(["Report", None, None])
    sheet.merge_cells("A1:C1")
    sheet.append(["Day", "Amount", "Share"])
    for i in range(40):
        sheet.append([datetime.date(2020, 1, 1) + datetime.timedelta(i), i * 1.5, f"=B{i + 3}/100"])
        sheet.cell(i + 3, 2).number_format = "#,##0.00"
    book.create_sheet("Other").append([True, "#N/A", None, "text"])
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def cases(n: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """``n`` mutated files, each with the name of its mutation."""
    books = [unpacked(book) for book in seeds()]
    names = list(MUTATIONS)
    for i in range(n):
        dice = random.Random(f"{seed}-{i}")
        name = names[i % len(names)]
        if dice.random() >= RARE.get(name, 1.0):
            name = "bytes"
        made = MUTATIONS[name](dice, dict(dice.choice(books)))
        yield name, made if isinstance(made, bytes) else packed(made)


def attempt(content: bytes, name: str = "fuzzed.xlsx") -> str:
    """What becomes of a file: "compressed", or the kind of error it is refused with."""
    try:
        for sheet in read_workbook(content, name=name, formulas="both"):
            found = compress_sheet(sheet, "total 2005", Budget(tokens=200), counter="minilm")
            if found.tokens_out > 200:
                return f"over the budget: {found.tokens_out}"
    except CtxcompError as error:
        return type(error).__name__
    return "compressed"


def _worker(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    while True:
        content = pipe.recv_bytes()
        began = time.perf_counter()
        try:
            outcome = attempt(content)
        except BaseException as error:  # noqa: BLE001  # what escapes is what is looked for
            outcome = f"escaped: {type(error).__name__}: {error!s:.200}"
        pipe.send((outcome, time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


class Worker:
    """A process that survives its files, or is replaced."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A fresh process."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_worker, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, content: bytes) -> tuple[str, float, int]:
        """The outcome, seconds and peak bytes of the process so far."""
        self.pipe.send_bytes(content)
        try:
            if self.pipe.poll(SECONDS):
                found: tuple[str, float, int] = self.pipe.recv()
                return found
            outcome = f"hung: over {SECONDS:.0f} s"
        except EOFError:
            outcome = "crashed"
        self.stop()
        self.start()
        return outcome, SECONDS, 0

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.join()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=3600.0, help="end after so long, with the files that were done"
    )
    parser.add_argument("--keep-failures", type=Path, help="folder for the files that failed")
    parser.add_argument("--out", type=Path, default=RESULTS / "sheets_fuzz.csv")
    options = parser.parse_args(arguments)
    worker, outcomes, seconds, peak = Worker(), {}, {}, {}  # type: ignore[var-annotated]
    began = time.perf_counter()
    fine = {"compressed", "InputError", "BudgetError"}
    for i, (name, content) in enumerate(tqdm(cases(options.files, options.seed), total=options.files, disable=None)):
        if time.perf_counter() - began > options.seconds:
            break
        outcome, took, rss = worker.run(content)
        outcomes.setdefault(name, Counter())[outcome if outcome in fine else "failed"] += 1
        seconds.setdefault(name, []).append(took)
        peak[name] = max(peak.get(name, 0), rss)
        if outcome not in fine:
            print(f"{i} {name}: {outcome}", flush=True)
            if options.keep_failures:
                options.keep_failures.mkdir(parents=True, exist_ok=True)
                (options.keep_failures / f"{i}.xlsx").write_bytes(content)
    worker.stop()
    rows: list[dict[str, Any]] = [
        {"mutation": name, "files": sum(counts.values()), "compressed": counts["compressed"],
         "refused": counts["InputError"] + counts["BudgetError"], "failed": counts["failed"],
         **percentiles(seconds[name]), "max_s": max(seconds[name]), "peak_bytes": peak[name]}
        for name, counts in outcomes.items()
    ]  # fmt: skip
    write_csv(options.out, rows, ("ctxcomp", "openpyxl", "python-calamine", "defusedxml"))
    print(f"failed: {sum(row['failed'] for row in rows)} of {sum(row['files'] for row in rows)}")
    return int(any(row["failed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
