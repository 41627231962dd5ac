import subprocess
import sys

import ctxcomp


def test_all_is_sorted_and_there():
    assert ctxcomp.__all__ == sorted(ctxcomp.__all__, key=str)
    assert all(hasattr(ctxcomp, name) for name in ctxcomp.__all__)


def test_import_brings_no_heavy_package_and_no_network():
    code = (
        "import socket, sys\n"
        "socket.socket.connect = lambda *a: (_ for _ in ()).throw(AssertionError('network'))\n"
        "import ctxcomp\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'onnx', 'tokenizers', 'tiktoken', 'bm25s', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_default_path_needs_no_torch():
    code = (
        "import sys\n"
        "from ctxcomp import Budget, Passage, load\n"
        "for name in ('embedding_select', 'token_pruner'):\n"
        "    load(name).compress('honey', [Passage('Bees make honey. Rain falls.')], Budget(tokens=5))\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
