"""One token a passage: shards, stored embeddings, budgets, files, and generators it is not for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ctxcomp import Budget, CacheError, InputError, ModelError, Passage, Request, load
from ctxcomp.generate import Generator
from ctxcomp.latent import Projector, read_latents, save_latents
from ctxcomp.latent.base import ranking
from ctxcomp.latent.networks import ProjectorNetwork
from ctxcomp.latent.shards import TAIL, shards
from ctxcomp.latent.weights import save_projector

PASSAGES = [Passage("George Eliot wrote it."), Passage(""), Passage("It rained. " * 20), Passage("Who knows?")]
ALL = Budget(tokens=100)


def test_a_vector_a_shard_in_the_order_of_the_passages(projector, retriever):
    found = projector.compress("Who?", PASSAGES, ALL)
    pieces = [shards(projector.generator.tokenizer, p.text, projector.shard_tokens) for p in PASSAGES]
    assert found.sources == tuple(i for i, texts in enumerate(pieces) for _ in texts)
    expected = projector.network(torch.from_numpy(retriever.encode([t for texts in pieces for t in texts])))
    np.testing.assert_allclose(found.vectors, expected.detach().numpy(), atol=1e-6)
    assert found.stats.tokens_out == len(found.vectors) == len(found.sources)
    assert found.stats.tokens_in == len(projector.generator.tokenizer("\n\n".join(p.text for p in PASSAGES)).input_ids)
    assert found.stats.method == "projector"
    assert projector.generator.generate("Who?", found, max_tokens=4).text


@given(st.text(max_size=300), st.integers(1, 90))
def test_shards_are_the_text_but_for_a_short_tail(projector, text, tokens):
    tokenizer = projector.generator.tokenizer
    pieces = shards(tokenizer, text, tokens)
    n = len(tokenizer(text, add_special_tokens=False).input_ids)
    assert text.startswith("".join(pieces)) or len(pieces) > 1  # a character of several tokens may be in two shards
    tail = n % tokens
    dropped = n > tokens and 0 < tail <= TAIL
    assert len(pieces) == n // tokens + (tail > 0) - dropped


def test_a_stored_embedding_is_reused(generator, projector_file, projector, retriever):
    vector = retriever.encode(["something else"])[0]
    found = projector.compress("", [Passage("George Eliot wrote it.", embedding=vector.tolist())], ALL)
    np.testing.assert_allclose(found.vectors, projector.compress("", [Passage("something else")], ALL).vectors)
    without = Projector(generator=generator, weights=projector_file, retriever=None, shard_tokens=60)
    long = Passage("It rained. " * 20, embedding=vector.tolist())
    assert len(without.compress("", [long], ALL).vectors) == 1
    assert len(projector.compress("", [long], ALL).vectors) > 1
    with pytest.raises(InputError, match="no embedding and there is no retriever"):
        without.compress("", PASSAGES, ALL)
    for wrong in ([1.0, 2.0], [float("nan")] * 12, "ab"):
        with pytest.raises(InputError, match=r"finite vectors of 12|must be numbers"):
            projector.compress("", [Passage("text", embedding=wrong)], ALL)


@given(st.lists(st.text(max_size=40), max_size=6), st.integers(0, 8), st.booleans())
def test_the_budget_is_kept_and_batches_equal_singles(projector, texts, tokens, scored):
    passages = [Passage(t, score=float(len(t)) if scored else None) for t in texts]
    request = Request("Who?", tuple(passages), Budget(tokens=tokens))
    single = projector.compress_batch([request])[0]
    assert len(single.vectors) <= tokens
    assert list(single.sources) == sorted(single.sources)
    twin = projector.compress_batch([Request("", (Passage("x"),), ALL), request])[1]
    np.testing.assert_allclose(single.vectors, twin.vectors, atol=1e-6)
    assert single.sources == twin.sources
    if scored and tokens < len(texts) and all(texts):
        lost = [len(t) for i, t in enumerate(texts) if i not in single.sources]
        assert max(lost, default=0) <= min((len(texts[i]) for i in single.sources), default=99)


def test_text_without_utf8_is_a_passage_like_any_other(projector):
    found = projector.compress("\ud800", [Passage("\x00 a lone \ud800 surrogate"), Passage("x")], ALL)
    assert found.sources == (0, 1)
    np.testing.assert_allclose(
        found.vectors, projector.compress("", [Passage("\x00 a lone \ufffd surrogate"), Passage("x")], ALL).vectors
    )


def test_the_most_similar_passage_stays(projector):
    passages = [Passage("one"), Passage("two"), Passage("three")]
    assert projector.compress("two", passages, Budget(tokens=1)).sources == (1,)
    assert projector.compress("", passages, Budget(tokens=1)).sources == (0,)
    assert ranking([1.0, 2.0, 2.0]) == [1, 2, 0]


def test_vectors_are_kept_on_disk_and_refused_by_another_generator(generator, projector_file, tmp_path):
    class Counting:
        texts = 0

        def encode(self, texts):
            self.texts += len(texts)
            return np.ones((len(texts), 12), np.float32)

    counting = Counting()
    kept = Projector(generator=generator, weights=projector_file, retriever=counting, store=tmp_path)
    first = kept.compress("", PASSAGES, ALL)
    asked = counting.texts
    again = kept.compress("", PASSAGES, ALL)
    assert counting.texts == asked
    assert np.array_equal(first.vectors, again.vectors)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(PASSAGES)
    tiny = Generator.from_pretrained(generator.model.config.name_or_path, dtype="float32")
    with torch.no_grad():
        tiny.model.get_input_embeddings().weight.mul_(-1)
    save_projector(kept.network, tmp_path / "p" / "other.safetensors", "x", "")
    other = Projector.__new__(Projector)
    for name, value in {**vars(kept), "generator": tiny}.items():
        object.__setattr__(other, name, value)
    with pytest.raises(CacheError, match="another generator"):
        other.compress("", PASSAGES, ALL)
    with pytest.raises(InputError, match="these vectors are for the generator"):
        Projector(generator=tiny, weights=projector_file, retriever=counting)


def test_a_context_is_saved_and_read(projector, other_generator, tmp_path):
    found = projector.compress("Who?", PASSAGES, ALL)
    save_latents(found, tmp_path / "context.safetensors")
    back = read_latents(tmp_path / "context.safetensors", projector.generator, PASSAGES)
    assert np.array_equal(back.vectors, found.vectors)
    assert (back.sources, back.generator, back.passages) == (found.sources, found.generator, found.passages)
    assert back.stats.tokens_in == found.stats.tokens_in
    with pytest.raises(InputError, match="other passages than these 1"):
        read_latents(tmp_path / "context.safetensors", projector.generator, PASSAGES[:1])
    with pytest.raises(InputError, match="these vectors are for the generator"):
        read_latents(tmp_path / "context.safetensors", other_generator)
    content = bytearray((tmp_path / "context.safetensors").read_bytes())
    content[-3] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(content)
    with pytest.raises(CacheError, match="damaged"):
        read_latents(tmp_path / "damaged.safetensors", projector.generator)


def test_what_is_no_local_generator_is_refused_with_an_alternative(generator, projector_file, tmp_path):
    class ChatClient:
        def chat(self): ...

    for given_, what in (("gpt-4o", "'gpt-4o'"), (ChatClient(), "ChatClient"), (None, "none"), ("", "none")):
        with pytest.raises(InputError, match=f"got {what}.*Chat APIs take text only: use sentence_pruner"):
            load("projector", generator=given_, weights=projector_file)
    with pytest.raises(InputError, match="tokenizer too"):
        load("projector", generator=generator.model, weights=projector_file)
    with pytest.raises(InputError, match="needs weights="):
        load("projector", generator=generator)
    with pytest.raises(InputError, match="cannot be a stage of a Chain"):
        load("bm25+projector", generator=generator)
    with pytest.raises(InputError, match="was trained on vectors of 'hashing', not of 'minilm'"):
        load("projector", generator=generator, weights=projector_file)
    with pytest.raises(InputError, match="shard_tokens must be 1 or more"):
        Projector(generator=generator, weights=projector_file, retriever=None, shard_tokens=0)
    with pytest.raises(InputError, match="retriever must be"):
        Projector(generator=generator, weights=projector_file, retriever=3).compress("", PASSAGES, ALL)
    save_projector(ProjectorNetwork(12, 31), tmp_path / "narrow.safetensors", "hashing", "")
    with pytest.raises(ModelError, match="projects to 31 numbers, the generator's embeddings have 32"):
        Projector(generator=generator, weights=tmp_path / "narrow.safetensors")
