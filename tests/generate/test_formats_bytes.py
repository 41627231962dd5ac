"""Byte for byte what compressed-tensors, GPTQModel and AutoAWQ write, from files that they wrote (see format_peers)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctxcomp.generate.formats.awq import Awq
from ctxcomp.generate.formats.base import Format, Scheme
from ctxcomp.generate.formats.compressed_tensors import CompressedTensors
from ctxcomp.generate.formats.gptq import Gptq, GptqV2
from ctxcomp.generate.formats.headers import Entry
from ctxcomp.generate.weights.linear import QuantizedLinear

FIXTURES = Path(__file__).parent / "fixtures"
DTYPES = {torch.int32: "I32", torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def cases(file: str) -> dict[str, dict[str, torch.Tensor]]:
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(FIXTURES / f"{file}.safetensors").items():
        case, _, name = key.rpartition(".")
        found.setdefault(case, {})[name] = tensor
    return dict(sorted(found.items()))


def gptq_of(case: str) -> Format:
    width, version, symmetry, *rest = case.split("_")
    scheme = Scheme(int(width[1:]), 16, symmetry == "sym", bool(rest))
    return Gptq(scheme, version=int(version[1:]))


def compressed_of(case: str) -> Format:
    name, symmetry = case.split("_")
    bits, size = {"channel": (4 if symmetry == "sym" else 3, 0), "actorder": (4, 16)}.get(name) or (int(name[1:]), 16)
    return CompressedTensors(((Scheme(bits, size, symmetry == "sym", name == "actorder"), ("Linear",)),))


COMPRESSED = cases("compressed_tensors") | cases("compressed_tensors_actorder")
GPTQ = {name: case for name, case in cases("gptqmodel").items() if name != "awq"}
AWQ = {"gptqmodel": (cases("gptqmodel")["awq"], 16)} | {
    name: (case, int(name[1:])) for name, case in cases("autoawq").items()
}


def decoded(fmt: Format, tensors: dict[str, torch.Tensor]) -> QuantizedLinear:
    """The layer as we read it, compared with how the package reads it."""
    weight = tensors["weight"]
    n, k = weight.shape
    headers = {name: Entry(DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
    chosen = fmt.select("layer", (n, k), headers)
    layer = QuantizedLinear.from_weight(fmt.decode("layer", (n, k), {name: tensors[name] for name in chosen}))
    assert torch.equal(layer.to_weight().dequantize(weight.dtype), weight)
    return layer


def assert_same_bytes(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert set(ours) == set(theirs) - {"weight"}
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name
        assert tensor.is_contiguous(), name


@pytest.mark.parametrize("case", COMPRESSED)
def test_compressed_tensors(case: str) -> None:
    layer = decoded(compressed_of(case), COMPRESSED[case])
    if case != "actorder_asym":  # what 0.19 and later cannot read is not written
        assert_same_bytes(CompressedTensors.encode("layer", layer.to_weight()), COMPRESSED[case])


def test_every_width_is_covered() -> None:
    assert {f"w{bits}_{kind}" for bits in range(2, 9) for kind in ("sym", "asym")} < set(COMPRESSED)


@pytest.mark.parametrize("case", GPTQ)
def test_gptq(case: str) -> None:
    layer = decoded(gptq_of(case), GPTQ[case])
    writer = Gptq if "_v1_" in case else GptqV2
    assert_same_bytes(writer.encode("layer", layer.to_weight()), GPTQ[case])


def test_gptq_fixture_has_zero_points_of_zero() -> None:
    """Those are what version 1 stores as -1, borrowing from the neighbour."""
    layer = decoded(gptq_of("w4_v1_asym"), GPTQ["w4_v1_asym"])
    zeros = layer.to_weight().zeros
    assert zeros is not None
    assert bool((zeros == 0).any())


@pytest.mark.parametrize("case", AWQ)
def test_awq(case: str) -> None:
    tensors, group_size = AWQ[case]
    layer = decoded(Awq(group_size), tensors)
    assert_same_bytes(Awq.encode("layer", layer.to_weight()), tensors)
