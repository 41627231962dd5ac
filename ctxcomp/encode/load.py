"""``load_encoder``: a checkpoint, a head and a runtime become an ``Encoder``."""

from __future__ import annotations

import hashlib
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctxcomp.encode import graph
from ctxcomp.encode.encoder import Backend, Encoder
from ctxcomp.encode.heads import Head, checkpoint_head, head_sha256, merge, read_head
from ctxcomp.encode.onnx_backend import OnnxBackend
from ctxcomp.encode.torch_backend import TorchBackend
from ctxcomp.errors import InputError, ModelError
from ctxcomp.loading import Checkpoint, Pooling, open_checkpoint, pick_device

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Runtime = Literal["auto", "onnx", "torch"]
Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8"]
_LOCK = threading.Lock()


def load_encoder(
    model: str | Path = "minilm",
    *,
    head: str | Path = "none",
    runtime: Runtime = "auto",
    dtype: Dtype = "auto",
    device: str = "auto",
    threads: int = 0,
    batch_tokens: int = 2048,
    pooling: Pooling | None = None,
    revision: str | None = None,
    allow_download: bool = False,
) -> Encoder:
    """Load an encoder; the same arguments give the same object.

    Parameters
    ----------
    model: "minilm", a checkpoint directory, or a hub id in the local cache.
    head: "none", "token" for the checkpoint's own token-classification head, or the path of a head file.
    runtime: "auto" is ONNX Runtime on a CPU for the architectures it knows, torch otherwise.
    dtype: "auto" is float32 on a CPU, float16 on a GPU; "int8" is for ONNX Runtime, the half formats for torch.
    device: "auto" is a GPU where torch sees one.
    threads: CPU threads of ONNX Runtime, 0 for its own choice. torch keeps its process-wide setting.
    batch_tokens: padded tokens per forward pass, at most; bounds peak memory. MiniLM on 10,000 tokens in windows of
        512, 2 cores, best of 5: 0.86 s at 1,024, 0.87 at 2,048, 0.89 at 4,096, 0.94 at 8,192.
    pooling: overrides the checkpoint's.
    revision, allow_download: as for ``loading.open_checkpoint``.

    Raises
    ------
    InputError: arguments that no runtime can serve together.
    ModelError: the checkpoint or head is missing, damaged or of an unsupported kind.
    """
    if threads < 0 or batch_tokens < 1:
        raise InputError(f"threads must be >= 0 and batch_tokens >= 1, got {threads} and {batch_tokens}")
    # The file's hash is in the key, so that a head trained anew under the same name is read again.
    head_key = str(head) if str(head) in ("none", "token") else (str(head), head_sha256(Path(head)))
    with _LOCK:
        return _load(
            str(model), head_key, runtime, dtype, device, threads, batch_tokens, pooling, revision, allow_download
        )


@lru_cache(maxsize=16)
def _load(
    model: str, head_key: str | tuple[str, str], runtime: Runtime, dtype: Dtype, device: str, threads: int,
    batch_tokens: int, pooling: Pooling | None, revision: str | None, allow_download: bool,
) -> Encoder:  # fmt: skip
    checkpoint = open_checkpoint(model, revision=revision, allow_download=allow_download)
    head = head_key if isinstance(head_key, str) else read_head(Path(head_key[0]))
    if isinstance(head, Head) and head.weight.shape[1] != checkpoint.hidden_size:
        raise ModelError(
            f"the head {head_key[0]} is for states of width {head.weight.shape[1]}; {checkpoint.path} "
            f"has {checkpoint.hidden_size}"
        )
    runtime, device = _runtime(runtime, dtype, pick_device(device), checkpoint)
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    tokenizer = checkpoint.tokenizer()
    backend: Backend
    if runtime == "onnx":
        backend, labels = _onnx(checkpoint, head, dtype, threads)
    else:
        torch_backend = TorchBackend(checkpoint, None if head == "none" else head, device=device, dtype=dtype)
        backend, labels = torch_backend, torch_backend.num_labels
    weights_hash = checkpoint.weights_hash
    if isinstance(head, Head):
        weights_hash = hashlib.sha256((weights_hash + head.sha256).encode()).hexdigest()
    max_tokens = checkpoint.max_tokens
    cls_id, sep_id, pad_id = _specials(checkpoint, tokenizer)
    return Encoder(
        name=model, tokenizer=tokenizer, hidden_size=checkpoint.hidden_size, max_tokens=max_tokens,
        window=min(checkpoint.max_seq_length or max_tokens, max_tokens), num_labels=labels, weights_hash=weights_hash,
        cls_id=cls_id, sep_id=sep_id, pad_id=pad_id, runtime=runtime, dtype=dtype, device=device,
        pooling=pooling or checkpoint.pooling, batch_tokens=batch_tokens, backend=backend,
        labels=head.names if isinstance(head, Head) else (),
        independent=isinstance(head, Head) and head.independent,
    )  # fmt: skip


def _runtime(runtime: Runtime, dtype: str, device: str, checkpoint: Checkpoint) -> tuple[Runtime, str]:
    known = graph.supported(checkpoint.config)
    if runtime == "auto":
        runtime = "onnx" if known and device == "cpu" and dtype in ("auto", "float32", "int8") else "torch"
    if runtime == "onnx" and not known:
        raise ModelError(
            f"runtime='onnx' knows {', '.join(graph.FAMILIES)} with GELU; {checkpoint.path} is "
            f"{checkpoint.config['model_type']!r}: use runtime='torch'"
        )
    if runtime == "onnx" and (device != "cpu" or dtype in ("float16", "bfloat16")):
        raise InputError(f"runtime='onnx' runs float32 or int8 on the CPU, got dtype={dtype!r}, device={device!r}")
    if runtime == "torch" and dtype == "int8":
        raise InputError("dtype='int8' needs runtime='onnx' on the CPU")
    return runtime, device


def _onnx(checkpoint: Checkpoint, head: Head | str, dtype: str, threads: int) -> tuple[OnnxBackend, int]:
    tensors = checkpoint.tensors()
    parsed = checkpoint_head(tensors, str(checkpoint.path)) if head == "token" else head
    used = parsed if isinstance(parsed, Head) else None
    if used is not None:
        tensors = merge(tensors, used, str(checkpoint.path))
    built = graph.build(checkpoint.config, tensors, used, int8=dtype == "int8")
    return OnnxBackend(built, threads=threads), len(used.bias) if used else 0


def _specials(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Ids of the first special, the last special and the padding."""
    ids: list[int] = tokenizer.encode("").ids
    if len(ids) != 2:
        raise ModelError(f"the tokenizer of {checkpoint.path} wraps a text in {len(ids)} specials; 2 are needed")
    config: Any = checkpoint.config
    return ids[0], ids[1], int(config.get("pad_token_id") or 0)
