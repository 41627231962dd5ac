"""Speculative copy: the tokens of plain decoding, in fewer model calls, from every text that an answer may quote."""

import pytest
import torch
from generate.models import random_ids, tiny_gpt2, tiny_gpt_neox, tiny_llama, tiny_mistral, tiny_qwen3
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, TextStreamer

from ctxcomp.errors import InputError
from ctxcomp.generate.cache import CompressedCache, install
from ctxcomp.generate.speculative import BREAK, CopyDrafter, copy_decode

ANSWER = 40


def decode(model, ids, drafter=None, **options):
    """The new tokens, and how many times the model was called."""
    calls = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    speculation = {} if drafter is None else {"custom_generate": copy_decode, "drafter": drafter}
    try:
        given = {"max_new_tokens": ANSWER, "do_sample": False, "pad_token_id": 0} | options
        found = model.generate(ids, **given, **speculation)
    finally:
        hook.remove()
    return found[0, ids.shape[1] :].tolist(), len(calls)


class Oracle(CopyDrafter):
    """Drafts what it is told, right or wrong; a drafter must never change an answer."""

    def __init__(self, answer, wrong_every, longest=9):
        super().__init__(longest=longest)
        self._answer, self._wrong, self._said = answer, wrong_every, 0

    def extend(self, tokens):
        self._prompt = getattr(self, "_prompt", len(tokens))
        self._said += len(tokens)
        super().extend(tokens)

    def draft(self, most):
        at = self._said - self._prompt
        found = self._answer[at : at + min(most, self.longest)]
        return [(t + 1) % 100 + 3 if (at + i) % self._wrong == self._wrong - 1 else t for i, t in enumerate(found)]


@pytest.mark.parametrize("build", [tiny_llama, tiny_mistral, tiny_qwen3, tiny_gpt2, tiny_gpt_neox])
@pytest.mark.parametrize("wrong_every", [2, 5, 1000])
def test_a_draft_right_or_wrong_changes_no_token(build, wrong_every):
    model = build()
    for seed in range(4):
        ids = random_ids(1, 30, seed=seed)
        plain, plain_calls = decode(model, ids)
        copied, calls = decode(model, ids, Oracle(plain, wrong_every))
        assert copied == plain
        assert plain_calls == len(plain)
        assert calls <= len(plain) * 0.65 if wrong_every < 1000 else calls <= 6


def test_a_sliding_window_takes_drafts_back():
    model = tiny_mistral(sliding_window=16)
    ids = random_ids(1, 50)
    plain, _ = decode(model, ids)
    copied, calls = decode(model, ids, Oracle(plain, 4))
    assert copied == plain
    assert calls < len(plain) / 2


@pytest.mark.parametrize("policy", ["int8", "kivi4", "kivi2", "snapkv(keep=0.5)+kivi4", "expected_attention(keep=0.5)"])
def test_compressed_caches_take_drafts_back(policy):
    model = tiny_llama()
    install(model)
    for seed in range(3):
        ids = random_ids(1, 150, seed=seed)
        plain, _ = decode(model, ids, past_key_values=CompressedCache(model.config, policy))
        copied, calls = decode(model, ids, Oracle(plain, 5), past_key_values=CompressedCache(model.config, policy))
        assert copied == plain
        assert calls < len(plain) * 0.7


def test_a_hundred_prompts():
    model = tiny_llama()
    saved = 0
    for seed in range(100):
        ids = random_ids(1, 12 + seed % 30, seed=seed)
        plain, plain_calls = decode(model, ids, max_new_tokens=12)
        copied, calls = decode(model, ids, CopyDrafter(gamma=1 + seed % 3), max_new_tokens=12)
        assert copied == plain, seed
        saved += plain_calls - calls
    assert saved > 0


def test_an_end_token_inside_a_draft_ends_the_answer():
    model = tiny_llama()
    ids = random_ids(1, 30)
    plain, _ = decode(model, ids, eos_token_id=None)
    end = plain[10]
    expected = plain[: plain.index(end) + 1]
    copied, _ = decode(model, ids, Oracle(plain, 1000), eos_token_id=end)
    assert copied == expected
    assert decode(model, ids, eos_token_id=[end, 7])[0] == expected


def test_the_length_is_kept_to_the_token():
    model = tiny_llama()
    ids = random_ids(1, 30)
    plain, _ = decode(model, ids)
    for most in (1, 2, 7, 8, 9, 10, 11):
        assert decode(model, ids, Oracle(plain, 1000), max_new_tokens=most)[0] == plain[:most]


def test_logits_processors_see_what_was_written_before():
    model = tiny_llama()
    ids = random_ids(1, 30)
    plain, _ = decode(model, ids, repetition_penalty=1.5, no_repeat_ngram_size=2)
    assert plain != decode(model, ids)[0]
    assert decode(model, ids, Oracle(plain, 4), repetition_penalty=1.5, no_repeat_ngram_size=2)[0] == plain


def test_a_cache_that_already_holds_the_prompt_goes_on():
    model = tiny_llama()
    ids = random_ids(1, 30)
    plain, _ = decode(model, ids)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :20], past_key_values=cache)
    assert decode(model, ids, Oracle(plain, 4), past_key_values=cache)[0] == plain


def test_sampling_keeps_the_distribution():
    model = tiny_llama(vocab_size=24)
    ids = random_ids(1, 10, vocabulary=24)
    plain, _ = decode(model, ids, max_new_tokens=2)
    with torch.no_grad():
        expected = (model(ids).logits[0, -1] / 0.5).softmax(-1)
    counts = torch.zeros(24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"do_sample": True, "temperature": 0.5, "top_k": 0, "max_new_tokens": 2, "eos_token_id": None}
        for _ in range(100):
            counts[decode(model, ids, Oracle(plain, 1000), **options)[0][0]] += 1
    assert float((counts / 100 - expected).abs().sum()) < 0.6


def test_one_sequence_at_a_time():
    model = tiny_llama()
    with pytest.raises(InputError, match="batch of 2"):
        decode(model, random_ids(2, 10), CopyDrafter())
    with pytest.raises(InputError, match="KV cache"):
        decode(model, random_ids(1, 10), CopyDrafter(), use_cache=False)


def test_a_streamer_gets_every_token(tmp_path):
    class Collect(TextStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, ids, streamer = tiny_llama(), random_ids(1, 30), Collect()
    cache = DynamicCache(config=model.config)
    kwargs = {"past_key_values": cache, "use_cache": True, "position_ids": torch.arange(30)[None]}
    config = model.generation_config
    config.max_length, config.eos_token_id = 50, None
    with torch.no_grad():
        found = copy_decode(model, ids, [], lambda ids, _: torch.tensor([ids.shape[1] >= 50]), config, **kwargs,
                            streamer=streamer)  # fmt: skip
    assert streamer.tokens == found[0, 30:].tolist()
    assert streamer.ended


# Where drafts come from


def test_the_longest_match_wins_then_the_most_recent():
    drafter = CopyDrafter(gamma=2)
    drafter.extend([1, 2, 3, 50, 9, 2, 3, 60, 8, 2, 3, 70, 1, 2, 3])
    assert drafter.draft(1) == [50]  # 1 2 3 agrees longer than 2 3
    drafter = CopyDrafter(gamma=2)
    drafter.extend([9, 2, 3, 60, 8, 2, 3, 70, 1, 2, 3])
    assert drafter.draft(1) == [70]


def test_sources_are_copied_from_and_never_run_into_each_other():
    drafter = CopyDrafter([[5, 6, 7, 8, 9], [10, 11, 12]], gamma=2)
    drafter.extend([1, 6, 7])
    assert drafter.draft(10) == [8, 9]
    drafter.extend([8, 9])
    assert drafter.draft(10) == []
    assert BREAK not in drafter.draft(10)


def test_what_repeats_itself_is_drafted_on():
    drafter = CopyDrafter(gamma=2)
    drafter.extend([1, 2, 3, 1, 2, 3, 1, 2])
    assert drafter.draft(7) == [3, 1, 2, 3, 1, 2, 3]


def test_the_length_follows_what_was_right():
    drafter = CopyDrafter(gamma=1, shortest=2, longest=16)
    drafter.extend([1] * 40)
    assert len(drafter.draft(100)) == 10
    drafter.learn(10, 10)
    assert len(drafter.draft(100)) == 16
    drafter.learn(16, 0)
    assert len(drafter.draft(100)) == 2
    drafter.learn(2, 1)
    assert len(drafter.draft(100)) == 3
    assert drafter.draft(0) == []


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=2),
    st.lists(st.integers(0, 3), max_size=15),
    st.integers(1, 3),
)
def test_a_draft_follows_the_place_that_agrees_the_longest(sources, text, gamma):
    drafter = CopyDrafter(sources, gamma=gamma)
    drafter.extend(text)
    whole = [t for source in sources for t in [*source, BREAK]] + text

    def agreed(place):
        n = 0
        while n < place and whole[place - n - 1] == whole[len(whole) - n - 1] != BREAK:
            n += 1
        return n

    places = {p: agreed(p) for p in range(len(whole)) if whole[p] != BREAK}
    longest = max(places.values(), default=0)
    found = drafter.draft(1)
    if longest < gamma:
        assert found == []
    else:
        assert found[0] in {whole[p] for p, n in places.items() if n == longest}


@pytest.mark.parametrize("fields", [{"gamma": 0}, {"shortest": 0}, {"shortest": 9, "longest": 8}])
def test_wrong_bounds(fields):
    with pytest.raises(InputError, match="gamma >= 1"):
        CopyDrafter(**fields)
