"""The generator against plain `model.generate`, on a tiny model: the same tokens, pieces, batches, seeds and stops."""

import subprocess
import sys
import threading
import time

import pytest
import torch
from tiny_chat import tiny_chat
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from ctxcomp import Budget, InputError, ModelError, Passage, load
from ctxcomp.generate import Generator, Sampling
from ctxcomp.generate.writing import Writer

FACTS = "The mill at Ford burnt down in 1707. Anna Smith rebuilt it. The bridge was built in 1650. "
QUESTION = "When did the mill burn down?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("chat") / "tiny", max_positions=1024)


@pytest.fixture(scope="module")
def generator(checkpoint):
    return Generator.from_pretrained(checkpoint, device="cpu")


def plainly(generator, query, context, **options):
    """What transformers itself writes."""
    ids = torch.tensor([generator.prompts.tokens([{"role": "user", "content": f"{context}\n\nQuestion: {query}"}])])
    found = generator.model.generate(ids, do_sample=False, **{"max_new_tokens": 30} | options)
    return tuple(found[0, ids.shape[1] :].tolist())


def test_the_tokens_of_plain_generate(generator):
    found = generator.generate(QUESTION, FACTS, max_tokens=30)
    assert found.tokens == plainly(generator, QUESTION, FACTS)
    assert found.text == generator.tokenizer.decode(found.tokens, skip_special_tokens=True)
    assert found.finish_reason == "length"


def test_usage(generator):
    calls = []
    hook = generator.model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        for copy in (False, True):
            calls.clear()
            usage = generator.generate(QUESTION, FACTS, max_tokens=30, copy=copy).usage
            assert usage.model_calls == len(calls)
            assert usage.completion_tokens == 30
    finally:
        hook.remove()
    assert usage.prompt_tokens == len(FACTS + QUESTION) + len("\n\nQuestion: ") + 3  # one token is one byte
    assert usage.weight_bytes == sum(p.numel() * 4 for p in generator.model.parameters()) + sum(
        b.numel() * b.element_size() for b in generator.model.buffers()
    )
    # 2 layers, keys and values, 2 heads of 8 numbers; the last token was never read.
    assert usage.kv_bytes == 2 * 2 * 2 * 8 * 4 * (usage.prompt_tokens + 30 - 1)
    assert usage.prefill_seconds > 0
    assert usage.tokens_per_second == pytest.approx(29 / usage.decode_seconds)
    assert "30 written" in str(usage)


def test_every_context_reads_the_same(generator):
    passages = [Passage(FACTS)]
    compressed = load("truncate").compress(QUESTION, passages, Budget(keep=1.0))
    texts = {generator.generate(QUESTION, c, max_tokens=12).text for c in (FACTS, passages, compressed)}
    assert len(texts) == 1
    assert (
        generator.chat([{"role": "user", "content": f"{FACTS}\n\nQuestion: {QUESTION}"}], max_tokens=12).text in texts
    )


def test_copying_changes_nothing_but_the_calls(generator):
    plain = generator.generate(QUESTION, FACTS, max_tokens=60)
    for copy in (True, [FACTS], [Passage(FACTS)]):
        copied = generator.generate(QUESTION, FACTS, max_tokens=60, copy=copy)
        assert (copied.text, copied.tokens, copied.finish_reason) == (plain.text, plain.tokens, plain.finish_reason)
    told = generator.generate(QUESTION, FACTS, max_tokens=60, copy=[plain.text])
    assert told.tokens == plain.tokens
    assert told.usage.model_calls < plain.usage.model_calls / 3


def test_drafts_come_from_documents_that_the_prompt_no_longer_holds(generator):
    """What is quoted was cut out of the prompt: only the documents behind the compressed text can give it."""
    short = load("bm25").compress(QUESTION, [Passage(FACTS)], Budget(tokens=12))
    plain = generator.generate(QUESTION, short, max_tokens=60)
    documents = (Passage(FACTS), Passage(f"Some say: {plain.text}, and they mean it."))
    fuller = type(short)(text=short.text, spans=None, passages=documents, passage_texts=("", ""), stats=short.stats)
    blind = generator.generate(QUESTION, short.text, max_tokens=60, copy=True)
    copied = generator.generate(QUESTION, fuller, max_tokens=60, copy=True)
    assert copied.tokens == blind.tokens == plain.tokens
    assert copied.usage.model_calls < min(blind.usage.model_calls, 30)


def test_a_stream_is_the_answer_in_pieces(generator):
    whole = generator.generate(QUESTION, FACTS, max_tokens=40)
    with generator.stream(QUESTION, FACTS, max_tokens=40) as stream:
        with pytest.raises(InputError, match="read the stream"):
            _ = stream.usage
        pieces = list(stream)
        assert "".join(pieces) == whole.text
        assert len(pieces) > 10
        assert stream.result.tokens == whole.tokens
        assert stream.usage.model_calls == 40
        assert list(stream) == []


def test_a_stream_that_is_closed_stops_the_model(generator):
    stream = generator.stream(QUESTION, FACTS, max_tokens=700)
    next(stream)
    stream.close()
    assert stream.result.finish_reason == "cancelled"
    assert 1 <= len(stream.result.tokens) < 700


def test_a_stream_that_is_let_go_frees_the_generator(generator):
    stream = generator.stream(QUESTION, FACTS, max_tokens=700)
    next(stream)
    thread = stream._thread
    del stream
    began = time.monotonic()
    thread.join(20)
    assert not thread.is_alive()
    assert time.monotonic() - began < 20


def test_an_error_reaches_who_reads_the_stream(generator):
    with pytest.raises(InputError, match="window 1024"):
        generator.stream("x" * 1100)
    cancelled = threading.Event()
    cancelled.set()
    assert generator.complete([[5, 6]], Sampling(max_tokens=9), cancelled=cancelled)[0].finish_reason == "cancelled"


def test_a_batch_is_its_singles(generator):
    requests = [(QUESTION, FACTS), ("Who rebuilt it?", FACTS * 3), ("Hm?", "")]
    for options in ({}, {"temperature": 1.0, "seed": 5}, {"stop": ["e"]}, {"copy": True}):
        batch = generator.generate_batch(requests, max_tokens=20, **options)
        for (query, context), row in zip(requests, batch, strict=True):
            alone = generator.generate(query, context, max_tokens=20, **options)
            assert (row.text, row.tokens, row.finish_reason) == (alone.text, alone.tokens, alone.finish_reason)
            assert row.usage.prompt_tokens == alone.usage.prompt_tokens
    assert generator.generate_batch([]) == []


def test_seeds(generator):
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    options = {"max_tokens": 40, "temperature": 1.0}
    one = generator.generate(QUESTION, FACTS, seed=7, **options)
    assert generator.generate(QUESTION, FACTS, seed=7, **options).tokens == one.tokens
    assert generator.generate(QUESTION, FACTS, seed=8, **options).tokens != one.tokens
    assert (
        generator.generate(QUESTION, FACTS, **options).tokens != generator.generate(QUESTION, FACTS, **options).tokens
    )
    copied = generator.generate(QUESTION, FACTS, seed=7, copy=[one.text], **options)
    assert copied.tokens == one.tokens
    assert copied.usage.model_calls < one.usage.model_calls
    assert torch.equal(torch.random.get_rng_state(), before)  # nobody else's random numbers change


def test_draws_follow_the_models_distribution(generator):
    prompt = generator.prompts.tokens([{"role": "user", "content": "Hm?"}])
    with torch.no_grad():
        logits = generator.model(torch.tensor([prompt])).logits[0, -1] / 0.03
    seen = torch.zeros_like(logits)
    for seed in range(250):
        done = generator.complete([prompt], Sampling(max_tokens=1, temperature=0.03, seed=seed))
        seen[done[0].tokens[0]] += 1
    expected = logits.softmax(-1)
    assert float((seen / 250 - expected).abs().sum()) < 0.45
    uniform = torch.full_like(expected, 1 / len(expected))
    assert float((uniform - expected).abs().sum()) > 0.9  # the bound above can fail


def test_top_k_and_top_p_narrow_the_draw(generator):
    greedy = generator.generate(QUESTION, FACTS, max_tokens=20).tokens
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}):
        assert generator.generate(QUESTION, FACTS, max_tokens=20, temperature=1.0, seed=1, **narrow).tokens == greedy


def test_stop_texts_end_the_answer_and_are_no_part_of_it(generator):
    whole = generator.generate(QUESTION, FACTS, max_tokens=60)
    stop = whole.text[20:24]
    cut = whole.text.index(stop)
    for copy in (False, [whole.text]):
        found = generator.generate(QUESTION, FACTS, max_tokens=60, stop=stop, copy=copy)
        assert (found.text, found.finish_reason) == (whole.text[:cut], "stop")
        assert found.tokens == whole.tokens[: len(found.tokens)]
        assert len(found.tokens) == cut + 4
        pieces = list(generator.stream(QUESTION, FACTS, max_tokens=60, stop=(stop, "never"), copy=copy))
        assert "".join(pieces) == whole.text[:cut]


def test_an_end_token_ends_the_answer(checkpoint):
    generator = Generator.from_pretrained(checkpoint, device="cpu")
    whole = generator.generate(QUESTION, FACTS, max_tokens=30)
    generator.model.generation_config.eos_token_id = [0, whole.tokens[9]]
    found = Generator(generator.model, generator.tokenizer).generate(QUESTION, FACTS, max_tokens=30)
    length = whole.tokens.index(whole.tokens[9]) + 1
    assert found.tokens == whole.tokens[:length]
    assert found.text == whole.text[: length - 1]
    assert found.finish_reason == "stop"


def test_the_window_bounds_the_answer(generator):
    query = "x" * (1024 - 4 - 2 - 12)
    found = generator.generate(query, max_tokens=50)
    assert found.usage.prompt_tokens + len(found.tokens) == 1024
    assert found.finish_reason == "length"


@pytest.mark.parametrize("kv", ["int8", "kivi4", "snapkv(keep=0.5)+kivi4"])
def test_compressed_caches(checkpoint, kv):
    generator = Generator.from_pretrained(checkpoint, kv=kv, device="cpu")
    plain = Generator.from_pretrained(checkpoint, device="cpu").generate(QUESTION, FACTS * 4, max_tokens=20)
    found = generator.generate(QUESTION, FACTS * 4, max_tokens=20)
    assert found.usage.kv_bytes < plain.usage.kv_bytes
    copied = generator.generate(QUESTION, FACTS * 4, max_tokens=20, copy=[found.text])
    assert copied.tokens == found.tokens
    assert copied.usage.model_calls < found.usage.model_calls
    pair = generator.generate_batch([(QUESTION, FACTS * 4), ("Who?", FACTS)], max_tokens=20)
    assert pair[0].tokens == found.tokens


def test_quantized_weights(checkpoint, generator):
    small = Generator.from_pretrained(checkpoint, "rtn", bits=8, group_size=32, device="cpu")
    assert small.weight_bytes < generator.weight_bytes
    assert len(small.generate(QUESTION, FACTS, max_tokens=8).tokens) == 8


def test_weights_that_calibrate_on_given_texts(checkpoint, generator):
    texts = [FACTS * 20]
    small = Generator.from_pretrained(checkpoint, "awq", calibration=texts, group_size=16, samples=2, tokens=64,
                                      device="cpu")  # fmt: skip
    assert small.weight_bytes < generator.weight_bytes
    with pytest.raises(InputError, match="calibration="):
        Generator.from_pretrained(checkpoint, "awq", device="cpu")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"temperature": -1}, "temperature must be in"),
        ({"temperature": "hot"}, "temperature must be a finite number"),
        ({"top_p": 0}, "top_p must be in"),
        ({"top_k": -1}, "top_k must be"),
        ({"stop": [""]}, "empty text"),
        ({"stop": [3]}, "stop must be"),
        ({"seed": 1.5}, "seed must be"),
    ],
)
def test_wrong_options(generator, options, said):
    with pytest.raises(InputError, match=said):
        generator.generate(QUESTION, **options)


def test_what_cannot_be_loaded(checkpoint, tmp_path, generator):
    with pytest.raises(ModelError, match="no model"):
        Generator.from_pretrained(tmp_path / "none")
    with pytest.raises(ModelError, match="cannot be loaded"):
        Generator.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="bits configure quantization"):
        Generator.from_pretrained(checkpoint, bits=4)
    with pytest.raises(InputError, match="dtype must be"):
        Generator.from_pretrained(checkpoint, dtype="float17")
    with pytest.raises(InputError, match="KV cache stage"):
        Generator.from_pretrained(checkpoint, kv="kivi5", device="cpu")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 40}
    with pytest.raises(ModelError, match="no decoder-only"):
        Generator(T5ForConditionalGeneration(T5Config(**sizes)), generator.tokenizer)
    with pytest.raises(InputError, match="one prompt at a time, got 2"):
        generator.complete([[1], [2]], Sampling(), sources=[])


def test_a_checkpoint_that_wants_to_sample_is_still_greedy(checkpoint, generator):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    config = model.generation_config
    config.do_sample, config.temperature, config.top_p, config.top_k, config.num_beams = True, 5.0, 0.5, 3, 1
    other = Generator(model, AutoTokenizer.from_pretrained(checkpoint))
    assert other.generate(QUESTION, FACTS, max_tokens=20).tokens == plainly(generator, QUESTION, FACTS)[:20]


def test_threads_take_turns(generator):
    alone = [generator.generate(QUESTION, FACTS, max_tokens=15, temperature=1.0, seed=s).text for s in range(3)]
    found = {}

    def work(seed):
        found[seed] = generator.generate(QUESTION, FACTS, max_tokens=15, temperature=1.0, seed=seed).text

    threads = [threading.Thread(target=work, args=(s,)) for s in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[s] for s in range(3)] == alone


# Text from tokens


def written(pieces, stop=(), ends=frozenset()):
    """A writer over a decoder in which token i is the i-th piece of bytes."""
    said = []
    writer = Writer(lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace"), ends, stop, said.append)
    for token in range(len(pieces)):
        writer.add(token)
    writer.finish("length")
    assert "".join(said) == writer.text
    return writer, said


def test_characters_of_several_tokens_come_whole():
    pieces = [bytes([b]) for b in "a€😀é".encode()]
    writer, said = written(pieces)
    assert said == ["a", "€", "😀", "é"]
    assert writer.finish_reason == "length"


def test_bytes_that_are_no_character_come_at_the_end():
    assert written([b"a", b"\xe2", b"\x82"])[0].text == "a\ufffd"
    assert written([b"a", b"\xff", b"b"])[0].text == "a\ufffdb"


def test_the_beginning_of_a_stop_text_is_held_back():
    assert written([b"a", b"S", b"T", b"x"], stop=["STOP"])[1] == ["a", "STx"]
    writer, said = written([b"a", b"ST", b"OPmore", b"z"], stop=["STOP"])
    assert (writer.text, said, writer.finish_reason, writer.tokens) == ("a", ["a"], "stop", [0, 1, 2])
    assert written([b"ab", b"S"], stop=["STOP"])[0].text == "abS"
    assert written([b"xaab"], stop=["aab", "ab"])[0].text == "x"


def test_the_package_is_light():
    code = "import sys, ctxcomp.generate as g; print({'torch', 'transformers'} & set(sys.modules), dir(g))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.startswith("set()")
    assert "Generator" in printed
