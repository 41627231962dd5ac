"""DFloat11 decoding compiles for GPUs that are not here."""

from __future__ import annotations

import pytest
from ops.aot import ARCHITECTURES, Variant, compile_all

DECODE = Variant(
    "ctxcomp_kernels.dfloat11.fused:decode_kernel",
    {"sign_mantissa_ptr": "*u8", "stream_ptr": "*i64", "gaps_ptr": "*u8", "positions_ptr": "*i64",
     "lookup_ptr": "*i16", "out_ptr": "*i16", "chunks": "i32", "n": "i32"},
    {"LIMIT": 12, "BLOCK": 256},
    (),
    {"num_warps": 8},
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_resources(arch):
    binary = compile_all({"decode": DECODE}, arch)["decode"]
    assert binary.spilled == 0
    assert binary.registers <= 64  # eight programs of eight warps would fit at 32
    assert binary.shared <= 4096
    assert binary.count(r"ld\.global.*evict_last")
