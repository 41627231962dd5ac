"""Visual token pruning: what choosing costs beside the vision tower, and what the prefill saves.

Writes results/visual.csv.

    python -m ctxcomp_eval.bench.visual

Weights are random: nothing here says anything about accuracy. The tower has the shapes of SigLIP so400m (384 pixels,
729 tokens, width 1152) in fp32 with 3 of its 27 layers, which are all alike; one page is encoded, and its time is
multiplied by 9 and by the number of pages. Pruning is timed in full, from features to the shorter prompt, on as many
pages, which are the one with noise. Seconds are CPU seconds of this process on one thread, since they depend less on
what else the machine does: the fastest of three runs of tower and method, of one run for "fastv" and "scm". Those two
read the first layer of the language model, here of the size of Qwen2-7B's, and queries and keys of the second, over
the whole prompt.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaConfig, LlavaForConditionalGeneration

from ctxcomp.types import Budget
from ctxcomp.visual import METHODS, VisualPruner, report
from ctxcomp.visual.encoded import Encoded
from ctxcomp.visual.watch import Heard
from ctxcomp_eval.bench.common import RESULTS, write_csv

IMAGE, TOKENS, LAYERS, MEASURED_LAYERS = 900, 729, 27, 3
SEVEN_BILLION = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4,
    "num_hidden_layers": 2,
}  # fmt: skip
SMALL = {
    "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4,
    "num_hidden_layers": 4,
}  # fmt: skip
RUNS = 3
SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": MEASURED_LAYERS,
}  # fmt: skip
NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 1}


def model_of(tower: dict[str, int], language: dict[str, int]) -> Any:
    """A LLaVA of 729 tokens a page, with random weights."""
    torch.manual_seed(0)
    text = {"model_type": "llama", "vocab_size": 1000, "max_position_embeddings": 16384, **language}
    vision = {"model_type": "siglip_vision_model", "image_size": 384, "patch_size": 14, **tower}
    config = LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_token_index=IMAGE,
        vision_feature_select_strategy="full", vision_feature_layer=-1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config).eval()  # type: ignore[no-untyped-call]


def inputs_of(pages: int) -> dict[str, torch.Tensor]:
    """A prompt of pages of noise, with text around them."""
    generator = torch.Generator().manual_seed(1)
    ids = [5, 6]
    for _ in range(pages):
        ids += [IMAGE] * TOKENS + [7]
    row = torch.tensor([[*ids, 8, 9, 10, 11]])
    pixels = torch.randn(pages, 3, 384, 384, generator=generator)
    return {"input_ids": row, "attention_mask": torch.ones_like(row), "pixel_values": pixels}


def overheads(pages: int = 10, keep: float = 0.25) -> Iterator[dict[str, Any]]:
    """For each method what choosing costs, against the tower's time for the same pages."""
    model, inputs = model_of(SO400M, SEVEN_BILLION), inputs_of(1)
    adapter = VisualPruner(model=model).adapter
    layers = sorted({layer for method in METHODS.values() for layer in method.tower_layers})
    one = adapter.encode(inputs, layers)
    tower = min(timed(lambda: adapter.encode(inputs, layers)) for _ in range(RUNS)) * LAYERS / MEASURED_LAYERS
    tower *= pages
    inputs = inputs_of(pages)
    relevance = list(torch.rand(pages, 27, 27, generator=torch.Generator().manual_seed(3)))
    for name, method in METHODS.items():
        pruner, maps = VisualPruner(model=model, method=name), relevance if name == "retriever" else None
        seconds = min(
            timed(lambda e=encoded: pruner.prune_encoded(inputs, e, Budget(keep=keep), maps=maps))  # noqa: B023
            for encoded in (repeated(one, pages) for _ in range(1 if method.scorer.language_layer else RUNS))
        )
        yield (
            {
                "what": "pruning overhead", "name": name, "pages": pages, "tokens_in": pages * TOKENS,
                "tokens_out": int(pages * TOKENS * keep), "cpu_seconds": seconds, "against_cpu_seconds": tower,
                "share": seconds / tower, "target": 0.05, "note": method.summary,
            }
        )  # fmt: skip


def repeated(one: Encoded, pages: int) -> Encoded:
    """One page as several, each with its own noise."""
    features = one.features.repeat(pages, 1)
    features += 0.1 * features.std() * torch.randn(features.shape, generator=torch.Generator().manual_seed(2))
    heard = {
        layer: [Heard(call.query.repeat(pages, 1, 1, 1), call.key.repeat(pages, 1, 1, 1), call.scale, None)]
        for layer, (call,) in one.signals.heard.items()
    }
    signals = replace(one.signals, heard=heard, members=torch.arange(len(features))[:, None])
    return replace(one, features=features, pages=one.pages * pages, samples=(0,) * pages, signals=signals)


def prefill(pages: int = 3, keep: float = 0.25) -> dict[str, Any]:
    """Operations predicted and counted, and the time of both prefills."""
    model, inputs = model_of(NARROW, SMALL), inputs_of(pages)
    pruned = VisualPruner(model=model, method="stride").prune(inputs, Budget(keep=keep))
    found = report(pruned)
    counts, seconds = [], []
    for given in (pruned.whole(inputs), pruned.model_inputs()):
        with torch.no_grad():
            seconds.append(min(timed(lambda g=given: model(**g, logits_to_keep=1)) for _ in range(3)))
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**given, logits_to_keep=1)
        counts.append(counter.get_total_flops())
    exact = counts == [found.before.flops, found.after.flops]
    return {
        "what": "prefill", "name": "predicted = counted" if exact else f"predicted is not counted: {counts}",
        "pages": pages, "tokens_in": found.before.tokens, "tokens_out": found.after.tokens,
        "cpu_seconds": seconds[1], "against_cpu_seconds": seconds[0], "share": seconds[1] / seconds[0],
        "target": (found.after.flops or 0) / (found.before.flops or 1),
        "note": f"{found.before.flops} -> {found.after.flops} operations; target is their quotient",
    }  # fmt: skip


def timed(work: Any) -> float:
    """CPU seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def show(row: dict[str, Any]) -> None:
    """One line."""
    print(
        f"{row['what']:17} {row['name']:20} {row['cpu_seconds']:.3f} s of {row['against_cpu_seconds']:.2f} s",
        flush=True,
    )


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for row in chain([prefill()], overheads()):
        rows.append(row)
        show(row)
        write_csv(RESULTS / "visual.csv", rows, ("ctxcomp", "torch", "transformers"))


if __name__ == "__main__":
    main()
