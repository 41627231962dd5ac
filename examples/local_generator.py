"""Answer a question over documents with a local model: `python examples/local_generator.py MODEL [FILE ...]`."""

import sys
from pathlib import Path

from ctxcomp import Budget, Passage, load
from ctxcomp.generate import Generator

QUESTION = "How is it guaranteed that the result never exceeds the token budget?"
ROOT = Path(__file__).parent.parent


def main() -> None:
    model, *names = sys.argv[1:]
    files = [Path(name) for name in names] or [ROOT / "README.md", ROOT / "ctxcomp" / "fit.py"]
    passages = [Passage(file.read_text(encoding="utf-8"), id=file.name) for file in files]
    context = load(counter=model).compress(QUESTION, passages, Budget(tokens=300))  # in the model's own tokens
    generator = Generator.from_pretrained(model, kv="int8")

    # Drafts come from the whole documents, also from what the compressed prompt no longer holds.
    with generator.stream(QUESTION, context, max_tokens=64, copy=True) as stream:
        for piece in stream:
            print(piece, end="", flush=True)
    print(f"\n\ncontext  {context.stats}\nanswer   {stream.usage}")


if __name__ == "__main__":
    main()
