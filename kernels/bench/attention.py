"""Decode attention over a quantized KV cache against SDPA over a dense one, on one GPU in one run.

    PYTHONPATH=.:kernels python -m bench.attention

32 query heads, 8 KV heads, d 128, one new token; the last 128 tokens are dense. The operation's tests run first, and
every contender is checked against the reference on what it is timed on. Caches rotate beyond the GPU's own cache.
SDPA runs twice: as transformers call it, and with the query heads of a group as queries, the strongest way to ask.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from bench.timing import RESULTS, copies_beyond_cache, copy_bandwidth, require_green, surroundings, time_cuda, write_csv
from ctxcomp_kernels import kv_attention
from ctxcomp_kernels.kv_attention import KVBody
from ctxcomp_kernels.kv_quant import quantize_keys, quantize_values
from ctxcomp_kernels.testing import relative_rmse

QUERY_HEADS, KV_HEADS, CHANNELS = 32, 8, 128
TAIL, GROUP = 128, 32
TOKENS = (8192, 32768, 131072)
BATCHES = (1, 8)
BITS = (4, 2)
TOLERANCE = 2e-2  # bfloat16 results; SDPA is compared on the dequantized cache
Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Cache:
    """One layer's cache, quantized and as the dense bfloat16 tensors it stands for."""

    q: Tensor
    body: KVBody
    tail_k: Tensor
    tail_v: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that a quantized decode has to read."""
        tensors = [x for x in (*vars(self.body).values(), self.tail_k, self.tail_v) if isinstance(x, Tensor)]
        return sum(x.numel() * x.element_size() for x in tensors)

    def dense(self) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, n, d] in bfloat16."""
        keys, values = self.body.dequantize(torch.bfloat16)
        return torch.cat([keys, self.tail_k], 2), torch.cat([values, self.tail_v], 2)


def random_cache(batch: int, tokens: int, bits: int) -> Cache:
    """A cache of ``tokens``, the last ``TAIL`` dense."""
    shape = (batch, KV_HEADS, tokens - TAIL, CHANNELS)
    options = {"device": "cuda", "dtype": torch.bfloat16}
    keys = quantize_keys(torch.randn(shape, **options), bits, GROUP)  # type: ignore[call-overload]
    values = quantize_values(torch.randn(shape, **options), bits)  # type: ignore[call-overload]
    tail = torch.randn(2, batch, KV_HEADS, TAIL, CHANNELS, **options)  # type: ignore[call-overload]
    q = torch.randn(batch, QUERY_HEADS, 1, CHANNELS, **options)  # type: ignore[call-overload]
    return Cache(q, KVBody(*keys, *values, bits, bits), tail[0], tail[1])


def ours(cache: Cache) -> Call:
    """Our kernel."""
    return lambda: kv_attention.decode(cache.q, cache.body, cache.tail_k, cache.tail_v, backend="triton")[0]


def sdpa(cache: Cache) -> Call:
    """SDPA with its own handling of grouped heads."""
    keys, values = cache.dense()
    return lambda: scaled_dot_product_attention(cache.q, keys, values, enable_gqa=True)


def sdpa_packed(cache: Cache) -> Call:
    """SDPA with the heads of a group as queries of one head."""
    keys, values = cache.dense()
    packed = cache.q.view(len(cache.q), KV_HEADS, QUERY_HEADS // KV_HEADS, CHANNELS)
    return lambda: scaled_dot_product_attention(packed, keys, values).view(cache.q.shape)


def measure(batch: int, tokens: int, bits: int, repeat: int) -> list[dict[str, object]]:
    """One row for each contender on one shape."""
    first = random_cache(batch, tokens, bits)
    dense_bytes = 4 * batch * KV_HEADS * tokens * CHANNELS
    expected = kv_attention.decode(first.q, first.body, first.tail_k, first.tail_v, backend="reference")[0]
    contenders = {"sdpa-bf16": (sdpa, dense_bytes), "sdpa-bf16-packed": (sdpa_packed, dense_bytes)}
    rows: list[dict[str, object]] = []
    for name, (prepare, nbytes) in {**contenders, "ctxcomp": (ours, first.nbytes)}.items():
        copies = copies_beyond_cache(nbytes, "cuda")
        calls = [prepare(first), *(prepare(random_cache(batch, tokens, bits)) for _ in range(copies - 1))]
        error = relative_rmse(expected, calls[0]())
        if not error < TOLERANCE:
            raise SystemExit(f"{name} is wrong at {tokens} tokens, batch {batch}: relative RMSE {error:.3g}")
        p20, p50, p80 = time_cuda(calls, repeat)
        rows.append(
            {"op": "kv_attention", "provider": name, "bits": bits, "batch": batch, "tokens": tokens,
             "p20_us": round(p20 * 1e6, 2), "p50_us": round(p50 * 1e6, 2), "p80_us": round(p80 * 1e6, 2),
             "gb_per_s": round(nbytes / p50 / 1e9, 1), "error": round(error, 6)}
        )  # fmt: skip
        sys.stdout.write(f"{name:18} {bits} bits B={batch} n={tokens:<7} {p50 * 1e6:9.1f} us\n")
        del calls
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=50, help="measurements per row")
    parser.add_argument("--tokens", type=int, nargs="*", default=list(TOKENS))
    parser.add_argument("--out", type=Path, default=RESULTS / "attention_cuda.csv", help="the CSV")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: decode attention is measured on a GPU only")
    require_green("test_kv_quant.py", "test_kv_attention.py")
    common = surroundings("cuda") | {"copy_gb_per_s": str(round(copy_bandwidth("cuda") / 1e9, 1))}
    rows: list[dict[str, object]] = []
    for tokens in options.tokens:
        for batch in BATCHES:
            for bits in BITS:
                rows += [{**common, **row} for row in measure(batch, tokens, bits, options.repeat)]
                write_csv(options.out, rows)
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
