import re
import subprocess
import sys

import pytest


def run(root, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(root / "examples" / name), *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_compresses_the_projects_own_documents(root):
    printed = run(root, "demo.py")
    assert "budget" in printed
    before, after = map(int, re.search(r"tokens +(\d+) before, (\d+) after", printed).groups())
    assert 0 < after <= 150 < before


def test_a_method_of_ones_own(root):
    assert "Who had left the gate open?" in run(root, "new_method.py")


def test_the_decorator_around_a_call(root):
    assert "72 -> 25 tokens" in run(root, "decorator.py")


def test_a_langchain_chain(root):
    pytest.importorskip("langchain_core")
    assert re.search(r"context \d{4} -> \d{2,3} tokens", run(root, "langchain_chain.py"))


def test_a_local_generator(root, tmp_path):
    pytest.importorskip("transformers")
    from tiny_chat import tiny_chat

    printed = run(root, "local_generator.py", str(tiny_chat(tmp_path / "tiny")))
    assert re.search(r"context  \d+ -> \d+ tokens", printed)
    assert re.search(r"64 written at .* in \d+ model calls", printed)


def test_an_index_from_files_to_an_answer(root, tmp_path):
    pytest.importorskip("faiss")
    printed = run(root, "index_rag.py")
    assert re.search(r"tiny: \d+ passages, 48 of 1536 bytes a vector in memory, recall@10 (0\.9|1)", printed)
    assert re.search(r"\d{4} -> \d{2,3} tokens", printed)
    assert "Question: How is it guaranteed" in printed
    pytest.importorskip("transformers")
    from tiny_chat import tiny_chat

    answered = run(
        root, "index_rag.py", "Who?", "--files", "CHANGELOG.md", "--model", str(tiny_chat(tmp_path / "tiny"))
    )
    assert "Answer from the context" not in answered


@pytest.mark.parametrize(
    "name", ["index_rag.py", "local_generator.py", "demo.py", "new_method.py", "decorator.py", "langchain_chain.py"]
)
def test_examples_are_short(root, name):
    assert len((root / "examples" / name).read_text().splitlines()) < 50
