"""Published cross-encoders on torch: sequence classifiers, and OpenProvence, which adds a head over the tokens."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode import open_provence
from ctxcomp.encode.batching import pad, plan
from ctxcomp.encode.open_provence import TokenHead
from ctxcomp.encode.pair_sequences import PairSequence
from ctxcomp.errors import ModelError
from ctxcomp.loading import Checkpoint
from ctxcomp.optional import require
from ctxcomp.progress import tracked

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
CLASSIFIER = "ForSequenceClassification"


class TorchPairModel:
    """A transformers sequence classifier, with or without a token head.

    Parameters
    ----------
    model: gives ``logits`` of shape ``[rows, labels]``.
    rank: what the rank logit is made of: one factor for each label.
    head: None for a model that only ranks.
    typed: the model takes token types.
    batch_tokens: padded tokens per forward pass, at most.
    """

    def __init__(
        self, model: Any, rank: Sequence[float], head: TokenHead | None, *, typed: bool, device: str, dtype: str,
        batch_tokens: int,
    ) -> None:  # fmt: skip
        torch = require("torch", extra="models")
        self._torch = torch
        self._model = model.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, dtype))
        self._rank = torch.tensor(rank, device=device)
        self._head = head
        self._weight: Any = None if head is None else torch.from_numpy(head.weight).to(device)
        self._device = device
        self._batch_tokens = batch_tokens
        self._pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        self._typed = typed
        self._lock = threading.Lock()

    def run(self, sequences: Sequence[PairSequence]) -> list[tuple[float, Floats | None]]:
        """Rank logit and keep logits ``[n]`` of whole sequences, in input order."""
        results: list[tuple[float, Floats | None]] = [(0.0, None)] * len(sequences)
        for batch in tracked(plan([len(sequence.ids) for sequence in sequences], self._batch_tokens)):
            ids, lengths = pad([sequences[i].ids for i in batch], self._pad_id)
            types, _ = pad([sequences[i].types for i in batch], 0)
            ranks, keeps = self._forward(ids, types, lengths)
            for row, i in enumerate(batch):
                results[i] = float(ranks[row]), None if keeps is None else keeps[row, : lengths[row]].copy()
        return results

    def _forward(
        self, ids: NDArray[np.int64], types: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[Floats, Floats | None]:
        mask = np.arange(ids.shape[1])[None] < lengths[:, None]
        arrays = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        arrays |= {"token_type_ids": types} if self._typed else {}
        inputs = {name: self._torch.from_numpy(array).to(self._device) for name, array in arrays.items()}
        with self._torch.inference_mode():
            if self._head is None:
                return (self._model(**inputs).logits.float() @ self._rank).cpu().numpy(), None
            logits, states = self._states(inputs, self._head)
            keeps = states.float() @ self._weight + self._head.bias
            return (logits.float() @ self._rank).cpu().numpy(), keeps.cpu().numpy()

    def _states(self, inputs: dict[str, torch.Tensor], head: TokenHead) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[rows, labels]``, and the states ``[rows, n, hidden]`` that the head reads."""
        base = self._model.base_model
        states: list[torch.Tensor] = []

        def remember(_: object, given: tuple[torch.Tensor, ...], output: Any) -> None:
            states.append(given[0] if head.before_norm else output[0])

        # The hook is the model's own, so that two threads would fill each other's list.
        with self._lock:
            hook = (base.final_norm if head.before_norm else base).register_forward_hook(remember)
            try:
                logits = self._model(**inputs).logits
            finally:
                hook.remove()
        return logits, states[0]


def load_pair_model(checkpoint: Checkpoint, *, device: str, dtype: str, batch_tokens: int) -> TorchPairModel:
    """The published cross-encoder of a checkpoint directory.

    Raises
    ------
    ModelError: it holds neither a sequence classifier with one or two labels nor OpenProvence.
    """
    head = None
    if checkpoint.config["model_type"] == open_provence.MODEL_TYPE:
        model, head = open_provence.load(checkpoint)
        rank = [1.0] + [0.0] * (model.config.num_labels - 1)
    else:
        model = _classifier(checkpoint)
        rank = [1.0] if model.config.num_labels == 1 else [-1.0, 1.0]
    return TorchPairModel(
        model, rank, head, typed=_typed(model, checkpoint), device=device, dtype=dtype, batch_tokens=batch_tokens
    )


def _typed(model: Any, checkpoint: Checkpoint) -> bool:
    """Whether the model knows two token types and its tokenizer was set up to give them."""
    given = _tokenizer_settings(checkpoint).get("model_input_names") or ["token_type_ids"]
    taken = inspect.signature(model.forward).parameters
    known = int(getattr(model.config, "type_vocab_size", 0) or 0)
    return known > 1 and "token_type_ids" in given and "token_type_ids" in taken


def pair_window(checkpoint: Checkpoint) -> int:
    """Positions of a sequence that a published cross-encoder was made for.

    Raises
    ------
    ModelError: the checkpoint does not say.
    """
    if checkpoint.config["model_type"] == open_provence.MODEL_TYPE:
        return open_provence.window(checkpoint)
    limits = (checkpoint.max_tokens, checkpoint.max_seq_length, _tokenizer_settings(checkpoint).get("model_max_length"))
    return min(limit for limit in limits if isinstance(limit, int) and limit > 0)


def _tokenizer_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    file = checkpoint.path / "tokenizer_config.json"
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (ValueError, OSError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    return settings


def _classifier(checkpoint: Checkpoint) -> Any:
    names = checkpoint.config.get("architectures") or []
    supported = f"a sequence classifier (architectures: *{CLASSIFIER}), OpenProvence, or an encoder with head=FILE"
    if names and not any(name.endswith(CLASSIFIER) for name in names):
        raise ModelError(f"{checkpoint.path} is {', '.join(names)}, which scores no pairs: use {supported}")
    torch = require("torch", extra="models")
    transformers = require("transformers", extra="models")
    try:
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            str(checkpoint.path), dtype=torch.float32, local_files_only=True, trust_remote_code=False,
            output_loading_info=True,
        )  # fmt: skip
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ModelError(f"transformers cannot load {checkpoint.path} as a classifier: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{checkpoint.path} lacks the weights {missing[:4]}: use {supported}")
    if model.config.num_labels > 2:
        raise ModelError(
            f"{checkpoint.path} has {model.config.num_labels} labels, {list(model.config.id2label.values())[:4]}: "
            "a reranker has 1, its score, or 2, no and yes"
        )
    return model
