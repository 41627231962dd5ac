"""Small keys, values and queries, shared by the tests of the attention kernels."""
# ruff: noqa: N806

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp_kernels.kv_attention import KVBody
from ctxcomp_kernels.kv_quant import quantize_keys, quantize_values


@dataclass(frozen=True)
class Case:
    """Shapes of one attention call; ``str`` names it in the test report."""

    B: int = 1
    H: int = 1
    G: int = 2  # query heads per KV head
    Q: int = 1
    n: int = 64
    m: int = 17
    d: int = 64
    key_bits: int = 4
    value_bits: int = 4
    group: int = 32
    value_group: int | None = None
    per_token: bool = False
    masked: bool = False
    channels: bool = False
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        extra = [name for name in ("per_token", "masked", "channels") if getattr(self, name)]
        kind = str(self.dtype).removeprefix("torch.")
        shape = f"B{self.B}-H{self.H}x{self.G}-Q{self.Q}-n{self.n}-m{self.m}-d{self.d}"
        return "-".join([shape, f"k{self.key_bits}v{self.value_bits}-g{self.group}-{kind}", *extra])


def random(case: Case, device: str, *shape: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + case.n)
    return (torch.randn(shape, generator=generator) + shift).to(device, case.dtype)


def queries(case: Case, device: str) -> Tensor:
    # as attention layers hand it over: a transposed view
    return random(case, device, case.B, case.Q, case.H * case.G, case.d).transpose(1, 2)


def tail(case: Case, device: str) -> tuple[Tensor | None, Tensor | None]:
    if not case.m:
        return None, None
    shape = (case.B, case.H, case.m, case.d)
    return random(case, device, *shape), random(case, device, *shape, shift=0.3)


def valid(case: Case, device: str, n: int, heads: int) -> Tensor | None:
    if not case.masked:
        return None
    mask = torch.rand(case.B, heads, n, generator=torch.Generator().manual_seed(n)) > 0.4
    mask[..., -case.Q :] = True
    return mask.to(device)


def body(case: Case, device: str) -> KVBody | None:
    if not case.n:
        return None
    shape = (case.B, case.H, case.n, case.d)
    keys = random(case, device, *shape, shift=1.0) * torch.linspace(0.2, 3, case.d, device=device).to(case.dtype)
    values = random(case, device, *shape, shift=0.5)
    args = {"backend": "reference"}
    quantized = (
        quantize_values(keys, case.key_bits, **args)
        if case.per_token
        else quantize_keys(keys, case.key_bits, case.group, **args)
    )
    channel = random(case, device, case.B, case.H, case.d, shift=2.0) if case.channels else None
    stored = quantize_values(values, case.value_bits, case.value_group, **args)
    mask = valid(case, device, case.n, 1)
    return KVBody(*quantized, *stored, case.key_bits, case.value_bits, value_channel=channel, valid=mask)


def oracle(q: Tensor, parts: list[tuple[Tensor, Tensor, Tensor | None]], causal_tail: bool) -> Tensor:
    """SDPA in float64 over dense parts (keys, values, valid); where told, the last part is causal."""
    B, _, Q, _ = q.shape
    masks = []
    for index, (keys, _, mask) in enumerate(parts):
        n, heads = keys.shape[2], keys.shape[1]
        seen = torch.ones(B, heads, Q, n, dtype=torch.bool, device=q.device)
        if mask is not None:
            seen &= mask.unsqueeze(2)
        if causal_tail and index == len(parts) - 1:
            seen &= torch.ones(Q, n, dtype=torch.bool, device=q.device).tril(n - Q)
        masks.append(seen.repeat_interleave(q.shape[1] // heads, 1))
    keys, values = (torch.cat([part[i].double() for part in parts], 2) for i in (0, 1))
    group = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1)
    return torch.nn.functional.scaled_dot_product_attention(q.double(), keys, values, torch.cat(masks, 3))
