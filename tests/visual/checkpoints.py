"""Checkpoint folders of the tiny models with a processor each, as a user would have them: characters are tokens."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from visual.families import FAMILIES, IMAGE

SPECIALS = {
    0: "<pad>", 1: "<s>", 2: "</s>", 99: "<|user|>", 100: "<|assistant|>", 101: "<row_1_col_1>", 102: "<row_1_col_2>",
    103: "<global-img>", 104: "<row_2_col_1>", 105: "<row_2_col_2>", 106: "<|system|>", IMAGE: "<image>",
    111: "<video>", 112: "<vision>", 113: "</vision>", 115: "<fake_token_around_image>",
}  # fmt: skip
TEMPLATE = (
    "<s>{% for message in messages %}<|{{ message.role }}|>{% for part in message.content %}"
    "{% if part.type == 'image' %}PLACE{% else %}{{ part.text }}{% endif %}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NAMES = {
    "image_token": "<image>", "video_token": "<video>", "vision_start_token": "<vision>",
    "vision_end_token": "</vision>", "boi_token": "<vision>", "eoi_token": "</vision>",
    "start_image_token": "<vision>", "end_image_token": "</vision>", "context_image_token": "<image>",
    "global_image_token": "<global-img>", "fake_image_token": "<fake_token_around_image>",
}  # fmt: skip
NEEDS = {name: p for name, p in (("mistral3", "torchvision"), ("smolvlm", "num2words")) if find_spec(p) is None}
"""Families whose processors need a package that is not there."""
WITH_PROCESSOR = sorted(set(FAMILIES) - set(NEEDS) - {"mistral3"})


def tokenizer() -> Any:
    """One token for each printable character of ASCII; "?" for all others."""
    characters = [*map(chr, range(32, 127)), "\n"]
    vocabulary = {character: 3 + i for i, character in enumerate(characters)} | {t: i for i, t in SPECIALS.items()}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(sorted(SPECIALS.values()))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="?",
        extra_special_tokens=NAMES,
    )  # fmt: skip


def image_processor(name: str) -> Any:
    """The family's own, in the sizes of its tiny model."""
    square = {"height": 32, "width": 32}
    if name == "llava":
        return transformers.LlavaImageProcessorPil(size={"shortest_edge": 32}, crop_size=square)
    if name == "llava_next":
        pins = [[32, 64], [64, 32], [64, 64]]
        return transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=square, image_grid_pinpoints=pins
        )
    if name == "llava_onevision":
        pins = [[32, 64], [64, 32], [64, 64]]
        return transformers.LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=pins)
    if name.startswith("qwen"):
        return transformers.Qwen2VLImageProcessorPil(
            patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 48 * 64}
        )
    if name == "internvl":
        return transformers.GotOcr2ImageProcessorPil(size=square, crop_to_patches=True, min_patches=1, max_patches=2)
    if name == "gemma3":
        return transformers.Gemma3ImageProcessorPil(size=square)
    if name == "mistral3":
        return transformers.PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size=8)
    kind = transformers.Idefics3ImageProcessorPil if name == "idefics3" else transformers.SmolVLMImageProcessorPil
    return kind(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})


@cache
def saved(name: str, root: Path) -> Path:
    """The checkpoint of a family under ``root``, with weights that tell places apart; written once."""
    place = root / name
    torch.manual_seed(sum(map(ord, name)))
    model = FAMILIES[name].model().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() > 1 or "newline" in key or "projection_weight" in key:
                weight.normal_(0, 0.2)
        head = model.lm_head.weight
        for token in SPECIALS:
            head[token] = head[3]  # equal scores go to the first, so that answers are made of characters
    model.generation_config.eos_token_id = 2
    model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    settings = image_processor(name).to_dict()
    (place / "preprocessor_config.json").write_text(json.dumps(settings))
    (place / "processor_config.json").write_text(json.dumps(processor_settings(name)))
    mark = {"gemma3": "<vision>"}.get(name, "<image>")
    if name.startswith("qwen"):
        mark = "<vision><image></vision>"
    (place / "chat_template.jinja").write_text(TEMPLATE.replace("PLACE", mark))
    return place


def processor_settings(name: str) -> dict[str, Any]:
    """What the family's ``processor_config.json`` holds besides."""
    if name in ("llava", "llava_next"):
        return {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if name == "llava_onevision":
        return {"num_image_tokens": 16, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_1"}
    if name in ("internvl", "idefics3", "smolvlm"):
        return {"image_seq_length" if name == "internvl" else "image_seq_len": 16}
    return {"image_seq_length": 16} if name == "gemma3" else {}
