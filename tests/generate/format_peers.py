"""What the real packages write and read; run by their Python, without ctxcomp.

python format_peers.py tensors PACKAGE OUT.safetensors     pack random weights: the fixtures beside this file
python format_peers.py read PACKAGE CHECKPOINT OUT.safetensors   load a checkpoint: weights as it decodes them, logits
python format_peers.py write PACKAGE MODEL CHECKPOINT      quantize a model in full precision and save it

PACKAGE is compressed-tensors, gptqmodel or autoawq. The fixtures were made by compressed-tensors 0.20.0 (act-order:
0.18.0), GPTQModel 7.7.0 and AutoAWQ 0.2.9 with torch 2.13.0 on a CPU; each file's metadata names its package.
"""

import importlib.metadata
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

IDS = torch.arange(3, 43).reshape(2, 20)


def grid(weight, bits, group_size, symmetric):
    """Scales and zero codes [N, G] of a weight [N, K], from its extremes."""
    groups = weight.reshape(len(weight), -1, group_size)
    top = 2**bits - 1
    if symmetric:
        scales = groups.abs().amax(-1) / (top / 2)
        return scales, torch.full_like(scales, 2 ** (bits - 1))
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scales = (high - low) / top
    return scales, (-low / scales).round().clamp(0, top)


def random_weight(n, k, seed):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.05


def compressed_tensors_cases():
    """bits x symmetry, one group per row; three dtypes of scales. Act-order was removed in 0.19: 0.18 makes that."""
    if importlib.metadata.version("compressed-tensors") < "0.19":
        yield "actorder_asym", 4, 16, False, True, torch.float16
        return
    for bits in range(2, 9):
        for symmetric in (True, False):
            yield f"w{bits}_{'sym' if symmetric else 'asym'}", bits, 16, symmetric, False, torch.bfloat16
    yield "channel_sym", 4, 48, True, False, torch.float16
    yield "channel_asym", 3, 48, False, False, torch.float32


def pack_compressed_tensors():
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    tensors = {}
    for seed, (case, bits, size, symmetric, act_order, dtype) in enumerate(compressed_tensors_cases()):
        weight = random_weight(12, 48, seed)
        channel = size == weight.shape[1]
        order = torch.randperm(48, generator=torch.Generator().manual_seed(seed)) if act_order else torch.arange(48)
        scales, zeros = grid(weight[:, order], bits, size, symmetric)
        state = {"weight": weight, "weight_scale": scales.to(dtype)}
        state["weight_zero_point"] = (zeros - 2 ** (bits - 1)).to(torch.int8)
        if act_order:
            state["weight_g_idx"] = torch.empty(48, dtype=torch.int32).scatter_(
                0, order, torch.arange(48).int() // size
            )
        args = QuantizationArgs(
            num_bits=bits,
            symmetric=symmetric,
            strategy="channel" if channel else "group",
            group_size=None if channel else size,
            actorder="group" if act_order else None,
        )
        scheme = QuantizationScheme(targets=["Linear"], weights=args)
        packed = PackedQuantizationCompressor.compress(state, scheme)
        read = PackedQuantizationCompressor.decompress(packed, scheme)
        tensors |= {f"{case}.{key}": value for key, value in packed.items()} | {f"{case}.weight": read["weight"]}
    return tensors


def pack_gptqmodel():
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    class Settings:
        pack_dtype = torch.int32

    n, k, size, tensors = 32, 32, 16, {}
    cases = [(bits, version, False, False) for bits in (2, 3, 4, 8) for version in (1, 2)]
    cases += [(4, 1, True, False), (4, 1, True, True)]
    for seed, (bits, version, symmetric, act_order) in enumerate(cases):
        case = f"w{bits}_v{version}_{'sym' if symmetric else 'asym'}{'_actorder' if act_order else ''}"
        linear = torch.nn.Linear(k, n, bias=False)
        linear.weight.data = random_weight(n, k, seed)
        if bits == 4 and not symmetric:
            linear.weight.data[3] = linear.weight.data[3].abs()  # zero points of 0, which version 1 stores as -1
        order = torch.randperm(k, generator=torch.Generator().manual_seed(seed)) if act_order else torch.arange(k)
        scales, zeros = grid(linear.weight.data[:, order], bits, size, symmetric)
        groups = torch.empty(k, dtype=torch.int32).scatter_(0, order, torch.arange(k).int() // size)
        layer = TorchLinear(
            bits=bits, group_size=size, sym=symmetric, desc_act=act_order, in_features=k, out_features=n
        )
        layer.pack_original(linear, scales.half().float(), zeros, groups)
        layer.post_init()
        read = layer.dequantize_weight().T.contiguous()
        Settings.bits = bits
        if version == 1:
            convert_gptq_v2_to_v1_format_module(layer, Settings)
        stored = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")} | {"weight": read}
        tensors |= {f"{case}.{name}": tensor.contiguous() for name, tensor in stored.items()}
    linear.weight.data = random_weight(n, k, 99)
    scales, zeros = grid(linear.weight.data, 4, size, False)
    layer = AwqTorchLinear(bits=4, group_size=size, sym=False, desc_act=False, in_features=k, out_features=n)
    layer.pack(linear, scales.half(), zeros)
    read = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, size).T.contiguous()
    stored = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")} | {"weight": read}
    return tensors | {f"awq.{name}": tensor.contiguous() for name, tensor in stored.items()}


def pack_autoawq():
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    tensors = {}
    for seed, size in enumerate((32, 64)):
        linear = torch.nn.Linear(64, 32, bias=False).half()
        linear.weight.data = random_weight(32, 64, seed).half()
        scales, zeros = grid(linear.weight.data.float(), 4, size, False)
        layer = WQLinear_GEMM.from_linear(linear, 4, size, scales=scales.T.half(), zeros=zeros.T.contiguous())
        read = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, size).T.contiguous()
        stored = {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales")} | {"weight": read}
        tensors |= {f"g{size}.{name}": tensor.contiguous() for name, tensor in stored.items()}
    return tensors


def read_transformers(path):
    """transformers with the compressed-tensors package."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path)
    logits = model(IDS).logits  # the first call decompresses
    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    return weights | {"logits": logits}


def read_gptqmodel(path):
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear.torch_awq import AwqTorchLinear
    from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm

    from_awq = "awq" in Path(path, "config.json").read_text()
    backend = BACKEND.AWQ_TORCH if from_awq else BACKEND.GPTQ_TORCH
    model = GPTQModel.load(path, device="cpu", backend=backend, dtype=torch.float16).model
    tensors = {"logits": model(IDS).logits}
    for name, module in model.named_modules():
        if isinstance(module, AwqTorchLinear):
            read = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, module.group_size)
            tensors[name] = read.T
        elif hasattr(module, "dequantize_weight"):
            tensors[name] = module.dequantize_weight().T
    return tensors


def write_compressed_tensors(source, target):
    """The package's own lifecycle: schemes, parameters from extremes, compression, saving."""
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source)
    config = QuantizationConfig(config_groups={"W4A16_ASYM": ["Linear"]}, ignore=["lm_head"])
    for scheme in config.config_groups.values():
        scheme.weights.group_size = 32
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            groups = module.weight.data.reshape(len(module.weight), -1, 32)
            scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), module.quantization_scheme.weights)
            module.weight_scale.data.copy_(scale)
            module.weight_zero_point.data.copy_(zero.round())
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(target)


def write_gptqmodel(source, target):
    from gptqmodel import GPTQModel, QuantizeConfig

    model = GPTQModel.load(source, QuantizeConfig(bits=4, group_size=32, desc_act=True))
    model.quantize([{"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1])}] * 8, batch_size=1)
    model.save(target)


DOES = {
    ("tensors", "compressed-tensors"): pack_compressed_tensors,
    ("tensors", "gptqmodel"): pack_gptqmodel,
    ("tensors", "autoawq"): pack_autoawq,
    ("read", "compressed-tensors"): read_transformers,
    ("read", "gptqmodel"): read_gptqmodel,
    ("write", "compressed-tensors"): write_compressed_tensors,
    ("write", "gptqmodel"): write_gptqmodel,
}


@torch.no_grad()
def main():
    what, package, *arguments = sys.argv[1:]
    if what == "write":
        DOES[what, package](*arguments)
        return
    *inputs, out = arguments
    tensors = DOES[what, package](*inputs)
    about = {"made_by": f"{package} {importlib.metadata.version(package)}, torch {torch.__version__}"}
    save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, out, metadata=about)


if __name__ == "__main__":
    main()
