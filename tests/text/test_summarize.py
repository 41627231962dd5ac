"""Summaries by each thing that can write one: rules, a T5 checkpoint, LangChain models, an openai client."""

from __future__ import annotations

import json
import threading
import time

import pytest

from ctxcomp import Budget, InputError, ModelError, Passage, Request, load
from ctxcomp.rewriter import PREPEND_NOTHING
from ctxcomp.text.draft import fused, shortened

TEXT = (
    "We study bees (genus Apis). We show that a hive holds 40,000 of them. However, it was cold in 1999. They dance "
    "to show the way. They sleep at night."
)
OTHER = "George Eliot wrote Middlemarch. It was published in eight parts. It is set in the Midlands."
PASSAGES = [Passage(TEXT), Passage(OTHER)]
QUERY = "Who wrote Middlemarch?"
ROOM = Budget(tokens=30)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip("transformers")
    from tiny_t5 import tiny_t5

    return tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def upstream():
    pytest.importorskip("uvicorn")
    from chat_upstream import chat_upstream

    with chat_upstream() as running:
        yield running


def test_extraction_is_the_default_and_serves_the_query():
    result = load("summarize").compress(QUERY, PASSAGES, Budget(tokens=8))
    assert result.text == "George Eliot wrote Middlemarch."
    assert result.spans
    unaware = load("summarize", query_aware=False, extractor=load("bm25")).compress(QUERY, PASSAGES, Budget(tokens=8))
    assert unaware.text == "They dance to show the way."  # the first that fits


def test_rules_shorten_and_join():
    assert shortened("However,  it was cold (very) in 1999 [3].") == "It was cold in 1999."
    pair = ["We study bees.", "We show that they dance."]
    assert fused(pair, [False, True]) == "We study bees and show that they dance."
    assert fused(pair, [False, False]) == "We study bees. We show that they dance."
    # Another subject may be meant: "George Eliot wrote Emma and was published" would be a lie.
    assert fused(["Eliot wrote it.", "It was read."], [False, True]) == "Eliot wrote it. It was read."


def test_a_draft_holds_more_sentences_than_extraction_in_the_same_tokens():
    room = Budget(tokens=24)
    draft = load("summarize", model="draft", extractor=load("truncate", unit="sentence")).compress(
        "", PASSAGES[:1], room
    )
    plain = load("summarize", extractor=load("truncate", unit="sentence")).compress("", PASSAGES[:1], room)
    assert draft.text.startswith("We study bees and show that a hive holds 40,000 of them.")
    assert draft.stats.tokens_out <= 24
    assert "cold" in draft.text
    assert "cold" not in plain.text


class TestT5:
    @pytest.fixture
    def alone(self, path):
        """What transformers itself makes of a prompt."""
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)

        def write(prompt, **options):
            ids = model.generate(**tokenizer(prompt, return_tensors="pt"), do_sample=False, **options)
            return tokenizer.decode(ids[0], skip_special_tokens=True).strip()

        return write

    def summarize(self, path, query, passages=PASSAGES, budget=ROOM, **fields):
        method = load("summarize", model=str(path), inventions="report", target_tokens=24, **fields)
        return method.compress(query, passages, budget)

    def test_the_prompt_is_recomps_to_the_letter(self, path, alone):
        expected = alone(f"Question: {QUERY}\n Document: {TEXT}\n{OTHER}\n Summary: ", max_new_tokens=24)
        assert expected
        result = self.summarize(path, QUERY, budget=Budget(tokens=10**6), always=True)
        assert result.text == expected

    def test_without_a_query_it_is_t5s_own(self, path, alone):
        expected = alone(f"summarize: {TEXT}\n{OTHER}", max_new_tokens=24)
        for query, aware in (("", True), (QUERY, False)):
            result = self.summarize(path, query, budget=Budget(tokens=10**6), always=True, query_aware=aware)
            assert result.text == expected

    def test_a_prompt_of_ones_own_and_beams(self, path, alone):
        result = self.summarize(
            path, QUERY, budget=Budget(tokens=10**6), always=True, beams=3, prompt="{query} tl;dr: {passages}"
        )
        assert result.text == alone(f"{QUERY} tl;dr: {TEXT}\n{OTHER}", num_beams=3, max_new_tokens=24)

    def test_a_batch_equals_its_singles(self, path):
        method = load("summarize", model=str(path), inventions="report", target_tokens=24, batch=2)
        texts = [TEXT, OTHER, TEXT * 3, "Rain. " * 40]
        requests = [Request(QUERY, (Passage(text),), Budget(tokens=9)) for text in texts]
        together = method.compress_batch(requests)
        assert [r.text for r in together] == [method.compress_batch([r])[0].text for r in requests]
        assert all(r.stats.tokens_out <= 9 for r in together)

    def test_what_was_not_read_is_told_and_the_prompt_keeps_its_end(self, path, alone):
        result = self.summarize(path, "bees", [Passage("bees " * 400)], source_tokens=40, budget=Budget(tokens=300))
        (note,) = [note for note in result.stats.notes if note.startswith("read the first")]
        read = int(note.split()[3])
        assert note == f"read the first {read} of 401 tokens: raise source_tokens, or select first"
        expected = alone(f"Question: bees\n Document: {('bees ' * read).strip()}\n Summary: ", max_new_tokens=24)
        assert result.text == expected

    def test_an_empty_summary_prepends_nothing(self, tmp_path):
        from tiny_t5 import tiny_t5

        result = self.summarize(tiny_t5(tmp_path / "silent", silent=True), QUERY)
        assert (result.text, result.stats.notes) == ("", (PREPEND_NOTHING,))

    def test_what_is_no_checkpoint_is_said(self, tmp_path):
        for model in ("nobody/nothing", str(tmp_path)):
            with pytest.raises(ModelError, match=r"model|checkpoint"):
                self.summarize(model, QUERY)

    def test_weights_are_part_of_a_cache_key(self, path, tmp_path):
        from tiny_t5 import tiny_t5

        other = tiny_t5(tmp_path / "other", silent=True)
        assert load("summarize", model=str(path)).weights_hash() != load("summarize", model=str(other)).weights_hash()


class TestLangChain:
    def test_a_chat_model_writes(self):
        fake = pytest.importorskip("langchain_core.language_models.fake_chat_models")
        chat = fake.FakeListChatModel(responses=["George Eliot wrote it. It is set in the Midlands."])
        result = load("summarize", chat=chat).compress(QUERY, PASSAGES, ROOM)
        assert result.text == "George Eliot wrote it. It is set in the Midlands."

    def test_parts_of_a_message_are_read(self):
        fake = pytest.importorskip("langchain_core.language_models.fake_chat_models")
        from langchain_core.messages import AIMessage

        message = AIMessage(content=[{"type": "text", "text": "George Eliot "}, {"type": "text", "text": "wrote it."}])
        chat = fake.FakeMessagesListChatModel(responses=[message])
        assert load("summarize", chat=chat).compress(QUERY, PASSAGES, ROOM).text == "George Eliot wrote it."


class TestClient:
    @pytest.fixture
    def client(self, upstream):
        openai = pytest.importorskip("openai")
        with openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="k", max_retries=0) as made:
            yield made

    def test_a_real_client_against_a_real_server(self, upstream, client):
        result = load("summarize", chat=client, chat_model="echo", inventions="report").compress(QUERY, PASSAGES, ROOM)
        sent = upstream.last.json
        assert sent["temperature"] == 0
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        asked = sent["messages"][1]["content"]
        assert f"{TEXT}\n\n{OTHER}\n\nQuestion: {QUERY}" in asked
        assert "at most 21 words" in asked
        assert result.stats.tokens_out <= 30
        assert result.text.startswith("Passages:")  # the server echoes the prompt

    def test_what_may_pass_is_tried_again_and_what_may_not_is_not(self, upstream, client):
        for status, tries in ((503, 3), (401, 1)):
            before = len(upstream.received)
            method = load("summarize", chat=client, chat_model=f"status-{status}", retries=2, pause=0.01)
            with pytest.raises(ModelError, match=f"the chat model failed .*{status}"):
                method.compress(QUERY, PASSAGES, ROOM)
            assert len(upstream.received) - before == tries

    def test_without_a_question_none_is_sent(self, upstream, client):
        load("summarize", chat=client, chat_model="echo", query_aware=False).compress(QUERY, PASSAGES, ROOM)
        assert QUERY not in json.dumps(upstream.last.json)


def test_retries_double_their_pause_and_stop_when_it_works(monkeypatch):
    waits, calls = [], []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: waits.append(timeout) and False)

    def flaky(prompt):
        calls.append(prompt)
        if len(calls) < 4:
            raise ConnectionError("gone")
        return "Bees dance."

    from ctxcomp.text.chat import ChatOptions, _tried

    assert _tried("x", ChatOptions(chat=flaky, retries=3, pause=0.5), threading.Event()) == "Bees dance."
    assert waits == [0.5, 1.0, 2.0]


def test_no_more_requests_than_allowed_are_under_way():
    running, most, lock = [0], [0], threading.Lock()

    def slow(prompt):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return "Bees make honey."

    method = load("summarize", chat=slow, parallel=3, inventions="report")
    requests = [Request(f"q{i}", tuple(PASSAGES), ROOM) for i in range(12)]
    assert len(method.compress_batch(requests)) == 12
    assert most[0] == 3


def test_one_failure_ends_the_batch_and_sends_no_more():
    calls = []

    def broken(prompt):
        calls.append(prompt)
        raise ValueError("bad key")

    requests = [Request(f"q{i}", tuple(PASSAGES), ROOM) for i in range(50)]
    method = load("summarize", chat=broken, parallel=1)
    with pytest.raises(ModelError, match=r"the chat model failed \(ValueError: bad key\)"):
        method.compress_batch(requests)
    assert len(calls) == 1


def test_an_answer_that_is_no_text_is_refused():
    with pytest.raises(ModelError, match="answered with int"):
        load("summarize", chat=lambda _: 7).compress(QUERY, PASSAGES, ROOM)


def test_fields_in_braces_of_a_passage_stay_as_they_are():
    asked = []
    method = load("summarize", chat=lambda prompt: asked.append(prompt) or "", prompt="{words}: {passages} {query}")
    method.compress("{passages}", [Passage("{query} {words} " * 20)], Budget(tokens=10))
    assert asked[0].endswith("7: " + "{query} {words} " * 20 + " {passages}")


@pytest.mark.parametrize(
    "fields",
    [
        {"chat": 7}, {"prompt": "no passages"}, {"model": ""}, {"batch": 0}, {"beams": 0}, {"source_tokens": 3},
        {"parallel": 0}, {"retries": -1}, {"inventions": "ignore"}, {"extractor": "bm25"}, {"target_tokens": 0},
    ],
)  # fmt: skip
def test_wrong_fields_are_refused(fields):
    with pytest.raises(InputError):
        load("summarize", **fields)


def test_a_client_needs_the_name_of_its_model():
    openai = pytest.importorskip("openai")
    with (
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="k") as client,
        pytest.raises(InputError, match="chat_model"),
    ):
        load("summarize", chat=client)
