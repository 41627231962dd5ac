"""The generator reads vectors where tokens would stand: alone, mixed with text, in batches, streams and any cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctxcomp import InputError
from ctxcomp.generate import Generator
from ctxcomp.generate.prompts import Prompts, context_text, latent_parts, mark_for, messages_for
from ctxcomp.latent.binding import generator_id
from ctxcomp.types import CompressedLatents, CompressedMixed, CompressedText, Passage, Stats

STATS = Stats(0, 0, 0.0, "", "test")


def embedded(generator, text):
    """A text as the very embeddings its tokens have: vectors that must read like the text."""
    ids = torch.tensor(generator.prompts.text_tokens(text))
    vectors = generator.model.get_input_embeddings()(ids).detach().numpy()
    return CompressedLatents(
        vectors=vectors, generator=generator_id(generator.model), sources=(0,) * len(vectors), stats=STATS
    )


def as_text(text):
    return CompressedText(text=text, spans=None, passages=(), passage_texts=(), stats=STATS)


@pytest.mark.parametrize("kv", [None, "int8", "streaming(keep=0.5)"])
def test_embeddings_of_tokens_read_like_the_tokens(generator, checkpoint, kv):
    own = generator if kv is None else Generator.from_pretrained(checkpoint, dtype="float32", kv=kv)
    text = "George Eliot wrote it."
    expected = own.generate("Who?", f"Refer to the background document: {text}", max_tokens=12)
    found = own.generate("Who?", embedded(own, text), max_tokens=12)
    assert found.tokens == expected.tokens
    assert found.usage.prompt_tokens == expected.usage.prompt_tokens


def test_a_mixed_context_stands_in_its_order(generator):
    parts = (as_text("One wrote it."), embedded(generator, "Two read it."), as_text("Three lost it."))
    expected = generator.generate("Who?", "One wrote it.\n\nTwo read it.\n\nThree lost it.", max_tokens=12)
    found = generator.generate("Who?", CompressedMixed(parts=parts, stats=STATS), max_tokens=12)
    assert found.tokens == expected.tokens


def test_batches_streams_and_singles_agree(generator):
    rng = np.random.default_rng(0)
    latents = replace(embedded(generator, "abc"), vectors=rng.normal(size=(3, 32)).astype(np.float32))
    mixed = CompressedMixed(parts=(latents, as_text("Some text that is longer.")), stats=STATS)
    requests = [("a?", latents), ("b?", "plain text"), ("c?", mixed), ("d?", "")]
    together = generator.generate_batch(requests, max_tokens=8)
    alone = [generator.generate(query, context, max_tokens=8) for query, context in requests]
    assert [one.tokens for one in together] == [one.tokens for one in alone]
    with generator.stream("a?", latents, max_tokens=8) as stream:
        text = "".join(stream)
    assert (text, stream.result.tokens) == (alone[0].text, alone[0].tokens)
    drawn = [generator.generate("a?", latents, max_tokens=8, temperature=1.0, seed=3).tokens for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_vectors_matter(generator):
    rng = np.random.default_rng(1)
    contexts = [replace(embedded(generator, "abc"), vectors=rng.normal(size=(3, 32)).astype(np.float32)) for _ in "ab"]
    answers = {generator.generate("a?", context, max_tokens=8).tokens for context in contexts}
    assert len(answers) == 2


def test_no_vectors_is_no_context(generator):
    nothing = replace(embedded(generator, "abc"), vectors=np.zeros((0, 32), np.float32), sources=())
    assert generator.generate("a?", nothing, max_tokens=8).tokens == generator.generate("a?", max_tokens=8).tokens
    nowhere = CompressedMixed(parts=(), stats=STATS)
    assert generator.generate("a?", nowhere, max_tokens=8).tokens == generator.generate("a?", max_tokens=8).tokens


def test_what_the_generator_cannot_read_is_refused(generator, other_generator):
    latents = embedded(generator, "abc")
    for wrong, message in (
        (replace(latents, generator="llama@0000"), "are for the generator llama@0000, this one is"),
        (replace(latents, generator=""), "of no name"),
        (replace(latents, vectors=latents.vectors[:, :7]), r"must be \[n, 32\]"),
        (replace(latents, sources=()), "0 sources"),
        (replace(latents, vectors=latents.vectors * np.nan), "must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            generator.generate("a?", wrong)
    with pytest.raises(InputError, match=r"must be \[n, 64\]"):
        other_generator.generate("a?", latents)
    with pytest.raises(InputError, match="use copy=False"):
        generator.generate("a?", latents, copy=True)
    with pytest.raises(InputError, match="reads text, got a CompressedLatents"):
        context_text(latents)


def test_a_model_is_known_again_by_its_embeddings(generator, other_generator, checkpoint):
    half = Generator.from_pretrained(checkpoint, dtype="bfloat16")
    quantized = Generator.from_pretrained(checkpoint, weights="rtn", group_size=16)
    assert generator_id(half.model) == generator_id(generator.model) == generator_id(quantized.model)
    assert generator_id(other_generator.model) != generator_id(generator.model)
    trained = Generator.from_pretrained(checkpoint)
    with torch.no_grad():
        trained.model.get_input_embeddings().weight.mul_(1.01)
    with pytest.raises(InputError, match="compress again"):
        trained.generate("a?", embedded(generator, "abc"))


def test_marks_are_never_confused_with_text(generator):
    prompts: Prompts = generator.prompts
    hostile = [mark_for(), mark_for()[:-1], "\ue000", "\ue001", mark_for() + mark_for(mark_for())]
    for text in hostile:
        latents = embedded(generator, "ab")
        context = CompressedMixed(parts=(as_text(text), latents, as_text(text)), stats=STATS)
        ids, places = prompts.prompt(text, context, text)
        assert len(places) == 2
        plain = prompts.tokens(messages_for(text, f"{text}\n\n\n\n{text}", text))
        assert [t for i, t in enumerate(ids) if i not in places] == plain


def test_parts_of_a_context(generator):
    latents = embedded(generator, "ab")
    assert latent_parts(CompressedMixed(parts=(as_text("a"), latents), stats=STATS)) == [latents]
    assert latent_parts(latents) == [latents]
    assert latent_parts([Passage("a")]) == latent_parts("a") == []
