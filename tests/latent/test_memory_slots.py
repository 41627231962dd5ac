"""Memory slots: a small model's states behind the text, whatever it is batched with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctxcomp import Budget, InputError, ModelError, Passage
from ctxcomp.latent import MemorySlots
from ctxcomp.latent.weights import load_slots

PASSAGES = [Passage("George Eliot wrote it."), Passage(""), Passage("It rained in Leeds. " * 8), Passage("Who?")]


@pytest.fixture(scope="module")
def slots(generator, slots_folder):
    return MemorySlots(generator=generator, weights=slots_folder, shard_tokens=90)


def test_vectors_equal_a_forward_of_each_text_alone(slots, generator, slots_folder):
    """[text, slots] through the encoder, the states at the slots through the projection."""
    found = slots.compress("", PASSAGES, Budget(tokens=100))
    network, tokenizer, _ = load_slots(slots_folder)
    expected = []
    for text in (PASSAGES[0].text, PASSAGES[2].text[:90], PASSAGES[2].text[90:], PASSAGES[3].text):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
        read = network.encoder.get_input_embeddings()(ids)
        states = network.encoder(inputs_embeds=torch.cat([read, network.slots])[None]).last_hidden_state[0, -3:]
        expected.append(states @ network.project.weight.T + network.project.bias)
    np.testing.assert_allclose(found.vectors, torch.cat(expected).detach().numpy(), atol=2e-5)
    assert found.sources == (0, 0, 0, 2, 2, 2, 2, 2, 2, 3, 3, 3)
    assert generator.generate("Who?", found, max_tokens=4).text


def test_the_budget_is_kept(slots):
    found = slots.compress("", PASSAGES, Budget(tokens=4))
    assert found.sources == (0, 0, 0, 2)
    assert found.stats.tokens_out == 4
    scored = [Passage(p.text, score=float(i)) for i, p in enumerate(PASSAGES)]
    assert slots.compress("", scored, Budget(tokens=3)).sources == (3, 3, 3)
    assert len(slots.compress("", PASSAGES, Budget(tokens=0)).vectors) == 0
    assert len(slots.compress("", [], Budget(tokens=3)).vectors) == 0


def test_what_does_not_belong_to_it_is_refused(generator, other_generator, slots_folder, tmp_path):
    with pytest.raises(ModelError, match="gives 32 numbers, the generator's embeddings have 64"):
        MemorySlots(generator=other_generator, weights=slots_folder)
    with pytest.raises(ModelError, match="is missing"):
        MemorySlots(generator=generator, weights=tmp_path)
    with pytest.raises(InputError, match="batch must be 1 or more"):
        MemorySlots(generator=generator, weights=slots_folder, batch=0)
