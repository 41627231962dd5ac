"""Budgets are exact, choices are what they promise, allocation follows the crops, errors say what to do."""

from __future__ import annotations

import itertools
import math

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from visual.families import model_of, prompt

from ctxcomp import Budget, BudgetError, InputError, ModelError, Passage, UnknownMethodError, load
from ctxcomp.visual import METHODS, VisualPruner, maxsim_map, maxsim_score, settle
from ctxcomp.visual.allocators import mass_of_crops
from ctxcomp.visual.cells import grid_cells
from ctxcomp.visual.layout import page_of_grid
from ctxcomp.visual.relevance import map_at
from ctxcomp.visual.selectors import greedy_cover, spread
from ctxcomp.visual.sharing import relevance_weights, share


@settings(max_examples=200)
@given(st.integers(0, 60), st.lists(st.tuples(st.floats(0, 5), st.integers(0, 20), st.integers(0, 3)), max_size=6))
def test_shares_are_exact(total, parts):
    weights, sizes, floors = zip(*parts, strict=True) if parts else ((), (), ())
    least = [min(f, s) for f, s in zip(floors, sizes, strict=True)]
    if sum(least) > total:
        with pytest.raises(BudgetError, match="raise the budget"):
            share(total, weights, sizes, floors)
        return
    shares = share(total, weights, sizes, floors)
    assert sum(shares) == min(total, sum(sizes))
    assert all(f <= n <= s for f, n, s in zip(least, shares, sizes, strict=True))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 30))
def test_shares_follow_weights(weights, total):
    sizes = [100] * len(weights)
    for weight, n in zip(weights, share(total, weights, sizes), strict=True):
        assert abs(n - total * weight / sum(weights)) < 1


def test_relevance_weights_ignore_the_scale():
    one, other = relevance_weights([0.1, 0.2, None], 3, 1.0), relevance_weights([10, 20, None], 3, 1.0)
    assert one == pytest.approx(other)
    assert one[1] == 1 > one[0] == one[2]
    close = relevance_weights([15.91, 15.90], 2, 1.0)
    assert min(close) > 0.9
    assert relevance_weights(None, 2, 1.0) == relevance_weights([3.0, 3.0], 2, 0.1) == [1.0, 1.0]


FAMILY_OF = {method: "llava_next" for method in METHODS if method != "retriever"} | {"pool": "qwen3_vl"}


@pytest.mark.parametrize("method", sorted(FAMILY_OF))
@pytest.mark.parametrize("row_ends", ["with_row", "drop"])
def test_budgets_are_exact(method, row_ends):
    inputs, layout = prompt(FAMILY_OF[method])
    pruner = VisualPruner(model=model_of(FAMILY_OF[method]), method=method, row_ends=row_ends)
    encoded = pruner.encode(inputs, **layout)
    for tokens in (2, 3, 7, 20):
        pruned = pruner.prune_encoded(inputs, encoded, Budget(tokens=tokens), scores=[2.0, 1.0])
        result = pruned.results[0]
        assert result.stats.tokens_out == sum(result.tokens_out) == len(result.features) == tokens
        assert min(result.tokens_out) >= 1
        assert result.indices.tolist() == sorted(set(result.indices.tolist()))
        assert result.pages.tolist() == sorted(result.pages.tolist())
        assert torch.isfinite(result.features).all()


def test_row_ends_go_with_their_rows():
    inputs, _ = prompt("llava_next")
    pruner = VisualPruner(model=model_of("llava_next"), method="random")
    for tokens in (9, 30, 61):
        pruned = pruner.prune(inputs, Budget(tokens=tokens))
        for start, page in zip(pruned.encoded.starts, pruned.encoded.pages, strict=False):
            mine = pruned.kept[(pruned.kept >= start) & (pruned.kept < start + len(page))] - start
            ends = {int(page.lines[i]) for i in mine if page.structural[i]}
            lines = {int(page.lines[i]) for i in mine if not page.structural[i]} - {-1}
            assert ends <= lines
            assert len(lines - ends) <= 1, "one line may lack its end where a single place was left"
    dropped = VisualPruner(model=model_of("llava_next"), method="random", row_ends="drop")
    pruned = dropped.prune(inputs, Budget(tokens=9))
    structural = torch.cat([page.structural for page in pruned.encoded.pages])
    assert not bool(structural[pruned.kept].any())


@pytest.mark.parametrize("method", ["globalcom2", "mmtok", "divprune", "random"])
def test_more_budget_keeps_what_less_kept(method):
    inputs, layout = prompt("llava")
    pruner = VisualPruner(model=model_of("llava"), method=method, information=False)
    before: set[int] = set()
    for tokens in (4, 8, 16, 32):
        kept = set(pruner.prune(inputs, Budget(tokens=tokens), **layout).kept.tolist())
        assert before <= kept
        before = kept


def test_one_budget_across_pages_follows_scores():
    inputs, _ = prompt("llava")
    pruner = VisualPruner(model=model_of("llava"), method="stride", floor=2)
    first, second = pruner.prune(inputs, Budget(tokens=12), scores=[9.0, 1.0]).results[0].tokens_out
    assert first > second >= 2
    assert pruner.prune(inputs, Budget(tokens=12), scores=[1.0, 9.0]).results[0].tokens_out == (second, first)
    with pytest.raises(BudgetError, match="3 visual tokens cannot leave 4"):
        pruner.prune(inputs, Budget(tokens=3))


def test_a_page_of_one_colour_gets_less():
    inputs, _ = prompt("llava")
    inputs["pixel_values"] = inputs["pixel_values"].clone()
    model = model_of("llava")
    pruner = VisualPruner(model=model, method="stride")
    encoded = pruner.encode(inputs)
    blank = encoded.features.clone()
    blank[16:] = blank[16]
    encoded = type(encoded)(**{**vars(encoded), "features": blank})
    rich, poor = pruner.prune_encoded(inputs, encoded, Budget(tokens=12)).results[0].tokens_out
    assert rich > poor >= 1


def test_allocation_over_crops():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 12, generator=generator) * 2
    logits[:6, 6:] += 1
    mass = mass_of_crops(logits, (2, 2), 10.0)
    assert float(mass.sum()) == pytest.approx(0, abs=1e-9)
    assert int(mass.argmax()) == 1
    flipped = mass_of_crops(logits.flip(1), (2, 2), 10.0)
    assert flipped.tolist() == pytest.approx([float(mass[i]) for i in (1, 0, 3, 2)])
    probabilities = mass_of_crops(logits.flatten().softmax(0).view(12, 12), (2, 2), 10.0)
    assert probabilities.abs().max() < 0.03 < mass.abs().max(), "after a softmax all crops look alike"


@settings(max_examples=40)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10_000))
def test_greedy_covers_enough(m, n, seed):
    table = torch.rand(6, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    n = min(n, m)
    best = max(float(table[:, list(c)].amax(1).sum()) for c in itertools.combinations(range(m), n))
    got = float(table[:, greedy_cover(table, n)].amax(1).sum())
    assert got >= (1 - 1 / math.e) * best - 1e-9


@settings(max_examples=40)
@given(st.integers(2, 9), st.integers(2, 4), st.integers(0, 10_000))
def test_spread_is_half_as_good_as_the_best(m, n, seed):
    """The bound holds for metrics, so chords stand for cosines here."""
    points = torch.nn.functional.normalize(torch.randn(m, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
    distance = torch.cdist(points.double(), points.double())
    n = min(n, m)

    def least(chosen):
        return min(float(distance[a, b]) for a, b in itertools.combinations(chosen, 2))

    best = max(least(c) for c in itertools.combinations(range(m), n))
    assert least(spread(distance, n).tolist()) >= best / 2 - 1e-9


def test_spread_takes_no_copy_while_others_are_left():
    points = torch.eye(4).repeat(3, 1)
    chosen = spread(1 - points @ points.T, 6).tolist()
    assert len({i % 4 for i in chosen[:4]}) == 4
    assert len(set(chosen)) == 6


@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_cells_share_out_every_token(rows, columns, data):
    page = page_of_grid(rows, columns)
    n = data.draw(st.integers(1, rows * columns))
    sizes = torch.bincount(grid_cells(page, page.content, n), minlength=n)
    assert len(sizes) == n
    assert int(sizes.min()) >= 1
    assert int(sizes.sum()) == rows * columns


def test_pooling_means_its_runs():
    inputs, _ = prompt("qwen2_vl")
    pruned = VisualPruner(model=model_of("qwen2_vl"), method="pool", information=False).prune(inputs, Budget(tokens=11))
    whole = pruned.encoded.features
    torch.testing.assert_close(pruned.features[:6], whole[:12].view(6, 2, -1).mean(1))
    down = VisualPruner(model=model_of("llava"), method="downsample", information=False)
    inputs, _ = prompt("llava")
    made = down.prune(inputs, Budget(tokens=8))
    blocks = made.encoded.features[:16].view(2, 2, 2, 2, -1).mean((1, 3)).flatten(0, 1)
    torch.testing.assert_close(made.features[:4], blocks)


def test_the_retrievers_map_decides():
    inputs, _ = prompt("qwen2_vl")
    query = torch.eye(4)[:1]
    patches = torch.zeros(12, 4)
    patches[7, 0] = 1.0
    seen = maxsim_map(query, patches, (4, 3))
    assert int(seen.flatten().argmax()) == 7
    assert maxsim_score(query, patches) == 1.0
    pruner = VisualPruner(model=model_of("qwen2_vl"), method="retriever")
    kept = pruner.prune(inputs, Budget(tokens=3), maps=[seen, torch.zeros(2, 5)], scores=[2, 1]).kept
    assert 7 in kept.tolist()
    page = page_of_grid(4, 3)
    torch.testing.assert_close(map_at(seen, page), seen.flatten())
    guided = VisualPruner(model=model_of("qwen2_vl"), method="random", guide=1.0)
    assert 7 in guided.prune(inputs, Budget(tokens=3), maps=[seen, None], scores=[2, 1]).kept.tolist()


def test_prumerge_finds_its_own_keep():
    inputs, _ = prompt("llava")
    pruned = VisualPruner(model=model_of("llava"), method="prumerge").prune(inputs, None)
    assert 2 <= pruned.results[0].stats.tokens_out < 32
    with pytest.raises(InputError, match="budget must be"):
        VisualPruner(model=model_of("llava"), method="random").prune(inputs, None)


def test_text_and_pages_share_one_budget():
    compressor = load("bm25")
    passages = [
        Passage("Totals are at the end. The total was 12.50 in cash. Thank you.", score=1.0),
        Passage("x " * 90, score=0.1),
    ]
    both = settle(
        "What was the total?", passages, [200, 300], compressor, Budget(tokens=120), page_scores=[1.0, 0.2], floor=4
    )
    assert both.tokens == 120
    assert both.text.stats.tokens_out > 0
    alone = settle("q", [], [200], compressor, Budget(tokens=50))
    assert (alone.text.text, alone.visual.tokens) == ("", 50)
    everything = settle("q", passages, [20], compressor, Budget(keep=1.0))
    assert everything.visual.tokens == 20
    assert everything.text.text
    with pytest.raises(InputError, match="one for each page"):
        settle("q", passages, [20], compressor, Budget(tokens=9), page_scores=[1, 2])


def test_refusals():
    model, (inputs, _) = model_of("llava"), prompt("llava")
    with pytest.raises(UnknownMethodError, match="did you mean 'globalcom2'"):
        VisualPruner(model=model, method="globalcom")
    with pytest.raises(InputError, match="row_ends"):
        VisualPruner(model=model, row_ends="some")
    with pytest.raises(InputError, match="temperature > 0"):
        VisualPruner(model=model, temperature=0.0)
    pruner = VisualPruner(model=model, method="stride")
    for wrong, message in (
        (None, "NoneType"),
        ({}, "input_ids"),
        ({"input_ids": [[1]]}, "tensor"),
        (inputs | {"pixel_values_videos": inputs["pixel_values"]}, "videos"),
        (inputs | {"input_ids": torch.ones(1, 4, dtype=torch.long)}, "no image token"),
        ({key: inputs[key][:, :-20] if inputs[key].dim() == 2 else inputs[key] for key in inputs}, "features"),
        (inputs | {"attention_mask": torch.ones(1, 2)}, "must agree"),
    ):
        with pytest.raises(InputError, match=message):
            pruner.prune(wrong, Budget(keep=0.5))
    for options, message in (
        ({"scores": [1.0]}, "got 1 for 2 pages"),
        ({"scores": [1.0, float("nan")]}, "finite"),
        ({"scores": ["a", 1.0]}, "finite"),
        ({"maps": [torch.zeros(2, 2), None]}, "chooses tokens without scores"),
        ({"query_ids": [[1], [2]]}, "one for each prompt"),
    ):
        with pytest.raises(InputError, match=message):
            pruner.prune(inputs, Budget(keep=0.5), **options)
    ranked = VisualPruner(model=model, method="random")
    with pytest.raises(InputError, match="finite numbers"):
        ranked.prune(inputs, Budget(keep=0.5), maps=[torch.full((2, 2), float("inf")), None])
    with pytest.raises(InputError, match="map of page 0"):
        ranked.prune(inputs, Budget(keep=0.5), maps=["a", None])
    with pytest.raises(InputError, match="needs the retriever's map"):
        VisualPruner(model=model, method="retriever").prune(inputs, Budget(keep=0.5))
    with pytest.raises(InputError, match="true tiles"):
        VisualPruner(model=model_of("internvl"), method="stride").prune(
            prompt("internvl")[0], Budget(keep=0.5), tiles=[(1, 1)]
        )


def test_models_without_the_hook_are_refused():
    import transformers
    from visual.families import TEXT, text

    plain = transformers.LlamaForCausalLM(text())
    with pytest.raises(ModelError, match="mm_encoder_outputs"):
        VisualPruner(model=plain)
    crossing = transformers.MllamaForConditionalGeneration(
        transformers.MllamaConfig(
            vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_global_layers": 1,
                           "attention_heads": 2, "image_size": 32, "patch_size": 16, "vision_output_dim": 32,
                           "intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]]},
            text_config={**TEXT, "cross_attention_layers": [1],
                         "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        )
    )  # fmt: skip
    with pytest.raises(ModelError, match="mm_encoder_outputs"):
        VisualPruner(model=crossing)
    with pytest.raises(ModelError, match="NoneType"):
        VisualPruner(model=None)
