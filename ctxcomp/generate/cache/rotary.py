"""The rotary position embedding of an attention layer, outside the layer: turning, turning back, the mean turn."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Which pairs of dimensions are turned, and how fast.

    Parameters
    ----------
    frequencies: ``[r/2]`` float32, radians per position; the first ``r`` of the head's dimensions are turned.
    interleaved: pairs are (0, 1), (2, 3), ... instead of (0, r/2), (1, r/2 + 1), ...

    Source: RoFormer (Su et al., 2021). A factor on the attention (YaRN) is left to the tensors, which hold it.
    """

    frequencies: Tensor
    interleaved: bool = False

    @classmethod
    def of(cls, module: Any) -> Rotary | None:
        """That of an attention module of transformers; None where positions are not rotary (GPT-2)."""
        parameters = getattr(module.config, "rope_parameters", None)
        if not parameters:
            return None
        layer_types = getattr(module.config, "layer_types", None)
        layer_type = layer_types[module.layer_idx] if layer_types else None
        if layer_type not in parameters:
            layer_type = None
        frequencies = _frequencies(module, parameters[layer_type] if layer_type else parameters, layer_type)
        return cls(frequencies, _interleaved(module))

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x [..., n, d]`` turned to ``positions [..., n]``; negative positions turn back. In float32."""
        angles = positions[..., None].float() * self.frequencies.to(x.device)
        return self._apply(x, angles.cos(), angles.sin())

    def mean_turn(self, positions: Tensor, size: int) -> Tensor:
        """The mean of the rotations to ``positions [..., m]``: ``[..., d, d]``, to be multiplied from the right."""
        angles = positions[..., None].float() * self.frequencies.to(positions.device)
        cos, sin = angles.cos().mean(-2)[..., None, :], angles.sin().mean(-2)[..., None, :]
        eye = torch.eye(size, device=positions.device).expand(*positions.shape[:-1], size, size)
        return self._apply(eye, cos, sin)

    def _apply(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        width = 2 * len(self.frequencies)
        turned, rest = torch.split(x.float(), [width, x.shape[-1] - width], dim=-1)
        if self.interleaved:
            first, second = turned[..., ::2], turned[..., 1::2]
        else:
            first, second = turned.chunk(2, dim=-1)
        parts = first * cos - second * sin, second * cos + first * sin
        if self.interleaved:
            return torch.cat([torch.stack(parts, dim=-1).flatten(-2), rest], dim=-1)
        return torch.cat([*parts, rest], dim=-1)


def _frequencies(module: Any, parameters: dict[str, Any], layer_type: str | None) -> Tensor:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config, kind = module.config, parameters.get("rope_type", "default")
    if kind != "default":
        options = {"layer_type": layer_type} if layer_type else {}
        found: Tensor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **options)[0]
        return found
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = int(size * parameters.get("partial_rotary_factor", 1.0))
    steps = torch.arange(0, width, 2, dtype=torch.float32)
    return torch.as_tensor(float(parameters["rope_theta"]) ** -(steps / width))


def _interleaved(module: Any) -> bool:
    """Asked of the model's own ``rotate_half``: which dimension is the partner of the first."""
    rotate_half = getattr(sys.modules[type(module).__module__], "rotate_half", None)
    return rotate_half is not None and abs(int(rotate_half(torch.arange(8))[0])) == 1
