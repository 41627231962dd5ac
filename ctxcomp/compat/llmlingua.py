"""``PromptCompressor``: LLMLingua-2 as llmlingua 0.2.2 runs it, faster, with one import changed.

Where llmlingua 0.2.2 (on transformers 5 and NumPy 2) returns a result with ``use_llmlingua2=True``, so does this, and
the dictionaries are equal, bugs included. The differences:

- What crashes there raises ``InputError`` or ``ModelError`` here, with what to do: ``rate=0``, a context filter over
  an empty context, text that spells ``<|endoftext|>``, a chunk of nothing but unknown characters.
- What has no effect there is refused here: ``question``, ``instruction``, ``rank_method`` and others raise
  ``InputError`` when given another value than their default.
- ``structured_compress_prompt`` drops its tags there, and with them each segment's rate and protection. Here it works
  where that changes nothing, and refuses a segment with a rate or ``compress=False`` of its own and text that would
  be lost. ``compress_json`` compresses braces and keys like any other word there, so that its result mostly is no
  JSON: here it is refused.
- The name of the model does not matter, only its tokenizer: WordPiece and Unigram work from any directory.
- Nothing is downloaded, no code of a checkpoint runs, no global random generator is seeded, arguments are not modified.
- LLMLingua-1 (``use_llmlingua2=False``) is not offered.

Contexts run at their own length, not padded to 512, on ONNX Runtime. torch is needed only on a GPU and for forced
tokens that are not exactly one token of the vocabulary, such as a line break: the peer stands an added token with a
randomly drawn embedding in for each, and the same row has to be drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from ctxcomp.compat.llmlingua_chunks import untag
from ctxcomp.compat.llmlingua_compress import Call, Cl100k, Engine, Settings
from ctxcomp.compat.llmlingua_model import KeepModel
from ctxcomp.compat.llmlingua_options import (
    check_constructor,
    load_cl100k,
    pick_map,
    read_model_config,
    refuse_unread,
)
from ctxcomp.compat.llmlingua_tokenizer import PeerTokenizer
from ctxcomp.encode import load_encoder
from ctxcomp.errors import InputError
from ctxcomp.loading import open_checkpoint

_NONE: Mapping[str, Any] = MappingProxyType({})


class PromptCompressor:
    """LLMLingua-2 with the interface of ``llmlingua.PromptCompressor``.

    Source: Pan et al., "LLMLingua-2: Data Distillation for Efficient and Faithful Task-Agnostic Prompt Compression",
    2024, arXiv 2403.12968; the behaviour is that of the package llmlingua 0.2.2.

    Parameters
    ----------
    model_name: a checkpoint directory, or a hub id that is in the local cache.
    device_map: "cpu", "cuda", "cuda:1", "mps"; anything else is a GPU if there is one.
    model_config: ``torch_dtype`` and ``revision`` are used; ``trust_remote_code`` is accepted and never needed.
    open_api_config: must be empty.
    use_llmlingua2: must be True.
    llmlingua2_config: ``max_force_token``, how many tokens may be forced; ``max_batch_size``, chunks of 512 tokens
        per forward pass.
    compat: "0.2.2" for equal results; "fixed" to give XLM-R its own ``<s>`` and ``</s>``, where 0.2.2 gives it two
        unknown tokens.
    runtime: "onnx", "torch", or "auto" for ONNX Runtime on a CPU and torch on a GPU.
    threads: CPU threads of ONNX Runtime, 0 for its own choice.

    Raises
    ------
    InputError: arguments that cannot be served.
    ModelError: the checkpoint is missing, damaged or of an unsupported kind, or cl100k_base is not in tiktoken's cache.
    """

    def __init__(
        self,
        model_name: str = "NousResearch/Llama-2-7b-hf",
        device_map: str = "cuda",
        model_config: Mapping[str, Any] = _NONE,
        open_api_config: Mapping[str, Any] = _NONE,
        use_llmlingua2: bool = False,
        llmlingua2_config: Mapping[str, Any] = _NONE,
        *,
        compat: Literal["0.2.2", "fixed"] = "0.2.2",
        runtime: Literal["auto", "onnx", "torch"] = "auto",
        threads: int = 0,
    ) -> None:
        batch_size, self.max_force_token = check_constructor(use_llmlingua2, open_api_config, llmlingua2_config)
        if compat not in ("0.2.2", "fixed"):
            raise InputError(f"compat must be '0.2.2' or 'fixed', got {compat!r}")
        dtype, revision = read_model_config(model_config)
        counter = Cl100k(load_cl100k())
        checkpoint = open_checkpoint(model_name, revision=revision)
        tokenizer = PeerTokenizer(checkpoint.path, self.max_force_token, fixed=compat == "fixed")
        encoder = load_encoder(
            checkpoint.path, head="token", runtime=runtime, dtype=dtype, device=pick_map(device_map),
            threads=threads, batch_tokens=512 * batch_size,
        )  # fmt: skip
        self.model_name = model_name
        self.tokenizer = tokenizer.backend
        self.oai_tokenizer = counter.encoding
        self._engine = Engine(tokenizer, KeepModel(encoder, checkpoint, tokenizer, threads=threads), counter)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The same as ``compress_prompt``."""
        return self.compress_prompt(*args, **kwargs)

    def compress_prompt(
        self,
        context: Sequence[str] | str,
        instruction: str = "",
        question: str = "",
        rate: float = 0.5,
        target_token: float = -1,
        iterative_size: int = 200,
        force_context_ids: Sequence[int] | None = None,
        force_context_number: int | None = None,
        use_sentence_level_filter: bool = False,
        use_context_level_filter: bool = True,
        use_token_level_filter: bool = True,
        keep_split: bool = False,
        keep_first_sentence: int = 0,
        keep_last_sentence: int = 0,
        keep_sentence_number: int = 0,
        high_priority_bonus: int = 100,
        context_budget: str = "+100",
        token_budget_ratio: float = 1.4,
        condition_in_question: str = "none",
        reorder_context: str = "original",
        dynamic_context_compression_ratio: float = 0.0,
        condition_compare: bool = False,
        add_instruction: bool = False,
        rank_method: str = "llmlingua",
        concate_question: bool = True,
        context_segs: Sequence[str] | None = None,
        context_segs_rate: Sequence[float] | None = None,
        context_segs_compress: Sequence[bool] | None = None,
        target_context: int = -1,
        context_level_rate: float = 1.0,
        context_level_target_token: int = -1,
        return_word_label: bool = False,
        word_sep: str = "\t\t|\t\t",
        label_sep: str = " ",
        token_to_word: str = "mean",
        force_tokens: Sequence[str] = (),
        force_reserve_digit: bool = False,
        drop_consecutive: bool = False,
        chunk_end_tokens: Sequence[str] = (".", "\n"),
        strict_preserve_uncompressed: bool = True,
    ) -> dict[str, Any]:
        """``compress_prompt_llmlingua2`` with the context filter on; the options that only this one has are refused.

        Raises
        ------
        InputError: as for ``compress_prompt_llmlingua2``, or an option is given that has no effect.
        """
        refuse_unread(locals())
        return self.compress_prompt_llmlingua2(
            context, rate, target_token, use_context_level_filter, use_token_level_filter, target_context,
            context_level_rate, context_level_target_token, force_context_ids, return_word_label, word_sep, label_sep,
            token_to_word, force_tokens, force_reserve_digit, drop_consecutive, chunk_end_tokens,
        )  # fmt: skip

    def compress_prompt_llmlingua2(
        self,
        context: Sequence[str] | str,
        rate: float = 0.5,
        target_token: float = -1,
        use_context_level_filter: bool = False,
        use_token_level_filter: bool = True,
        target_context: int = -1,
        context_level_rate: float = 1.0,
        context_level_target_token: int = -1,
        force_context_ids: Sequence[int] | None = (),
        return_word_label: bool = False,
        word_sep: str = "\t\t|\t\t",
        label_sep: str = " ",
        token_to_word: str = "mean",
        force_tokens: Sequence[str] = (),
        force_reserve_digit: bool = False,
        drop_consecutive: bool = False,
        chunk_end_tokens: Sequence[str] = (".", "\n"),
    ) -> dict[str, Any]:
        """Drop the words that a token classifier finds least worth keeping, the same share of each chunk.

        Parameters
        ----------
        context: one text or several.
        rate: tokens out / tokens in to aim at, > 0; 1 and more keep everything. It is missed both ways.
        target_token: tokens to aim at instead of ``rate``; not used when negative.
        use_context_level_filter: first drop whole contexts, the ones with the lowest mean probability.
        use_token_level_filter: then drop words.
        target_context, context_level_rate, context_level_target_token: how much the context filter leaves.
        force_context_ids: contexts that the context filter may not drop.
        return_word_label: add ``fn_labeled_original_prompt``.
        word_sep, label_sep: its separators.
        token_to_word: "mean" or "first" piece of a word decides.
        force_tokens: keep these; under "mean" a forced piece inside a longer word is not safe.
        force_reserve_digit: the same for pieces with digits.
        drop_consecutive: drop a forced token that repeats with nothing kept between.
        chunk_end_tokens: tokens at which long texts are cut.

        Returns
        -------
        ``compressed_prompt``, ``compressed_prompt_list``, ``origin_tokens`` and ``compressed_tokens`` in cl100k,
        and as strings ``ratio`` ("2.1x"), ``rate`` ("48.0%") and ``saving``.

        Raises
        ------
        InputError: a value cannot be used; the message says what can.
        """
        contexts = [context] if isinstance(context, str) else context
        if not isinstance(contexts, Sequence):
            raise InputError(f"context must be a str or a list of str, got {type(context).__name__}")
        settings = Settings(
            rate=rate, target_token=target_token, use_context_level_filter=use_context_level_filter,
            use_token_level_filter=use_token_level_filter, target_context=target_context,
            context_level_rate=context_level_rate, context_level_target_token=context_level_target_token,
            force_context_ids=force_context_ids, return_word_label=return_word_label, word_sep=word_sep,
            label_sep=label_sep, token_to_word=token_to_word, force_tokens=force_tokens,
            force_reserve_digit=force_reserve_digit, drop_consecutive=drop_consecutive,
            chunk_end_tokens=chunk_end_tokens,
        )  # fmt: skip
        settings.check(contexts, self.max_force_token)
        return Call(self._engine, settings, list(contexts)).run()

    def structured_compress_prompt(
        self,
        context: Sequence[str] | str,
        instruction: str = "",
        question: str = "",
        rate: float = 0.5,
        target_token: float = -1,
        iterative_size: int = 200,
        force_context_ids: Sequence[int] | None = None,
        force_context_number: int | None = None,
        use_sentence_level_filter: bool = False,
        use_context_level_filter: bool = True,
        use_token_level_filter: bool = True,
        keep_split: bool = False,
        keep_first_sentence: int = 0,
        keep_last_sentence: int = 0,
        keep_sentence_number: int = 0,
        high_priority_bonus: int = 100,
        context_budget: str = "+100",
        token_budget_ratio: float = 1.4,
        condition_in_question: str = "none",
        reorder_context: str = "original",
        dynamic_context_compression_ratio: float = 0.0,
        condition_compare: bool = False,
        add_instruction: bool = False,
        rank_method: str = "llmlingua",
        concate_question: bool = True,
        strict_preserve_uncompressed: bool = True,
    ) -> dict[str, Any]:
        """``compress_prompt`` on ``<llmlingua>`` segments that all have the call's own rate.

        As in the peer, the tags vanish, and ``rate`` counts in the model's tokens and its specials, two more of which
        ``concate_question`` takes off.

        Raises
        ------
        InputError: a segment has a rate or ``compress=False`` of its own, text would be lost, or an option is given
            that has no effect.
        """
        refuse_unread({name: value for name, value in locals().items() if name != "concate_question"})
        contexts = [context or " "] if isinstance(context, str) else list(context) or [" "]
        tokenizer = self._engine.tokenizer
        contexts = tokenizer.round_trip(contexts)
        sizes = tokenizer.lengths(["", "", *contexts])
        if target_token == -1:
            target_token = sum(sizes) * rate - sizes[0] - (sizes[1] if concate_question else 0)
        else:
            rate = target_token / max(1, sum(sizes[2:]))
        return self.compress_prompt(
            [untag(text, rate) for text in contexts], rate=rate, target_token=target_token,
            force_context_ids=force_context_ids, use_context_level_filter=use_context_level_filter,
            use_token_level_filter=use_token_level_filter,
        )  # fmt: skip

    def compress_json(
        self, json_data: Mapping[str, Any], json_config: str | Mapping[str, Any], instruction: str = "",
        question: str = "", rate: float = 0.5, target_token: float = -1, iterative_size: int = 200,
        use_sentence_level_filter: bool = False, use_keyvalue_level_filter: bool = False,
        use_token_level_filter: bool = True, keep_split: bool = False, keep_first_sentence: int = 0,
        keep_last_sentence: int = 0, keep_sentence_number: int = 0, high_priority_bonus: int = 100,
        context_budget: str = "+100", token_budget_ratio: float = 1.4, condition_in_question: str = "none",
        reorder_keyvalue: str = "original", condition_compare: bool = False, rank_method: str = "llmlingua",
    ) -> NoReturn:  # fmt: skip
        """Refused: with LLMLingua-2 the peer ignores ``json_config`` and compresses braces and keys like words.

        Raises
        ------
        InputError: always.
        """
        raise InputError(
            "compress_json cannot work with LLMLingua-2: llmlingua 0.2.2 ignores json_config and drops braces and keys "
            "like any other word. Compress the long string values instead: {key: compressor.compress_prompt([value], "
            "rate=...)['compressed_prompt'] if isinstance(value, str) else value for key, value in json_data.items()}"
        )
