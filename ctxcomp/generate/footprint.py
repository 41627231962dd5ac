"""Bytes of a model at work, by part: predicted from its configuration, and measured on a generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ctxcomp.errors import ModelError
from ctxcomp.generate.load import find
from ctxcomp.generate.sampling import Sampling
from ctxcomp.optional import require

GROUP_SIZE = 128
GROUP_BYTES = 3
"""Of each group of quantized weights: its scale in 16 bits and its zero point in 8."""
PROBED_TOKENS = (1024, 2048)


@dataclass(frozen=True)
class Footprint:
    """Bytes by part.

    Parameters
    ----------
    weights: parameters and buffers.
    kv: the KV caches of all requests, with the answers complete.
    prefill: what a forward pass over the prompts needs besides; None where it cannot be measured.
    runtime: of the process and the driver; None where it cannot be measured.
    """

    weights: int
    kv: int
    prefill: int | None
    runtime: int | None

    @property
    def total(self) -> int:
        """Everything that is known."""
        return self.weights + self.kv + (self.prefill or 0) + (self.runtime or 0)


@dataclass(frozen=True)
class Shape:
    """What the predictions need to know of a model.

    Parameters
    ----------
    name: for people.
    config: the configuration of its decoder.
    linears: ``(rows, columns)`` of each linear layer that quantization replaces.
    linear_bytes, other_bytes: of these layers' weights and of everything else, as the checkpoint has them.
    item_bytes: of one number of the model's dtype.
    stored_bytes: of a quantized checkpoint's files; None for a plain one.
    """

    name: str
    config: Any
    linears: tuple[tuple[int, int], ...]
    linear_bytes: int
    other_bytes: int
    item_bytes: int
    stored_bytes: int | None = None

    @classmethod
    def of(cls, model: Any) -> Shape:
        """From a configuration, a checkpoint directory or a hub id.

        Raises
        ------
        ModelError: there is no such model, or it is no causal language model.
        """
        transformers = require("transformers", extra="generate")
        stored, config, name = None, model, getattr(model, "model_type", "")
        if not isinstance(model, transformers.PretrainedConfig):
            path = find(model)
            config, name = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False), path.name
            if getattr(config, "quantization_config", None) is not None:
                stored = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
                del config.quantization_config
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        try:
            with torch.device("meta"):
                empty = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except ValueError as error:
            raise ModelError(f"{name} is no causal language model: {error}") from error
        head = empty.get_output_embeddings()
        linears = [m.weight for m in empty.modules() if isinstance(m, torch.nn.Linear) and m is not head]
        inner = sum(weight.numel() for weight in linears)
        every = sum(parameter.numel() for parameter in empty.parameters())
        shapes = tuple((weight.shape[0], weight.shape[1]) for weight in linears)
        item = dtype.itemsize
        decoder = config.get_text_config(decoder=True)
        rest = (every - inner) * item + sum(b.numel() * b.element_size() for b in empty.buffers())
        return cls(name, decoder, shapes, inner * item, rest, item, stored)

    @property
    def kv_heads(self) -> int:
        """Key and value heads of a layer."""
        return int(getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads)

    @property
    def head_size(self) -> int:
        """Numbers of one key."""
        own = getattr(self.config, "head_dim", None)
        return int(own or self.config.hidden_size // self.config.num_attention_heads)

    @property
    def query_heads(self) -> int:
        """Query heads of a layer."""
        return int(self.config.num_attention_heads)

    @property
    def windows(self) -> list[int | None]:
        """How many tokens each layer's cache holds at most; None for all."""
        kinds: Sequence[str] = getattr(self.config, "layer_types", None) or ()
        if not kinds:
            return [None] * int(self.config.num_hidden_layers)
        return [int(self.config.sliding_window) if kind == "sliding_attention" else None for kind in kinds]


def weights_bytes(shape: Shape, bits: int) -> int:
    """Bytes of the weights with linear layers at ``bits``; 16 leaves them as they are, and lm_head always is."""
    if shape.stored_bytes is not None:
        return shape.stored_bytes
    if bits == 16:
        return shape.linear_bytes + shape.other_bytes
    packed = sum(rows * (-(-columns * bits // 32)) * 4 for rows, columns in shape.linears)
    groups = sum(rows * -(-columns // GROUP_SIZE) for rows, columns in shape.linears)
    return packed + groups * GROUP_BYTES + shape.other_bytes


def kv_cache_bytes(shape: Shape, policy: str | None, keep: float, prompt: int, answer: int) -> int:
    """Bytes of one request's KV cache.

    Parameters
    ----------
    policy: of ``CompressedCache``; None keeps the cache whole.
    keep: the share of the prompt's tokens that stays under this policy; the answer's stay all.
    """
    plain = 2 * shape.kv_heads * shape.head_size * shape.item_bytes
    full = float(plain * (prompt + answer))
    if policy is not None:
        fixed, each = _probe(policy, shape.query_heads // shape.kv_heads, shape.head_size, shape.item_bytes)
        full = shape.kv_heads * (fixed + each * prompt + each / keep * answer)
    return round(sum(full if window is None else min(window, prompt + answer) * plain for window in shape.windows))


@lru_cache(maxsize=64)
def _probe(policy: str, heads: int, size: int, item_bytes: int) -> tuple[float, float]:
    """Bytes of one KV head, the constant part and those of each token: measured on a model of one layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from ctxcomp.generate.cache import CompressedCache, install

    config = LlamaConfig(
        num_hidden_layers=1, num_attention_heads=heads, num_key_value_heads=1, head_dim=size,
        hidden_size=2 * heads, intermediate_size=16, vocab_size=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        model: Any = LlamaForCausalLM(config)
        model.to(torch.float32 if item_bytes == 4 else torch.bfloat16).eval()
        install(model)
        found = []
        for tokens in PROBED_TOKENS:
            cache = CompressedCache(config, policy)
            model(torch.zeros(1, tokens, dtype=torch.long), past_key_values=cache, logits_to_keep=1)
            found.append(cache.nbytes())
    each = (found[1] - found[0]) / (PROBED_TOKENS[1] - PROBED_TOKENS[0])
    return found[0] - each * PROBED_TOKENS[0], each


def prefill_bytes(shape: Shape, prompt: int) -> int:
    """Bytes of the widest point of a forward pass over one prompt: a layer's states, and its queries or its MLP."""
    config = shape.config
    hidden = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * hidden)
    attention = 2 * (int(config.num_attention_heads) + 2 * shape.kv_heads) * shape.head_size
    return prompt * (3 * hidden + max(3 * inner, attention)) * shape.item_bytes + 6 * int(config.vocab_size)


def measured(generator: Any, prompt: int, batch: int, answer: int) -> Footprint:
    """The footprint of a generator that answers ``batch`` random prompts of ``prompt`` tokens."""
    device = generator.model.device
    seed = torch.Generator().manual_seed(0)
    size = int(generator.model.config.get_text_config(decoder=True).vocab_size)
    prompts = torch.randint(size, (batch, prompt), generator=seed).tolist()
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    answers = generator.complete(prompts, Sampling(max_tokens=answer))
    weights, kv = generator.weight_bytes, sum(one.usage.kv_bytes for one in answers)
    if not cuda:
        return Footprint(weights, kv, None, None)
    free, total = torch.cuda.mem_get_info(device)
    runtime = total - free - torch.cuda.memory_reserved(device)
    return Footprint(weights, kv, max(0, torch.cuda.max_memory_allocated(device) - weights - kv), runtime)
