"""What the README of the text methods shows is run."""

from __future__ import annotations

import re


def test_python_blocks_run(root, capsys):
    readme = (root / "ctxcomp/text/README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "not in the source: '1999'" in printed
    assert "Q: The train was late.\nA: bad" in printed
