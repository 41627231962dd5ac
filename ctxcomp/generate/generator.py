"""The local generator: a causal language model, its prompts, its KV cache, and answers with their statistics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctxcomp.errors import InputError, ModelError
from ctxcomp.generate.drawing import processors
from ctxcomp.generate.load import find, load_model, load_tokenizer, quantize_weights
from ctxcomp.generate.prompts import Context, Message, Prompts, latent_parts, page_parts, source_texts
from ctxcomp.generate.results import Generated, Stream
from ctxcomp.generate.sampling import Sampling
from ctxcomp.generate.speculative import CopyDrafter, copy_decode
from ctxcomp.generate.usage import Usage, kv_bytes, weight_bytes
from ctxcomp.generate.writing import Watch, Writer
from ctxcomp.types import Passage

if TYPE_CHECKING:
    from ctxcomp.visual.asking import PagePrompt

Vectors = tuple[list[int], list[NDArray[Any]]]
"""Places in a prompt, and the vectors that stand there: ``[n, hidden]`` arrays whose rows are as many as the places."""
Copy = bool | Sequence[Passage] | Sequence[str]
"""Whether to draft from what the answer may quote: the prompt, the documents behind it, and those given here."""


@dataclass(frozen=True)
class Asked:
    """One prompt: its token ids, and what stands there besides them."""

    ids: list[int]
    vectors: Vectors
    pages: PagePrompt | None = None


class Generator:
    """Answers questions over a context with a local model. One answer, or one batch, is written at a time.

    Parameters
    ----------
    model: a causal language model of transformers, or a vision-language one of ``ctxcomp.visual.families()``, in
        evaluation mode on its device.
    tokenizer: the model's tokenizer.
    kv: how the KV cache is compressed, a policy such as "kivi4" or "snapkv(keep=0.5)+kivi4"; None keeps it whole.
    processor: of a vision-language model, for contexts with pages.

    Raises
    ------
    ModelError: the model is no decoder-only language model, or with a processor none that pages can be shown to.
    InputError: there is no such policy.
    """

    def __init__(self, model: Any, tokenizer: Any, *, kv: Any = None, processor: Any = None) -> None:
        if model.config.is_encoder_decoder or not model.can_generate():
            raise ModelError(f"{type(model).__name__} is no decoder-only language model")
        self.model, self.tokenizer, self.kv, self.processor = model, tokenizer, kv, processor
        self.prompts = Prompts(tokenizer, processor)
        language = model if processor is None else _language(model)
        self._lock = threading.Lock()
        ends = model.generation_config.eos_token_id
        own = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or own)
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else min(self._ends, default=0)
        if kv is not None:
            from ctxcomp.generate.cache import install

            install(language)
            self.new_cache()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        weights: str | None = None,
        kv: Any = None,
        device: str = "auto",
        dtype: Any = None,
        *,
        calibration: Sequence[str] | None = None,
        revision: str | None = None,
        allow_download: bool = False,
        **quantization: Any,
    ) -> Generator:
        """A generator from a checkpoint directory or a hub id in the local cache; quantized checkpoints stay small.

        A vision-language checkpoint of ``ctxcomp.visual.families()`` comes with its processor.

        Parameters
        ----------
        weights: quantize the weights with this method ("rtn", "awq", "gptq", ...); None takes them as they are, and is
            all there is for vision-language models.
        kv: as for ``Generator``.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: of what is not quantized; None takes the checkpoint's own.
        calibration: texts for methods that calibrate, your own documents for example.
        revision, allow_download: fetch a hub id at a 40-digit commit if it is not there.
        quantization: more arguments of ``quantize``, such as ``bits=4`` and ``group_size=128``.

        Raises
        ------
        ModelError: there is no such model, or it is damaged.
        InputError: an argument is wrong; the message says which.
        """
        if weights is None and quantization:
            raise InputError(f"{', '.join(quantization)} configure quantization: name a method with weights=")
        from ctxcomp.visual.adapters import families
        from ctxcomp.visual.loading import load_seeing, seeing_kind

        place = find(path, revision=revision, allow_download=allow_download)
        kind = seeing_kind(place)
        if kind in families():
            if weights is not None:
                raise InputError(f"weights={weights!r} is for language models: a vision-language one stays as it is")
            model, processor = load_seeing(place, dtype=dtype, device=device)
            return cls(model, processor.tokenizer, kv=kv, processor=processor)
        try:
            model, tokenizer = load_model(place, dtype=dtype, device=device), load_tokenizer(place)
        except ModelError as error:
            if kind is None:
                raise
            raise ModelError(
                f"{place} holds a {kind!r} model: of vision-language models there are {', '.join(families())}"
            ) from error
        if weights is not None:
            quantize_weights(model, tokenizer, weights, calibration, quantization)
        return cls(model, tokenizer, kv=kv)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they lie in memory."""
        return weight_bytes(self.model)

    @property
    def window(self) -> int | None:
        """Tokens that prompt and answer may have together; None where the model does not say."""
        return getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)

    def new_cache(self) -> Any:
        """An empty KV cache of this generator's policy."""
        if self.kv is None:
            from transformers import DynamicCache

            return DynamicCache(config=self.model.config)
        from ctxcomp.generate.cache import CompressedCache

        return CompressedCache(self.model.config, self.kv)

    def generate(
        self, query: str, context: Context = "", *, instruction: str = "", copy: Copy = False, **sampling: Any
    ) -> Generated:
        """Answer one question.

        Parameters
        ----------
        query: the question.
        context: a ``CompressedText``, a text, or passages; or what was made for this model, ``CompressedLatents``,
            ``CompressedVision`` and ``CompressedMixed``; none asks the model alone.
        instruction: a system message.
        copy: draft from the prompt and from the documents behind a ``CompressedText``, or also from these texts;
            the answer is the same, in fewer model calls.
        sampling: fields of ``Sampling``: max_tokens, temperature, top_p, top_k, seed, stop.

        Raises
        ------
        InputError: an argument is wrong, the prompt is longer than the model's window, or vectors or pages are for
            another model.
        """
        asked = self._asked(query, context, instruction)
        return self._answer(asked, Sampling.of(sampling), _sources(copy, context))

    def stream(
        self, query: str, context: Context = "", *, instruction: str = "", copy: Copy = False, **sampling: Any
    ) -> Stream:
        """Answer one question piece by piece; parameters and errors as for ``generate``."""
        asked = self._asked(query, context, instruction)
        options, sources = Sampling.of(sampling), _sources(copy, context)
        self.check(asked.ids, asked.pages)
        return Stream(lambda on_text, cancelled: self._answer(asked, options, sources, on_text, cancelled))

    def _answer(
        self,
        asked: Asked,
        options: Sampling,
        sources: Sequence[str] | None,
        on_text: Callable[[str], None] | None = None,
        cancelled: threading.Event | None = None,
    ) -> Generated:
        return self.complete(
            [asked.ids], options, sources=sources, on_text=on_text, cancelled=cancelled, vectors=[asked.vectors],
            pages=asked.pages,
        )[0]  # fmt: skip

    def chat(self, messages: Sequence[Message], *, copy: Copy = False, **sampling: Any) -> Generated:
        """Answer a chat; parameters and errors as for ``generate``."""
        prompt = self.prompts.tokens(messages)
        return self.complete([prompt], Sampling.of(sampling), sources=_sources(copy, ""))[0]

    def generate_batch(
        self, requests: Sequence[tuple[str, Context]], *, instruction: str = "", copy: Copy = False, **sampling: Any
    ) -> list[Generated]:
        """Answer several questions, each with its context, in one batch (with ``copy`` or pages one by one)."""
        options = Sampling.of(sampling)
        asked = [self._asked(query, context, instruction) for query, context in requests]
        if copy is False and not any(one.pages for one in asked):
            prompts, vectors = [one.ids for one in asked], [one.vectors for one in asked]
            return self.complete(prompts, options, vectors=vectors) if prompts else []
        sources = [_sources(copy, context) for _, context in requests]
        return [self._answer(one, options, texts) for one, texts in zip(asked, sources, strict=True)]

    def _asked(self, query: str, context: Context, instruction: str) -> Asked:
        """A prompt, with the vectors or the pages that stand in it."""
        parts = latent_parts(context)
        if page_parts(context):
            from ctxcomp.visual.asking import page_prompt

            prompted = page_prompt(self, query, context, instruction)
            return Asked(prompted.ids, ([], []), prompted)
        if parts:
            from ctxcomp.latent.binding import check_latents

            check_latents(parts, self)
        ids, places = self.prompts.prompt(query, context, instruction)
        return Asked(ids, (places, [part.vectors for part in parts]))

    def check(self, prompt: Sequence[int], pages: PagePrompt | None = None) -> None:
        """Whether a prompt can be answered.

        Raises
        ------
        InputError: it is empty, or fills the model's window.
        """
        if not prompt:
            raise InputError("the prompt has no token")
        reach = pages.reach if pages else 0
        if self.window is None or max(len(prompt), reach) < self.window:
            return
        if len(prompt) < self.window:
            raise InputError(
                f"the {len(prompt)} tokens of the prompt stand at positions up to {reach} of the whole pages, beyond "
                f"the model's window of {self.window}: prune with positions='contiguous'"
            )
        raise InputError(
            f"the prompt has {len(prompt)} tokens and the model's window {self.window}: compress the context more"
        )

    def complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        sources: Sequence[str] | None = None,
        on_text: Callable[[str], None] | None = None,
        cancelled: threading.Event | None = None,
        cache: Any = None,
        vectors: Sequence[Vectors] = (),
        pages: PagePrompt | None = None,
    ) -> list[Generated]:
        """Continue prompts of token ids.

        Parameters
        ----------
        prompts: at least one; several make one batch, padded on the left.
        sources: texts to draft from besides the prompt, for one prompt; None decodes plainly.
        on_text: called with each piece of text, for one prompt.
        cancelled: ends the answer early once it is set.
        cache: holds the first tokens of the one prompt already, and is written to; None begins with an empty one.
        vectors: for each prompt what stands in place of its tokens' embeddings; () for none anywhere.
        pages: what the one prompt holds of pages.

        Raises
        ------
        InputError: a prompt cannot be answered, or an argument is for one prompt only.
        """
        if len(prompts) != 1 and any(given is not None for given in (sources, on_text, cache, pages)):
            raise InputError(f"copying, streaming, caches and pages are for one prompt at a time, got {len(prompts)}")
        inserted = any(places for places, _ in vectors)
        if (inserted or pages) and (sources is not None or cache is not None):
            raise InputError("vectors and pages in a context cannot be copied from nor lie in a cache: use copy=False")
        for prompt in prompts:
            self.check(prompt, pages)
        writers = [Writer(self._decode, self._ends, sampling.stop, on_text) for _ in prompts]
        with self._lock, torch.inference_mode():
            cache = self.new_cache() if cache is None else cache
            given = vectors if inserted else ()
            return self._complete(prompts, sampling, sources, writers, cancelled, cache, given, pages)

    def _complete(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        sources: Sequence[str] | None,
        writers: list[Writer],
        cancelled: threading.Event | None,
        cache: Any,
        vectors: Sequence[Vectors],
        pages: PagePrompt | None,
    ) -> list[Generated]:
        ids, mask = self._padded(prompts)
        length = ids.shape[1]
        watch = Watch(writers, length, cancelled)
        reach = max(length, pages.reach) if pages else length
        room = sampling.max_tokens if self.window is None else min(sampling.max_tokens, self.window - reach)
        speculation: dict[str, Any] = {}
        if sources is not None:
            texts = [self.prompts.text_tokens(text) for text in sources]
            speculation = {"custom_generate": copy_decode, "drafter": CopyDrafter(texts)}
        # Beside the embeddings the ids stay: what watches, draws and counts sees the same lengths as ever.
        embeddings = {"inputs_embeds": self._embedded(ids, prompts, vectors)} if vectors else {}
        seen = pages.inputs() if pages else {}
        self.model.generate(
            ids,
            attention_mask=mask,
            past_key_values=cache,
            logits_processor=processors(sampling, length),
            stopping_criteria=[watch],
            max_new_tokens=room,
            eos_token_id=sorted(self._ends) or None,
            pad_token_id=self._pad,
            **PLAIN,
            **embeddings,
            **seen,
            **speculation,
        )
        for writer in writers:
            writer.finish("length")
        return self._results(prompts, writers, watch, cache)

    def _results(
        self, prompts: Sequence[Sequence[int]], writers: list[Writer], watch: Watch, cache: Any
    ) -> list[Generated]:
        rows = len(prompts)
        weights, kv = self.weight_bytes, kv_bytes(cache)
        prefill, decode = (watch.first - watch.began) / rows, (watch.last - watch.first) / rows
        return [
            Generated(
                writer.text,
                tuple(writer.tokens),
                writer.finish_reason or "length",
                Usage(len(prompt), len(writer.tokens), prefill, decode, weights, kv // rows, watch.model_calls),
            )
            for prompt, writer in zip(prompts, writers, strict=True)
        ]

    def _padded(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask ``[rows, longest]``, padded on the left."""
        longest = max(map(len, prompts))
        ids = [[self._pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self.model.device), torch.tensor(mask, device=self.model.device)

    def _embedded(self, ids: Tensor, prompts: Sequence[Sequence[int]], vectors: Sequence[Vectors]) -> Tensor:
        """Input embeddings ``[rows, longest, hidden]`` of padded prompts, the vectors in their places."""
        found: Tensor = self.model.get_input_embeddings()(ids)
        for row, (prompt, (places, values)) in enumerate(zip(prompts, vectors, strict=True)):
            if places:
                at = torch.tensor(places, device=ids.device) + (ids.shape[1] - len(prompt))
                found[row, at] = torch.from_numpy(np.concatenate(values)).to(found)
        return found

    def _decode(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _language(model: Any) -> Any:
    """The part of a vision-language model that has a KV cache."""
    from ctxcomp.visual.adapters import adapter_for

    return adapter_for(model).language


PLAIN: dict[str, Any] = {
    "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "num_beams": 1, "num_return_sequences": 1,
    "return_dict_in_generate": False, "use_cache": True,
}  # fmt: skip
"""Sampling is ours (see ``sampling``): what a checkpoint's generation_config says of it must not interfere."""


def _sources(copy: Copy, context: Context) -> list[str] | None:
    """Texts to draft from; None decodes plainly."""
    if copy is False:
        return None
    given = () if copy is True else copy
    return source_texts(context) + [one.text if isinstance(one, Passage) else str(one) for one in given]
