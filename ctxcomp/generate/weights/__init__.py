"""Compressed weights of a causal language model: one file per method, one call (`quantize`) for all."""

from ctxcomp.generate.weights.linear import QuantizedLinear
from ctxcomp.generate.weights.quantize import quantize
from ctxcomp.generate.weights.report import QuantizationReport
from ctxcomp.generate.weights.tensors import Outliers, QuantizedWeight

__all__ = ["Outliers", "QuantizationReport", "QuantizedLinear", "QuantizedWeight", "quantize"]
