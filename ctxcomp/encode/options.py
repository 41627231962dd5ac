"""The fields that every method with an encoder has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ctxcomp.encode.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Which checkpoint runs, and how.

    Parameters
    ----------
    model: "minilm" (all-MiniLM-L6-v2, embedded), a checkpoint directory, or a hub id that is in the local cache.
    runtime: "onnx" (CPU), "torch", or "auto" for the faster one that can run the checkpoint.
    dtype: "auto" is float32 on a CPU and float16 on a GPU; "int8" is for ONNX Runtime and
        costs up to 1.3 points of answer retention (nq20, keep .05 to .25).
    device: "auto", "cpu", "cuda", "cuda:1", ...
    threads: CPU threads; 0 leaves the choice to the runtime.
    batch_tokens: padded tokens per forward pass, at most; bounds peak memory.
    """

    model: str = "minilm"
    runtime: Literal["auto", "onnx", "torch"] = "auto"
    dtype: Literal["auto", "float32", "float16", "bfloat16", "int8"] = "auto"
    device: str = "auto"
    threads: int = 0
    batch_tokens: int = 2048

    def head_source(self) -> str:
        """The head that the method needs: "none", "token" for the checkpoint's own, or a head file."""
        return "none"

    def weights_hash(self) -> str:
        """What identifies the weights, whatever file they are in."""
        return self.load_encoder().weights_hash

    def load_encoder(self, head: str | None = None) -> Encoder:
        """The encoder with ``head``, or the method's own: loaded on first use, shared by all who ask for the same."""
        from ctxcomp.encode.load import load_encoder

        return load_encoder(
            self.model, head=head or self.head_source(), runtime=self.runtime, dtype=self.dtype, device=self.device,
            threads=self.threads, batch_tokens=self.batch_tokens,
        )  # fmt: skip
