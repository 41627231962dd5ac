"""`summarize`: one short text in place of the passages, by extraction, a T5-like checkpoint or a chat model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from ctxcomp.counting import resolve_counter
from ctxcomp.errors import InputError
from ctxcomp.rewriter import Draft, Job, Rewriter, filled
from ctxcomp.text.chat import ASKED, UNASKED, ChatOptions, ask_all
from ctxcomp.text.draft import fused
from ctxcomp.text.seq2seq import PLAIN_PROMPT, RECOMP_PROMPT, Seq2SeqOptions, write_seq2seq
from ctxcomp.types import Budget, CompressedText, Passage, Span

DRAFT_ROOM = 1.3
"""A draft starts from so many times the budget of extracted text, since its rules shorten it."""
_WORDS_PER_TOKEN = 0.7


@dataclass(frozen=True, kw_only=True)
class Summarize(ChatOptions, Seq2SeqOptions, Rewriter):
    """Writes a summary of all passages together; by default it extracts, which needs no network and no model.

    Parameters
    ----------
    model: "extraction" keeps whole sentences, with spans; "draft" also shortens and joins them by rules that know
        English; otherwise a T5-like checkpoint: a directory, or a hub id in the local cache. Ignored with ``chat``.
    query_aware: show the query to the model; extraction, too, then serves it.
    prompt: the template to use instead of the built-in ones, with ``{passages}``, ``{query}`` and, for a chat model,
        ``{words}``. The built-in ones: RECOMP's to the letter for a checkpoint and a query, "summarize: " without
        one, `ctxcomp.text.chat` for a chat model.

    An empty summary means "prepend nothing" (selective augmentation): the text is "" and ``stats.notes`` holds
    `ctxcomp.rewriter.PREPEND_NOTHING`.

    Source
    ------
    Xu, Shi and Choi, "RECOMP: Improving Retrieval-Augmented LMs with Compression and Selective Augmentation" (2023),
    its abstractive compressor; Liu et al., "TCRA-LLM: Token Compression Retrieval Augmented Large Language Model for
    Inference Cost Reduction" (2023), its summarization, which has no public code: TCRA-style, no parity is claimed.
    Deviations: the budget is exact; inventions are looked for; a prompt that is too long loses the end of its
    passages and never its own end; passages are joined by a newline.
    """

    model: str = "extraction"
    query_aware: bool = True
    prompt: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_seq2seq()
        self.check_chat()
        if self.prompt is not None and "{passages}" not in self.prompt:
            raise InputError(f"prompt must hold {{passages}} and may hold {{query}} and {{words}}, got {self.prompt!r}")
        if not self.model:
            raise InputError("model must be 'extraction', 'draft' or a checkpoint, got ''")

    def weights_hash(self) -> str:
        """What identifies the weights of a checkpoint; "" without one."""
        if self.chat is not None or self.model in ("extraction", "draft"):
            return ""
        from ctxcomp.loading import open_checkpoint

        return open_checkpoint(self.model).weights_hash

    def write(self, jobs: Sequence[Job]) -> list[Draft | CompressedText]:
        """A summary of each request's passages."""
        asked = [job if self.query_aware else replace(job, query="") for job in jobs]
        if self.chat is not None:
            return [Draft(text) for text in ask_all([self._chat_prompt(job) for job in asked], self)]
        if self.model == "extraction":
            return [*self.extraction.compress_batch([job.request for job in asked])]
        if self.model == "draft":
            return self._drafts(asked)
        prompts = [self.prompt or (RECOMP_PROMPT if job.query.strip() else PLAIN_PROMPT) for job in asked]
        texts = ["\n".join(passage.text for passage in job.passages) for job in asked]
        return [*write_seq2seq(self.model, prompts, texts, [job.query for job in asked], self)]

    def _chat_prompt(self, job: Job) -> str:
        template = self.prompt or (ASKED if job.query.strip() else UNASKED)
        texts = "\n\n".join(_titled(passage) for passage in job.passages)
        words = str(max(1, int(job.tokens * _WORDS_PER_TOKEN)))
        return filled(template, {"query": job.query, "passages": texts, "words": words})

    def _drafts(self, jobs: Sequence[Job]) -> list[Draft | CompressedText]:
        counter = resolve_counter(self.counter)
        wider = [replace(job.request, budget=Budget(tokens=int(job.tokens * DRAFT_ROOM) + 1)) for job in jobs]
        drafts: list[Draft | CompressedText] = []
        for job, picked in zip(jobs, self.extraction.compress_batch(wider), strict=True):
            text = _fused(picked)
            # A rule that leaves too much would cost the last sentence: extraction at the budget itself keeps more.
            narrow = counter.count(text) > job.tokens
            drafts.append(Draft(_fused(self.extraction.compress_batch([job.request])[0]) if narrow else text))
        return drafts


def _fused(picked: CompressedText) -> str:
    texts = [
        fused([p.text[s.start : s.end] for s in own], _follows(p.text, own))
        for i, p in enumerate(picked.passages)
        if (own := [s for s in picked.spans or () if s.passage == i])
    ]
    return "\n\n".join(text for text in texts if text)


def _follows(text: str, spans: Sequence[Span]) -> list[bool]:
    return [False, *(not text[a.end : b.start].strip() for a, b in pairwise(spans))]


def _titled(passage: Passage) -> str:
    return f"{passage.title}\n{passage.text}" if passage.title else passage.text
