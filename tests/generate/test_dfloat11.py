"""DFloat11: the same logits, bit for bit, from fewer bytes."""

import copy

import pytest
import torch
from generate.models import random_ids, tiny_gpt2, tiny_llama, tiny_qwen2
from torch import nn

from ctxcomp.errors import InputError
from ctxcomp.generate.weights.dfloat11 import DFloat11Embedding, DFloat11Linear, compress_lossless

MODELS = {"llama": tiny_llama, "qwen2": tiny_qwen2, "gpt2": tiny_gpt2}


def held(model: nn.Module) -> int:
    """Bytes of the distinct tensors of a model."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_bit_identical(name: str, tied: bool) -> None:
    model = MODELS[name](dtype=torch.bfloat16, tie_word_embeddings=tied)
    ids = random_ids(2, 9)
    with torch.no_grad():
        expected = model(ids).logits
        report = compress_lossless(model)
        assert torch.equal(model(ids).logits, expected)
        # and not by way of the old weights
        assert not any(type(module) in (nn.Linear, nn.Embedding) for module in model.modules())
    assert report.bytes_after == held(model)


def test_72_percent_of_the_bytes_remain_at_most() -> None:
    model = tiny_llama(
        dtype=torch.bfloat16, hidden_size=128, intermediate_size=256, vocab_size=800, tie_word_embeddings=False
    )
    before = held(model)
    report = compress_lossless(model)
    assert report.bytes_before == before
    assert held(model) <= 0.72 * before


def test_generation_is_the_same() -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    ids, options = random_ids(1, 5), {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, **options)
    compress_lossless(model)
    assert torch.equal(model.generate(ids, **options), expected)


def test_tied_weights_are_held_once() -> None:
    model = tiny_llama(dtype=torch.bfloat16, tie_word_embeddings=True)
    compress_lossless(model)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert isinstance(embedding, DFloat11Embedding)
    assert isinstance(head, DFloat11Linear)
    assert embedding.encoded is head.encoded


def test_weights_of_every_kind_survive() -> None:
    linear = nn.Linear(8, 32, dtype=torch.bfloat16)
    patterns = torch.arange(-(2**15), 2**15, 256, dtype=torch.int32).to(torch.int16)
    with torch.no_grad():
        linear.weight.view(-1)[:].copy_(patterns.view(torch.bfloat16))  # infinities, NaN, -0.0, subnormals
    bits = linear.weight.detach().clone().view(torch.int16)
    model = nn.Sequential(linear)
    compress_lossless(model)
    assert torch.equal(model[0].weight.view(torch.int16), bits)


def test_skipped_layers_subclasses_and_other_dtypes_stay() -> None:
    class Scaled(nn.Embedding):
        """Like Gemma's: the base class alone would compute something else."""

    model = nn.ModuleDict(
        {
            "a": nn.Linear(8, 8, dtype=torch.bfloat16),
            "b": nn.Linear(8, 8, dtype=torch.bfloat16),
            "c": nn.Linear(8, 8),
            "d": Scaled(4, 8, dtype=torch.bfloat16),
        }
    )
    assert compress_lossless(model, skip=["b"]).layers == ("a",)
    assert [type(module).__name__ for module in model.values()] == ["DFloat11Linear", "Linear", "Linear", "Scaled"]


def test_a_model_in_another_dtype_is_refused() -> None:
    with pytest.raises(InputError, match="bfloat16"):
        compress_lossless(tiny_llama(dtype=torch.float32))


def test_a_compressed_model_can_be_copied_and_its_state_loaded() -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    compress_lossless(model)
    other = copy.deepcopy(model)
    for buffer in other.buffers():
        if buffer.dtype != torch.float32:
            buffer.zero_()
    other.load_state_dict(model.state_dict())
    ids = random_ids(1, 4)
    assert torch.equal(other(ids).logits, model(ids).logits)
