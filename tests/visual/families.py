"""Tiny random models of every supported family, and prompts for them: text, page, text, page, text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers

TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 120, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE = 110


@dataclass(frozen=True)
class Family:
    """How a family's tiny model is made, and what its processor would hand over for pages of these shapes."""

    name: str
    model: Callable[[], Any]
    inputs: Callable[[Any, torch.Generator, int], dict[str, Any]]
    """``(model, generator, first page)``: pixels and geometry of two pages, and ``blocks``: the ids of each page."""


def text(kind: str = "llama", **changes: Any) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return transformers.AutoConfig.for_model(kind, **{**TEXT, "rope_parameters": rope, **changes})


def tower(kind: str, size: int, patch: int, **changes: Any) -> Any:
    return transformers.AutoConfig.for_model(kind, **{**TOWER, "image_size": size, "patch_size": patch, **changes})


def noise(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def run(n: int) -> list[int]:
    return [IMAGE] * n


def llava() -> Any:
    config = transformers.LlavaConfig(
        vision_config=tower("clip_vision_model", 32, 8),
        text_config=text(),
        image_token_index=IMAGE,
        image_token_id=IMAGE,
    )
    return transformers.LlavaForConditionalGeneration(config)


def llava_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    return {"pixel_values": noise(g, 2, 3, 32, 32), "blocks": [run(16), run(16)]}


PINS = [[32, 64], [64, 32], [64, 64]]


def llava_next() -> Any:
    config = transformers.LlavaNextConfig(
        vision_config=tower("clip_vision_model", 32, 8), text_config=text(), image_token_index=IMAGE,
        image_token_id=IMAGE, image_grid_pinpoints=PINS,
    )  # fmt: skip
    return transformers.LlavaNextForConditionalGeneration(config)


def anyres_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    sizes = torch.tensor([[60, 40], [30, 64]]) if first % 2 == 0 else torch.tensor([[64, 64], [20, 64]])
    pixels = noise(g, 2, 5, 3, 32, 32)
    features = model.model.get_image_features(pixels, sizes, return_dict=True).pooler_output
    return {"pixel_values": pixels, "image_sizes": sizes, "blocks": [run(len(f)) for f in features]}


def llava_onevision() -> Any:
    config = transformers.LlavaOnevisionConfig(
        vision_config=tower("siglip_vision_model", 32, 8), text_config=text("qwen2"), image_token_index=IMAGE,
        image_token_id=IMAGE, image_grid_pinpoints=PINS, vision_aspect_ratio="anyres_max_1",
    )  # fmt: skip
    return transformers.LlavaOnevisionForConditionalGeneration(config)


QWEN_TOWER = {"patch_size": 8, "temporal_patch_size": 2, "spatial_merge_size": 2, "in_channels": 3}
SPECIAL = {"image_token_id": IMAGE, "video_token_id": 111, "vision_start_token_id": 112, "vision_end_token_id": 113}


def mrope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more}


def qwen2_vl() -> Any:
    tower_ = {**QWEN_TOWER, "depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": mrope([2, 1, 1])}, vision_config=tower_, **SPECIAL
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def qwen2_5_vl() -> Any:
    tower_ = {
        **QWEN_TOWER, "depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32,
        "window_size": 32, "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config={**TEXT, "rope_parameters": mrope([2, 1, 1])}, vision_config=tower_, **SPECIAL
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl() -> Any:
    tower_ = {
        **QWEN_TOWER, "depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 8, "rope_parameters": mrope([2, 1, 1], mrope_interleaved=True)},
        vision_config=tower_, **SPECIAL,
    )  # fmt: skip
    return transformers.Qwen3VLForConditionalGeneration(config)


def qwen3_vl_moe() -> Any:
    tower_ = {
        **QWEN_TOWER, "depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 48, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
    config = transformers.Qwen3VLMoeConfig(
        text_config={**TEXT, **experts, "rope_parameters": mrope([2, 1, 1], mrope_interleaved=True)},
        vision_config=tower_, **SPECIAL,
    )  # fmt: skip
    return transformers.Qwen3VLMoeForConditionalGeneration(config)


def qwen_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    grids = torch.tensor([[1, 8, 6], [1, 4, 10]]) if first % 2 == 0 else torch.tensor([[1, 6, 6], [1, 4, 4]])
    patches = noise(g, int(grids.prod(-1).sum()), 3 * 2 * 8 * 8)
    blocks = [[112, *run(int(grid.prod()) // 4), 113] for grid in grids]
    return {"pixel_values": patches, "image_grid_thw": grids, "blocks": blocks}


def internvl() -> Any:
    vision = transformers.InternVLVisionConfig(**{**TOWER, "image_size": [32, 32], "patch_size": [4, 4]})
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=text("qwen2"), image_token_id=IMAGE, image_seq_length=16
    )
    return transformers.InternVLForConditionalGeneration(config)


def internvl_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    """Two by one tiles and a thumbnail, then a page of one tile."""
    blocks = [[112, *run(3 * 16), 113], [112, *run(16), 113]]
    return {"pixel_values": noise(g, 4, 3, 32, 32), "blocks": blocks, "tiles": [(2, 1), (1, 1)]}


def idefics3() -> Any:
    vision = transformers.Idefics3VisionConfig(**TOWER, image_size=32, patch_size=4)
    config = transformers.Idefics3Config(
        vision_config=vision, text_config=text(), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return transformers.Idefics3ForConditionalGeneration(config)


def smolvlm() -> Any:
    vision = transformers.SmolVLMVisionConfig(**TOWER, image_size=32, patch_size=4)
    config = transformers.SmolVLMConfig(
        vision_config=vision, text_config=text(), image_token_id=IMAGE, scale_factor=2, pad_token_id=0
    )
    return transformers.SmolVLMForConditionalGeneration(config)


def idefics_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    """One by two tiles and a thumbnail with their markers, then a page of one tile; one list of tiles a prompt."""
    tiles = [[115, 101 + i, *run(16)] for i in range(2)]
    blocks = [[*tiles[0], *tiles[1], 114, 115, 103, *run(16), 115], [115, 103, *run(16), 115]]
    return {"pixel_values": noise(g, 1, 4, 3, 32, 32), "blocks": blocks, "tiles": [(1, 2), (1, 1)]}


def gemma3() -> Any:
    config = transformers.Gemma3Config(
        text_config={**TEXT, "head_dim": 8, "sliding_window": 64, "query_pre_attn_scalar": 8,
                     "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        vision_config={**TOWER, "image_size": 32, "patch_size": 4}, mm_tokens_per_image=16, image_token_id=IMAGE,
        image_token_index=IMAGE, boi_token_index=112, eoi_token_index=113,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


def gemma3_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    return {"pixel_values": noise(g, 2, 3, 32, 32), "blocks": [[112, *run(16), 113], [112, *run(16), 113]]}


def mistral3() -> Any:
    vision = transformers.PixtralVisionConfig(**TOWER, image_size=64, patch_size=4, head_dim=8)
    config = transformers.Mistral3Config(
        vision_config=vision, text_config=text("mistral", head_dim=8), image_token_id=IMAGE, image_token_index=IMAGE,
        spatial_merge_size=2, vision_feature_layer=-1,
    )  # fmt: skip
    return transformers.Mistral3ForConditionalGeneration(config)


def mistral3_inputs(model: Any, g: torch.Generator, first: int) -> dict[str, Any]:
    """Rows of a page end in a break marker, the last one in an end marker."""
    shapes = [(4, 3), (2, 5)] if first % 2 == 0 else [(3, 3), (2, 2)]
    blocks = []
    for rows, columns in shapes:
        lines = [[*run(columns), 114] for _ in range(rows)]
        lines[-1][-1] = 115
        blocks.append([id_ for line in lines for id_ in line])
    sizes = torch.tensor([[8 * rows, 8 * columns] for rows, columns in shapes])
    height, width = sizes.max(0).values.tolist()
    return {"pixel_values": noise(g, 2, 3, height, width), "image_sizes": sizes, "blocks": blocks}


FAMILIES = {
    family.name: family
    for family in (
        Family("llava", llava, llava_inputs),
        Family("llava_next", llava_next, anyres_inputs),
        Family("llava_onevision", llava_onevision, anyres_inputs),
        Family("qwen2_vl", qwen2_vl, qwen_inputs),
        Family("qwen2_5_vl", qwen2_5_vl, qwen_inputs),
        Family("qwen3_vl", qwen3_vl, qwen_inputs),
        Family("qwen3_vl_moe", qwen3_vl_moe, qwen_inputs),
        Family("internvl", internvl, internvl_inputs),
        Family("idefics3", idefics3, idefics_inputs),
        Family("smolvlm", smolvlm, idefics_inputs),
        Family("gemma3", gemma3, gemma3_inputs),
        Family("mistral3", mistral3, mistral3_inputs),
    )
}
TYPED = {"gemma3": "token_type_ids"} | dict.fromkeys(
    ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"), "mm_token_type_ids"
)
"""Families whose processors mark image tokens with a type."""


@cache
def model_of(name: str) -> Any:
    """The family's tiny model with random weights, in evaluation mode; made once."""
    torch.manual_seed(sum(map(ord, name)))
    model = FAMILIES[name].model().eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.dim() > 1 or "newline" in key or "projection_weight" in key:
                weight.normal_(0, 0.2)  # the usual 0.02 leaves logits too alike to tell a wrong position by
        head = model.lm_head.weight
        head[IMAGE] = head[3]  # equal scores go to the first, so that no answer holds an image token
    model.generation_config.eos_token_id = None
    return model


def prompt(name: str, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """One prompt with two pages: the processor's tensors, and the page layout (``tiles``) where the family needs it."""
    g = torch.Generator().manual_seed(seed)
    made = FAMILIES[name].inputs(model_of(name), g, seed)
    blocks, tiles = made.pop("blocks"), made.pop("tiles", None)
    words = [torch.randint(3, 100, (n,), generator=g).tolist() for n in (5 + seed % 3, 3, 6)]
    ids = torch.tensor([words[0] + blocks[0] + words[1] + blocks[1] + words[2]])
    made |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name in TYPED:
        made[TYPED[name]] = (ids == IMAGE).long()
    return made, ({} if tiles is None else {"tiles": tiles})


def padded(name: str, seeds: tuple[int, ...] = (0, 1)) -> tuple[dict[str, Any], dict[str, Any]]:
    """Several prompts as one batch, padded on the left, as a processor would."""
    singles = [prompt(name, seed) for seed in seeds]
    longest = max(one["input_ids"].shape[1] for one, _ in singles)
    made: dict[str, Any] = {}
    for key in singles[0][0]:
        rows = [one[key] for one, _ in singles]
        if key in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            rows = [torch.nn.functional.pad(row, (longest - row.shape[1], 0)) for row in rows]
        elif key == "pixel_values" and name == "mistral3":
            shape = [max(row.shape[i] for row in rows) for i in (2, 3)]
            rows = [
                torch.nn.functional.pad(row, (0, shape[1] - row.shape[3], 0, shape[0] - row.shape[2])) for row in rows
            ]
        made[key] = torch.cat(rows)
    tiles = [tile for _, layout in singles for tile in layout.get("tiles", ())]
    return made, ({"tiles": tiles} if tiles else {})
