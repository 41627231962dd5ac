"""What an index can be built as: the name says what a user wants, the preset what FAISS is told.

Chosen by measurement: 8,000 passages of lm/wiki_pool, 499 questions, MiniLM (384 numbers), faiss 1.15.1, a thread of a
busy machine; the share of an exact search's best ten among the codes' best 10, 50 and 100, and the time of a search:

    codes      bytes   10      50      100     train    search
    PQ48x8     48      0.756   0.991   0.999   271 s    0.18 ms
    PQ96x4fs   48      0.727   0.987   0.998   2.3 s    0.02 ms   tiny, tuned
    RaBitQfs   56      0.718   0.984   0.996   none     0.08 ms   streaming
    PQ192x4fs  96      0.852   1.000   1.000   3.7 s    0.03 ms
    RaBitQfs2  116     0.856   1.000   1.000   none     0.19 ms
    SQ4        192     0.929   1.000   1.000   none     0.38 ms
    RaBitQfs4  212     0.951   1.000   1.000   none     0.87 ms
    SQ8        384     0.994   1.000   1.000   none     0.29 ms   small

Reordering by the stored vectors makes up for what short codes lose, so the shortest that train in seconds are best. A
random rotation before RaBitQ changed nothing (0.720, 0.983, 0.997).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ctxcomp.errors import UnknownMethodError
from ctxcomp.fields import nearest

PAD = 8
"""Vectors are padded with zeros to a multiple of this, which changes no inner product."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One way to keep vectors.

    Parameters
    ----------
    name: what users call it.
    summary: one clause for lists.
    factory: FAISS's factory string, where ``{d/4}`` is a quarter of the padded dimension; "" keeps no
        codes: the stored vectors themselves are searched.
    train_rows: vectors that its codes are trained on, at most and (by repetition) at least; 0 if they need none.
    """

    name: str
    summary: str
    factory: str
    train_rows: int = 0

    def factory_string(self, padded: int) -> str:
        """What FAISS makes the codes by, for vectors of a multiple of ``PAD`` numbers."""
        return self.factory.replace("{d/4}", str(padded // 4))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("exact", "the vectors themselves: nothing is lost, 4 bytes a dimension", ""),
            Preset("small", "1 byte a dimension: for when nearly nothing may be lost", "SQ8", 16_384),
            Preset("tiny", "1 bit a dimension in memory, reordered from disk: the default", "PQ{d/4}x4fs", 16_384),
            Preset(
                "streaming", "as tiny, with codes that need no training: for passages that come one by one", "RaBitQfs"
            ),
            Preset(
                "tuned",
                "1 bit a dimension, trained with the queries on pairs of query and passage",
                "PQ{d/4}x4fs",
                16_384,
            ),
        )
    }
)


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises
    ------
    UnknownMethodError: there is none; the message has the nearest.
    """
    if name not in PRESETS:
        raise UnknownMethodError(f"no index preset {name!r}: {nearest(str(name), PRESETS)}")
    return PRESETS[name]
