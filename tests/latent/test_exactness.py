"""Logits equal those of a forward written from the paper's equations; published checkpoints load."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ctxcomp import ModelError
from ctxcomp.latent.losses import Batch, distillation, nll, target_logits
from ctxcomp.latent.networks import ProjectorNetwork
from ctxcomp.latent.weights import load_projector, projector_from


def published_state(rng, retriever=12, hidden=32, depth=2, prefix="projector."):
    """The projector's keys in a checkpoint of xRAG, with weights of the language model beside them."""
    state = {"model.embed_tokens.weight": torch.zeros(3, hidden), "lm_head.weight": torch.zeros(3, hidden)}
    for layer in range(depth):
        width = retriever if layer == 0 else hidden
        state[f"{prefix}projector.{2 * layer}.weight"] = torch.tensor(rng.normal(size=(hidden, width)) / 4).float()
        state[f"{prefix}projector.{2 * layer}.bias"] = torch.tensor(rng.normal(size=hidden) / 4).float()
    return state


def gelu(x):
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.ravel()]).reshape(x.shape)


def equation(state, vectors, prefix="projector."):
    """e = W_2 gelu(W_1 v + b_1) + b_2, in float64."""
    w = {k.removeprefix(f"{prefix}projector."): t.double().numpy() for k, t in state.items() if "projector" in k}
    return gelu(vectors @ w["0.weight"].T + w["0.bias"]) @ w["2.weight"].T + w["2.bias"]


@pytest.mark.parametrize("prefix", ["projector.", "", "module.projector."])
def test_a_published_state_dict_computes_the_papers_equation(prefix):
    rng = np.random.default_rng(0)
    state = published_state(rng, prefix=prefix)
    vectors = rng.normal(size=(5, 12))
    found = projector_from(state)(torch.tensor(vectors).float()).detach().numpy()
    np.testing.assert_allclose(found, equation(state, vectors, prefix), atol=1e-5)


def test_a_projector_is_found_among_a_checkpoints_shards(tmp_path):
    state = published_state(np.random.default_rng(1))
    save_file({k: t for k, t in state.items() if k.endswith("0.weight")}, tmp_path / "model-00001-of-00002.safetensors")
    rest = {k: t for k, t in state.items() if not k.endswith("0.weight")}
    save_file(rest, tmp_path / "model-00002-of-00002.safetensors")
    network, facts = load_projector(tmp_path)
    assert (network.retriever_size, network.hidden_size, facts) == (12, 32, {})
    assert torch.equal(network.projector[0].weight, state["projector.projector.0.weight"])


def test_what_is_no_projector_is_refused(tmp_path):
    state = published_state(np.random.default_rng(2))
    with pytest.raises(ModelError, match="holds no projector"):
        projector_from({"lm_head.weight": torch.zeros(3, 3)})
    with pytest.raises(ModelError, match="weight and a bias"):
        projector_from({k: t for k, t in state.items() if k != "projector.projector.2.bias"})
    with pytest.raises(ModelError, match="do not fit"):
        projector_from({**state, "projector.projector.2.weight": torch.zeros(32, 31)})
    with pytest.raises(ModelError, match="is missing"):
        load_projector(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="damaged"):
        load_projector(tmp_path / "bad.safetensors")


def test_logits_equal_a_forward_from_the_equations(generator):
    """The batch at once, padded, against each prompt alone: embedding matrix, replaced row, model, softmax."""
    rng = np.random.default_rng(3)
    state = published_state(rng)
    network = projector_from(state)
    vectors = rng.normal(size=(2, 12))
    prompts = [generator.prompts.marked(text, "X") for text in ("say X now", "X")]
    texts = [generator.prompts.encode("a cat"), generator.prompts.encode("the dog ran")]
    batch = Batch.of(prompts, texts)
    with torch.no_grad():
        logits = target_logits(generator.model, batch, network(torch.tensor(vectors).float()))
        expected, losses = [], []
        table = generator.model.get_input_embeddings().weight
        for row, ((ids, places), text) in enumerate(zip(prompts, texts, strict=True)):
            e = table[torch.tensor(ids + text)].clone()
            e[places[0]] = torch.tensor(equation(state, vectors[row])).float()
            own = generator.model(inputs_embeds=e[None]).logits[0, len(ids) - 1 : -1]
            expected.append(own)
            losses += [-math.log(torch.softmax(z.double(), -1)[t]) for z, t in zip(own, text, strict=True)]
    torch.testing.assert_close(logits, torch.cat(expected), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(nll(logits, batch).numpy(), losses, rtol=1e-4)


def test_distillation_is_the_mean_divergence_times_the_squared_temperature():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 11)
    for temperature in (1.0, 2.5):
        p, q = (torch.softmax(z.double() / temperature, -1) for z in (teacher, student))
        expected = (p * (p / q).log()).sum(-1).mean() * temperature**2
        assert float(distillation(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation(student, student)) == pytest.approx(0, abs=1e-6)


def test_only_the_texts_tokens_are_targets():
    batch = Batch.of([([5, 6, 7], [1]), ([8], [])], [[1, 2], [3]])
    assert batch.ids.tolist() == [[5, 6, 7, 1, 2], [8, 3, 0, 0, 0]]
    assert batch.mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.slots.tolist() == [[0], [1]]
    assert batch.ids[:, 1:][batch.targets].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("dim", "hidden", "depth"), [(384, 64, 2), (50, 256, 3), (384, 32, 1)])
def test_fresh_weights_give_embeddings_of_the_asked_size(dim, hidden, depth):
    torch.manual_seed(0)
    network = ProjectorNetwork(dim, hidden, depth)
    network.reset(0.1)
    vectors = torch.nn.functional.normalize(torch.randn(200, dim), dim=1)
    size = float(network(vectors).detach().square().mean().sqrt())
    assert 0.06 < size < 0.16
