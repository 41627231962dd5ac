"""Pages through the generator's one call: the tokens of the plain model, of the pruned prompt and of a greedy loop."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import torch
import transformers
from PIL import Image
from tiny_chat import tiny_chat
from visual.checkpoints import NEEDS, WITH_PROCESSOR, saved
from visual.families import text as language

from ctxcomp import Budget, InputError, ModelError, Passage, load
from ctxcomp.generate import Generator
from ctxcomp.types import CompressedLatents, CompressedMixed, CompressedText, Stats
from ctxcomp.visual import VisualPruner, compress_together, picture, report
from ctxcomp.visual.asking import page_prompt, tiles_of

QUESTION = "What is the total?"
every_family = pytest.mark.parametrize("name", WITH_PROCESSOR)


def pages(*seeds):
    """Noise of different shapes."""
    made = []
    for seed in seeds:
        height, width = ((40, 60), (64, 30), (33, 47))[seed % 3]
        values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed))
        made.append(Image.fromarray(values.byte().numpy()))
    return made


def plain_inputs(generator, images, query):
    """What a user of transformers would make: the chat template and the processor, without this package."""
    chat = [{"role": "user", "content": [{"type": "image"}] * len(images) + [{"type": "text", "text": query}]}]
    text = rendered(generator, chat)
    made = generator.processor(text=[text], images=[images], return_tensors="pt", add_special_tokens=False)
    return {name: values for name, values in made.items() if isinstance(values, torch.Tensor)}


def rendered(generator, chat):
    """The chat under the processor's template; SmolVLM's own call wants a part for videos first."""
    if generator.model.config.model_type == "smolvlm":
        template = generator.processor.chat_template
        return generator.tokenizer.apply_chat_template(
            chat, chat_template=template, add_generation_prompt=True, tokenize=False
        )
    return generator.processor.apply_chat_template(chat, add_generation_prompt=True)


def asked(query):
    return f"\n\nQuestion: {query}"


@every_family
def test_keeping_all_is_the_plain_model(generator, name):
    it, images = generator(name), pages(1, 2)
    whole = VisualPruner(model=it, method="random").compress(QUESTION, images, Budget(keep=1.0))
    inputs = plain_inputs(it, images, asked(QUESTION))
    written = it.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    found = it.generate(QUESTION, whole, max_tokens=6)
    assert found.tokens == tuple(written[0, inputs["input_ids"].shape[1] :].tolist())
    assert found.usage.prompt_tokens == inputs["input_ids"].shape[1]


@every_family
@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_pruned_pages_are_the_pruned_prompt_and_a_greedy_loop(generator, name, positions):
    it, images = generator(name), pages(1, 2)
    pruner = VisualPruner(model=it, method="random", positions=positions)
    context = pruner.compress(QUESTION, images, Budget(keep=0.5), scores=[2.0, 1.0])
    found = it.generate(QUESTION, context, max_tokens=5)
    inputs = plain_inputs(it, images, asked(QUESTION))
    by_hand = VisualPruner(model=it.model, method="random", positions=positions)
    tiles = tiles_of(it, context.sizes)
    pruned = by_hand.prune(inputs, Budget(keep=0.5), scores=[2.0, 1.0], tiles=tiles)
    assert context.indices.tolist() == pruned.results[0].indices.tolist()
    written = pruned.generate(max_new_tokens=5, do_sample=False)[0].tolist()
    assert found.tokens == tuple(written[-5:])
    assert found.usage.prompt_tokens == len(written) - 5
    assert looped(it, context, 5) == found.tokens


def looped(generator, context, steps):
    """The greedy answer of whole forwards without a cache."""
    prompt, tokens = page_prompt(generator, QUESTION, context), ()
    for _ in range(steps):
        ids = torch.tensor([[*prompt.ids, *tokens]])
        given = prompt.inputs()
        for _ in tokens:
            last = given["position_ids"][..., -1:] + 1
            given["position_ids"] = torch.cat([given["position_ids"], last], dim=-1)
            for key in {"token_type_ids", "mm_token_type_ids"} & set(given):
                given[key] = torch.nn.functional.pad(given[key], (0, 1))
        with torch.no_grad():
            logits = generator.model(ids, attention_mask=torch.ones_like(ids), use_cache=False, **given).logits
        tokens = (*tokens, int(logits[0, -1].argmax()))
    return tokens


@every_family
def test_another_question_needs_no_tower(generator, name):
    """The pages are laid out anew: what they answer is what they would answer had they been pruned for it."""
    it, images = generator(name), pages(2, 3)
    pruner = VisualPruner(model=it, method="random")
    first = pruner.compress(QUESTION, images, Budget(keep=0.5))
    second = pruner.compress("Who sold it?", images, Budget(keep=0.5))
    calls = []
    hook = pruner.adapter.tower.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        found = it.generate("Who sold it?", first, instruction="Be brief.", max_tokens=5)
    finally:
        hook.remove()
    assert not calls
    assert found.tokens == it.generate("Who sold it?", second, instruction="Be brief.", max_tokens=5).tokens


@every_family
def test_half_the_precision(checkpoints, name):
    """The pages' pixels and features follow the model's dtype, and the model is known again in another one."""
    half, whole = (
        Generator.from_pretrained(saved(name, checkpoints), device="cpu", dtype=d) for d in ("bfloat16", None)
    )
    context = VisualPruner(model=half).compress(QUESTION, pages(1, 2), Budget(keep=0.5))
    assert context.features.dtype == torch.bfloat16
    assert half.generate("Who?", context, max_tokens=2).tokens
    assert whole.generate(QUESTION, context, max_tokens=2).tokens


def test_pages_of_one_prompt_are_compressed_together(generator):
    it = generator("llava_onevision")
    pruner = VisualPruner(model=it, method="random")
    parts = tuple(pruner.compress(QUESTION, [page], Budget(keep=0.5)) for page in pages(1, 2))
    with pytest.raises(InputError, match="compress pages for one prompt in one call"):
        it.generate(QUESTION, CompressedMixed(parts=parts, stats=parts[0].stats))


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "internvl"])
def test_streams_batches_and_usage(generator, name):
    it = generator(name)
    pruner = VisualPruner(model=it, method="visionzip")
    context = pruner.compress(QUESTION, pages(1, 2), Budget(keep=0.5))
    whole = it.generate(QUESTION, context, max_tokens=9)
    with it.stream(QUESTION, context, max_tokens=9) as stream:
        assert "".join(stream) == whole.text
    assert stream.result.tokens == whole.tokens
    assert stream.usage.model_calls == whole.usage.model_calls == len(whole.tokens)
    layers = it.model.config.get_text_config().num_hidden_layers
    assert whole.usage.kv_bytes == layers * 2 * 2 * 8 * 4 * (whole.usage.prompt_tokens + len(whole.tokens) - 1)
    answers = it.generate_batch([(QUESTION, context), ("Who?", "Text alone."), (QUESTION, context)], max_tokens=9)
    assert answers[0].tokens == answers[2].tokens == whole.tokens
    assert answers[1].tokens == it.generate("Who?", "Text alone.", max_tokens=9).tokens
    seeded = [it.generate(QUESTION, context, max_tokens=9, temperature=1.0, seed=3).tokens for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_text_and_pages_in_one_prompt(generator):
    it, images = generator("qwen2_vl"), pages(1, 2)
    pruner = VisualPruner(model=it, method="random")
    text = load("truncate").compress(QUESTION, [Passage("It rained. The mail was late.")], Budget(keep=1.0))
    seen = pruner.compress(QUESTION, images[:1], Budget(keep=0.5))
    again = pruner.compress(QUESTION, images[1:], Budget(keep=0.5))
    both = CompressedMixed(parts=(text, seen, again), stats=Stats(0, 0, 0.0, "", ""))
    found = it.generate(QUESTION, both, max_tokens=5)
    content = [{"type": "text", "text": f"{text.text}\n\n"}, {"type": "image"}, {"type": "text", "text": "\n\n"}]
    content += [{"type": "image"}, {"type": "text", "text": asked(QUESTION)}]
    text_of_all = rendered(it, [{"role": "user", "content": content}])
    made = it.processor(text=[text_of_all], images=[images], return_tensors="pt", add_special_tokens=False)
    pruned = pruner.prune(dict(made), Budget(keep=0.5))
    kept = torch.cat([seen.indices, again.indices + seen.tokens_in[0]])
    assert found.usage.prompt_tokens == pruned.inputs["input_ids"].shape[1]
    whole = CompressedMixed(
        parts=(text, *(pruner.compress(QUESTION, [image], Budget(keep=1.0)) for image in images)), stats=both.stats
    )
    written = it.model.generate(**made, max_new_tokens=5, do_sample=False)
    assert it.generate(QUESTION, whole, max_tokens=5).tokens == tuple(written[0, -5:].tolist())
    assert len(kept) == seen.stats.tokens_out + again.stats.tokens_out


def test_text_and_pages_under_one_budget(generator):
    it = generator("llava_next")
    pruner = VisualPruner(model=it, floor=4)
    passages = [
        Passage("The total was 12.50 in cash. Thank you. It rained all day and nobody came.", score=2.0),
        Passage("The mail was late. " * 4, score=0.1),
    ]
    compressor = load("bm25", counter=it.tokenizer)
    found = compress_together(
        pruner, QUESTION, passages, pages(1, 2), compressor, Budget(tokens=60), page_scores=[1.0, 0.2]
    )
    text, seen = found.parts
    assert found.stats.tokens_out == text.stats.tokens_out + seen.stats.tokens_out <= 60
    assert found.stats.tokens_in == text.stats.tokens_in + sum(seen.tokens_in)
    assert "12.50" in text.text
    assert seen.tokens_out[0] > seen.tokens_out[1] >= 4
    answer = it.generate(QUESTION, found, max_tokens=4)
    bare = it.generate(QUESTION, pruner.compress(QUESTION, pages(1, 2), Budget(tokens=8)), max_tokens=1)
    assert answer.usage.prompt_tokens == bare.usage.prompt_tokens - 8 + found.stats.tokens_out + len("\n\n")
    everything = compress_together(pruner, QUESTION, passages, pages(1), compressor, Budget(keep=1.0))
    assert everything.stats.keep == 1.0


def test_refusals(generator, checkpoints, tmp_path):
    it, other = generator("qwen2_vl"), generator("qwen3_vl")
    pruner = VisualPruner(model=it, method="random")
    context = pruner.compress(QUESTION, pages(1), Budget(keep=0.5))
    textual = Generator.from_pretrained(tiny_chat(tmp_path / "tiny", max_positions=512), device="cpu")
    latents = CompressedLatents(vectors=torch.zeros(1, 32).numpy(), generator="x", sources=(0,), stats=context.stats)
    cut = pruner.prune(plain_inputs(it, pages(1), QUESTION), Budget(keep=0.5)).results[0]
    for who, what, message in (
        (textual, context, "LlamaForCausalLM reads text"),
        (other, context, r"for the model qwen2_vl@\w+, this one is qwen3_vl@"),
        (it, cut, "a prompt of your own"),
        (it, CompressedMixed(parts=(context, latents), stats=context.stats), "vectors cannot stand in one prompt"),
        (it, dataclasses.replace(context, tokens_in=(9,), prompt=None), "for pages that had 9"),
        (it, dataclasses.replace(context, features=context.features * float("nan")), "must be finite"),
    ):
        with pytest.raises(InputError, match=message):
            who.generate(QUESTION, what, max_tokens=2)
        with pytest.raises(InputError, match=message):
            who.stream(QUESTION, what, max_tokens=2)
    with pytest.raises(InputError, match="cannot be copied from"):
        it.generate(QUESTION, context, copy=True)
    with pytest.raises(InputError, match="needs the model's processor"):
        VisualPruner(model=it.model, method="random").compress(QUESTION, pages(1), Budget(keep=0.5))
    with pytest.raises(InputError, match="weights='rtn'"):
        Generator.from_pretrained(saved("qwen2_vl", checkpoints), weights="rtn", device="cpu")
    closer = VisualPruner(model=it, method="random", positions="contiguous")
    mixed = CompressedMixed(
        parts=(context, closer.compress("", pages(2), Budget(keep=0.5))), stats=context.stats
    )  # fmt: skip
    with pytest.raises(InputError, match="prune all of them alike"):
        it.generate(QUESTION, mixed)


@every_family
def test_a_question_cannot_bring_a_page(generator, name):
    """What looks like a placeholder in a question or a passage is text."""
    it = generator(name)
    pruner = VisualPruner(model=it, method="random")
    hostile = "Is <image> or <vision> a page?"
    context = pruner.compress(hostile, pages(1), Budget(keep=0.5))
    assert context.tokens_in == pruner.compress("Is it?", pages(1), Budget(keep=0.5)).tokens_in
    both = CompressedMixed(
        parts=(load("truncate").compress("", [Passage(hostile)], Budget(keep=1.0)), context), stats=context.stats
    )
    assert it.generate(hostile, both, max_tokens=2).tokens


def test_a_model_that_was_trained_further_is_another_one(generator):
    """A projector alone makes other features: the language model's weights are no sign of that."""
    it = generator("llava")
    context = VisualPruner(model=it, method="random").compress(QUESTION, pages(1), Budget(keep=0.5))
    weight = it.model.model.multi_modal_projector.linear_1.weight
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        with pytest.raises(InputError, match="these pages are for the model llava@"):
            it.generate(QUESTION, context, max_tokens=2)
    finally:
        with torch.no_grad():
            weight.div_(1.5)
    assert it.generate(QUESTION, context, max_tokens=2).tokens


def test_the_window_counts_original_positions(generator, monkeypatch):
    it = generator("llava_next")
    monkeypatch.setattr(it.model.config.get_text_config(decoder=True), "max_position_embeddings", 120)
    images = pages(1, 2)
    far = VisualPruner(model=it, method="random").compress(QUESTION, images, Budget(keep=0.25))
    with pytest.raises(InputError, match="positions='contiguous'"):
        it.generate(QUESTION, far, max_tokens=4)
    near = VisualPruner(model=it, method="random", positions="contiguous").compress(QUESTION, images, Budget(keep=0.25))
    assert len(it.generate(QUESTION, near, max_tokens=500).tokens) <= 120


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "idefics3"])
def test_a_small_kv_cache(checkpoints, generator, name):
    small = Generator.from_pretrained(saved(name, checkpoints), device="cpu", kv="int8")
    context = VisualPruner(model=small, method="random").compress(QUESTION, pages(1, 2), Budget(keep=0.5))
    found, whole = (who.generate(QUESTION, context, max_tokens=3) for who in (small, generator(name)))
    assert found.tokens[0] == whole.tokens[0]
    assert found.usage.kv_bytes < whole.usage.kv_bytes


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "gemma3"])
def test_an_evictor_that_keeps_all_changes_nothing(checkpoints, generator, name):
    """Its attention hears gaps between positions, and three axes of them, as the plain one does."""
    evicting = Generator.from_pretrained(saved(name, checkpoints), device="cpu", kv="snapkv(keep=1.0)")
    context = VisualPruner(model=evicting, method="random").compress(QUESTION, pages(1, 2), Budget(keep=0.5))
    found, whole = (who.generate(QUESTION, context, max_tokens=6) for who in (evicting, generator(name)))
    assert found.tokens == whole.tokens


@every_family
def test_text_alone_is_not_lost(generator, name):
    """Their templates want a list of parts, and say nothing of a plain string."""
    it = generator(name)
    ids = it.prompts.tokens([{"role": "user", "content": "It rained."}])
    assert "It rained." in it.tokenizer.decode(ids)
    chat = [{"role": "user", "content": [{"type": "text", "text": "It rained."}]}]
    assert ids == it.tokenizer(rendered(it, chat), add_special_tokens=False)["input_ids"]
    assert isinstance(load("truncate").compress("", [], Budget(keep=1.0)), CompressedText)


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_processors_that_want_more_say_what(checkpoints, name):
    with pytest.raises(ModelError, match=f"needs {NEEDS[name]}: run `pip install {NEEDS[name]}`"):
        Generator.from_pretrained(saved(name, checkpoints), device="cpu")


def test_a_checkpoint_without_a_processor_says_so(checkpoints, tmp_path):
    place = saved("llava", checkpoints)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((place / name).read_bytes())
    with pytest.raises(ModelError, match="processor"):
        Generator.from_pretrained(tmp_path, device="cpu")


def test_a_processor_is_for_a_model_that_sees(generator):
    it = generator("llava")
    with pytest.raises(ModelError, match="LlamaForCausalLM does not take images"):
        Generator(transformers.LlamaForCausalLM(language()), it.tokenizer, processor=it.processor)


def test_a_family_that_is_not_known_says_which_are(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "paligemma", "vision_config": {}, "text_config": {}}')
    with pytest.raises(ModelError, match="holds a 'paligemma' model: of vision-language models there are gemma3, "):
        Generator.from_pretrained(tmp_path, device="cpu")


def test_reports_and_pictures_of_compressed_pages(generator):
    for name in ("internvl", "idefics3", "qwen2_5_vl"):
        it, images = generator(name), pages(1, 2)
        pruned = VisualPruner(model=it).prune_pages(QUESTION, images, Budget(keep=0.5))
        found = report(pruned, pruned.given)
        assert found.before.seconds > 0
        assert picture(pruned, 1, images[1]).size == images[1].size
