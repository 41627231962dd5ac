"""Models whose layers are rounded to nearest, and a tokenizer, for the tests of checkpoint formats."""

from typing import Any

import torch
from torch import nn

from ctxcomp.generate.weights.grid import find_grid
from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.models import is_linear, weight_of


def rounded(model: Any, *, bits: int = 4, group_size: int = 32, symmetric: bool = False) -> Any:
    """The model, every linear layer but the head quantized in place."""
    for name, module in list(model.named_modules()):
        if is_linear(module) and name != "lm_head":
            grid = find_grid(weight_of(module).float(), bits, group_size, symmetric=symmetric)
            layer = QuantizedLinear.from_weight(grid.quantized(weight_of(module).float()), module.bias)
            model.set_submodule(name, layer)
    return model


def weights(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What each quantized layer multiplies with."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, QuantizedLinear)}
    return {name: layer.to_weight().dequantize(dtype) for name, layer in layers.items()}


def words_tokenizer(size: int = 199) -> Any:
    """A tokenizer of numbered words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, size)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )
