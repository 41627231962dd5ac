"""The matrix: every compressor in mild to hard settings. A new method adds its line here."""

from __future__ import annotations

from ctxcomp import Cached, Chain, Compressor, FallbackToInput, load


def invents(prompt: str) -> str:
    """A chat model that quotes its passages, and makes something up."""
    said = prompt.partition("Passages:\n")[2].partition("\n\nQuestion:")[0].partition("\n\nWrite")[0]
    return f"{said} It was founded by Ada Quill in 4711. {said[:40]}"


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
    "token_pruner-clauses": load("token_pruner", clauses=1.0, min_score=0.01, allocate="passage", elision="[…]"),
    "semantic_drop": load("semantic_drop", window=12),
    "semantic_drop-hard": load(
        "semantic_drop", window=3, guard=("quotes",), phrases=False, query_weight=0.5, allocate="passage",
        elision="[…]", header="[{number}] {title}\n", counter="minilm",
    ),
    "summarize": load("summarize"),
    "summarize-draft": load("summarize", model="draft", extractor=load("bm25"), counter="minilm", query_aware=False),
    "summarize-chat": load("summarize", chat=invents, extractor=load("bm25")),
    "summarize-chat-reports": load("summarize", chat=invents, inventions="report", counter="cl100k_base"),
    "chunk_rewrite": load("chunk_rewrite"),
    "chunk_rewrite-hard": load(
        "chunk_rewrite", writer=load("summarize", chat=invents), least=1, most=12, spread=0.0, floor=0.3, reserve=0.4,
        terms=5, inventions="extract", extractor=load("bm25", unit="word"), counter="minilm",
    ),
    "chunk_rewrite-words": load("chunk_rewrite", writer=load("bm25", unit="word"), temperature=0.01, reserve=0.0),
    "demonstrations": load("demonstrations"),
    "demonstrations-hard": load(
        "demonstrations", shortener=load("bm25", elision="[…]"), squeeze=0.2, coverage=2.0, redundancy=1.0,
        counter="minilm",
    ),
    "sheets": load("sheets", text_method="bm25"),
    "sheets-hard": load("sheets", text_method="bm25+token_pruner", k=0, aggregate=True, counter="minilm"),
    "chain": load("bm25+embedding_select+token_pruner", bm25__unit="passage"),
    "cached": Cached(inner=load("bm25")),
    "fallback": FallbackToInput(inner=load("bm25", unit="word")),
    "chain-of-one": Chain(stages=(load("truncate", side="both"),)),
}  # fmt: skip

WRITING = {"sheets", "sheets-hard", "summarize-draft", "summarize-chat", "summarize-chat-reports", "chunk_rewrite-hard"}
"""These write text of their own: where they did, the result has no spans, and says what it made up."""

PROTECTING = {"bm25-hard", "token_pruner-hard"}
"""These may answer with BudgetError: what they must keep can exceed a budget."""
