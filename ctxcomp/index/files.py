"""The directory of an index: written whole or not at all, checked by checksum when it is read.

``index.json`` names one ``data-*`` folder with the sizes and checksums of its files. A new version is written beside
the old one, then ``index.json`` is replaced in one step: an interrupted write leaves the old version as it was, and a
reader that has the old files open keeps them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ctxcomp.errors import InputError
from ctxcomp.loading import file_sha256

MANIFEST = "index.json"
FORMAT = 1


def write_directory(
    path: Path, manifest: Mapping[str, Any], write: Callable[[Path], None], replaces: str | None
) -> str:
    """Write one version of an index.

    Parameters
    ----------
    path: a new or empty directory, or that of an index, which is replaced.
    manifest: what ``index.json`` is to hold besides the files.
    write: puts the data files into the folder that it is given.
    replaces: the version that was read from here, if one was; None for what was not read from here.

    Returns
    -------
    The version, the name of the data folder.

    Raises
    ------
    InputError: the directory holds something else, or another process has changed the index since it was read.
    """
    check_target(path)
    if replaces is not None and (found := _version(path)) != replaces:
        raise InputError(f"{path} was changed since it was read (version {found}, read {replaces}): load it again")
    path.mkdir(parents=True, exist_ok=True)
    data = path / f"data-{uuid.uuid4().hex[:12]}"
    draft = path / f"{MANIFEST}.{data.name}"
    try:
        data.mkdir()
        write(data)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in sorted(data.iterdir())
        }
        body = {"format": FORMAT, **manifest, "data": data.name, "files": files}
        draft.write_text(json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n", encoding="utf-8")
        for file in (*data.iterdir(), draft):
            _flush(file)
        os.replace(draft, path / MANIFEST)
    except BaseException:  # an interrupt too: what is half written goes away
        shutil.rmtree(data, ignore_errors=True)
        draft.unlink(missing_ok=True)
        raise
    for old in path.iterdir():
        if _is_ours(old) and old != data:
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
    return data.name


def check_target(path: Path) -> None:
    """Whether an index may be written there.

    Raises
    ------
    InputError: it is a file, or a directory with something else in it.
    """
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: an index is a directory")
    if path.is_dir() and not (path / MANIFEST).is_file() and not all(map(_is_ours, path.iterdir())):
        raise InputError(f"{path} is not empty and holds no index: name another directory")


def read_manifest(path: Path, *, verify: bool = True) -> dict[str, Any]:
    """What ``index.json`` holds, after its files were found whole.

    Parameters
    ----------
    verify: compare the checksums of all files, 1 to 2 GB/s; otherwise only their sizes.

    Raises
    ------
    InputError: there is no index, it is damaged, or of a later format.
    """
    for _ in range(3):
        manifest = _read(path)
        try:
            _check(path, manifest, verify)
        except FileNotFoundError:
            continue  # a writer has just replaced this version
        return manifest
    raise InputError(f"the index {path} is damaged: files of its data folder {manifest.get('data')!r} are missing")


def _read(path: Path) -> dict[str, Any]:
    try:
        body: Any = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no index in {path}: build one with `ctxcomp index build PATHS --out {path}`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"the index {path} is damaged: {MANIFEST} cannot be read ({error})") from error
    if not isinstance(body, dict) or body.pop("sha256", None) != _digest(body):
        raise InputError(f"the index {path} is damaged: {MANIFEST} does not match its own checksum")
    if body["format"] != FORMAT:
        raise InputError(f"the index {path} has format {body['format']}, this version reads {FORMAT}: build it anew")
    return body


def _check(path: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    for name, expected in manifest["files"].items():
        file = path / manifest["data"] / name
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise InputError(f"the index {path} is damaged: {name} has {size} bytes, {expected['bytes']} were written")
        if verify and file_sha256(file) != expected["sha256"]:
            raise InputError(f"the index {path} is damaged: {name} does not match its checksum: build it anew")


def _version(path: Path) -> str | None:
    return str(_read(path)["data"]) if (path / MANIFEST).is_file() else None


def _is_ours(place: Path) -> bool:
    return place.name.startswith(("data-", f"{MANIFEST}.data-"))


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _flush(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
