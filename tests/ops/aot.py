"""Compile Triton kernels for GPUs that are not here, in a process of its own, and look at what came out.

The process is needed: where ``TRITON_INTERPRET=1`` was set when a kernel's module was imported, nothing compiles. Run
as a script this file reads variants as JSON on its input and writes the binaries as JSON on its output.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

ARCHITECTURES = (80, 90, 100)
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@dataclass(frozen=True)
class Variant:
    """A kernel with the types of its arguments: ``"*fp16"``, ``"*i32"``, ``"i32"``, ``"fp32"``..."""

    kernel: str  # "package.module:function"
    types: dict[str, str]  # of the arguments that are no constants; pointers are taken to be 16-byte aligned
    constants: dict[str, Any]  # the tl.constexpr arguments; "fp16" for that type; None for a pointer left out
    divisible: tuple[str, ...] = ()  # integer arguments that are multiples of 16
    options: dict[str, Any] = field(default_factory=dict)  # num_warps, num_stages


@dataclass(frozen=True)
class Binary:
    """What the compiler made of a variant."""

    ptx: str
    registers: int  # per thread
    spilled: int  # bytes of local memory per thread
    shared: int  # bytes per program
    sass: str = ""  # filled only on request

    def count(self, pattern: str) -> int:
        """How many lines of the PTX match a regular expression."""
        return len(re.findall(pattern, self.ptx))

    @cached_property
    def instructions(self) -> dict[str, int]:
        """How often each PTX instruction occurs, by its full name."""
        names = re.findall(r"^\s+(?:@!?%p\d+ )?([a-z][\w.:]*)\s", self.ptx, re.MULTILINE)
        return {name: names.count(name) for name in set(names)}


def compile_all(variants: dict[str, Variant], arch: int, *, sass: bool = False) -> dict[str, Binary]:
    """Compile every variant to PTX and machine code for ``sm_<arch>``."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    request = {"arch": arch, "sass": sass, "variants": {name: asdict(v) for name, v in variants.items()}}
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(request), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise AssertionError(f"compiling for sm_{arch} failed:\n{done.stderr[-4000:]}")
    return {name: Binary(**binary) for name, binary in json.loads(done.stdout).items()}


def compile_here(variant: Variant, arch: int, sass: bool) -> Binary:
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, _, name = variant.kernel.partition(":")
    kernel = getattr(importlib.import_module(module), name)
    signature = {n: "constexpr" if n in variant.constants else variant.types[n] for n in kernel.arg_names}
    aligned = [n for n, kind in signature.items() if kind.startswith("*") or n in variant.divisible]
    attributes = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned}
    kinds = {"fp16": tl.float16, "bf16": tl.bfloat16, "fp32": tl.float32}
    constants = {n: kinds.get(value, value) for n, value in variant.constants.items()}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=variant.options)
    registers, spilled = usage(compiled.asm["cubin"])
    return Binary(
        compiled.asm["ptx"], registers, spilled, compiled.metadata.shared, compiled.asm["sass"] if sass else ""
    )


def usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of local memory per thread, from the resource usage of a cubin."""
    import tempfile

    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+).*?LOCAL:(\d+)", text)
    if found is None:
        raise AssertionError(f"no resource usage in {text!r}")
    return int(found[1]), int(found[2]) + int(found[3])


def main() -> None:
    request = json.load(sys.stdin)
    binaries = {}
    for name, fields in request["variants"].items():
        binaries[name] = asdict(compile_here(Variant(**fields), request["arch"], request["sass"]))
    json.dump(binaries, sys.stdout)


if __name__ == "__main__":
    main()
