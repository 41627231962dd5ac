"""Linear layers with 4-bit weights against what else runs them, on one machine in one run.

    PYTHONPATH=.:kernels python -m bench.wna16                 a GPU: cuBLAS bf16, torch's int4, GemLite if installed
    PYTHONPATH=.:kernels python -m bench.wna16 --tune          first search block sizes and keep them in configs.json
    PYTHONPATH=.:kernels python -m bench.wna16 --device cpu    torch's CPU int4 against dense bf16 and fp32

The operation's tests run first, every contender is checked against the reference on the weight it is timed on, and
weights rotate beyond the cache. A contender that is wrong or fails is an error, not a missing row.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.timing import (
    RESULTS,
    copies_beyond_cache,
    copy_bandwidth,
    require_green,
    surroundings,
    time_cpu,
    time_cuda,
    write_csv,
)
from ctxcomp_kernels import wna16
from ctxcomp_kernels.pack import pack, unpack
from ctxcomp_kernels.testing import relative_rmse

SHAPES = ((4096, 14336), (8192, 8192))  # N x K: a down projection of Llama-3-8B, a square of Llama-3-70B
ROWS = (1, 2, 4, 8, 16)
GROUP = 128
TOLERANCE = 2e-2  # bfloat16 results of weights that some contenders round to bfloat16


@dataclass(frozen=True)
class Weight:
    """A random 4-bit weight, asymmetric, with bfloat16 scales."""

    packed: Tensor  # int32 [K / 8, N]
    scales: Tensor  # bfloat16 [K / g, N]
    zeros: Tensor  # uint8 [K / g, N]
    k: int

    @property
    def nbytes(self) -> int:
        """What a product has to read."""
        return sum(t.numel() * t.element_size() for t in (self.packed, self.scales, self.zeros))

    def linear(self, x: Tensor, backend: str) -> Tensor:
        """The product through our operator."""
        return wna16.linear(x, self.packed, self.scales, self.zeros, 4, GROUP, backend=backend)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weight [N, K], contiguous."""
        backend = "reference" if self.packed.device.type == "cpu" else ""
        weight = wna16.dequantize(self.packed, self.scales, self.zeros, 4, GROUP, self.k, dtype, backend=backend)
        return weight.contiguous()


def random_weight(n: int, k: int, device: str) -> Weight:
    """A weight of N x K."""
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, device=device)
    scales = (torch.rand(k // GROUP, n, device=device) * 0.02 + 0.01).to(torch.bfloat16)
    zeros = torch.randint(0, 16, (k // GROUP, n), dtype=torch.uint8, device=device)
    return Weight(pack(codes, 4), scales, zeros, k)


Contender = Callable[[Weight], Callable[[Tensor], Tensor]]


def ours(weight: Weight) -> Callable[[Tensor], Tensor]:
    """Our Triton kernel."""
    return lambda x: weight.linear(x, "triton")


def dense(dtype: torch.dtype) -> Contender:
    """The library's product with the decoded weight."""

    def prepare(weight: Weight) -> Callable[[Tensor], Tensor]:
        matrix = weight.dense(dtype)
        return lambda x: torch.nn.functional.linear(x.to(dtype), matrix)

    return prepare


def torch_int4(weight: Weight) -> Callable[[Tensor], Tensor]:
    """Torch's CUDA kernel (tinygemm)."""
    codes = unpack(weight.packed, 4, weight.k)
    tiles = torch.ops.aten._convert_weight_to_int4pack(codes[:, 1::2] | codes[:, ::2] << 4, 8)
    scales = weight.scales.float()
    both = torch.stack([scales, (8 - weight.zeros.float()) * scales], dim=-1).to(torch.bfloat16)
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, tiles, GROUP, both)


def gemlite(weight: Weight) -> Callable[[Tensor], Tensor]:
    """GemLite with its own stored configurations."""
    from gemlite import DType, GemLiteLinear

    n = weight.packed.shape[1]
    layer = GemLiteLinear(4, GROUP, weight.k, n, input_dtype=DType.BF16, output_dtype=DType.BF16)
    columns = [part.t().contiguous() for part in (weight.scales, weight.zeros.to(torch.bfloat16))]
    layer.pack(unpack(weight.packed, 4, weight.k), columns[0], columns[1], None)
    return lambda x: layer(x)


def torch_int4_cpu(weight: Weight) -> Callable[[Tensor], Tensor]:
    """Torch's CPU operator, as ``linear_cpu`` calls it."""
    prepared = wna16.prepare_cpu(weight.packed, weight.scales, weight.zeros, 4, GROUP, weight.k)
    if prepared is None:
        raise SystemExit("torch's CPU operator does not take this shape")
    return lambda x: wna16.linear_cpu(x, prepared)


def contenders(device: str) -> dict[str, Contender]:
    """Who competes on a device."""
    if device == "cpu":
        return {
            "dense-bf16": dense(torch.bfloat16),
            "dense-fp32": dense(torch.float32),
            "torch-int4": torch_int4_cpu,
            "reference": lambda weight: lambda x: weight.linear(x, "reference"),
        }
    found: dict[str, Contender] = {"dense-bf16": dense(torch.bfloat16), "ctxcomp": ours, "torch-int4": torch_int4}
    if importlib.util.find_spec("gemlite"):
        found["gemlite"] = gemlite
    return found


def measure(device: str, repeat: int, shapes: tuple[tuple[int, int], ...]) -> list[dict[str, object]]:
    """One row for each contender, shape and number of rows."""
    bandwidth, common, rows = copy_bandwidth(device), surroundings(device), []
    for n, k in shapes:
        first = random_weight(n, k, device)
        weights = [first, *(random_weight(n, k, device) for _ in range(copies_beyond_cache(first.nbytes, device) - 1))]
        for name, prepare in contenders(device).items():
            nbytes = {"dense-bf16": 2 * n * k, "dense-fp32": 4 * n * k}.get(name, first.nbytes)
            functions = [prepare(weight) for weight in weights[: copies_beyond_cache(nbytes, device)]]
            for m in ROWS:
                x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
                error = relative_rmse(first.linear(x, "reference"), functions[0](x))
                if not error < TOLERANCE:
                    raise SystemExit(f"{name} is wrong for M={m}, {n}x{k}: relative RMSE {error:.3g}")
                timed = time_cuda if device == "cuda" else time_cpu
                p20, p50, p80 = timed([lambda f=f, x=x: f(x) for f in functions], repeat)
                rows.append(
                    {**common, "op": "wna16", "provider": name, "m": m, "n": n, "k": k, "group": GROUP,
                     "p20_us": round(p20 * 1e6, 2), "p50_us": round(p50 * 1e6, 2), "p80_us": round(p80 * 1e6, 2),
                     "gb_per_s": round(nbytes / p50 / 1e9, 1), "copy_gb_per_s": round(bandwidth / 1e9, 1),
                     "error": round(error, 6)}
                )  # fmt: skip
                sys.stdout.write(f"{name:12} M={m:<3} {n}x{k} {p50 * 1e6:9.1f} us {nbytes / p50 / 1e9:8.1f} GB/s\n")
            del functions
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--repeat", type=int, default=50, help="measurements per row")
    parser.add_argument("--shapes", nargs="*", default=[f"{n}x{k}" for n, k in SHAPES], help="N x K")
    parser.add_argument("--tune", action="store_true", help="search block sizes first")
    parser.add_argument("--out", type=Path, help="the CSV; default kernels/bench/results/wna16_<device>.csv")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here: use --device cpu")
    require_green("test_pack.py", "test_wna16.py")
    shapes = tuple((int(n), int(k)) for n, k in (shape.split("x") for shape in options.shapes))
    if options.tune:
        from bench.tune_wna16 import tune

        tune(shapes)
    write_csv(options.out or RESULTS / f"wna16_{options.device}.csv", measure(options.device, options.repeat, shapes))


if __name__ == "__main__":
    main()
