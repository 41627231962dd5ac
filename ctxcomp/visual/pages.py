"""Page images from files: upright, RGB, one picture a page, and clear words for what is no page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ctxcomp.errors import InputError
from ctxcomp.optional import require

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif")
"""What the command line takes for page images."""

MOST_PIXELS = 89_478_485
"""A page of more is refused: from here on PIL itself warns of an attack."""


def open_pages(sources: Any) -> list[Any]:
    """The pages of files, bytes or pictures, in their order: ``PIL.Image`` in RGB.

    A TIFF file may hold several pages. What is transparent is white, and photographs stand as their camera says.

    Parameters
    ----------
    sources: paths, bytes of image files, or ``PIL.Image``s.

    Raises
    ------
    InputError: one is missing, damaged, too large, an animation or no image.
    """
    if isinstance(sources, (str, bytes, Path)) or not isinstance(sources, Iterable):
        raise InputError(f"pages must be a sequence of paths or images, got {type(sources).__name__}")
    return [page for i, source in enumerate(sources) for page in _pages(source, i)]


def _pages(source: Any, number: int) -> Sequence[Any]:
    pil = require("PIL.Image", extra="vision")
    if isinstance(source, pil.Image):
        return [_upright(source, f"page {number}")]
    if not isinstance(source, (str, Path, bytes)):
        raise InputError(f"page {number} must be a path, bytes or a PIL.Image, got {type(source).__name__}")
    name = f"page {number}" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is checked below, and of odd metadata
            image = pil.open(io.BytesIO(data))
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "TIFF":
                raise InputError(f"{name}: an animation of {frames} frames: save those that are pages as single images")
            return [_upright(_frame(image, i, name), name) for i in range(frames)]
    except pil.UnidentifiedImageError:
        raise InputError(f"{name}: not an image that Pillow reads (for a PDF: `pdftoppm -png`)") from None
    except pil.DecompressionBombError:
        raise InputError(_too_large(name)) from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from None
    except (ValueError, SyntaxError, EOFError, IndexError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: damaged: {error}") from None


def _frame(image: Any, number: int, name: str) -> Any:
    image.seek(number)
    if image.width * image.height > MOST_PIXELS:
        raise InputError(_too_large(name))
    image.load()
    return image.copy()


def _too_large(name: str) -> str:
    return f"{name}: more than {MOST_PIXELS} pixels: scale it down first (models see pages at a few million)"


def _upright(image: Any, name: str) -> Any:
    """RGB, on white where it is transparent, turned as its metadata says."""
    from PIL import Image, ImageOps

    if not image.width or not image.height:
        raise InputError(f"{name}: an image of {image.width} x {image.height} pixels holds no page")
    if image.width * image.height > MOST_PIXELS:
        raise InputError(_too_large(name))
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith(("I;16", "I", "F")):
        return _grey(turned)
    if turned.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in turned.info:
        pale = turned.convert("RGBA")
        white = Image.new("RGBA", pale.size, "white")
        return Image.alpha_composite(white, pale).convert("RGB")
    return turned.convert("RGB")


def _grey(image: Any) -> Any:
    """A scan of more than 8 bits as 8: its own range is black to white, since PIL would cut off all above 255."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    top = 65535.0 if low >= 0 and 255 < high <= 65535 else 255.0 if low >= 0 and high <= 255 else high
    scaled = np.clip((values - min(low, 0.0)) / max(top - min(low, 0.0), 1e-9), 0, 1) * 255
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")
