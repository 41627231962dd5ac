"""From files to an answer: `python examples/index_rag.py QUESTION [--files PATH ...] [--model MODEL]`.

Files are indexed, the passages nearest to the question retrieved and compressed, and a chat model in a local directory
answers; without one the prompt is printed.
"""

import argparse
import tempfile
from pathlib import Path

from ctxcomp import Budget, load
from ctxcomp.index import Index, split
from ctxcomp.inputs import read_sources

ROOT = Path(__file__).parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", nargs="?", default="How is it guaranteed that a budget is never exceeded?")
    parser.add_argument("--files", nargs="+", default=[str(ROOT / "README.md"), str(ROOT / "eval" / "README.md")])
    parser.add_argument("--model", help="a chat model's directory")
    given = parser.parse_args()

    documents = [source.passage for source in read_sources(given.files)]
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(split(documents), preset="tiny").save(folder)  # keep the folder, and later Index.load it
        print(index.report)
        passages = index.search(given.question, k=20)

    # The vectors that came with the passages are not made again.
    compressor = load("sentence_pruner", reuse_embeddings=True, counter=given.model)
    context = compressor.compress(given.question, passages, Budget(tokens=200))
    print(context.stats, "\n")
    if given.model is None:
        print(f"Answer from the context.\n\n{context.text}\n\nQuestion: {given.question}")
        return
    from ctxcomp.generate import Generator

    print(Generator.from_pretrained(given.model).generate(given.question, context, max_tokens=64).text)


if __name__ == "__main__":
    main()
