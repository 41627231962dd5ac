"""What all adapters share: encode the images of a prompt, find their places, hand over the shorter prompt."""

from __future__ import annotations

import copy
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ctxcomp.errors import InputError
from ctxcomp.visual.encoded import Encoded
from ctxcomp.visual.layout import Page
from ctxcomp.visual.signals import Signals
from ctxcomp.visual.watch import depth_of, watch

Tiles = Sequence[tuple[int, int]]
"""Rows and columns of the tiles of each page."""

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor gives for each token of the prompt."""

PIXELS = ("pixel_values", "pixel_attention_mask")
"""What it gives of the images themselves."""


class Adapter(ABC):
    """One kind of model: its tower, the layout of its visual tokens, its positions.

    Parameters
    ----------
    model: of transformers, with a language model's head.
    """

    kinds: ClassVar[frozenset[str]]

    def __init__(self, model: Any) -> None:
        self.model, self.inner = model, model.model
        config = model.config
        token = getattr(config, "image_token_id", None)
        self.image_token = int(config.image_token_index if token is None else token)

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return next(
            getattr(self.inner, name)
            for name in ("vision_tower", "visual", "vision_model")
            if hasattr(self.inner, name)
        )

    @property
    def language(self) -> Any:
        """The language model without its head."""
        return self.inner.language_model if hasattr(self.inner, "language_model") else self.inner.text_model

    @abstractmethod
    def pages(self, inputs: Mapping[str, Any], output: Any, tiles: Tiles | None) -> list[tuple[Page, Tensor]]:
        """The layout of each page, and its tokens' patches ``[n, f]`` (see ``Signals.members``)."""

    @abstractmethod
    def positions(self, inputs: Mapping[str, Any]) -> Tensor:
        """Positions of the whole prompt, ``[B, L]`` or ``[3, B, L]``."""

    @property
    def prefix(self) -> int:
        """Tokens of the tower before the patches."""
        return 0

    def layer(self, number: int) -> int:
        """The tower's layer that serves for one that a method names, counted from 0."""
        return number % depth_of(self.tower)

    def lengths(self, inputs: Mapping[str, Any]) -> list[int] | None:
        """Patches of each image, where the tower works on all images as one sequence."""
        return None

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Whether these are a processor's tensors for images.

        Raises
        ------
        InputError: something is missing, or is of a kind that is not supported.
        """
        if not isinstance(inputs, Mapping):
            raise InputError(f"inputs are the tensors of the model's processor by name, got {type(inputs).__name__}")
        for name in ("input_ids", "pixel_values"):
            if not isinstance(inputs.get(name), Tensor):
                raise InputError(
                    f"the inputs need {name!r} as a tensor, as the model's processor makes them with "
                    f"return_tensors='pt'; there are {', '.join(sorted(inputs)) or 'none'}"
                )
        if inputs["input_ids"].dim() != 2:
            raise InputError(f"input_ids must be [prompts, tokens], got shape {list(inputs['input_ids'].shape)}")
        if inputs.get("pixel_values_videos") is not None:
            raise InputError("videos are not supported: give their frames as images")
        if not bool((inputs["input_ids"] == self.image_token).any()):
            raise InputError(f"the prompt holds no image token (id {self.image_token})")

    def encode(self, inputs: Mapping[str, Any], layers: Sequence[int] = (), tiles: Tiles | None = None) -> Encoded:
        """Run the vision tower once.

        Parameters
        ----------
        inputs: what the processor made.
        layers: of the tower whose attention is to be heard.
        tiles: rows and columns of the tiles of each page, for models whose tensors do not say.
        """
        takes = inspect.signature(self.inner.get_image_features).parameters
        given = {key: value for key, value in inputs.items() if key in takes}
        began = time.perf_counter()
        with torch.no_grad(), watch(self.tower, sorted({self.layer(one) for one in layers})) as heard:
            output = self.inner.get_image_features(**given, return_dict=True)
        seconds = time.perf_counter() - began
        features = self.flat(output.pooler_output)
        laid_out = self.pages(inputs, output, tiles)
        pages = tuple(page for page, _ in laid_out)
        samples = self._samples(inputs["input_ids"], pages, len(features))
        members = torch.cat([members for _, members in laid_out]).to(features.device)
        signals = Signals(heard, members, self.prefix, self.lengths(inputs), self.layer)
        return Encoded(features, self.deeper(output), pages, samples, signals, output, seconds)

    def _samples(self, ids: Tensor, pages: Sequence[Page], features: int) -> tuple[int, ...]:
        """The prompt of each page: pages fill the prompts' placeholders in order."""
        places = (ids == self.image_token).sum(1).tolist()
        tokens = sum(len(page) for page in pages)
        if tokens != features or sum(places) != features:
            raise InputError(
                f"the prompt has {sum(places)} image tokens, the images give {features} features, and the page layout "
                f"has {tokens}: give input_ids, pixels and geometry of one processor call, and the true tiles"
            )
        samples, sample, room = [], 0, places[0]
        for page in pages:
            while room == 0:
                sample += 1
                room = places[sample]
            if len(page) > room:
                raise InputError(f"a page of {len(page)} tokens runs over the end of prompt {sample}")
            room -= len(page)
            samples.append(sample)
        return tuple(samples)

    def flat(self, pooled: Any) -> Tensor:
        """Features of all images as one tensor ``[n, hidden]``."""
        return pooled.flatten(0, -2) if isinstance(pooled, Tensor) else torch.cat(list(pooled))

    def deeper(self, output: Any) -> tuple[Tensor, ...]:
        """Features that go into later layers."""
        return ()

    def empty_output(self) -> Any:
        """What ``get_image_features`` returns, without anything in it: for features that were kept by themselves."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling()

    def wrap(self, output: Any, features: Tensor, deeper: Sequence[Tensor]) -> dict[str, Any]:
        """``mm_encoder_outputs`` for these features; made afresh for each call, since beam search writes into it."""
        fresh = copy.copy(output)
        fresh.pooler_output = [features]
        return {"image": fresh}
