"""`Index`: passages, one stored vector each, codes of them for the search, and how much that search finds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.options import EncoderOptions
from ctxcomp.errors import InputError
from ctxcomp.index.codes import Codes, Floats, Rows, check_device, exact_nearest, padded, rerank
from ctxcomp.index.files import read_manifest, write_directory
from ctxcomp.index.passages import PassageFile, as_passages, write_passages
from ctxcomp.index.presets import Preset, find_preset
from ctxcomp.index.recall import DEPTH, SHORTLISTS, Recall, measure, own_sentences
from ctxcomp.index.source import Source, checked_vectors
from ctxcomp.types import Passage

Query = str | Sequence[float] | NDArray[Any]
Queries = Sequence[str] | NDArray[Any]
Pair = tuple[Query, str | int]
"""A query and the passage that answers it, by id or by position."""
Metric = Literal["cosine", "dot"]
VECTORS, CODES, ADAPTER, CENTROIDS = "vectors.npy", "codes.faiss", "adapter.npy", "centroids.npy"


@dataclass(frozen=True, eq=False)
class Index:
    """A compressed index; make one with `build`, `load`, or from another with `add` and `remove`.

    Nothing changes an index: `add` and `remove` return another one and leave this one to those who search it. So any
    number of threads may search, and any number of processes may read a saved one while it is replaced.

    Parameters
    ----------
    preset: how vectors are kept, see ``PRESETS``.
    source: what made the vectors.
    passages: in the order in which they were given; read from the file where the index was loaded.
    vectors: float32 ``[n, d]``, as stored; memory-mapped where the index was loaded.
    codes: what is searched; None where the vectors themselves are.
    metric: "cosine" (stored vectors have length 1) or "dot".
    shortlist: how many of the codes' best are reordered by the stored vectors to find the best ten.
    report: the recall that was measured, and on what.
    adapter: what queries are multiplied with, float32 ``[d, d]`` (d padded), where they were tuned.
    device: "cpu" or "cuda".
    note: what training reported, where there was any.
    version: where it was read from or saved to, and which version of it.
    """

    preset: Preset
    source: Source
    passages: Sequence[Passage]
    vectors: Floats
    codes: Codes | None
    metric: Metric = "cosine"
    shortlist: int = SHORTLISTS[-1]
    report: Recall | None = None
    adapter: Floats | None = None
    device: str = "cpu"
    note: str = ""
    version: tuple[Path, str] | None = None

    @classmethod
    def build(
        cls,
        passages: Iterable[Passage | str],
        *,
        preset: str = "tiny",
        model: str | EncoderOptions = "minilm",
        vectors: NDArray[Any] | None = None,
        vectors_of: str = "",
        metric: Metric = "cosine",
        queries: Queries | None = None,
        pairs: Sequence[Pair] | None = None,
        recall: float = 0.98,
        device: str = "cpu",
        seed: int = 0,
    ) -> Index:
        """Encode the passages, make the codes, and measure what a search finds.

        Parameters
        ----------
        passages: may be empty; two with the same text or id are two passages.
        preset: "exact", "small", "tiny", "streaming" or "tuned".
        model: the encoder: a name, a path, or ``EncoderOptions``; of no use where ``vectors`` are given.
        vectors: your own instead, ``[n, d]``; queries are then vectors too, unless they are given to a search as such.
        vectors_of: your name for what made them: loading refuses another.
        metric: "cosine" scales the vectors to length 1, "dot" leaves them as they are.
        queries: held-out queries for the measurement, texts or vectors ``[m, d]``; None takes sentences of the
            passages, or, of your own vectors, the vectors themselves.
        pairs: what ``tuned`` learns from.
        recall: how much of an exact search's best ten the search is to find, in (0, 1]; the shortlist follows from it.
        device: "cuda" searches the preset ``exact`` on a GPU, if faiss was built for that.
        seed: of samples and training.

        Raises
        ------
        InputError: an argument is wrong, a vector is not finite, or metadata are not JSON.
        MissingDependencyError: faiss is not installed; or torch, which ``tuned`` trains with.
        """
        chosen = find_preset(preset)
        check_device(device, chosen)
        if metric not in ("cosine", "dot"):
            raise InputError(f"metric must be 'cosine' or 'dot', got {metric!r}")
        if not 0 < recall <= 1:
            raise InputError(f"recall must be in (0, 1], got {recall!r}")
        if (chosen.name == "tuned") != (pairs is not None):
            raise InputError(
                "pairs=[(query, passage id), ...] are what the preset 'tuned' learns from, and no other one"
            )
        given = as_passages(passages)
        source = Source.of(model) if vectors is None else Source(None, vectors_of)
        stored = (
            source.embed([p.text for p in given])
            if vectors is None
            else checked_vectors(vectors, len(given), None, metric)
        )
        codes = Codes.trained(chosen, stored, seed) if chosen.factory and given else None
        index = cls(chosen, source, given, stored, codes, metric, device=device)
        if pairs is not None:
            from ctxcomp.index.tune import tune

            index = tune(index, pairs, seed=seed)
        return index.measured(queries, recall=recall, seed=seed)

    def __len__(self) -> int:
        return len(self.passages)

    def search(self, query: Query, k: int = 10, *, embeddings: bool = True) -> list[Passage]:
        """The ``k`` passages nearest to a query, best first.

        Parameters
        ----------
        query: a text, or a vector ``[d]``.
        k: how many, >= 1; fewer come if there are fewer.
        embeddings: put the stored vectors into ``Passage.embedding``, where `embedding_select` and `sentence_pruner`
            take them with ``reuse_embeddings=True``.

        Returns
        -------
        Passages with ``score``, the inner product.

        Raises
        ------
        InputError: the query is of the wrong kind or size, or the model is not the one of the index.
        """
        one: Queries = [query] if isinstance(query, str) else checked_vectors(query, 1, self._dimension, self.metric)
        return self.search_batch(one, k, embeddings=embeddings)[0]

    def search_batch(self, queries: Queries, k: int = 10, *, embeddings: bool = True) -> list[list[Passage]]:
        """Several searches in one; parameters and errors as for `search`, vectors as ``[n, d]``."""
        scores, rows = self.nearest(self.query_vectors(queries), k)
        return [
            [self._found(row, score, embeddings) for score, row in zip(own.tolist(), places.tolist(), strict=True)]
            for own, places in zip(scores, rows, strict=True)
        ]

    def query_vectors(self, queries: Queries) -> Floats:
        """Queries as vectors of the source, float32 ``[n, d]``."""
        if isinstance(queries, np.ndarray):
            return checked_vectors(queries, None, self._dimension, self.metric)
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise InputError("queries must be a list of texts or an array of vectors [n, d]")
        return self.source.embed(list(queries))

    def nearest(self, queries: Floats, k: int) -> tuple[Floats, Rows]:
        """Scores float32 and positions int64 ``[n, k]`` for vectors ``[n, d]``, k at most the number of passages."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number >= 1, got {k!r}")
        k = min(k, len(self))
        if not k or not len(queries):
            return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
        if self.codes is None:
            return exact_nearest(queries, self.vectors, k, self.device)
        asked = self.tuned_queries(queries)
        rows = self.codes.nearest(asked, min(max(k, -(-self.shortlist * k // DEPTH)), len(self)))
        return rerank(asked, rows, lambda own: np.asarray(self.vectors[own]), k)

    def tuned_queries(self, queries: Floats) -> Floats:
        """Queries as the index asks for them, float32 ``[n, d]``: as they are unless they were tuned."""
        return queries if self.adapter is None else (padded(queries) @ self.adapter)[:, : self._dimension]

    def add(self, passages: Iterable[Passage | str], *, vectors: NDArray[Any] | None = None) -> Index:
        """An index of these and further passages. Codes are trained anew when the index has outgrown them.

        Parameters
        ----------
        vectors: ``[n, d]``, where the index holds your own.

        Raises
        ------
        InputError: as for `build`.
        """
        given = as_passages(passages)
        if vectors is None:
            fresh = self.source.embed([p.text for p in given]) if given else self.vectors[:0]
        elif self.source.encoder is not None:
            raise InputError(f"the index makes its vectors with {self.source.name!r}: add passages without vectors")
        else:
            fresh = checked_vectors(vectors, len(given), self._dimension, self.metric)
        stored = np.concatenate([self.vectors, fresh])
        codes = self.codes
        if self.preset.factory and len(stored) and (codes is None or codes.outgrown(len(stored))):
            codes = Codes.trained(self.preset, stored)
        elif codes is not None:
            codes = codes.added(fresh)
        return replace(self, passages=[*self.passages, *given], vectors=stored, codes=codes)

    def remove(self, ids: Iterable[str]) -> Index:
        """An index without the passages of these ids; with `add`, how a passage is replaced.

        Raises
        ------
        InputError: no passage has one of the ids.
        """
        gone = {ids} if isinstance(ids, str) else set(ids)
        known = [passage.id for passage in self.passages]
        if missing := gone.difference(known):
            raise InputError(f"no passage has the id {min(missing)!r} ({len(missing)} of {len(gone)} ids are unknown)")
        rows = np.array([i for i, name in enumerate(known) if name not in gone], dtype=np.int64)
        stored = np.asarray(self.vectors[rows])
        codes = None if self.codes is None else self.codes.refilled(stored)
        return replace(self, passages=[self.passages[i] for i in rows.tolist()], vectors=stored, codes=codes)

    def measured(self, queries: Queries | None = None, *, recall: float = 0.98, seed: int = 0) -> Index:
        """The same index with the shortlist that reaches a recall, and a report on other queries than chose it.

        Parameters
        ----------
        queries, recall, seed: as for `build`.
        """
        if queries is not None:
            asked, kind = self.query_vectors(queries), "queries of yours"
        elif self.source.encoder is None:
            picks = np.random.default_rng(seed).permutation(len(self))[: SHORTLISTS[-1]]
            asked, kind = np.asarray(self.vectors[np.sort(picks)]), "of the vectors themselves"
        else:
            asked, kind = (
                self.source.embed(own_sentences(self.passages, seed) if self.codes else []),
                "sentences of the passages",
            )
        shortlist, report = measure(self, asked, kind, recall, seed)
        return replace(self, shortlist=shortlist, report=report)

    @property
    def _dimension(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def bytes_per_vector(self) -> int:
        """Bytes in memory that each further vector takes."""
        return self.codes.bytes_per_vector if self.codes is not None else 4 * self._dimension

    def save(self, path: str | Path) -> Index:
        """Write the index to a directory, whole or not at all; returns it as `load` would.

        Raises
        ------
        InputError: the directory holds something else, or the index there was changed since this one was read from it.
        """
        place = Path(path)
        replaces = self.version[1] if self.version is not None and self.version[0] == place.resolve() else None
        write_directory(place, self._manifest(), self._write, replaces)
        return replace(Index.load(place, device=self.device, verify=False), source=self.source)

    @classmethod
    def load(
        cls, path: str | Path, *, model: str | EncoderOptions | None = None, device: str = "cpu", verify: bool = True
    ) -> Index:
        """Read an index; passages and vectors stay on disk until they are asked for.

        Parameters
        ----------
        model: where the encoder is, or how it runs, if not as at the build; of your own vectors, their label.
        device: as for `build`.
        verify: compare all checksums; otherwise only sizes.

        Raises
        ------
        InputError: there is no index, it is damaged, or it was built with another model.
        """
        place = Path(path)
        manifest = read_manifest(place, verify=verify)
        preset = find_preset(manifest["preset"])
        check_device(device, preset)
        data = place / manifest["data"]
        codes = Codes.read(data / CODES, preset, manifest["trained_on"]) if CODES in manifest["files"] else None
        if codes is not None and CENTROIDS in manifest["files"]:
            codes = replace(codes, assigning=np.load(data / CENTROIDS, allow_pickle=False))
        return cls(
            preset,
            Source.from_dict(manifest["source"], model),
            PassageFile(data),
            np.load(data / VECTORS, mmap_mode="r" if manifest["passages"] else None, allow_pickle=False),
            codes,
            manifest["metric"],
            manifest["shortlist"],
            Recall(**manifest["report"]) if manifest["report"] else None,
            np.load(data / ADAPTER, allow_pickle=False) if ADAPTER in manifest["files"] else None,
            device,
            manifest["note"],
            (place.resolve(), manifest["data"]),
        )

    def _manifest(self) -> dict[str, Any]:
        return {
            "preset": self.preset.name,
            "passages": len(self),
            "dimension": self._dimension,
            "metric": self.metric,
            "source": self.source.as_dict(),
            "shortlist": self.shortlist,
            "trained_on": self.codes.trained_on if self.codes is not None else 0,
            "report": None if self.report is None else self.report.as_dict(),
            "note": self.note,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _write(self, folder: Path) -> None:
        write_passages(folder, self.passages)
        np.save(folder / VECTORS, self.vectors, allow_pickle=False)
        if self.codes is not None:
            self.codes.write(folder / CODES)
            if self.codes.assigning is not None:
                np.save(folder / CENTROIDS, self.codes.assigning, allow_pickle=False)
        if self.adapter is not None:
            np.save(folder / ADAPTER, self.adapter, allow_pickle=False)

    def _found(self, row: int, score: float, embeddings: bool) -> Passage:
        vector = tuple(self.vectors[row].tolist()) if embeddings else None
        return replace(self.passages[row], score=score, embedding=vector)
