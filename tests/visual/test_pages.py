"""Page images as users have them: every mode, several in a file, turned, damaged, far too large or none at all."""

from __future__ import annotations

import io
import struct
import zlib

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("PIL")

import numpy as np
from PIL import Image

from ctxcomp import Budget, BudgetError, InputError
from ctxcomp.visual import VisualPruner, open_pages, picture


def page(width=60, height=80):
    values = np.full((height, width, 3), 255, np.uint8)
    values[10:20, 5:40] = 0
    return Image.fromarray(values)


def written(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_every_mode_is_seen_alike(mode):
    """Black on white stays black on white, whatever the file stores."""
    image = page()
    if mode in ("I", "F", "I;16"):
        grey = np.asarray(image.convert("L"))
        deep = {"I": grey.astype(np.int32) * 257, "F": grey.astype(np.float32), "I;16": grey.astype(np.uint16) * 257}
        image = Image.fromarray(deep[mode])
    elif mode == "LAB":
        image = Image.merge("LAB", [image.convert("L"), *[Image.new("L", image.size, 128)] * 2])
    else:
        image = image.convert(mode)
    (seen,) = open_pages([image])
    assert (seen.mode, seen.size) == ("RGB", (60, 80))
    values = np.asarray(seen.convert("L")).astype(int)
    assert values[12:18, 8:36].max() < 40
    assert values[30:, :].min() > 200


def test_what_is_transparent_is_paper():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_pages([clear])[0].getextrema() == ((255, 255),) * 3
    index = Image.new("P", (4, 4), 0)
    assert open_pages([written(index, transparency=0)])[0].getextrema() == ((255, 255),) * 3


def test_photographs_stand_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    (seen,) = open_pages([written(page(), "JPEG", exif=exif)])
    assert seen.size == (80, 60)


def test_a_tiff_holds_pages_and_an_animation_none(tmp_path):
    several = written(page(), "TIFF", save_all=True, append_images=[page(30, 50), page(20, 10)])
    assert [one.size for one in open_pages([several, page()])] == [(60, 80), (30, 50), (20, 10), (60, 80)]
    (tmp_path / "moves.gif").write_bytes(written(page(), "GIF", save_all=True, append_images=[page().rotate(90)]))
    with pytest.raises(InputError, match=r"moves\.gif: an animation of 2 frames"):
        open_pages([tmp_path / "moves.gif"])


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claimed(width, height):
    """A PNG of a few bytes that claims to be large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", "page 0: not an image that Pillow reads"),
        (b"hello", "not an image"),
        (written(page())[:90], "page 0: cannot be read|damaged"),
        (written(page(), "JPEG")[:400], "cannot be read|damaged"),
        (claimed(60_000, 60_000), "more than 89478485 pixels: scale it down"),
        (claimed(10_000, 10_000), "more than 89478485 pixels"),
        (Image.new("L", (10_000, 9_000)), "more than 89478485 pixels"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels holds no page"),
        ("nowhere.png", r"nowhere\.png: cannot be read: No such file"),
        (7, "must be a path, bytes or a PIL.Image, got int"),
    ],
)
def test_what_is_no_page_says_so(source, message):
    with pytest.raises(InputError, match=message):
        open_pages([source])


@pytest.mark.parametrize("sources", ["page.png", b"x", None, 3])
def test_pages_are_a_sequence(sources):
    with pytest.raises(InputError, match="a sequence of paths or images"):
        open_pages(sources)


def test_odd_calls(generator):
    pruner = VisualPruner(model=generator("qwen2_vl"))
    for pages, message in (
        ([], "no page to compress"),
        ([Image.new("RGB", (3000, 2))], r"cannot take these pages \(3000 x 2 pixels\): .*aspect ratio"),
    ):
        with pytest.raises(InputError, match=message):
            pruner.compress("What?", pages, Budget(keep=0.5))
    with pytest.raises(InputError, match="query must be a str"):
        pruner.compress(None, [page()], Budget(keep=0.5))
    with pytest.raises(BudgetError, match="0 visual tokens cannot leave 1"):
        pruner.compress("What?", [Image.new("RGB", (1, 1))], Budget(tokens=0))
    dot = pruner.prune_pages("Сколько? いくら 🧾", [Image.new("RGB", (1, 1))], Budget(keep=1.0))
    assert dot.results[0].stats.keep == 1.0
    assert picture(dot, 0, Image.new("RGB", (1, 1), "white")).getpixel((0, 0)) == (255, 255, 255)


def test_nothing_kept_is_a_prompt_of_text(generator):
    it = generator("llava_next")
    none = VisualPruner(model=it, floor=0).compress("What?", [page()], Budget(tokens=0))
    assert none.stats.tokens_out == 0
    assert it.generate("What?", none, max_tokens=3).tokens


def test_two_hundred_pages(generator):
    it = generator("llava")
    context = VisualPruner(model=it, positions="contiguous").compress("What?", [page()] * 200, Budget(tokens=400))
    assert (len(context.tokens_out), sum(context.tokens_out), min(context.tokens_out)) == (200, 400, 2)
    assert it.generate("What?", context, max_tokens=3).usage.prompt_tokens < 450
