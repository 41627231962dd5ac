"""Documents' caches on disk: exact where they must be, bound to what made them, and never served damaged."""

import logging
import random
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from generate import models  # noqa: E402
from tiny_chat import tiny_chat  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from ctxcomp import Passage  # noqa: E402
from ctxcomp.errors import CacheError, InputError, ModelError  # noqa: E402
from ctxcomp.generate import Generator  # noqa: E402
from ctxcomp.generate.documents import DocumentCache, store  # noqa: E402
from ctxcomp.generate.sampling import Sampling  # noqa: E402

PASSAGES = [
    Passage("George Eliot wrote Middlemarch. " * 6, title="Novels"),
    Passage("The mail coach was late in 1871, and it rained all day. " * 5),
    Passage("Tee und Kaffee: 茶与咖啡. " * 4),
]
QUESTION = "Who wrote Middlemarch?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("documents") / "model")


@pytest.fixture
def generator(checkpoint):
    return Generator.from_pretrained(checkpoint, device="cpu", dtype="float32")


def first_logits(generator, ids, cache=None):
    with torch.inference_mode():
        return generator.model(torch.tensor([ids]), past_key_values=cache, logits_to_keep=1).logits[0, -1]


def joined(documents, passages):
    """The prompt up to the question: ids, and the cache that holds it."""
    ids, layers = documents._join([documents.record(passage) for passage in passages])
    cache = documents.generator.new_cache()
    for i, (keys, values) in enumerate(layers):
        cache.update(keys, values, i)
    return ids, cache


def test_one_document_is_exactly_what_the_model_would_read(generator, tmp_path):
    documents = DocumentCache(generator, tmp_path, "none")
    ids, cache = joined(documents, PASSAGES[:1])
    after = generator.prompts.encode(documents._frame(QUESTION)[1])
    cached = [*ids, *after]
    assert torch.allclose(first_logits(generator, after, cache), first_logits(generator, cached), atol=1e-5)
    plain = generator.complete([cached], Sampling(max_tokens=20))[0]
    answer = documents.generate(QUESTION, PASSAGES[:1], max_tokens=20)
    assert answer.usage.completion_tokens == 20
    assert plain.text
    assert documents.generate(QUESTION, PASSAGES[:1], max_tokens=20).tokens == answer.tokens


def test_several_documents_are_read_apart_and_moved(generator, tmp_path):
    """Against transformers' own cache and rotation: each document read behind the start, its keys turned further."""
    from transformers import DynamicCache
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    documents = DocumentCache(generator, tmp_path, "none")
    ids, cache = joined(documents, PASSAGES)
    after = generator.prompts.encode(documents._frame(QUESTION)[1].removeprefix("\n\n"))
    model, start = generator.model, len(documents._before)
    found = first_logits(generator, after, cache)
    model.set_attn_implementation("sdpa")
    whole, at = DynamicCache(config=model.config), start
    for passage in PASSAGES:
        own = documents.record(passage).ids
        read = DynamicCache(config=model.config)
        first_logits(generator, [*documents._before, *own], read)
        delta = torch.tensor([[at - start]])
        for i, layer in enumerate(read.layers):
            cos, sin = model.model.rotary_emb(layer.keys, delta)
            moved, _ = apply_rotary_pos_emb(layer.keys[:, :, start:], layer.keys[:, :, start:], cos, sin)
            first = at == start
            keys = torch.cat([layer.keys[:, :, :start], moved], 2) if first else moved
            whole.update(keys, layer.values if first else layer.values[:, :, start:], i)
        at += len(own)
    assert at == len(ids)
    assert torch.allclose(found, first_logits(generator, after, whole), atol=1e-5)
    assert not torch.allclose(found, first_logits(generator, [*ids, *after]), atol=1e-4)


@pytest.mark.parametrize("build", [models.tiny_llama, models.tiny_qwen3, models.tiny_gpt_neox, models.tiny_phi3])
def test_documents_may_be_moved_in_any_rotary_model(build, checkpoint, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    generator = Generator(build(vocab_size=300, max_position_embeddings=2048), tokenizer)
    documents = DocumentCache(generator, tmp_path, "none")
    reader, ids = documents._reader, generator.prompts.text_tokens(PASSAGES[1].text)
    moved = reader.turn(reader.read([], ids), 37)
    filler = torch.arange(3, 40)[None]
    # The same tokens at positions 37 and on, seeing only themselves.
    mask = torch.ones(1, 1, 37 + len(ids), 37 + len(ids), dtype=torch.bool).tril()
    mask[:, :, 37:, :37] = False
    generator.model.set_attn_implementation("sdpa")
    from transformers import DynamicCache

    cache = DynamicCache(config=generator.model.config)
    with torch.inference_mode():
        generator.model(torch.cat([filler, torch.tensor([ids])], 1), attention_mask=mask, past_key_values=cache)
    for (keys, values), layer in zip(moved, cache.layers, strict=True):
        assert torch.allclose(keys, layer.keys[:, :, 37:], atol=1e-4)
        assert torch.allclose(values, layer.values[:, :, 37:], atol=1e-4)


def test_another_process_finds_what_is_stored(checkpoint, generator, tmp_path):
    documents = DocumentCache(generator, tmp_path, "kivi4")
    assert documents.add(PASSAGES) == 3
    assert documents.add(PASSAGES) == 0
    code = (
        "import sys; from ctxcomp import Passage; from ctxcomp.generate import Generator\n"
        "from ctxcomp.generate.documents import DocumentCache\n"
        f"generator = Generator.from_pretrained({str(checkpoint)!r}, device='cpu', dtype='float32')\n"
        f"documents = DocumentCache(generator, {str(tmp_path)!r}, 'kivi4')\n"
        f"passages = [Passage({PASSAGES[0].text!r}, title='Novels'), Passage({PASSAGES[1].text!r})]\n"
        "print(documents.add(passages))\n"
        f"print(*documents.generate({QUESTION!r}, passages, max_tokens=12).tokens)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    assert told[0] == "0"
    mine = documents.generate(QUESTION, PASSAGES[:2], max_tokens=12)
    assert told[1] == " ".join(map(str, mine.tokens))


def test_a_damaged_file_is_never_served(generator, tmp_path, caplog):
    documents = DocumentCache(generator, tmp_path, "kivi8")
    wanted = documents.generate(QUESTION, PASSAGES[:1], max_tokens=8).tokens
    path = documents.path(PASSAGES[0])
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        content = bytearray(whole)
        at = draw.randrange(len(content))
        content[at] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        with pytest.raises(CacheError):
            store.read(path, documents._facts(PASSAGES[0]))
    for content in (b"", whole[:100], whole[:-1], b"\0" * 1000):
        path.write_bytes(content)
        with pytest.raises(CacheError):
            store.read(path, documents._facts(PASSAGES[0]))
    with caplog.at_level(logging.WARNING):
        assert documents.generate(QUESTION, PASSAGES[:1], max_tokens=8).tokens == wanted
    assert "made again" in caplog.text
    assert store.read(path, documents._facts(PASSAGES[0]))


def test_files_are_bound_to_model_tokenizer_policy_text_and_instruction(checkpoint, generator, tmp_path):
    mine = DocumentCache(generator, tmp_path, "kivi8")
    trained = Generator.from_pretrained(checkpoint, device="cpu", dtype="float32")
    with torch.no_grad():
        trained.model.model.layers[1].mlp.up_proj.weight.mul_(1.001)
    others = [
        DocumentCache(trained, tmp_path, "kivi8"),
        DocumentCache(generator, tmp_path, "kivi4"),
        DocumentCache(generator, tmp_path, "kivi8", instruction="Be brief."),
    ]
    paths = {one.path(PASSAGES[0]) for one in [mine, *others]} | {mine.path(PASSAGES[1])}
    assert len(paths) == 5
    mine.add(PASSAGES[:1])
    target = others[0].path(PASSAGES[0])
    mine.path(PASSAGES[0]).rename(target)
    with pytest.raises(CacheError, match="another model"):
        store.read(target, others[0]._facts(PASSAGES[0]))


def test_bytes_fall_with_the_policy(generator, tmp_path):
    long = Passage("The canal was dug by hand over eleven years. " * 12)
    sizes = {}
    for policy in ("none", "kivi8", "kivi4", "expected_attention(keep=0.5)+kivi4"):
        documents = DocumentCache(generator, tmp_path / policy[:6] / str(len(policy)), policy)
        record = documents.record(long)
        sizes[policy] = record.nbytes()
        again = documents.record(long)
        assert again.ids == record.ids
        for name, tensor in record.tensors.items():
            assert torch.equal(tensor, again.tensors[name])
        assert documents.generate(QUESTION, [long, PASSAGES[0]], max_tokens=4).tokens
    assert sizes["kivi8"] < 0.4 * sizes["none"]
    assert sizes["kivi4"] < 0.7 * sizes["kivi8"]  # heads of 8: the scales of values weigh as much as their codes
    assert sizes["expected_attention(keep=0.5)+kivi4"] < 0.62 * sizes["kivi4"]


def test_what_cannot_be_stored_is_refused(checkpoint, generator, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with pytest.raises(ModelError, match="rotary"):
        DocumentCache(Generator(models.tiny_gpt2(vocab_size=300), tokenizer), tmp_path)
    with pytest.raises(ModelError, match="whole context"):
        DocumentCache(Generator(models.tiny_gemma2(vocab_size=300), tokenizer), tmp_path)
    with pytest.raises(InputError, match="cannot store"):
        DocumentCache(generator, tmp_path, "static8(max_tokens=64)")
    evicting = Generator.from_pretrained(checkpoint, kv="snapkv(keep=0.5)", device="cpu")
    with pytest.raises(InputError, match="weighs tokens"):
        DocumentCache(evicting, tmp_path)


def test_no_documents_and_a_folder_that_cannot_be_written(generator, tmp_path):
    documents = DocumentCache(generator, tmp_path / "new" / "folder")
    plain = generator.generate(QUESTION, max_tokens=6)
    assert len(documents.generate(QUESTION, [], max_tokens=6).tokens) == len(plain.tokens)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="cannot be written"):
        DocumentCache(generator, tmp_path / "file" / "below").add(PASSAGES)
