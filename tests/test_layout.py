"""What holds the house up: names that shadow nobody, imports that point one way, files that stay small."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

SHADOWED = {"kernels", "datasets", "evaluate", "triton", "tokenizers"}
LAYERS = [
    {"errors", "version", "optional", "progress"},
    {"types", "fields", "counting", "loading", "blocks", "words", "sentences"},
    {"segment"},
    {"candidates"},
    {"render", "cutting"},
    {"fit"},
    {"compressor", "encode"},
    {"text", "rewriter"},
    {"compose", "caching", "registry", "compat", "inputs", "highlight", "messages", "tables", "index"},
    {"integrations"},
    {"generate"},
    {"latent", "visual"},
    {"cli", "__init__", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def python_files(root, *folders):
    return [p for folder in folders for p in (root / folder).rglob("*.py") if "__pycache__" not in p.parts]


def test_containers_are_not_packages_and_shadow_nobody(root):
    for folder in ("kernels", "service", "eval", "tests"):
        assert not (root / folder / "__init__.py").exists()
    modules = {p.stem for p in python_files(root, "ctxcomp", "service", "eval", "tests", "examples")}
    packages = {p.parent.relative_to(root) for p in root.rglob("__init__.py")}
    folders = {p.name for p in packages if not (p.parts or ("",))[0].startswith(".venv")}
    assert not SHADOWED & (modules | folders)


def test_the_checkout_does_not_hide_installed_packages(root):
    code = "import importlib.util as u; s = u.find_spec('kernels'); print(s.origin if s else None)"
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert str(root) not in found.stdout


def imported(path):
    """The ctxcomp modules that a file imports at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ctxcomp."):
            yield node.module.split(".")[1]


def test_imports_point_one_way(root):
    wrong = []
    for path in python_files(root, "ctxcomp"):
        own = path.relative_to(root / "ctxcomp").parts[0].removesuffix(".py")
        wrong += [f"{own} imports {name}" for name in imported(path) if LEVEL[name] > LEVEL[own]]
    assert not wrong


@pytest.mark.parametrize("folder", ["ctxcomp", "service", "eval", "tests", "examples"])
def test_files_and_functions_stay_small(root, folder):
    large = []
    for path in python_files(root, folder):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            large.append(f"{path.name}: {text.count(chr(10))} lines")
        large += [
            f"{path.name}: {node.name} has {node.end_lineno - node.lineno} lines"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 100
        ]
    assert not large


def test_weights_stay_small(root):
    assert sum(p.stat().st_size for p in (root / "ctxcomp" / "weights").rglob("*.safetensors")) <= 8_000_000
