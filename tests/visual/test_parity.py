"""The same selections as the methods' own code, on 200 and more seeded cases each.

The fixtures hold what the reference functions chose on the inputs of ``parity_cases``, run outside of this tree on
torch 2.13 (CPU); sets of tokens are hexadecimal bit masks, merged features a digest of three weighted sums:

- GlobalCom2 96b2d00 (Apache-2.0), ``llava/model/llava_arch.py``: ``generate_scale_for_crop_features(scores[0], columns,
  rows, base_scale=keep)``, ``compress_thumbnail`` and, inside ``compress_crops``, ``select_topk_crop_features``. Where
  its unpadding leaves nothing of a very flat image it raises, and the case is void.
- VisionZip 3151f6d (Apache-2.0), ``visionzip/clip_encoder.py``: ``forward`` of its tower on given attentions and keys.
- LLaVA-PruMerge 097c041 (Apache-2.0), ``clip_encoder.py``: ``token_prune_merge_advanced`` on given queries and keys,
  adaptive for every third seed.
- MMTok d1522cd (Apache-2.0), ``mmtok/core/semantic_selector.py``: ``mm_coverage_selection`` with alpha 0.5 and
  temperatures 0.02 and 0.2.

Deviations that are bugs of the reference: where padding covers the whole first crop of a row of crops, GlobalCom2's
``interpolate_and_split_cls_attn_scores`` takes that row for one without height, and gives the crops of later rows the
thumbnail's scores of the wrong places; such cases are left out.

The inputs are continuous, so no two scores are equal; here equal ones go to the first token, there to any.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from visual.parity_cases import digest, globalcom2_case, mmtok_case, prumerge_case, visionzip_case, written

from ctxcomp.visual.allocators import mass_of_crops
from ctxcomp.visual.encoded import View
from ctxcomp.visual.layout import Page, page_of_grid
from ctxcomp.visual.mergers import Gather, PruMerge, outlier_share
from ctxcomp.visual.scorers import LocalAndGlobal, Scorer
from ctxcomp.visual.selectors import Coverage, TopK, dominant_and_targets, greedy_cover
from ctxcomp.visual.signals import Signals
from ctxcomp.visual.watch import Heard


def expected(name):
    return json.loads((Path(__file__).parent / "fixtures" / f"{name}.json").read_text())


@dataclass(frozen=True)
class Given(Scorer):
    """Scores that a test brings along."""

    values: tuple[float, ...] = ()

    def score(self, view):
        return torch.tensor(self.values)


def view_of(page, features=None, signals=None):
    features = torch.zeros(len(page), 1) if features is None else features
    return View(page, features, signals, (0, len(page)))


def unpadded_page(side, rows, columns, height, width):
    """A thumbnail and crops without the padding of the image, as LLaVA-NeXT's first code cuts it off."""
    full_height, full_width = rows * side, columns * side
    top = left = 0
    if width / height > full_width / full_height:
        top = (full_height - int(height * (full_width / width))) // 2
    else:
        left = (full_width - int(width * (full_height / height))) // 2
    y, x = torch.meshgrid(torch.arange(full_height), torch.arange(full_width), indexing="ij")
    inside = (y >= top) & (y < full_height - top) & (x >= left) & (x < full_width - left)
    y, x = y[inside], x[inside]
    crop = 1 + y // side * columns + x // side
    place = y % side * side + x % side
    order = torch.argsort(crop * side * side + place)
    y, x, crop, place = y[order], x[order], crop[order], place[order]
    boxes = torch.stack([y - top, x - left, y - top + 1, x - left + 1], dim=1).float()
    base = page_of_grid(side, side)
    n = len(base) + len(crop)
    page = Page(
        torch.cat([base.crops, crop]), torch.cat([base.rows, place // side]), torch.cat([base.columns, place % side]),
        torch.cat([base.boxes, boxes]), torch.full((n,), -1), torch.zeros(n, dtype=torch.bool), 0, (rows, columns),
    )  # fmt: skip
    return page, (crop - 1) * side * side + place


def test_globalcom2():
    compared = 0
    for seed, scales, *kept in expected("globalcom2"):
        side, rows, columns, height, width, keep, scores = globalcom2_case(seed)
        if scales is None:
            continue
        factors = (keep * (1 + mass_of_crops(scores[0].view(side, side), (rows, columns), 10.0))).clamp(max=1)
        assert factors.tolist() == pytest.approx(scales, abs=2e-9)
        page, patches = unpadded_page(side, rows, columns, height, width)
        if rows > 1 and not len(page.crop(1)):
            continue  # see the list of deviations above
        local = torch.cat([scores[0], scores[1:].flatten()[patches]])
        view = view_of(page)
        total = LocalAndGlobal(Given(tuple(local.tolist()))).score(view)
        whole = TopK().order(view, total, page.crop(0), int(side * side * keep))
        assert written(whole, side * side) == kept[0], seed
        for number, scale in enumerate(scales, 1):
            tokens = page.crop(number)
            chosen = TopK().order(view, total, tokens, int(len(tokens) * scale))
            assert written(torch.searchsorted(tokens, chosen), len(tokens)) == kept[1][number - 1], seed
        compared += 1
    assert compared >= 200


def signals_of(n, query, key):
    heard = {0: [Heard(query, key, 1.0, None)]}
    return Signals(heard, torch.arange(n)[:, None], 1, None, lambda layer: 0)


def test_visionzip():
    cases = expected("visionzip")
    for seed, dominant, features in cases:
        n, favourites, contextual, attention, keys, hidden = visionzip_case(seed)
        scores = attention[0, :, 0, 1:].mean(0)
        best, targets = dominant_and_targets(scores, favourites, contextual)
        assert written(best, n) == dominant, seed
        view = view_of(page_of_grid(1, n), hidden[0, 1:], signals_of(n, keys[:, None], keys[:, None]))
        weights = Gather(Fixed(contextual)).weights(view, scores, torch.cat([best, targets]))
        assert digest(weights @ view.features) == pytest.approx(features, abs=2e-3), seed
    assert len(cases) == 220


class Fixed:
    """A number of targets that the case brings along, where the method takes a share."""

    def __init__(self, targets):
        self._targets = targets

    def targets(self, n):
        return self._targets


def test_prumerge():
    cases = expected("prumerge")
    for seed, kept, features in cases:
        n, query, key, hidden, keep = prumerge_case(seed)
        view = view_of(page_of_grid(1, n), hidden[0, 1:], signals_of(n, query[:, None], key[:, None]))
        scores = view.signal("cls_attention_full_width", -1)
        count = int(n * (outlier_share(scores) if keep is None else keep))
        chosen = TopK().order(view, scores, view.page.content, count + 1)
        assert written(chosen[:-1], n) == kept, seed
        merged = PruMerge().weights(view, scores, chosen) @ view.features
        assert digest(merged) == pytest.approx(features, abs=2e-3), seed
    assert len(cases) == 220


def test_mmtok():
    cases = expected("mmtok")
    unit = torch.nn.functional.normalize
    for seed, kept in cases:
        text, projected, own, count = mmtok_case(seed)
        table = Coverage().table(unit(text, dim=-1), unit(projected, dim=-1), unit(own, dim=-1))
        assert written(greedy_cover(table, count), len(projected)) == kept, seed
    assert len(cases) == 220
