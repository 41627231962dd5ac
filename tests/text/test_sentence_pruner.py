import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import tiny_bert
from safetensors.numpy import load_file, save_file
from transformers import BertConfig, BertForSequenceClassification

from ctxcomp import Budget, InputError, Passage, Request, load
from ctxcomp.candidates import candidates
from ctxcomp.encode.load import load_encoder
from ctxcomp.encode.pairs import load_pair_scorer
from ctxcomp.text.fusion import fused, stored
from ctxcomp.text.sentence_pruner import DEFAULT_HEAD
from ctxcomp.text.signals import CHEAP, cheap_signals, cross_signals, standardised

QUERY = "When was the bridge across the Arle opened?"
PASSAGES = [
    Passage("The Arle rises in the hills. Trout are common in its upper course.", score=3.0),
    Passage("The town has two markets. Its stone bridge across the Arle was opened in 1874. Rent is low.", score=2.5),
    Passage("Pasta is boiled in salted water. Sauces vary by region.", score=0.2),
]


def kept(result):
    return [result.passages[s.passage].text[s.start : s.end] for s in result.spans]


def test_the_answering_sentence_wins_whatever_the_order_of_passages():
    for passages in (PASSAGES, PASSAGES[::-1]):
        result = load("sentence_pruner").compress(QUERY, passages, Budget(tokens=14))
        assert kept(result) == ["Its stone bridge across the Arle was opened in 1874."]


def test_a_threshold_drops_irrelevant_passages_and_may_leave_nothing():
    everything = load("sentence_pruner").compress(QUERY, PASSAGES, Budget(tokens=49))
    assert all(0 < span.score < 1 for span in everything.spans)
    best = max(span.score for span in everything.spans)
    some = load("sentence_pruner", min_score=best * 0.9).compress(QUERY, PASSAGES, Budget(keep=1.0))
    assert some.passage_texts[2] == ""
    assert "1874" in some.text
    none = load("sentence_pruner", min_score=best * 0.5).compress(QUERY, PASSAGES[2:], Budget(keep=1.0))
    assert (none.text, none.spans) == ("", ())


def test_scores_are_the_fusion_of_the_documented_signals():
    method = load("sentence_pruner", second_look="never")
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    (cheap,) = cheap_signals([units], method.load_encoder("none"))
    scored = load_pair_scorer("minilm", head=str(DEFAULT_HEAD)).score([(QUERY, p.text) for p in PASSAGES])
    cross = np.concatenate([cross_signals(units, p, one) for p, one in enumerate(scored)])
    logits = fused("full", np.concatenate([cheap, cross], axis=1))
    c = stored()["probability"]
    best = np.array([logits[units.passage == p].max() for p in range(len(PASSAGES))])
    place = np.array([(best > best[p]).sum() for p in units.passage])
    z = c["logit"] * logits + c["margin"] * (logits - logits.max()) + c["place"] * np.log1p(place) + c["bias"]
    expected = 1 / (1 + np.exp(-z))
    assert method.score([units])[0] == pytest.approx(expected, abs=1e-6)


def test_only_the_best_passages_are_read_with_the_query():
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    whole, one = (load("sentence_pruner", cross_passages=n, second_look="never").score([units])[0] for n in (0, 1))
    (cheap,) = cheap_signals([units], load("sentence_pruner").load_encoder("none"))
    assert load("sentence_pruner", cross_passages=3, second_look="never").score([units])[0] == pytest.approx(whole)
    read = units.passage == 1
    assert one[read] == pytest.approx(whole[read])  # the best unit is among them, so margins are the same
    logits = fused("cheap", cheap)
    order = np.argsort(logits[~read])
    assert (np.diff(one[~read][order]) >= 0).all()
    with pytest.raises(InputError, match="cross_passages must be 0"):
        load("sentence_pruner", cross_passages=-1)


def test_plainly_irrelevant_passages_are_not_read_with_the_query():
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    whole = load("sentence_pruner", second_look="never").score([units])[0]
    (cheap,) = cheap_signals([units], load("sentence_pruner").load_encoder("none"))
    logits = fused("cheap", cheap)
    best = np.array([logits[units.passage == p].max() for p in range(3)])
    margin = best.max() - np.sort(best)[1] + 0.01  # two of three come within it
    some = load("sentence_pruner", cross_margin=margin).score([units])[0]
    read = np.isin(units.passage, np.argsort(best)[1:])
    assert some[read] == pytest.approx(whole[read])
    assert some[~read] != pytest.approx(whole[~read])
    with pytest.raises(InputError, match="cross_margin must be 0"):
        load("sentence_pruner", cross_margin=-1.0)


def test_stored_embeddings_take_the_place_of_the_passages_own():
    encoder = load("sentence_pruner").load_encoder("none")
    vectors = encoder.embed([p.text for p in PASSAGES])
    stored_too = [replace(p, embedding=3 * v) for p, v in zip(PASSAGES, vectors, strict=True)]
    plain, reusing = (
        candidates(Request(QUERY, tuple(passages), Budget(keep=1)), "sentence") for passages in (PASSAGES, stored_too)
    )
    method = load("sentence_pruner", reuse_embeddings=True)
    # A retriever's vectors are means over all tokens, [CLS] and [SEP] too; the pruner's own leave these out.
    assert method.score([reusing])[0] == pytest.approx(load("sentence_pruner").score([plain])[0], abs=0.02)
    early = load("sentence_pruner", reuse_embeddings=True, cross_margin=0.5)
    assert kept(early.compress(QUERY, stored_too, Budget(tokens=14))) == [
        "Its stone bridge across the Arle was opened in 1874."
    ]
    requests = [Request(q, tuple(stored_too), Budget(tokens=20)) for q in ("", QUERY)]
    assert [r.text for r in early.compress_batch(requests)] == [
        early.compress(r.query, r.passages, r.budget).text for r in requests
    ]
    with pytest.raises(InputError, match=r"passages\[0\].embedding must be 384 finite numbers"):
        method.compress(QUERY, PASSAGES, Budget(tokens=14))


def test_cheap_signals_are_what_the_docstring_says():
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    method = load("sentence_pruner")
    (cheap,) = cheap_signals([units], method.load_encoder("none"))
    by_name = dict(zip(CHEAP, cheap.T, strict=True))
    assert (np.abs(by_name["passage_similarity"]) <= 1).all()
    assert by_name["unit_overlap"].argmax() == 3  # the sentence with bridge, Arle and opened
    assert by_name["unit_overlap"][3] == pytest.approx(1)
    assert by_name["passage_overlap"][5] == 0
    assert by_name["retriever"][0] == pytest.approx((3.0 - 1.9) / np.std([3.0, 2.5, 0.2]))


def test_unknown_retriever_scores_count_as_average():
    def of(*scores):
        passages = tuple(Passage("One sentence.", score=score) for score in scores)
        return standardised(candidates(Request("q", passages, Budget(keep=1)), "sentence")).tolist()

    assert of(None, None) == [0, 0]
    assert of(2.0, 2.0) == [0, 0]
    assert of(1.0, None, 3.0) == pytest.approx([-1, 0, 1])


def test_without_a_query_the_words_worth_decides():
    units = candidates(Request("", tuple(PASSAGES), Budget(keep=1)), "sentence")
    encoder = load_encoder("minilm", head=DEFAULT_HEAD)
    (scores,) = load("sentence_pruner").score([units])
    found = encoder.keep_probs([p.text for p in PASSAGES], label=encoder.labels.index("word"))
    for i, score in enumerate(scores):
        offsets, worth = found[units.passage[i]]
        inside = (offsets[:, 0] >= units.start[i]) & (offsets[:, 1] <= units.end[i])
        assert score == pytest.approx(worth[inside].mean(), abs=1e-6)
    one = load("token_pruner", head="sentence_pruner", phrases=False)
    words = candidates(Request("", tuple(PASSAGES), Budget(keep=1)), "word")
    assert one.score([words])[0].max() == pytest.approx(max(worth.max() for _, worth in found), abs=0.2)
    assert one.load_encoder() is load("sentence_pruner").load_encoder(), "the weights are in memory twice"


def test_requests_with_and_without_a_query_share_a_batch():
    requests = [Request(q, tuple(PASSAGES), Budget(tokens=20)) for q in ("", QUERY, "Who boils pasta?")]
    method = load("sentence_pruner")
    together = [result.text for result in method.compress_batch(requests)]
    assert together == [method.compress(r.query, r.passages, r.budget).text for r in requests]
    assert "Pasta is boiled" in together[2]


def test_long_passages_are_read_to_their_end():
    filler = "The committee met again and talked at length about many other things. " * 120
    passage = Passage(filler + "The stone bridge over the Arle was opened in 1874. " + filler)
    assert "1874" in load("sentence_pruner").compress(QUERY, [passage], Budget(tokens=40)).text


def tiny_cross_encoder(path, prefix=""):
    tiny_bert(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=30522, num_labels=1, **sizes)
        model = BertForSequenceClassification(config)
        model.classifier.weight.data *= 50
    model.save_pretrained(path)
    return path


def test_a_published_cross_encoder_scores_each_unit(tmp_path):
    path = tiny_cross_encoder(tmp_path / "reranker")
    method = load("sentence_pruner", model=str(path))
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    ranks = [one.rank for one in load_pair_scorer(path).score([(QUERY, text) for text in units.texts])]
    assert method.score([units])[0] == pytest.approx(1 / (1 + np.exp(-np.array(ranks))))
    assert method.compress(QUERY, PASSAGES, Budget(keep=0.5)).stats.tokens_out > 0


def test_an_open_provence_checkpoint_keeps_by_its_own_tokens(tmp_path):
    path = tiny_cross_encoder(tmp_path / "provence")
    weights = {"ranking_model." + name: tensor for name, tensor in load_file(path / "model.safetensors").items()}
    weights["pruning_head.classifier.weight"] = np.random.default_rng(0).normal(size=(2, 32)).astype(np.float32)
    weights["pruning_head.classifier.bias"] = np.zeros(2, np.float32)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    base = json.loads((path / "config.json").read_text())
    config = {"model_type": "open_provence", "mode": "reranking_pruning", "encoder_architecture": "bert",
              "base_model_config": base, "pruning_config": {"hidden_size": 32, "num_labels": 2}, "max_length": 128,
              "num_labels": 1, "num_pruning_labels": 2}  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    units = candidates(Request(QUERY, tuple(PASSAGES), Budget(keep=1)), "sentence")
    (first, *_) = load_pair_scorer(path).score([(QUERY, PASSAGES[0].text)])
    scores = load("sentence_pruner", model=str(path)).score([units])[0]
    inside = first.offsets[:, 1] <= units.end[0]
    assert scores[0] == pytest.approx(float((1 / (1 + np.exp(-first.keep[inside]))).mean()), abs=1e-5)
