"""The generator's measurements: windows, losses behind a cache, gaps closed, what counts as a right answer."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from generate import models  # noqa: E402
from tiny_chat import tiny_chat  # noqa: E402

from ctxcomp.errors import InputError  # noqa: E402
from ctxcomp.generate import Generator  # noqa: E402
from ctxcomp.generate.weights import quantize  # noqa: E402
from ctxcomp_eval.generator import kv, measure, weights  # noqa: E402


def test_windows_cut_the_text_in_order(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_chat(tmp_path / "model"))
    path = tmp_path / "text.txt"
    path.write_text("abcdefgh" * 4)
    found = measure.windows(tokenizer, path, 8)
    assert tokenizer.decode(found[0]) == "abcdefgh"
    assert found.shape == (4, 8)
    assert len(measure.windows(tokenizer, path, 8, limit=3)) == 3
    with pytest.raises(InputError, match="32 tokens, one window has 100"):
        measure.windows(tokenizer, path, 100)


def test_the_loss_behind_a_whole_cache_is_the_loss_of_one_forward(tmp_path, monkeypatch):
    monkeypatch.setattr(kv, "PREFIX", 80)
    monkeypatch.setattr(kv, "CHUNK", 7)
    generator = Generator.from_pretrained(tiny_chat(tmp_path / "model"), device="cpu", dtype="float32")
    ids = torch.randint(0, 200, (3, 120), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = generator.model(ids).logits[:, 79:-1].transpose(1, 2)
    wanted = torch.nn.functional.cross_entropy(logits, ids[:, 80:], reduction="none").mean(1)
    assert np.allclose(kv.continued(generator, ids, batch=2), wanted, atol=1e-5)
    assert kv.share_of_bytes(Generator(generator.model, generator.tokenizer, kv="kivi4"), ids[:1]) < 1.2


def test_intervals_hold_the_mean_and_narrow_with_more_windows():
    draw = np.random.default_rng(1)
    few, many = draw.normal(2, 1, 20), draw.normal(2, 1, 2000)
    wide, narrow = measure.interval(few), measure.interval(many)
    assert wide.low < wide.mean < wide.high
    assert narrow.high - narrow.low < (wide.high - wide.low) / 3


def test_the_gap_that_a_method_closes():
    original = np.random.default_rng(0).normal(3, 0.3, 100)
    found = measure.closed(original + 0.1, original + 0.04, original)
    assert found.mean == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6)


def test_bits_spent_count_scales_and_zeros():
    model = models.tiny_llama()
    quantize(model, "rtn", bits=4, group_size=32)
    # 4 bits, a float16 scale and a 4-bit zero for every 32 weights
    assert weights.bits_spent(model) == pytest.approx(4 + 20 / 32, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "code", "f1"),
    [
        ('"It is here." The answer is Ada Lovelace.', 0.0, 1.0),
        ("The answer is Ada.", 0.0, 2 / 3),
        ("Ada Lovelace.", 0.0, 0.0),
        ("The code of amber pepper is 01234.", 1.0, 0.0),
    ],
)
def test_what_counts_as_right(text, code, f1):
    assert kv.has_code(text, "The code of amber pepper is 01234.") == code
    assert kv.last_answer(text, '"It is here." The answer is Ada Lovelace.') == pytest.approx(f1)
