"""POST /v1/compress in its native form, GET /v1/methods: a real server, a real client."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from ctxcomp import Budget, Passage, load, resolve_counter

QUERY = "Who wrote Middlemarch?"
PASSAGES = [
    {"id": "novel", "text": "Middlemarch is a novel by George Eliot. It was published in eight parts."},
    "George Gissing wrote New Grub Street. It appeared in 1891. Its subject is literary London.",
]
TEXTS = [PASSAGES[0]["text"], PASSAGES[1]]


@pytest.fixture(scope="module")
def server(live_servers):
    return live_servers(limits={"passages": 10, "characters": 20_000, "query_characters": 100, "body_bytes": 50_000})


@pytest.fixture(scope="module")
def post(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield lambda body=None, **kwargs: client.post("/v1/compress", json=body, **kwargs)


def body(**changes):
    return {"query": QUERY, "passages": PASSAGES, "budget": {"keep": 0.5}, **changes}


def test_the_result_is_the_librarys(post):
    answer = post(body())
    assert answer.status_code == 200
    found = answer.json()
    expected = load("bm25").compress(QUERY, [Passage(TEXTS[0], "novel"), Passage(TEXTS[1])], Budget(keep=0.5))
    assert found["text"] == expected.text
    assert [p["text"] for p in found["passages"]] == list(expected.passage_texts)
    assert [p["id"] for p in found["passages"]] == ["novel", ""]
    spans = [(s["passage"], s["start"], s["end"]) for s in found["spans"]]
    assert spans == [(s.passage, s.start, s.end) for s in expected.spans]
    stats = found["stats"]
    assert (stats["tokens_in"], stats["tokens_out"]) == (expected.stats.tokens_in, expected.stats.tokens_out)
    assert stats["keep"] == stats["tokens_out"] / stats["tokens_in"]
    assert stats["fallback"] is None
    assert answer.headers["x-ctxcomp-tokens-in"] == str(stats["tokens_in"])
    assert answer.headers["x-ctxcomp-tokens-out"] == str(stats["tokens_out"])
    assert "x-ctxcomp-fallback" not in answer.headers
    assert found["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("model", ["gpt-4", "gpt-4o", "o200k_base", "minilm"])
def test_the_budget_holds_in_the_models_own_tokens(post, model, vocabularies):
    found = post(body(budget={"tokens": 12}, model=model)).json()
    counter = resolve_counter(model)
    assert found["stats"]["counter"] == counter.name
    assert counter.count(found["text"]) == found["stats"]["tokens_out"] <= 12


@pytest.mark.parametrize("model", ["claude-4", "/etc/passwd", "../../etc/passwd", "sentence-transformers/x"])
def test_an_unknown_model_is_counted_by_the_default_and_named(post, model):
    stats = post(body(model=model)).json()["stats"]
    assert stats["counter"] == resolve_counter().name


@pytest.mark.parametrize("method", ["bm25", "bm25+truncate", "sentence_pruner"])
def test_scores_of_every_unit(post, method):
    plain = post(body(method=method)).json()
    found = post(body(method=method, include=["scores"])).json()
    assert plain["units"] is None
    assert found["text"] == plain["text"]
    assert found["spans"] == plain["spans"]
    texts = [TEXTS[u["passage"]][u["start"] : u["end"]] for u in found["units"]]
    assert texts[0] == "Middlemarch is a novel by George Eliot."
    assert len(texts) == 5
    kept = {(s["passage"], s["start"]) for s in found["spans"]}
    if method != "bm25+truncate":  # which keeps words, not whole units
        assert {(u["passage"], u["start"]) for u in found["units"] if u["kept"]} == kept
        assert all(isinstance(u["score"], float) for u in found["units"])
        assert found["units"][0]["score"] > found["units"][1]["score"]
    else:
        assert {u["score"] for u in found["units"]} == {None}
        assert any(u["kept"] for u in found["units"])
        assert not all(u["kept"] for u in found["units"])


def test_scores_where_everything_fits_and_where_nothing_is(post):
    found = post(body(budget={"keep": 1}, include=["scores"])).json()
    assert all(u["kept"] for u in found["units"])
    assert len({u["score"] for u in found["units"]}) > 1
    assert post(body(passages=[], include=["scores"])).json()["units"] == []
    assert post(body(passages=["", " \n"], include=["scores"])).json()["units"] == []


def test_options_reach_the_method(post):
    found = post(body(method="truncate", options={"side": "tail", "header": "[{id}] "})).json()
    assert found["text"].endswith("Its subject is literary London.")
    assert post(body(options={"protect": ["digits"], "elision": "[…]"})).json()["text"].count("[…]") >= 1
    assert "1891" in post(body(options={"protect": ["digits"]})).json()["text"]


@pytest.mark.parametrize(
    "options",
    [
        {"model": "/etc/passwd"},
        {"head": "/etc/passwd"},
        {"device": "cuda"},
        {"runtime": "torch"},
        {"counter": "/etc/passwd"},
        {"reuse_embeddings": True},
        {"sentence_pruner__model": "/etc"},
        {"protect": ["(a+)+$"]},
        {"protect": "digits"},
        {"protect": [{"a": 1}]},
        {"separator": "x" * 201},
        {"header": "{id.__class__}"},
        {"elision": "{units:>1000000000}"},
        {"floor_tokens": 10**400},
        {"floor_tokens": -1},
        {"k1": 1e300},
        {"unit": "letter"},
        {"fill": "yes"},
        {"min_score": {"a": 1}},
        {"nothing": 1},
    ],
)
@pytest.mark.parametrize("method", ["bm25", "sentence_pruner"])
def test_options_that_are_refused(post, options, method):
    answer = post(body(method=method, options=options))
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_unknown_method_names_the_nearest(post):
    answer = post(body(method="bm52"))
    assert answer.status_code == 422
    assert "did you mean 'bm25'?" in answer.json()["error"]["message"]
    assert post(body(method="+".join(["bm25"] * 5))).status_code == 422


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget": {}}, "budget"),
        ({"budget": {"keep": 0.5, "tokens": 3}}, "budget"),
        ({"budget": {"keep": 0}}, "budget.keep"),
        ({"budget": {"tokens": -1}}, "budget.tokens"),
        ({"budget": {"tokens": 10**30}}, "budget.tokens"),
        ({"passages": "text"}, "passages"),
        ({"passages": [{"text": 3}]}, "passages.0"),
        ({"passages": [{"text": "a", "socre": 1}]}, "socre"),
        ({"passages": [{"text": "a", "metadata": {"protect": "x"}}]}, "protect"),
        ({"passages": [{"text": "a", "metadata": {"protect": [[0, 10**30]]}}]}, "protect"),
        ({"passages": ["ab \ud800"]}, "passages.0"),
        ({"passages": [{"text": "a", "id": "\udfff"}]}, "passages.0"),
        ({"query": "\ud800"}, "query"),
        ({"options": {"separator": "\ud800"}}, "separator"),
        ({"method": "\ud800"}, "method"),
        ({"querry": "x"}, "querry"),
        ({"query": None}, "query"),
    ],
)
def test_wrong_fields_are_named(post, change, field):
    answer = post(content=json.dumps(body(**change)), headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert field in answer.json()["error"]["message"]


def test_no_budget_anywhere(post):
    given = body()
    del given["budget"]
    assert post(given).json()["error"]["code"] == "no_budget"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 10_000, b'{"query": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json(post, content):
    answer = post(content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("score", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none(post, score):
    content = f'{{"passages": [{{"text": "a", "score": {score}}}], "budget": {{"keep": 1}}}}'
    assert post(content=content, headers={"content-type": "application/json"}).status_code in (400, 422)


def test_scores_of_the_retriever_that_are_huge(post):
    passages = [{"text": "a b. c d.", "score": 1e308}, {"text": "e f. g h.", "score": -1e308}]
    for method in ("truncate", "embedding_select", "sentence_pruner"):
        answer = post(body(passages=passages, method=method))
        assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize(
    "change", [{"passages": ["a"] * 11}, {"passages": ["a" * 20_001]}, {"query": "q" * 101}], ids=["n", "text", "query"]
)
def test_what_is_too_large(post, change):
    answer = post(body(**change))
    assert answer.status_code == 413
    assert "at most" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_not_read(post):
    assert post(content=b"x" * 50_001).json()["error"]["code"] == "body_too_large"

    def chunks():
        for _ in range(100):
            yield b"x" * 1000

    answer = post(content=chunks(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.request.headers["transfer-encoding"] == "chunked"


def test_a_body_of_another_type(post):
    answer = post(content=json.dumps(body()), headers={"content-type": "text/plain"})
    assert answer.status_code in (400, 422)


def test_results_are_remembered_for_the_same_tenant(post, server):
    def hits():
        return server.service.metrics.cache.labels("yes")._value.get()

    first, before = post(body(query="Remembered?")), hits()
    second = post(body(query="Remembered?"))
    assert hits() == before + 1
    assert {**first.json(), "request_id": ""} == {**second.json(), "request_id": ""}


def test_methods(server):
    found = httpx.get(f"{server.url}/v1/methods").json()
    assert found["default"] == "bm25"
    assert found["limits"] == {"passages": 10, "characters": 20_000, "query_characters": 100, "body_bytes": 50_000}
    methods = {m["name"]: {o["name"]: o for o in m["options"]} for m in found["methods"]}
    assert {"sentence_pruner", "bm25", "truncate"} <= set(methods)
    assert methods["bm25"]["k1"] == {"name": "k1", "takes": "a finite number", "default": 1.5}
    assert not {"model", "head", "device", "runtime", "counter"} & {o for m in methods.values() for o in m}


def test_answers_are_safe_to_open_in_a_browser(post):
    headers = post(body()).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("given", "same"), [("abc-1.2_3", True), ("x" * 129, False), ("a b", False), ('{"x"', False), ("", False)]
)
def test_request_ids(post, given, same):
    answer = post(body(), headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is same
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_nothing_that_was_sent_is_logged(post, server, caplog):
    caplog.set_level(logging.DEBUG, logger="ctxcomp_service")
    secret = "Zanzibar"
    post(body(query=secret, passages=[secret], options={secret: secret}, method=secret))
    post(body(query=secret, passages=[secret], budget={"tokens": 1}))
    post(content=secret, headers={"content-type": "application/json"})
    httpx.get(f"{server.url}/v1/{secret}?query={secret}")
    httpx.get(f"{server.url}/v1/retrieve/{'0' * 24}?query={secret}")
    records = [r for r in caplog.records if r.name.startswith("ctxcomp")]
    assert len(records) >= 5
    assert not [r for r in records if secret in str(vars(r))]
    assert secret not in httpx.get(f"{server.url}/metrics").text


def test_unknown_addresses_have_the_same_shape(server):
    for path, status in (("/v1/nothing", 404), ("/nothing", 404), ("/v1/retrieve/zz", 422)):
        answer = httpx.get(server.url + path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert httpx.get(f"{server.url}/v1/compress").status_code == 405


def test_errors_name_the_field_and_not_the_form(post):
    assert post([]).json()["error"]["message"].startswith("body: ")
    assert post(body(query=1)).json()["error"]["message"].startswith("body.query: ")
    assert post({"messages": "x"}).json()["error"]["message"].startswith("body.messages: ")
