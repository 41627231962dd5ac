"""The matrix: every compressor in mild to hard settings. A new method adds its line here."""

from __future__ import annotations

from ctxcomp import Cached, Chain, Compressor, FallbackToInput, load

CASES: dict[str, Compressor] = {
    "truncate": load("truncate"),
    "truncate-tail-paragraph": load("truncate", side="tail", unit="paragraph"),
    "truncate-both-scores": load("truncate", side="both", by_passage_score=True),
    "random": load("random", seed=7),
    "random-words-elided": load("random", unit="word", elision="[… {units} of {id}:{start}-{end}]"),
    "bm25": load("bm25"),
    "bm25-hard": load(
        "bm25", unit="paragraph", header="[{number}] {title}\n", separator="\n---\n", protect=("digits", "quotes"),
        floor_tokens=3, cap_tokens=40, per_token=True, counter="minilm",
    ),
    "embedding_select": load("embedding_select"),
    "embedding_select-hard": load(
        "embedding_select", similarity="dot", passage_weight=0.0, retriever_weight=0.3, position_weight=0.2,
        unit="word", allocate="passage", elision="[…]", counter="cl100k_base", batch_tokens=64,
    ),
    "sentence_pruner": load("sentence_pruner"),
    "sentence_pruner-hard": load(
        "sentence_pruner", cross_passages=2, cross_margin=1.0, min_score=0.01, unit="paragraph", elision="[…]",
        header="[{number}] {title}\n", counter="minilm", batch_tokens=64,
    ),
    "token_pruner": load("token_pruner"),
    "token_pruner-hard": load(
        "token_pruner", token_to_word="first", force_tokens=("not", "?"), force_digits=True, drop_consecutive=True,
        allocate="chunk", min_score=0.2,
    ),
    "chain": load("bm25+embedding_select+token_pruner", bm25__unit="passage"),
    "cached": Cached(inner=load("bm25")),
    "fallback": FallbackToInput(inner=load("bm25", unit="word")),
    "chain-of-one": Chain(stages=(load("truncate", side="both"),)),
}  # fmt: skip

PROTECTING = {"bm25-hard", "token_pruner-hard"}
"""These may answer with BudgetError: what they must keep can exceed a budget."""
