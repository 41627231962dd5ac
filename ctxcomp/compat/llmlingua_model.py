"""Keep probabilities of id sequences, as the peer's resized model gives them, without its padding to 512."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.compat.llmlingua_tokenizer import PeerTokenizer
from ctxcomp.encode import graph
from ctxcomp.encode.encoder import Backend, Encoder
from ctxcomp.encode.heads import checkpoint_head
from ctxcomp.encode.onnx_backend import OnnxBackend
from ctxcomp.errors import ModelError
from ctxcomp.loading import Checkpoint
from ctxcomp.optional import require

if TYPE_CHECKING:
    import torch as torch_module

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
SEED = 42
"""What llmlingua 0.2.2 seeds every generator with before it draws the rows of its added tokens."""


class KeepModel:
    """A token classifier whose vocabulary may grow by the added tokens.

    The peer resizes its embedding at construction. Here that happens when a text first holds an added token, and
    only then is torch needed.

    Parameters
    ----------
    encoder: the plain checkpoint with its head.
    checkpoint: the same checkpoint.
    tokenizer: the one with the added tokens.
    threads: CPU threads of ONNX Runtime, 0 for its own choice.

    Raises
    ------
    ModelError: the head has fewer than two labels.
    """

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint, tokenizer: PeerTokenizer, *, threads: int) -> None:
        if encoder.num_labels < 2:
            raise ModelError(f"the head of {encoder.name!r} has {encoder.num_labels} label: LLMLingua-2 needs two")
        self._plain = encoder
        self._checkpoint = checkpoint
        self._tokenizer = tokenizer
        self._threads = threads
        self._grown: Encoder | None = None
        self._exact: Encoder | None = None

    def probabilities(self, sequences: Sequence[Ids]) -> list[Floats]:
        """The probability of label 1, float32 ``[n]`` per sequence, in input order."""
        groups: dict[str, list[int]] = {}
        for i, ids in enumerate(sequences):
            groups.setdefault(self._needs(ids), []).append(i)
        result: list[Floats] = [np.empty(0, np.float32)] * len(sequences)
        for need, rows in groups.items():
            logits = self._encoder(need).token_logits([sequences[i] for i in rows])
            for i, found in zip(rows, logits, strict=True):
                result[i] = _second_label(found)
        return result

    def _needs(self, ids: Ids) -> str:
        if (ids == self._plain.pad_id).any():
            return "exact"
        return "grown" if int(ids.max()) >= self._tokenizer.base_size else "plain"

    def _encoder(self, need: str) -> Encoder:
        if need == "plain":
            return self._plain
        if need == "grown" and self._plain.runtime == "onnx":
            if self._grown is None:
                self._grown = self._with_backend(self._onnx())
            return self._grown
        if self._exact is None:
            # Padding tokens inside a text move XLM-R's positions and BERT's mask: transformers' own model does that.
            self._exact = self._with_backend(ResizedTorch(self._resized(), self._plain, self._tokenizer))
        return self._exact

    def _with_backend(self, backend: Backend) -> Encoder:
        return dataclasses.replace(self._plain, backend=backend, tokenizer=self._tokenizer.backend)

    def _onnx(self) -> Backend:
        source = str(self._checkpoint.path)
        tensors = self._checkpoint.tensors()
        words = self._resized().get_input_embeddings().weight.detach().numpy()
        tensors = tensors | {"embeddings.word_embeddings.weight": words}
        config = {**self._checkpoint.config, "vocab_size": len(words)}
        head = checkpoint_head(tensors, source)
        return OnnxBackend(graph.build(config, tensors, head), threads=self._threads)

    def _resized(self) -> Any:
        """The model of transformers with the peer's rows; the caller's random generators stay as they were."""
        torch = require("torch", extra="models")
        transformers = require("transformers", extra="models")
        encoder = self._plain
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            str(self._checkpoint.path), dtype=getattr(torch, encoder.dtype), local_files_only=True,
            trust_remote_code=False,
        )  # fmt: skip
        model = model.eval().requires_grad_(False).to(encoder.device)
        devices = [torch.device(encoder.device)] if encoder.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(SEED)
            model.resize_token_embeddings(self._tokenizer.backend.get_vocab_size())
        return model


class ResizedTorch:
    """transformers' model behind the interface of an encoder's backend, with the peer's attention mask.

    Parameters
    ----------
    model: a token classifier with the added tokens.
    encoder: gives the device.
    tokenizer: says which positions the peer's mask hides.
    """

    def __init__(self, model: Any, encoder: Encoder, tokenizer: PeerTokenizer) -> None:
        self._model = model
        self._device = encoder.device
        self._tokenizer = tokenizer

    def run(self, ids: Ids, lengths: Ids, output: str) -> Floats:
        """Logits float32 ``[rows, n, labels]`` of one padded batch; ``output`` is "logits"."""
        torch = require("torch", extra="models")
        shown = (np.arange(ids.shape[1]) < lengths[:, None]) & ~self._tokenizer.masked(ids)

        def moved(array: NDArray[np.int64]) -> torch_module.Tensor:
            tensor: torch_module.Tensor = torch.from_numpy(array).to(self._device)
            return tensor

        with torch.inference_mode():
            found = self._model(input_ids=moved(ids), attention_mask=moved(shown.astype(np.int64))).logits
            logits: Floats = found.float().cpu().numpy()
        return logits


def _second_label(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials[:, 1] / exponentials.sum(axis=1), dtype=np.float32)
