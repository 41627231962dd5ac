"""How encoders run: one interface over ONNX Runtime (CPU, the default) and torch (GPU, other architectures)."""

from ctxcomp.encode.encoder import Encoder
from ctxcomp.encode.load import load_encoder
from ctxcomp.encode.tokens import Tokens

__all__ = ["Encoder", "Tokens", "load_encoder"]
