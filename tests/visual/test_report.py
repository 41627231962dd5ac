"""Predicted operations are torch's own count; what is measured is there; pictures show what was kept."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from visual.families import FAMILIES, model_of, padded, prompt

from ctxcomp import Budget, InputError, ModelError
from ctxcomp.visual import VisualPruner, picture, prefill_flops, report
from ctxcomp.visual.memory import peak_bytes


def counted(model, given):
    # The fused CPU attention is the one operation that torch's counter does not know: the plain one is its equal.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**given, logits_to_keep=1)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"qwen3_vl_moe"}))
def test_predicted_operations_are_counted_ones(name):
    inputs, layout = padded(name)
    pruned = VisualPruner(model=model_of(name), method="stride").prune(inputs, Budget(keep=0.25), **layout)
    found = report(pruned)
    assert counted(model_of(name), pruned.model_inputs()) == found.after.flops
    assert counted(model_of(name), pruned.whole(inputs)) == found.before.flops
    assert found.after.flops < found.before.flops


def test_a_report_measures():
    inputs, layout = prompt("llava_next")
    pruned = VisualPruner(model=model_of("llava_next"), method="stride").prune(inputs, Budget(tokens=31), **layout)
    found = report(pruned, inputs)
    assert (found.before.tokens, found.after.tokens) == (138, 138 - 124 + 31)
    assert found.before.seconds > 0
    assert found.after.kv_bytes / found.before.kv_bytes == pytest.approx(45 / 138)
    assert found.before.kv_bytes < found.before.peak_bytes
    assert found.after.peak_bytes < 0.5 * found.before.peak_bytes
    text = str(found)
    assert "prompt 1 page 1: 72 -> 18 visual tokens (keep 0.250)" in text
    assert "KV cache" in text
    assert "KV cache" not in str(report(pruned))


def test_peaks_are_what_lives_at_once():
    def work():
        first = torch.zeros(1000)
        second = first + 1
        second.view(10, 100).add_(1)  # the same memory
        del first
        return second * 2, second[:5]

    assert peak_bytes(work) == 2 * 4000
    assert peak_bytes(lambda: None) == 0


def test_the_operations_of_experts_are_not_told():
    inputs, _ = prompt("qwen3_vl_moe")
    pruned = VisualPruner(model=model_of("qwen3_vl_moe"), method="stride").prune(inputs, Budget(keep=0.5))
    with pytest.raises(ModelError, match="routes tokens to experts"):
        prefill_flops(pruned.adapter.language, None, 10)
    found = report(pruned, inputs)
    assert found.after.flops is None
    assert "GFLOP" not in str(found)
    assert "KV cache" in str(found)


@pytest.fixture
def white():
    pil = pytest.importorskip("PIL.Image")
    return pil.new("RGB", (120, 80), "white")


def test_a_picture_shows_what_was_kept(white):
    inputs, layout = prompt("qwen2_vl")
    pruned = VisualPruner(model=model_of("qwen2_vl"), method="random").prune(inputs, Budget(keep=0.5), **layout)
    shown = picture(pruned, 0, white, dim=0.2)
    page = pruned.encoded.pages[0]
    kept = set(pruned.kept[pruned.kept < len(page)].tolist())
    for token, (top, left, bottom, right) in enumerate(page.boxes.tolist()):
        middle = (round((left + right) / 2 * 120), round((top + bottom) / 2 * 80))
        assert shown.getpixel(middle) == ((255,) * 3 if token in kept else (51,) * 3)
    assert shown.size == white.size


def test_a_picture_of_crops(white):
    inputs, layout = prompt("llava_next")
    whole = VisualPruner(model=model_of("llava_next"), method="stride").prune(inputs, Budget(keep=1.0), **layout)
    assert picture(whole, 1, white).getextrema() == ((255, 255),) * 3
    page = whole.encoded.pages[0]
    assert page.boxes[page.crop(0)].min() == 0
    assert page.boxes[page.content].max() == 1


def test_pictures_refuse(white):
    inputs, layout = prompt("idefics3")
    known = VisualPruner(model=model_of("idefics3"), method="stride").prune(inputs, Budget(keep=0.5), **layout)
    with pytest.raises(InputError, match="pages 0 to 1"):
        picture(known, 2, white)
    with pytest.raises(InputError, match=r"PIL\.Image"):
        picture(known, 0, "page.png")
    with pytest.raises(InputError, match="dim"):
        picture(known, 0, white, dim=2)
    inputs, _ = prompt("internvl")
    unknown = VisualPruner(model=model_of("internvl"), method="stride").prune(inputs, Budget(keep=0.5))
    with pytest.raises(InputError, match="tiles="):
        picture(unknown, 0, white)
