"""Packed weights with random codes, for the tests of the linear layer."""

from __future__ import annotations

import torch

from ctxcomp_kernels.pack import pack


def packed_weight(n, k, bits, group_size, *, zeros=True, dtype=torch.float16, device="cpu", seed=0):
    """Arguments ``packed, scales, zeros, bits, group_size`` of ``wna16.linear``."""
    generator = torch.Generator().manual_seed(seed)
    groups = -(-k // group_size)
    codes = torch.randint(0, 1 << bits, (n, k), dtype=torch.uint8, generator=generator)
    scales = (torch.rand(groups, n, generator=generator) * 0.02 + 0.01).to(dtype)
    zero = torch.randint(0, 1 << bits, (groups, n), dtype=torch.uint8, generator=generator) if zeros else None
    packed = pack(codes, bits, backend="reference")
    return packed.to(device), scales.to(device), None if zero is None else zero.to(device), bits, group_size


def activations(m, k, dtype, device="cpu", seed=1):
    return torch.randn(m, k, generator=torch.Generator().manual_seed(seed)).to(dtype).to(device)
