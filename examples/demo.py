"""Compress a real question over the project's own documents: `make demo`."""

from pathlib import Path

from ctxcomp import Budget, Passage, load

QUESTION = "How is it guaranteed that the result never exceeds the token budget?"
ROOT = Path(__file__).parent.parent
DOCUMENTS = ["README.md", "CHANGELOG.md", "eval/README.md", "ctxcomp/weights/MODEL_CARD.md", "ctxcomp/fit.py"]


def main() -> None:
    passages = [Passage((ROOT / name).read_text(encoding="utf-8"), id=name) for name in DOCUMENTS]
    compressor = load()
    result = compressor.compress(QUESTION, passages, Budget(tokens=150))

    touched = [p for p, text in enumerate(result.passage_texts) if text]
    for p in touched:
        print(f"--- {passages[p].id}\n{result.passage_texts[p]}\n")
    stats = result.stats
    print(f"question   {QUESTION}")
    print(f"documents  {len(passages)}, of which {len(touched)} hold something of use")
    print(f"tokens     {stats.tokens_in} before, {stats.tokens_out} after, counted by {stats.counter}")
    print(f"keep       {stats.keep:.3f}")
    print(f"time       {stats.seconds * 1000:.0f} ms, loading the model included")
    print("\nOn your own files:  .venv/bin/ctxcomp compress -q QUESTION --tokens 500 --format highlight PATH ...")


if __name__ == "__main__":
    main()
