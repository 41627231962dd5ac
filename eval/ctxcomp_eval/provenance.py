"""Where a number comes from: commit, versions, device and date, written beside every result."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ctxcomp

ROOT = Path(__file__).resolve().parents[2]
"""The repository: results go to eval/results, files of runs in progress to runs/ (ignored by git)."""

_DECISIVE = tuple(
    "tasks/*.py peers/*.py data.py faithfulness.py retention.py runner.py answers.py reader.py llm.py weights/*".split()
)


def commit() -> str:
    """The short hash of the checkout, with "+" where files differ from it, "unknown" outside of git."""
    try:
        found = _git("rev-parse", "--short", "HEAD").strip()
        return found + ("+" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


_WAYS_IN = ("integrations", "messages", "generate", "cli.py")
"""What calls the methods, or reads what they give, and is called by none."""


@functools.cache
def sources() -> str:
    """A digest of what decides results, methods, tasks, answerers and weights: it tells uncommitted changes apart."""
    library, package = Path(ctxcomp.__file__).parent, Path(__file__).parent
    files = {p for pattern in ("*.py", "*.safetensors", "*.json") for p in library.rglob(pattern)}
    files = {p for p in files if p.relative_to(library).parts[0] not in _WAYS_IN}
    files |= {p for pattern in _DECISIVE for p in package.glob(pattern) if p.is_file()}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def versions(*packages: str) -> str:
    """Installed versions of packages as "name==version", separated by spaces; absent ones are left out."""
    found = [f"python=={platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package}=={version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(found)


def processor() -> str:
    """The model name of the CPU with the number of cores that this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {_cores()} cores"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def today() -> str:
    """The date in UTC, ISO 8601."""
    return datetime.now(UTC).date().isoformat()
