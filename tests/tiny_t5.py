"""A tiny random T5 with the layout of RECOMP's abstractive compressors, for whatever loads one."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import T5Config, T5ForConditionalGeneration

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"


def tiny_t5(path: Path, *, silent: bool = False) -> Path:
    """Write the checkpoint; it writes random words, the same for the same prompt, or ends at once if ``silent``."""
    tokenizer = _tokenizer()
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, initializer_factor=2.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config).eval()
    if silent:
        # All logits are equal then, and the first of them is made the end.
        model.decoder.final_layer_norm.weight.data.zero_()
        model.generation_config.eos_token_id = [0, 1]
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **names}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def _tokenizer() -> Tokenizer:
    """A Unigram tokenizer, as SentencePiece makes them, of characters and a few words."""
    words = "bees make honey question document summary summarize the and of is in was it novel".split()
    characters = sorted(set(string.printable) - set(string.whitespace))
    pieces = [(PAD, 0.0), (END, 0.0), (UNKNOWN, 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(character, -6.0) for character in characters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return tokenizer
