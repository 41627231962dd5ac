"""Vision-language checkpoints from disk: the model, and the processor that cuts pages up for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctxcomp.errors import ModelError
from ctxcomp.generate.load import torch_dtype
from ctxcomp.loading import pick_device
from ctxcomp.optional import require

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def seeing_kind(path: Path) -> str | None:
    """The ``model_type`` of a checkpoint directory with a vision-language model; None for any other."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # whoever loads the model says what is wrong with it
    return str(config.get("model_type")) if isinstance(config, dict) and "vision_config" in config else None


def load_seeing(path: Path, *, dtype: Any = None, device: str = "auto") -> tuple[Any, Any]:
    """A vision-language model in evaluation mode on its device, and its processor.

    Parameters
    ----------
    path: a checkpoint directory.
    dtype: a torch dtype or its name; None takes the checkpoint's own.

    Raises
    ------
    ModelError: model or processor are missing or damaged, or the processor needs a package that is not there.
    """
    transformers = require("transformers", extra="vision")
    require("PIL", extra="vision")
    place, kind = pick_device(device), torch_dtype(dtype)
    processor = load_processor(path)
    try:
        model = transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=kind or "auto", **LOCAL)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(f"{path} cannot be loaded as a vision-language model: {error}") from error
    return model.to(place).eval(), processor


def load_processor(path: Path) -> Any:
    """The checkpoint's processor; where torchvision is not there one without a part for videos.

    Raises
    ------
    ModelError: there is none, or it needs torchvision for images too (Mistral 3).
    """
    transformers = require("transformers", extra="vision")
    try:
        found = transformers.AutoProcessor.from_pretrained(path, **LOCAL)
    except (OSError, ValueError, ImportError, TypeError) as error:
        if "torchvision" not in str(error).lower():
            raise ModelError(f"{path} holds no processor that can be loaded: {error}") from error
        found = _without_videos(path)
    if not hasattr(found, "image_processor") or not hasattr(found, "tokenizer"):
        raise ModelError(
            f"{path} holds no processor for images: preprocessor_config.json or processor_config.json is missing"
        )
    return found


def _without_videos(path: Path) -> Any:
    """The processor of images and text alone: the video part is what needs torchvision."""
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    try:
        whole = PROCESSOR_MAPPING[type(AutoConfig.from_pretrained(path, **LOCAL))]

        class Processor(whole):  # type: ignore[misc, valid-type]
            """Text and images."""

            @classmethod
            def get_attributes(cls) -> list[str]:
                return [name for name in super().get_attributes() if name != "video_processor"]

            @classmethod
            def from_args_and_dict(cls, args: list[Any], *rest: Any, **options: Any) -> Any:
                return super().from_args_and_dict([*args, None], *rest, **options)

        return Processor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, ImportError, TypeError, KeyError, AttributeError) as error:
        wants = "num2words" if "num2words" in str(error) else "torchvision"
        raise ModelError(f"the processor of {path} needs {wants}: run `pip install {wants}`") from error
