"""The base class of compressors that write text of their own: the budget holds, and inventions do not pass unseen."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ctxcomp.compressor import Compressor, Selector, check_requests
from ctxcomp.counting import CounterLike, TokenCounter, resolve_counter
from ctxcomp.errors import ModelError
from ctxcomp.fields import check_fields
from ctxcomp.text.faithfulness import Claim, repaired, unsupported
from ctxcomp.text.truncate import Truncate
from ctxcomp.types import Budget, CompressedText, Passage, Request, Stats

PREPEND_NOTHING = "empty on purpose: prepend nothing"
"""The note of a result whose writer found nothing worth saying (RECOMP's selective augmentation)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request to write about, with the tokens that may come out."""

    query: str
    passages: tuple[Passage, ...]
    tokens: int

    @property
    def request(self) -> Request:
        """The same as a request."""
        return Request(self.query, self.passages, Budget(tokens=self.tokens))


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer wrote, of any length, and what it has to say about it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rewriter(Compressor[CompressedText]):
    """A compressor that writes: a method implements `write`.

    What fits is given back as it is, unless ``always``. A draft over the budget is cut at the end of a sentence, in a
    word's place if its first sentence is too long. Then numbers and names that no passage holds are looked for
    (`ctxcomp.text.faithfulness`). Generated text has no spans; ``passage_texts`` gives all of it to the passage that
    shares most words with it.

    Parameters
    ----------
    counter: counts the budget, see `ctxcomp.counting`; None is the default counter.
    inventions: what to do about them: "repair" leaves out the sentences that hold one, and extracts where nothing is
        left; "extract" puts extraction in place of the whole text, and ``stats.fallback`` says so; "report" keeps the
        text; "refuse" raises. ``stats.notes`` names them in any case.
    extractor: what extracts; None for `sentence_pruner`. It counts with ``counter``.
    always: write even where the input fits into the budget.
    """

    counter: CounterLike = None
    inventions: Literal["repair", "extract", "report", "refuse"] = "repair"
    extractor: Selector | None = None
    always: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def write(self, jobs: Sequence[Job]) -> list[Draft | CompressedText]:
        """A draft for each job; or a finished result, made of the source, which is taken as it is."""

    @property
    def extraction(self) -> Selector:
        """The extractor with this method's counter."""
        from ctxcomp.text.sentence_pruner import SentencePruner  # only where something is extracted

        return replace(self.extractor or SentencePruner(), counter=self.counter)

    def compress_batch(self, requests: Sequence[Request]) -> list[CompressedText]:
        """Compress several requests, those that need it in one call of `write`.

        Raises
        ------
        ModelError: a draft holds inventions and ``inventions`` is "refuse", or what writes has failed.
        """
        began = time.perf_counter()
        check_requests(requests)
        results, rooms = as_they_are(requests, self.counter)
        jobs = {
            i: Job(request.query, request.passages, room)
            for i, (request, plain, room) in enumerate(zip(requests, results, rooms, strict=True))
            if room and (plain.stats.tokens_in > room or (self.always and plain.text))
        }
        drafts = self.write(list(jobs.values())) if jobs else []
        for (i, job), draft in zip(jobs.items(), drafts, strict=True):
            tokens_in = results[i].stats.tokens_in
            results[i] = self._finished(job, draft).with_stats(tokens_in=tokens_in)
        seconds = (time.perf_counter() - began) / max(len(requests), 1)
        return [result.with_stats(seconds=seconds, method=self.name) for result in results]

    def _finished(self, job: Job, draft: Draft | CompressedText) -> CompressedText:
        if isinstance(draft, CompressedText):
            return draft
        counter = resolve_counter(self.counter)
        text, cut = capped(draft.text, job.tokens, counter)
        notes = (*draft.notes, *(("cut inside a sentence",) if cut else ()))
        if len(text) <= 1:  # as RECOMP's own evaluation reads one character
            return written(job, "", counter, (*notes, PREPEND_NOTHING))
        claims = invented(text, job.passages)
        if not claims:
            return written(job, text, counter, notes)
        named = names_of(claims)
        if self.inventions == "refuse":
            raise ModelError(
                f"{self.name} wrote what is not in the source: {named}: use inventions='repair', 'extract' or "
                "'report', or another model"
            )
        if self.inventions == "report":
            return written(job, text, counter, (*notes, f"not in the source: {named}"))
        notes = (*notes, f"left out, not in the source: {named}")
        left = repaired(text, claims) if self.inventions == "repair" else ""
        if left and not invented(left, job.passages) and counter.count(left) <= job.tokens:
            return written(job, left, counter, notes)
        plain = self.extraction.compress_batch([job.request])[0]
        return plain.with_stats(fallback=f"extracted, the text held what is not in the source: {named}", notes=notes)


def as_they_are(requests: Sequence[Request], counter: CounterLike) -> tuple[list[CompressedText], list[int]]:
    """Each input in full where it fits and nothing where it does not, with its tokens in; and each budget in tokens."""
    everything = [Request(request.query, request.passages, Budget(keep=1.0)) for request in requests]
    results = Truncate(unit="passage", counter=counter).compress_batch(everything)
    rooms = [r.budget.resolve(whole.stats.tokens_in) for r, whole in zip(requests, results, strict=True)]
    for i, (whole, room) in enumerate(zip(results, rooms, strict=True)):
        if whole.stats.tokens_in > room:
            nothing = replace(whole, text="", spans=(), passage_texts=("",) * len(whole.passages))
            results[i] = nothing.with_stats(tokens_out=0)
    return results, rooms


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its ``{name}`` fields; values that look like fields are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def invented(text: str, passages: Sequence[Passage]) -> list[Claim]:
    """The numbers and names of a text that neither a passage nor a title holds."""
    return unsupported(text, [part for p in passages for part in (p.text, p.title or "") if part])


def names_of(claims: Sequence[Claim]) -> str:
    """Claims for a message, each once."""
    return ", ".join(dict.fromkeys(repr(claim.text) for claim in claims))


def capped(text: str, tokens: int, counter: TokenCounter) -> tuple[str, bool]:
    """The leading sentences that fit into so many tokens, and whether even the first had to be cut."""
    text = text.strip()
    if counter.count(text) <= tokens:
        return text, False
    head = Truncate(unit="sentence", counter=counter).compress("", [Passage(text)], Budget(tokens=tokens))
    spans = head.spans or ()
    ends = text[spans[-1].end :] if spans else ""
    return head.text, len(spans) == 1 and re.match(r"\s", ends) is not None and not re.search(r"\W$", head.text)


def written(job: Job, text: str, counter: TokenCounter, notes: Sequence[str] = ()) -> CompressedText:
    """A result of generated text; ``tokens_in``, ``seconds`` and ``method`` are filled in by the caller."""
    home = _home(text, job.passages)
    return CompressedText(
        text=text,
        spans=None,
        passages=job.passages,
        passage_texts=tuple(text if p == home else "" for p in range(len(job.passages))),
        stats=Stats(0, counter.count(text), 0.0, counter.name, "", notes=tuple(notes)),
    )


def _home(text: str, passages: Sequence[Passage]) -> int:
    """The passage that shares most words with a text; the first of equals."""
    words = set(re.findall(r"\w+", text.lower()))
    shared = [len(words.intersection(re.findall(r"\w+", passage.text.lower()))) for passage in passages]
    return shared.index(max(shared)) if shared else 0
