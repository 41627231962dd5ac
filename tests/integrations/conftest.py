from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

CODE = """
import sys
import ctxcomp

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(name, name=name)

assert {package!r} not in sys.modules, "import ctxcomp imports it"
sys.meta_path.insert(0, Missing())
try:
    import {module}
except ctxcomp.MissingDependencyError as error:
    print(error)
"""


@pytest.fixture
def error_without() -> Callable[[str, str], str]:
    """What is said when a module of ours is imported while a package is not installed."""

    def run(package: str, module: str) -> str:
        code = CODE.format(package=package, module=module)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    return run
