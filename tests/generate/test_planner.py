"""The memory planner: predictions against what models and caches really take, and the choice by quality."""

import pytest
import torch
from generate.models import tiny_llama
from tiny_chat import tiny_chat
from transformers import AutoTokenizer, Gemma2Config, LlamaConfig

from ctxcomp import InputError, ModelError
from ctxcomp.cli import main
from ctxcomp.generate import Generator, plan
from ctxcomp.generate.footprint import Shape, kv_cache_bytes, weights_bytes
from ctxcomp.generate.planner import parse_bytes

LLAMA_8B = LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, dtype="bfloat16",
)  # fmt: skip
GB = 10**9


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("chat") / "tiny")


def test_the_sizes_of_a_known_model():
    shape = Shape.of(LLAMA_8B)
    assert weights_bytes(shape, 16) == pytest.approx(8_030_261_248 * 2, rel=1e-6)  # the published number
    assert kv_cache_bytes(shape, None, 1.0, 8000, 192) == 2**30  # 128 KiB a token
    assert weights_bytes(shape, 4) < 0.36 * weights_bytes(shape, 16)


@pytest.mark.parametrize("kv", [None, "int8", "kivi4", "kivi2", "snapkv(keep=0.25)+kivi4", "snapkv(keep=0.5)"])
def test_the_cache_takes_what_was_predicted(checkpoint, kv):
    generator = Generator.from_pretrained(checkpoint, kv=kv, device="cpu")
    keep = float(kv.partition("keep=")[2].partition(")")[0]) if kv and "keep" in kv else 1.0
    shape = Shape.of(checkpoint)
    predicted = kv_cache_bytes(shape, kv, keep, 1500, 12)
    found = plan(10 * GB, checkpoint, 1500, answer_tokens=12).measure(generator).measured
    assert found.kv == pytest.approx(predicted, rel=0.1)


@pytest.mark.parametrize("bits", [16, 8, 4, 3])
def test_the_weights_take_what_was_predicted(bits):
    model = tiny_llama(hidden_size=256, intermediate_size=384)
    predicted = weights_bytes(Shape.of(model.config), bits)
    if bits < 16:
        from ctxcomp.generate import quantize

        quantize(model, "rtn", bits=bits)
    from ctxcomp.generate.usage import weight_bytes

    assert weight_bytes(model) == pytest.approx(predicted, rel=0.03)


def test_a_quantized_checkpoint_is_taken_as_it_is(checkpoint, tmp_path):
    from ctxcomp.generate import quantize
    from ctxcomp.generate.formats import save_quantized

    model = tiny_llama(hidden_size=128, dtype=torch.bfloat16)
    quantize(model, "rtn", group_size=64)
    save_quantized(model, AutoTokenizer.from_pretrained(checkpoint), tmp_path)
    found = plan(10 * GB, tmp_path, 100)
    assert found.weight_bits == 16
    assert found.predicted.weights == pytest.approx(Generator.from_pretrained(tmp_path).weight_bytes, rel=0.1)


def test_less_memory_costs_more_quality():
    roomy, tight = plan(80 * GB, LLAMA_8B, 16000), plan(12 * GB, LLAMA_8B, 16000)
    assert (roomy.weight_bits, roomy.kv, roomy.keep) == (16, None, 1.0)
    assert tight.weight_bits == 4
    many = plan(24 * GB, LLAMA_8B, 16000, batch=8)
    assert many.kv is not None
    assert many.predicted.total <= 24 * GB
    assert many.predicted.kv < plan(200 * GB, LLAMA_8B, 16000, batch=8).predicted.kv


def test_what_never_fits_says_what_would():
    with pytest.raises(InputError, match=r"(?s)smallest plan is this.*weights 3 bits.*total +5\.\d\d GB"):
        plan(5 * GB, LLAMA_8B, 100)


def test_sliding_windows_hold_no_more_than_their_window():
    config = Gemma2Config(num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                          hidden_size=64, intermediate_size=64, vocab_size=99, sliding_window=100)  # fmt: skip
    assert Shape.of(config).windows == [100, None, 100, None]
    item = Shape.of(config).item_bytes
    assert kv_cache_bytes(Shape.of(config), None, 1.0, 990, 10) == 2 * 2 * 16 * item * (2 * 1000 + 2 * 100)


def test_the_table(checkpoint):
    found = plan(GB, checkpoint, 600, answer_tokens=8, batch=2)
    assert "predicted" in str(found)
    assert "measured" not in str(found)
    measured = found.measure(found.generator(checkpoint, device="cpu"))
    assert "measured" in str(measured)
    assert measured.measured.weights == measured.predicted.weights
    assert measured.measured.total >= measured.measured.weights + measured.measured.kv
    assert found.measured is None


def test_a_plan_with_small_weights_is_built_so(checkpoint):
    whole = plan(GB, checkpoint, 600, runtime_bytes=0).predicted
    smaller = plan(whole.total - 1000, checkpoint, 600, runtime_bytes=0)
    assert (smaller.weight_bits, smaller.kv) != (16, None)
    generator = smaller.generator(checkpoint, device="cpu")
    assert generator.kv == smaller.kv
    assert generator.weight_bytes <= whole.weights


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_whole_footprint_on_a_gpu(checkpoint):
    found = plan(2 * GB, checkpoint, 4000, answer_tokens=16, batch=4)
    measured = found.measure(found.generator(checkpoint, device="cuda")).measured
    assert measured.prefill is not None
    assert measured.prefill <= found.predicted.prefill * 2 + 64 * 2**20
    assert measured.runtime is not None


@pytest.mark.parametrize(
    ("text", "count"), [("24GB", 24 * GB), ("80 GiB", 80 * 2**30), ("1.5e", None), ("7", 7), ("-1GB", None)]
)
def test_sizes(text, count):
    if count is None:
        with pytest.raises(InputError, match="a size is a number"):
            parse_bytes(text)
    else:
        assert parse_bytes(text) == count


@pytest.mark.parametrize("given", [{"gpu_bytes": 0}, {"document_tokens": 1.5}, {"batch": True}, {"answer_tokens": 0}])
def test_wrong_numbers(checkpoint, given):
    with pytest.raises(InputError, match="must be a whole number"):
        plan(**{"gpu_bytes": GB, "model": checkpoint, "document_tokens": 10} | given)


def test_no_such_model(tmp_path):
    with pytest.raises(ModelError):
        plan(GB, tmp_path / "none", 10)


def test_the_command(checkpoint, capfd):
    assert main(["plan", str(checkpoint), "--memory", "700MB", "--document-tokens", "300", "--answer-tokens", "4"]) == 0
    assert "1 x (300 + 4) tokens in 700.00 MB" in capfd.readouterr().out
    assert main(["plan", str(checkpoint), "--memory", "1MB", "--document-tokens", "300"]) == 2
    assert "too little" in capfd.readouterr().err
    assert main(["plan", str(checkpoint), "--memory", "lots", "--document-tokens", "300"]) == 2
