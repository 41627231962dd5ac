"""What is in an .xlsx file, before anything parses it: sizes, sheets, merged areas; refuses what would hurt.

A workbook is a zip of XML. Declared sizes are added up first, then every part is unpacked in pieces and counted, since
declarations lie. No DTD is let through, links and macros are never looked at, and a file with more cells or elements
than the limits is refused before memory is spent on it.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from posixpath import join, normpath

from ctxcomp.errors import CtxcompError, InputError
from ctxcomp.optional import require
from ctxcomp.tables.grid import Range, parse_cell, parse_range

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP = b"PK\x03\x04"
MAX_PARTS = 5_000
MAX_MERGES = 100_000
MAX_DEPTH = 10_000
"""Elements inside each other at the end of a piece; a workbook needs a dozen."""
_PIECE, _LONGEST = 1 << 20, 1 << 24
"""Bytes that are read at a time, and of a text that is looked at as a whole."""
_CELL = re.compile(rb"<(?:\w+:)?c[\s>/](?:[^>]*?\br=[\"']([A-Z]{1,3})([0-9]{1,7})[\"'])?")
_FORMULA = re.compile(rb"<(?:\w+:)?f[\s>/]")
_MERGE = re.compile(rb"<(?:\w+:)?mergeCell\s[^>]*?\bref=[\"']([^\"'>]{1,40})[\"']")
_OFFICE = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a workbook may hold.

    Parameters
    ----------
    bytes: of all parts together, unpacked.
    cells: of all sheets together; XML elements are limited to six times as many and two million.
    """

    bytes: int = 300_000_000
    cells: int = 2_000_000

    @property
    def elements(self) -> int:
        """Opening and closing tags of all parts together."""
        return 6 * self.cells + 2_000_000


@dataclass
class Part:
    """What a worksheet's XML holds.

    Parameters
    ----------
    cells: elements that are cells, empty ones included.
    bottom, right: zero-based extent of the cells that say where they are.
    places: of all rows up to their last cell, empty places included.
    """

    cells: int = 0
    bottom: int = 0
    right: int = 0
    places: int = 0
    formulas: bool = False
    merges: list[Range] = field(default_factory=list)


@dataclass(frozen=True)
class Package:
    """A workbook's sheets: their parts by name, and which are hidden."""

    parts: dict[str, Part]
    hidden: frozenset[str]

    @property
    def cells(self) -> int:
        """Of all sheets together."""
        return sum(part.cells for part in self.parts.values())

    @property
    def places(self) -> int:
        """What openpyxl steps over in all sheets together."""
        return sum(part.places + part.bottom for part in self.parts.values())


def open_package(data: bytes, name: str, limits: Limits) -> Package:
    """Look through a workbook's bytes.

    Raises
    ------
    InputError: it is no .xlsx file, is damaged, protected or of another format, or exceeds the limits.
    """
    if data.startswith(OLE):
        locked = "EncryptedPackage".encode("utf-16-le") in data
        raise InputError(
            f"{name}: "
            + ("protected by a password: save a copy without one" if locked else "legacy .xls: save it as .xlsx")
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _scan(archive, name, limits)
    except CtxcompError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, NotImplementedError) as error:
        raise InputError(f"{name}: damaged, or no .xlsx file ({type(error).__name__}: {error!s:.200})") from error
    except RuntimeError as error:  # what zipfile raises for encrypted members
        raise InputError(f"{name}: {error!s:.200}: save a copy without a password") from error


def _scan(archive: zipfile.ZipFile, name: str, limits: Limits) -> Package:
    members = archive.infolist()
    names = {member.filename for member in members}
    if "xl/workbook.bin" in names or "mimetype" in names:
        raise InputError(f"{name}: .xlsb or .ods: save it as .xlsx")
    declared = sum(member.file_size for member in members)
    if len(members) > MAX_PARTS or declared > limits.bytes:
        raise InputError(
            f"{name}: {len(members)} parts with {declared} bytes unpacked, at most {MAX_PARTS} with {limits.bytes} are "
            "read: raise Limits(bytes=...) if you trust the file"
        )
    parts: dict[str, Part] = {}
    total = tags = cells = 0
    for member in members:
        is_xml = member.filename.endswith((".xml", ".rels"))
        is_sheet = member.filename.startswith("xl/worksheets/") and member.filename.endswith(".xml")
        part, depth = Part(), 0
        for piece in _pieces(archive, member):
            total += len(piece)
            tags += piece.count(b"<")
            if total > limits.bytes:
                raise InputError(f"{name}: unpacks to more than the {limits.bytes} bytes that are read")
            depth += _opened(piece)
            if depth > MAX_DEPTH and is_xml:
                raise InputError(f"{name}: {member.filename:.80}: XML nested more than {MAX_DEPTH} deep")
            if tags > limits.elements:
                raise InputError(f"{name}: more than {limits.elements} XML tags, the limit for {limits.cells} cells")
            if is_xml:
                _check_markup(piece, f"{name}: {member.filename:.80}")
            if is_sheet:
                _look(part, piece)
        cells += part.cells
        if cells > limits.cells:
            raise InputError(f"{name}: more than {limits.cells} cells: raise Limits(cells=...) to read it")
        if is_sheet:
            parts[member.filename] = part
    return _named(archive, names, parts, name)


def _pieces(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """A part in pieces that end with a tag, so that none is seen in halves."""
    with archive.open(member) as stream:
        held = b""
        while block := stream.read(_PIECE):
            held += block
            cut = held.rfind(b">") + 1
            if cut:
                yield held[:cut]
                held = held[cut:]
            elif len(held) > _LONGEST:
                yield held
                held = b""
        yield held


def _opened(piece: bytes) -> int:
    """How many more elements a piece opens than it closes."""
    closing = piece.count(b"</")
    opening = piece.count(b"<") - closing - piece.count(b"<?") - piece.count(b"<!")
    return opening - closing - piece.count(b"/>")


def _check_markup(piece: bytes, where: str) -> None:
    if piece.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in piece[:4]:
        raise InputError(f"{where}: XML in UTF-16: save the workbook again with a spreadsheet program")
    if b"<!DOCTYPE" in piece or b"<!ENTITY" in piece:
        raise InputError(f"{where}: declares a DTD or entities, which no workbook needs and ctxcomp never expands")


def _look(part: Part, piece: bytes) -> None:
    """Count what a piece of a worksheet holds."""
    part.formulas = part.formulas or _FORMULA.search(piece) is not None
    row = last = -1
    for found in _CELL.finditer(piece):
        part.cells += 1
        if found[1]:
            col, place = _column(found[1]), int(found[2]) - 1
            part.places += max(col - last, 0) if place == row else col + 1
            row, last = place, col
            part.right, part.bottom = max(part.right, col), max(part.bottom, place)
    for found in _MERGE.finditer(piece):
        if len(part.merges) < MAX_MERGES:
            part.merges += _merge(found[1])


@cache
def _column(letters: bytes) -> int:
    return parse_cell(f"{letters.decode('ascii')}1")[1]


def _merge(ref: bytes) -> list[Range]:
    try:
        return [parse_range(ref.decode("ascii"))]
    except (InputError, UnicodeDecodeError):  # one merge less, the cells are there
        return []


def _named(archive: zipfile.ZipFile, names: set[str], parts: dict[str, Part], name: str) -> Package:
    """The parts by the names of their sheets."""
    defused = require("defusedxml", extra="sheets")
    tree = require("defusedxml.ElementTree", extra="sheets")
    if "xl/workbook.xml" not in names:
        raise InputError(f"{name}: holds no xl/workbook.xml: it is a zip, but no .xlsx file")
    try:
        book = tree.fromstring(archive.read("xl/workbook.xml"))
        rels = "xl/_rels/workbook.xml.rels"
        links = tree.fromstring(archive.read(rels)) if rels in names else ()
    except (tree.ParseError, defused.DefusedXmlException) as error:
        raise InputError(f"{name}: damaged: its workbook.xml cannot be parsed ({error!s:.200})") from error
    targets = {link.get("Id"): normpath(join("xl", link.get("Target", ""))).lstrip("/") for link in links}
    found: dict[str, Part] = {}
    hidden = set()
    for element in book.iter():
        if element.tag.rpartition("}")[2] == "sheet" and (title := element.get("name")):
            found[title] = parts.get(targets.get(element.get(f"{_OFFICE}id"), ""), Part())
            if element.get("state", "visible") != "visible":
                hidden.add(title)
    return Package(found, frozenset(hidden))
