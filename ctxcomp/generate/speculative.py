"""Speculative copy: what an answer quotes is drafted from the text it quotes, and checked in one model call.

Source: CopySpec (Dumitru et al., EMNLP 2025): if the last ``gamma`` tokens stood before, what followed them there is
the draft. Deviations: of several places the longest match wins, and of equals the most recent, where the paper takes
the first; the draft's length adapts; and drafts come from the uncompressed documents too, which the prompt may no
longer hold.
The model's own choice decides on every token, so a wrong draft costs time, never a different answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ctxcomp.errors import InputError

BREAK = -1
"""Stands between two texts of the index: no token, so no match and no draft crosses it."""
PLACES = 32
"""Earlier places of the same tokens that are compared, at most: the most recent ones."""
MOST_TOKENS = 64
"""Tokens of one forward pass after the prompt, at most."""
MATCH_TOKENS = 64
"""Tokens that a match is extended backwards, at most."""


class CopyDrafter:
    """An index of all texts to copy from, which grows with the answer.

    Parameters
    ----------
    sources: token ids of texts that the prompt may not hold, such as the documents before compression.
    gamma: tokens that must agree before anything is drafted, >= 1. On quotations 2 takes a tenth fewer model calls
        than the paper's 3, for a fifth more wrong drafts.
    shortest, longest: bounds of a draft's length in tokens; it doubles when all of a draft was right, and falls to
        just above what was right when it was not.
    """

    def __init__(
        self, sources: Sequence[Sequence[int]] = (), *, gamma: int = 2, shortest: int = 4, longest: int = 32
    ) -> None:
        if not (gamma >= 1 and 1 <= shortest <= longest):
            raise InputError(f"gamma >= 1 and 1 <= shortest <= longest, got {gamma}, {shortest} and {longest}")
        self.gamma, self.shortest, self.longest = gamma, shortest, longest
        self.length = min(10, longest)
        self._text: list[int] = []
        self._breaks: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}
        for source in sources:
            self.extend([*source, BREAK])

    def extend(self, tokens: Sequence[int]) -> None:
        """Index more text: the prompt, then the answer as it grows."""
        for token in tokens:
            if token == BREAK:
                self._breaks.append(len(self._text))
            self._text.append(token)
            key = tuple(self._text[-self.gamma :])
            if len(key) == self.gamma and BREAK not in key:
                self._places.setdefault(key, []).append(len(self._text))

    def draft(self, most: int) -> list[int]:
        """What probably comes next, at most ``most`` tokens; empty where nothing matches."""
        wanted = min(self.length, most)
        start = self._best_place(wanted)
        found: list[int] = []
        while start is not None and len(found) < wanted:
            at = start + len(found)
            token = self._text[at] if at < len(self._text) else found[at - len(self._text)]
            if token == BREAK:
                break
            found.append(token)
        return found

    def learn(self, drafted: int, right: int) -> None:
        """Adapt the draft's length to how much of the last one was right."""
        if drafted and right == drafted:
            self.length = min(self.longest, max(self.length, 2 * drafted))
        elif drafted:
            self.length = max(self.shortest, min(self.longest, right + self.shortest))

    def _best_place(self, wanted: int) -> int | None:
        """Where the draft begins: behind the place that agrees the longest with the end of the text.

        Of equals, what goes on for as long as is wanted comes before what ends sooner, then the most recent one.
        """
        end = len(self._text)
        places = self._places.get(tuple(self._text[-self.gamma :]), [])
        best, rank = None, (0, 0)
        for place in reversed(places[-PLACES - 1 :]):
            left = min(wanted, self._left(place))
            if place < end and left and (found := (self._agreed(place, end), left)) > rank:
                best, rank = place, found
        return best

    def _left(self, place: int) -> int:
        """Tokens from a place to the end of its text; what is being written never ends, it is copied while it grows."""
        following = bisect_left(self._breaks, place)
        return self._breaks[following] - place if following < len(self._breaks) else MOST_TOKENS

    def _agreed(self, place: int, end: int) -> int:
        text, most = self._text, min(place, MATCH_TOKENS)
        n = self.gamma
        while n < most and text[place - n - 1] == text[end - n - 1] != BREAK:
            n += 1
        return n


def copy_decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    drafter: CopyDrafter | None = None,
    **model_kwargs: Any,
) -> Tensor:
    """A decoding loop for ``model.generate(..., custom_generate=copy_decode, drafter=CopyDrafter(...))``.

    Parameters
    ----------
    input_ids: ``[1, n]``, the prompt.
    drafter: what to copy from; the prompt is added to it. None copies from prompt and answer alone.
    streamer: gets each accepted token, as in other decoding loops.

    Returns
    -------
    Prompt and answer, ``[1, n + m]``. Greedy decoding gives the tokens of plain greedy decoding, as far as the model
    computes the same logits for several tokens at once as for one after the other (in low precision, near ties may
    break differently); with sampling, each token is drawn from the model's own distribution.

    Raises
    ------
    InputError: more than one sequence, or a cache that cannot take tokens back.
    """
    cache = _croppable(input_ids, model_kwargs)
    drafter = drafter or CopyDrafter()
    drafter.extend(input_ids[0].tolist())
    ends = _end_tokens(generation_config)
    finished = False
    while not finished:
        length = input_ids.shape[1]
        drafted = drafter.draft(min(_room(cache, length), generation_config.max_length - length) - 1)
        ids = torch.cat([input_ids, input_ids.new_tensor([drafted])], dim=1) if drafted else input_ids
        logits = _forward(model, ids, len(drafted), cache, model_kwargs)
        tokens = _chosen(logits, ids, length, drafted, logits_processor, generation_config.do_sample)
        tokens = tokens[: next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))]
        cache.crop(len(tokens) - 1 - len(drafted))
        drafter.learn(len(drafted), len(tokens) - 1)
        drafter.extend(tokens)
        new = input_ids.new_tensor([tokens])
        input_ids = torch.cat([input_ids, new], dim=1)
        model_kwargs = _extended(model_kwargs, len(tokens))
        if streamer is not None:
            streamer.put(new.cpu())
        finished = bool(stopping_criteria(input_ids, None).all())
    if streamer is not None:
        streamer.end()
    return input_ids


def _croppable(input_ids: Tensor, model_kwargs: dict[str, Any]) -> Any:
    cache = model_kwargs.get("past_key_values")
    if input_ids.shape[0] != 1:
        raise InputError(f"speculative copy decodes one sequence at a time, got a batch of {input_ids.shape[0]}")
    if cache is None or not model_kwargs.get("use_cache", True):
        raise InputError("speculative copy needs a KV cache: leave use_cache on")
    cache.activate_past_recording()
    return cache


def _room(cache: Any, length: int) -> int:
    """Tokens that one forward pass may bring after the prompt, as far as the cache takes them exactly; 1: no draft."""
    if length - cache.get_seq_length() != 1:
        return 1
    return int(cache.room()) if hasattr(cache, "room") else MOST_TOKENS


def _forward(model: Any, ids: Tensor, drafted: int, cache: Any, model_kwargs: dict[str, Any]) -> Tensor:
    """Logits of the last token and of each drafted one, ``[drafted + 1, vocabulary]`` in float32."""
    first = not cache.get_seq_length()
    inputs = model.prepare_inputs_for_generation(
        ids,
        next_sequence_length=ids.shape[1] - cache.get_seq_length(),
        is_first_iteration=first,
        **_extended(model_kwargs, drafted),
    )
    if "logits_to_keep" in inputs:
        inputs["logits_to_keep"] = drafted + 1
    logits: Tensor = model(**inputs, return_dict=True).logits
    if not cache.is_croppable:
        raise InputError(
            f"speculative copy needs a cache that can take tokens back, {type(cache).__name__} cannot here"
        )
    return logits[0, -drafted - 1 :].float()


def _chosen(
    logits: Tensor, ids: Tensor, length: int, drafted: list[int], logits_processor: Any, do_sample: bool
) -> list[int]:
    """The drafted tokens that the model would have chosen too, and its own choice after them."""
    if not len(logits_processor) and not do_sample:
        wanted: list[int] = logits.argmax(-1).tolist()
        right = next((i for i, token in enumerate(drafted) if token != wanted[i]), len(drafted))
        return wanted[: right + 1]
    tokens: list[int] = []
    for i in range(len(drafted) + 1):
        scores = logits_processor(ids[:, : length + i], logits[i : i + 1])
        chosen = torch.multinomial(scores.softmax(-1), 1) if do_sample else scores.argmax(-1)
        tokens.append(int(chosen))
        if i < len(drafted) and tokens[-1] != drafted[i]:
            break
    return tokens


def _extended(model_kwargs: dict[str, Any], tokens: int) -> dict[str, Any]:
    """The model's keyword arguments with positions and mask for more tokens."""
    found = dict(model_kwargs)
    if tokens and (positions := found.get("position_ids")) is not None:
        more = torch.arange(1, tokens + 1, device=positions.device, dtype=positions.dtype)
        found["position_ids"] = torch.cat([positions, positions[..., -1:] + more], dim=-1)
    if tokens and (mask := found.get("attention_mask")) is not None:
        found["attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], tokens)], dim=-1)
    return found


def _end_tokens(generation_config: Any) -> frozenset[int]:
    ends = generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())
