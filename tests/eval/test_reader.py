import gzip
import hashlib
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ctxcomp.encode.load import load_encoder
from ctxcomp.encode.tokens import tokenize
from ctxcomp.errors import InputError, ModelError
from ctxcomp.types import Passage
from ctxcomp_eval.answers import f1
from ctxcomp_eval.data import Example, load
from ctxcomp_eval.reader import ANSWER, WEIGHTS, WINDOW, best_span, load_reader
from ctxcomp_eval.reader_data import Asked, asked, beside, distractors, thin_sentences, thin_words
from ctxcomp_eval.reader_model import PairTokenizer, SpanHead
from ctxcomp_eval.train_reader import Trainer, batches, parse

BRIDGE = (
    "The bridge over the gorge was designed by Isambard Brunel. Building began in 1831. It was finished in 1864, "
    "five years after his death. Today four million vehicles cross it every year."
)
WHO, WHEN = "Who designed the bridge?", "When did building begin?"
FILLER = "The market sells fruit and cheese on most mornings, and it is loud. " * 12
EXAMPLES = [
    Asked(WHO, BRIDGE, BRIDGE.index("Isambard"), BRIDGE.index(". Building")),
    Asked(WHEN, BRIDGE, BRIDGE.index("1831"), BRIDGE.index("1831") + 4),
    Asked("Who sells cheese?", FILLER, 4, 10),
    Asked("What is loud?", "Rain fell. The sea was loud, and grey.", 11, 18),
]


@pytest.fixture(scope="module")
def reader():
    return load_reader(threads=1)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    return SpanHead(4, 2.0, 5)


@pytest.fixture(autouse=True)
def one_thread():
    """What the tests run is so small that a second thread waits more than it works."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoded(window=WINDOW):
    encode = PairTokenizer()
    return [encode(example, [], window, random.Random(0)) for example in EXAMPLES]


LOGITS = st.lists(st.tuples(st.floats(-9, 9, width=16), st.floats(-9, 9, width=16)), min_size=1, max_size=12)


@given(LOGITS, st.integers(1, 5))
def test_best_span_is_the_best_of_all(pairs, longest):
    start, end = np.array(pairs, dtype=np.float32).T
    score, first, last = best_span(start, end, longest)
    spans = [(i, j) for i in range(len(pairs)) for j in range(i, min(i + longest, len(pairs)))]
    assert (first, last) in spans
    assert score == start[first] + end[last] == max(start[i] + end[j] for i, j in spans)


def test_reads_what_is_asked(reader):
    assert reader.answer([WHO, WHEN], [BRIDGE, BRIDGE]) == ["Isambard Brunel", "1831"]


def test_nothing_to_read(reader):
    assert reader.answer([], []) == []
    assert reader.answer([WHO, WHO, WHO], ["", " \n\t", BRIDGE])[:2] == ["", ""]
    assert reader.answer([""], ["Only this."])[0] in "Only this."
    with pytest.raises(InputError, match="1 questions and 0 contexts"):
        reader.answer([WHO], [])


TEXT = st.text(max_size=60) | st.lists(st.sampled_from(BRIDGE.split()), max_size=400).map(" ".join)


@settings(max_examples=25)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=4))
def test_answers_are_short_slices_and_batches_equal_singles(reader, pairs):
    found = reader.answer([question for question, _ in pairs], [context for _, context in pairs])
    for (question, context), answer in zip(pairs, found, strict=True):
        assert answer in context
        assert len(tokenize(reader.encoder.tokenizer, [answer])[0]) <= ANSWER
        single = reader.answer([question], [context])[0]
        # Padding changes the last bits of the logits, so two spans of equal score may swap.
        assert single == answer or len(context.split()) > len(set(context.split()))


@pytest.mark.parametrize("before", [0, 3, 6])
def test_long_contexts_are_read_to_their_end(reader, before):
    context = FILLER * before + BRIDGE + " " + FILLER * (6 - before)
    assert len(tokenize(reader.encoder.tokenizer, [context])[0]) > 3 * WINDOW
    who, when = reader.answer([WHO, WHEN], [context, context])
    assert "Brunel" in who
    assert when == "1831"


def test_long_questions_leave_room(reader):
    assert reader.answer([WHO + " really" * 500], [FILLER + BRIDGE])[0] in BRIDGE + FILLER


def test_a_head_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no head file"):
        load_reader(tmp_path / "none.safetensors")
    with safe_open(WEIGHTS, "np") as opened:
        assert opened.get_tensor("classifier.bias").shape == (2,)
        assert opened.metadata()["labels"] == "start,end"


def test_the_model_card_names_this_file():
    card = (WEIGHTS.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in card


@pytest.mark.slow
def test_better_than_a_guess_on_questions_it_has_not_seen(reader, shared):
    examples = load("span_dev")[::40]
    found = reader.answer([e.question for e in examples], [e.passages[0].text for e in examples])
    guesses = [" ".join(e.passages[0].text.split()[:3]) for e in examples]
    score, guess = (
        np.mean([f1(p, e.answers) for p, e in zip(part, examples, strict=True)]) for part in (found, guesses)
    )
    assert score > 5 * guess


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.sampled_from(EXAMPLES))
def test_thinning_drops_words_but_never_the_answer(generator, example):
    answer = example.context[example.start : example.end]
    for thin in (thin_sentences, thin_words):
        found = thin(example, generator)
        assert found.context[found.start : found.end] == answer
        rest = iter(example.context.split())
        assert all(word in rest for word in found.context.split())  # in order, nothing new
    both = thin_words(beside(thin_sentences(example, generator), FILLER, before=generator.random() < 0.5), generator)
    assert both.context[both.start : both.end] == answer


def test_thinning_drops_something():
    generator = random.Random(0)
    for thin in (thin_sentences, thin_words):
        shares = [len(thin(EXAMPLES[0], generator).context) / len(BRIDGE) for _ in range(50)]
        assert 0.3 < np.mean(shares) < 0.9


def test_rows_without_offsets(tmp_path):
    row = {"id": "1", "question": " Who? ", "context": BRIDGE, "answers": [{"text": " Brunel", "start": 50}]}
    row["answers"][0]["start"] = BRIDGE.index(" Brunel")
    once = row | {"answers": [{"text": "1864", "start": -1}]}
    twice = row | {"answers": [{"text": "in", "start": None}]}
    absent = row | {"answers": [{"text": "Telford", "start": -1}]}
    long = row | {"answers": [{"text": " ".join(["x"] * 40), "start": 0}]}
    (tmp_path / "qa").mkdir()
    lines = "\n".join(json.dumps(r) for r in (row, once, twice, absent, long))
    (tmp_path / "qa" / "span_train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = asked(tmp_path, "train") + asked(tmp_path, "dev")
    assert [e.context[e.start : e.end] for e in found] == ["Brunel", "1864"]
    assert found[0].question == "Who?"


def test_distractors_are_about_the_question_and_lack_the_answer():
    tower = "The designer of the tower and the bridge at the docks was Horace Jones, who was an architect."
    lake = "Ducks swim on lakes."
    draw = distractors([*EXAMPLES, Asked("?", tower, 0, 3), Asked("?", lake, 0, 3)])
    drawn = {draw(EXAMPLES[0], random.Random(i)) for i in range(20)}
    assert tower in drawn
    assert BRIDGE not in drawn


def test_sequences_mark_the_answer():
    encode = PairTokenizer()
    for window in (24, WINDOW):
        for seed in range(20):
            made = encode(EXAMPLES[0], [FILLER], window, random.Random(seed))
            assert len(made) <= window
            own, other = made.ids
            assert encode.tokenizer.decode(list(own[made.start : made.end + 1])) == "isambard brunel"
            assert own[: made.context] == other[: made.context]
            assert own[made.context - 1] == own[-1] == encode.sep_id
    assert encode(replace(EXAMPLES[0], start=0, end=0), [], WINDOW, random.Random(0)) is None


def test_the_loss_is_the_cross_entropy_over_all_passages_of_a_question(head):
    made = PairTokenizer()(EXAMPLES[1], [FILLER[:200]], 64, random.Random(0))
    loss = head.loss([made]).item()
    rows = [torch.tensor(ids) for ids in made.ids]
    with torch.no_grad():
        logits = [head(row[None], torch.ones_like(row[None]))[0, made.context : -1] for row in rows]
    expected = 0.0
    for side, place in ((0, made.start), (1, made.end)):
        joined = torch.cat([part[:, side] for part in logits])
        expected += torch.nn.functional.cross_entropy(joined, torch.tensor(place - made.context)).item() / 2
    assert loss == pytest.approx(expected, abs=0.02)  # bf16, with and without padding


@pytest.mark.slow
def test_training_lowers_the_loss_and_the_saved_head_runs_alike(head, tmp_path):
    batch = encoded(32)
    optimizer = torch.optim.AdamW(head.trainable().values(), lr=1e-2)
    losses = []
    for _ in range(8):
        loss = head.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    head.save(tmp_path / "head.safetensors")
    ids = np.array(batch[0].ids[0])
    (stored,) = load_encoder("minilm", head=tmp_path / "head.safetensors", threads=1).token_logits([ids])
    with torch.no_grad():
        trained = head(torch.tensor(ids)[None], torch.ones(1, len(ids), dtype=torch.long))[0].numpy()
    assert np.abs(stored - trained).max() < 0.05 * np.abs(trained).max()  # bf16 against float32


def test_batches_follow_from_the_seed_and_the_place():
    encode = PairTokenizer()

    def other(example, generator):
        return FILLER if generator.random() < 0.5 else "Ducks swim on lakes."

    stream = batches(EXAMPLES * 20, encode, other, 4, seed=1)
    first = [next(stream) for _ in range(40)]
    for skip in (5, 32, 37):
        assert next(batches(EXAMPLES * 20, encode, other, 4, 1, skip)) == first[skip]
    assert next(batches(EXAMPLES * 20, encode, other, 4, seed=2)) != first[0]
    assert {len(batch) for batch in first} <= {3, 4}


class InterruptedTrainer(Trainer):
    """Stopped by hand at its first checkpoint."""

    def checkpoint(self, loss, dev):
        super().checkpoint(loss, dev)
        raise KeyboardInterrupt


def train(kind, out, *, steps):
    arguments = f"--out {out} --steps {steps} --decay 1 --batch 2 --rank 2 --first-layer 5 --every 2".split()
    trainer = kind(parse(arguments))
    trainer.resume()
    dev = [Example("1", e.question, (e.context[e.start : e.end],), (Passage(e.context),)) for e in EXAMPLES]
    trainer.run(EXAMPLES * 4, dev)
    return trainer


@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_uninterrupted_one_and_can_be_made_shorter(tmp_path):
    whole = train(Trainer, tmp_path / "whole", steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(InterruptedTrainer, tmp_path / "parts", steps=90)
    resumed = train(Trainer, tmp_path / "parts", steps=4)
    assert resumed.log == whole.log
    for name, value in whole.head.trainable().items():
        assert torch.equal(value, resumed.head.trainable()[name])
    assert (tmp_path / "parts" / "curve.csv").read_text().count("\n") == 3
    with pytest.raises(SystemExit, match="other options"):
        train(Trainer, tmp_path / "parts", steps=90)  # its decay has begun
