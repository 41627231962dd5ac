"""How fast the ways to run MiniLM on a CPU are, and how far each is from torch in float32.

``python -m ctxcomp_eval.bench.encoders [--rounds 9] [--threads 2]`` writes ``eval/results/encoders.csv``: one row per
variant and workload. Rounds are interleaved over the variants, so that a change of the machine's load hits all alike;
``cpu_s`` is processor time per thread, which a busy machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctxcomp.encode import Encoder, load_encoder
from ctxcomp.encode.windows import windows
from ctxcomp.loading import resolve
from ctxcomp_eval.bench.common import RESULTS, percentiles, write_csv

Ids = NDArray[np.int64]
Run = Callable[[Ids], NDArray[np.float32]]
PACKAGES = ("onnxruntime", "onnx", "torch", "transformers", "tokenizers", "numpy")


def workloads(encoder: Encoder) -> dict[str, Ids]:
    """English prose of the standard library, cut to rows of equal length, as ids ``[rows, n]``."""
    from pydoc_data.topics import topics

    ids = encoder.tokenize([" ".join(topics[name] for name in sorted(topics))])[0].ids

    def rows(count: int, length: int, start: int = 0) -> Ids:
        step = length - 2
        return np.stack([encoder.with_specials(ids[start + i * step : start + (i + 1) * step]) for i in range(count)])

    spans = windows(10_000, encoder.window - 2, 32)
    document = np.stack([encoder.with_specials(ids[a:b][: spans[0][1]]) for a, b in spans])
    return {"20 passages x 130": rows(20, 130), "120 sentences x 25": rows(120, 25), "10,000 tokens": document}


def torch_eager(dtype: str, threads: int) -> Run:
    """Transformers with SDPA."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model: Any = AutoModel.from_pretrained(resolve("minilm"), attn_implementation="sdpa", dtype=getattr(torch, dtype))
    model.eval()

    def run(ids: Ids) -> NDArray[np.float32]:
        with torch.inference_mode():
            states = model(torch.from_numpy(ids), torch.ones(ids.shape, dtype=torch.long)).last_hidden_state
        return np.asarray(states.float().numpy())

    return run


def exported(folder: Path, threads: int, *, dynamo: bool, fuse: bool = False, int8: bool = False) -> Run:
    """``torch.onnx.export``, then ONNX Runtime's optimisations; the transformer optimizer and int8 where asked."""
    import onnxruntime as ort
    import torch
    from transformers import AutoModel

    class States(torch.nn.Module):
        """The one output that the export needs."""

        def __init__(self) -> None:
            super().__init__()
            self.model: Any = AutoModel.from_pretrained(resolve("minilm"), attn_implementation="eager").eval()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    path = folder / f"dynamo-{dynamo}.onnx"
    example = torch.ones((2, 16), dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    axes = {0: "rows", 1: "n"}
    shapes: dict[str, Any] = {"dynamic_shapes": dict.fromkeys(names, axes)} if dynamo else {
        "dynamic_axes": dict.fromkeys([*names, "last_hidden_state"], axes), "opset_version": 17
    }  # fmt: skip
    torch.onnx.export(
        States().eval(),
        (example, example.clone()),  # the exporter would take one tensor given twice for one input
        str(path),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamo=dynamo,
        external_data=False,
        **shapes,
    )
    if fuse:
        from onnxruntime.transformers import optimizer

        fused = optimizer.optimize_model(str(path), model_type="bert", num_heads=12, hidden_size=384)
        path = folder / "fused.onnx"
        fused.save_model_to_file(str(path))
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        source, path = path, folder / "int8.onnx"
        quantize_dynamic(
            source, path, per_channel=True, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1}
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: np.asarray(
        session.run(["last_hidden_state"], dict(zip(names, (ids, np.ones_like(ids)), strict=True)))[0]
    )


def ours(dtype: Any, threads: int) -> Run:
    """The library, without its deduplication and bucketing."""
    backend = load_encoder("minilm", dtype=dtype, runtime="onnx", threads=threads).backend
    return lambda ids: backend.run(ids, np.full(len(ids), ids.shape[1]), "hidden")


def variants(folder: Path, threads: int) -> dict[str, Run]:
    """Every way to run the model, by name."""
    return {
        "torch sdpa float32": torch_eager("float32", threads),
        "torch sdpa bfloat16": torch_eager("bfloat16", threads),
        "export": exported(folder, threads, dynamo=False),
        "export dynamo": exported(folder, threads, dynamo=True),
        "export + bert fusion": exported(folder, threads, dynamo=False, fuse=True),
        "export + bert fusion + int8": exported(folder, threads, dynamo=False, fuse=True, int8=True),
        "ctxcomp float32": ours("float32", threads),
        "ctxcomp int8": ours("int8", threads),
    }


def measure(runs: Mapping[str, Run], inputs: Mapping[str, Ids], rounds: int, threads: int) -> list[dict[str, Any]]:
    """Interleaved timings and the error against the first variant."""
    wall: dict[tuple[str, str], list[float]] = {}
    cpu: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            for load, ids in inputs.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                run(ids)
                if turn:  # the first round warms up
                    wall.setdefault((name, load), []).append(time.perf_counter() - start)
                    cpu.setdefault((name, load), []).append((time.process_time() - start_cpu) / threads)
    reference = next(iter(runs.values()))
    rows = []
    for (name, load), seconds in wall.items():
        expected, got = (run(inputs[load]).mean(axis=1) for run in (reference, runs[name]))
        cosine = (expected * got).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(got, axis=1)
        costs = {"cpu_s": float(np.median(cpu[name, load])), "min_s": min(seconds)}
        rows.append(_row(name, load, threads, **percentiles(seconds), **costs, min_cosine=f"{cosine.min():.6f}"))
    return rows


START = "from ctxcomp.encode import load_encoder; load_encoder({options}).embed(['hello world'])"
MEMORY = """
import re
from ctxcomp.encode import load_encoder
encoder = load_encoder({options})
base = encoder.embed(['a'])
encoder.embed([' '.join('word' + str((7 * i + j) % 900) for j in range(43)) for i in range(1000)])
# Not getrusage: its maximum includes the parent's memory from before exec.
print(int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024)
"""


def processes(threads: int, rounds: int) -> list[dict[str, Any]]:
    """Whole processes: start to first embedding, and the peak memory of 1,000 passages."""
    rows = []
    for dtype in ("float32", "int8"):
        options = f"'minilm', dtype={dtype!r}, threads={threads}"
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", START.format(options=options)], check=True)
            seconds.append(time.perf_counter() - start)
        done = subprocess.run([sys.executable, "-c", MEMORY.format(options=options)], check=True, capture_output=True)
        name = f"ctxcomp {dtype}"
        rows.append(_row(name, "process start to first embedding", threads, **percentiles(seconds), min_s=min(seconds)))
        rows.append(_row(name, "1,000 passages x 130", threads, peak_mib=float(done.stdout)))
    return rows


def _row(variant: str, workload: str, threads: int, **values: Any) -> dict[str, Any]:
    columns = ("p20_s", "p50_s", "p80_s", "min_s", "cpu_s", "min_cosine", "peak_mib")
    row = {"variant": variant, "workload": workload, "threads": threads}
    return row | {column: values.get(column, "") for column in columns}


def main() -> None:
    """Run everything and write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "encoders.csv")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = variants(Path(folder), given.threads)
        rows = measure(runs, workloads(load_encoder("minilm", threads=given.threads)), given.rounds, given.threads)
    rows += processes(given.threads, min(given.rounds, 5))
    write_csv(given.out, rows, PACKAGES)
    for row in rows:
        print(*(f"{value:.4g}" if isinstance(value, float) else value for value in row.values()), sep=" | ")


if __name__ == "__main__":
    main()
