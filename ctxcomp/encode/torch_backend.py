"""Encoders on torch: GPUs, and architectures the ONNX graph does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode.heads import Head, normalise_modules
from ctxcomp.errors import ModelError
from ctxcomp.loading import Checkpoint
from ctxcomp.optional import require

if TYPE_CHECKING:
    import torch


class TorchBackend:
    """A transformers model behind the interface of ``OnnxBackend``.

    Parameters
    ----------
    checkpoint: what to load.
    head: None for no head, "token" for the checkpoint's own, or a head file's content.
    device: torch device, for example "cuda".
    dtype: "float32", "float16" or "bfloat16".
    """

    def __init__(self, checkpoint: Checkpoint, head: Head | str | None, *, device: str, dtype: str) -> None:
        torch = require("torch", extra="models")
        transformers = require("transformers", extra="models")
        own = head == "token"
        loader = transformers.AutoModelForTokenClassification if own else transformers.AutoModel
        try:
            model, report = loader.from_pretrained(
                str(checkpoint.path),
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise ModelError(f"transformers cannot load {checkpoint.path}: {error}") from error
        missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
        if missing:
            raise ModelError(
                f"{checkpoint.path} lacks the weights {missing[:4]}"
                + (": it has no token-classification head" if own else "")
            )
        self._torch = torch
        self._model = model.eval().requires_grad_(False).to(device)
        self._device = device
        self._own_head = own
        self._classifier = self._attach(head) if isinstance(head, Head) else None
        self.num_labels = int(model.config.num_labels) if own else len(head.bias) if isinstance(head, Head) else 0

    def _attach(self, head: Head) -> tuple[torch.Tensor, torch.Tensor]:
        torch = self._torch
        weights = dict(self._model.base_model.named_parameters())
        for name, delta in normalise_modules(head.deltas, weights).items():
            weight = weights.get(f"{name}.weight")
            if weight is None or tuple(weight.shape) != delta.shape:
                raise ModelError(f"the head's LoRA for {name!r} of shape {delta.shape} fits no weight of this model")
            weight.data += torch.from_numpy(delta).to(weight)
        reference = next(iter(weights.values()))
        return torch.from_numpy(head.weight).to(reference), torch.from_numpy(head.bias).to(reference)

    def run(self, ids: NDArray[np.int64], lengths: NDArray[np.int64], output: str) -> NDArray[np.float32]:
        """One forward pass; ``output`` is "hidden", "mean", "cls" or "logits"."""
        torch = self._torch
        with torch.inference_mode():
            counts = torch.from_numpy(lengths).to(self._device)
            mask = torch.arange(ids.shape[1], device=self._device)[None] < counts[:, None]
            inputs = {"input_ids": torch.from_numpy(ids).to(self._device), "attention_mask": mask.long()}
            result = self._output(inputs, mask, output)
            array: NDArray[np.float32] = result.float().cpu().numpy()
        return array

    def grow_vocabulary(self, size: int, *, seed: int) -> NDArray[np.float32]:
        """Give the word embeddings ``size`` rows, new ones drawn as transformers does with this seed.

        The process's own random state is left alone. Returns all rows, float32 ``[size, hidden]``.
        """
        with self._torch.random.fork_rng():
            self._torch.manual_seed(seed)
            rows = self._model.resize_token_embeddings(size).weight
        array: NDArray[np.float32] = rows.detach().float().cpu().numpy()
        return array

    def masked_logits(self, ids: NDArray[np.int64], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits of the checkpoint's own head for any attention mask: float32 ``[rows, n, labels]``."""
        torch = self._torch
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            result = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).logits
            array: NDArray[np.float32] = result.float().cpu().numpy()
        return array

    def _output(self, inputs: dict[str, Any], mask: torch.Tensor, output: str) -> torch.Tensor:
        if output == "logits" and self._own_head:
            logits: torch.Tensor = self._model(**inputs).logits
            return logits
        hidden: torch.Tensor = self._model.base_model(**inputs).last_hidden_state
        if output == "logits" and self._classifier is not None:
            weight, bias = self._classifier
            return hidden @ weight.T + bias
        if output == "cls":
            return hidden[:, 0]
        if output == "mean":
            weights = mask[..., None].float()
            return (hidden.float() * weights).sum(1) / weights.sum(1)
        return hidden
