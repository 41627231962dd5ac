"""The small language model's training: its loss, its documents, a run that goes on after a stop."""

import gzip
import json
import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from ctxcomp_eval.lm import train  # noqa: E402
from ctxcomp_eval.lm.documents import Sources, documents, needle, quote, repeat  # noqa: E402
from ctxcomp_eval.lm.loss import ROWS, LinearCrossEntropy  # noqa: E402
from ctxcomp_eval.lm.tokenizer import ASSISTANT, END, id_of, train_tokenizer  # noqa: E402

TEXTS = [f"The river {name} runs by the town of {name}. It is {n} miles long." for n, name in enumerate("abcdefgh", 10)]


@pytest.fixture
def small_data(tmp_path, monkeypatch):
    """A data folder of the shared one's shape, with sentences of made-up words."""
    generator = random.Random(0)

    def sentences(count):
        return " ".join("The " + " ".join(generator.choices("abcdefghij", k=6)) + "." for _ in range(count))

    spans = [{"id": str(i), "question": "What?", "context": f"Ada saw {i}. {sentences(4)}"} for i in range(200)]
    files = {
        "lm/wiki_pool": [{"title": None, "text": f"{i} {sentences(5)}"} for i in range(800)],
        "lm/books": [{"title": f"Book {i}", "text": sentences(60)} for i in range(80)],
        "qa/span_train": [row | {"answers": [{"text": row["id"], "start": 8}]} for row in spans],
    }
    for name, rows in files.items():
        path = tmp_path / "data" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setenv("CTXCOMP_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("rows", [7, ROWS + 3])
def test_the_loss_and_its_gradients_are_those_of_cross_entropy(rows):
    torch.manual_seed(0)
    hidden, weight = torch.randn(rows, 16).bfloat16(), torch.randn(50, 16)
    target, share = torch.randint(0, 50, (rows,)), torch.rand(rows)
    grown = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            loss = LinearCrossEntropy.apply(h, w, target, share)
        else:
            logits = (h @ w.to(torch.bfloat16).T).float()
            loss = (torch.nn.functional.cross_entropy(logits, target, reduction="none") * share).sum()
        loss.backward()
        grown.append((loss.detach(), h.grad.float(), w.grad))
    for one, other in zip(*grown, strict=True):
        assert (one - other).norm() / other.norm() < 0.01


def test_every_kind_of_question_has_its_answer_in_the_context():
    generator = random.Random(0)
    row = {
        "context": "Ada wrote notes. The engine was built by Babbage in London. It was big.",
        "question": "Who built it?",
        "answers": [{"text": "Babbage", "start": 41}],
    }
    asked = quote(row, TEXTS, generator, 2)
    assert asked.answer == '"The engine was built by Babbage in London." The answer is Babbage.'
    assert row["context"] in asked.context
    hidden = needle(TEXTS, generator, 4)
    assert hidden.answer in hidden.context
    assert hidden.question.removeprefix("What is the code of ").rstrip("?") in hidden.answer
    again = repeat(TEXTS, generator)
    assert again.answer == again.context


def test_training_and_held_out_texts_are_apart(small_data):
    train_split, dev = Sources.of("train"), Sources.of("dev")
    assert 4 <= len(dev.wiki) < 50
    assert dev.books
    assert not {*train_split.wiki} & {*dev.wiki}
    assert not {row["context"] for row in train_split.questions} & {row["context"] for row in dev.questions}
    stream = documents(dev, 0, 200)
    assert [next(stream) for _ in range(8)] == [text for text, _ in zip(documents(dev, 0, 200), range(8), strict=False)]


def test_answers_weigh_more_than_the_text_before_them(small_data, tmp_path):
    tokenizer = train_tokenizer(TEXTS, 300, tmp_path)
    ids, weights = next(train.windows(tokenizer, Sources.of("dev"), 3, 4000))
    inside = False
    for token, weight in zip(ids.tolist()[1:], weights.tolist()[1:], strict=True):
        if token == id_of(tokenizer, END):
            inside = False
        assert weight == (train.ANSWER_WEIGHT if inside else 1.0)
        inside |= token == id_of(tokenizer, ASSISTANT)


def test_a_stopped_run_goes_on_and_writes_a_model_of_transformers(small_data, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sizes = "--hidden 128 --layers 1 --vocabulary 400 --tokens 1024 --piece 512 --every 2".split()
    train.main(["--out", str(tmp_path / "lm"), "--steps", "2", *sizes])
    train.main(["--out", str(tmp_path / "lm"), "--steps", "4", *sizes])
    log = json.loads((tmp_path / "lm" / "log.json").read_text())["log"]
    assert [row["step"] for row in log] == [2, 4]
    assert log[1]["text"] < log[0]["text"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm" / "model")
    assert model.dtype == torch.bfloat16
    chat = [{"role": "user", "content": "Hello"}]
    said = AutoTokenizer.from_pretrained(tmp_path / "lm" / "model").apply_chat_template(chat, tokenize=False)
    assert said == "<|user|>Hello<|end|>"
