"""Pages -> retrieve -> prune -> prompt: `python examples/visual_rag.py [OUTPUT_FOLDER]`.

The model is tiny and its weights are random: this shows the mechanics, the answer means nothing. Replace `tiny_model`
by `AutoModelForImageTextToText.from_pretrained(...)` and `pixels` by its processor.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from ctxcomp import Budget
from ctxcomp.visual import VisualPruner, maxsim_map, maxsim_score, picture, report

ROWS, COLUMNS, PATCH, IMAGE = 24, 16, 14, 150
TEXTS = (
    "Cafe Middlemarch\n\nTea   2.50\nCake  4.00\n\nTOTAL 6.50",
    "Minutes of the board\n\nThe mail was late.",
    "Weather\n\nRain.",
)


def page(text: str) -> Image.Image:
    image = Image.new("RGB", (COLUMNS * PATCH, ROWS * PATCH), "white")
    ImageDraw.Draw(image).text((16, 16), text, fill="black", font_size=18)
    return image


def pixels(image: Image.Image) -> torch.Tensor:
    """A page as Qwen2-VL's processor cuts it up: blocks of 2 x 2 patches, each twice for time, `[patches, 1176]`."""
    values = (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).float().view(ROWS * PATCH, -1, 3) / 127.5 - 1
    )
    blocks = values.view(ROWS // 2, 2, PATCH, COLUMNS // 2, 2, PATCH, 3).permute(0, 3, 1, 4, 6, 2, 5)
    return blocks.reshape(ROWS * COLUMNS, 3, 1, PATCH, PATCH).expand(-1, -1, 2, -1, -1).flatten(1)


def tiny_model() -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(0)
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 160, "bos_token_id": None, "eos_token_id": None, "rope_parameters":
            {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}}  # fmt: skip
    vision = {"depth": 3, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "patch_size": PATCH}
    tokens = {"image_token_id": IMAGE, "video_token_id": 151, "vision_start_token_id": 152, "vision_end_token_id": 153}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)).eval()


def main() -> None:
    images = [page(text) for text in TEXTS]
    # A stand-in for ColQwen2: a patch with ink is one vector, a patch without another, and the question asks for ink.
    ink = [1 - (pixels(image).mean(1) + 1) / 2 for image in images]
    vectors = [torch.stack([dark, 1 - dark], dim=1) for dark in (i.view(-1, 4).mean(1) for i in ink)]
    question = torch.tensor([[1.0, 0.0]])
    scores = [maxsim_score(question, patches) for patches in vectors]
    best = sorted(range(len(images)), key=lambda i: -scores[i])[:2]
    grid = (ROWS // 2, COLUMNS // 2)
    maps = [maxsim_map(question, vectors[i], grid) for i in best]

    block = [152, *[IMAGE] * (grid[0] * grid[1]), 153]
    ids = torch.tensor([[1, *block, 2, *block, 3, 4, 5, 6]])
    inputs = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == IMAGE).int(),
        "pixel_values": torch.cat([pixels(images[i]) for i in best]),
        "image_grid_thw": torch.tensor([[1, ROWS, COLUMNS]] * len(best)),
    }  # fmt: skip
    pruner = VisualPruner(model=tiny_model(), method="retriever")
    pruned = pruner.prune(inputs, Budget(keep=0.25), scores=[scores[i] for i in best], maps=maps)
    answer = pruned.generate(max_new_tokens=4, do_sample=False)
    print(f"pages {best} of {len(images)}\n{report(pruned, inputs)}\nanswer ids {answer[0, -4:].tolist()}")
    print("the weights are random: the answer means nothing, only the mechanics are shown")
    for folder in map(Path, sys.argv[1:2]):
        for place, i in enumerate(best):
            picture(pruned, place, images[i]).save(folder / f"page{i}.png")


if __name__ == "__main__":
    main()
