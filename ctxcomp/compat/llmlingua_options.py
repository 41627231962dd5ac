"""Which options LLMLingua-2 never reads, and what to use instead of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ctxcomp.errors import InputError, ModelError

_QUESTION = (
    "LLMLingua-2 is not conditioned on it: put it into your prompt beside result['compressed_prompt'], or use a "
    "query-aware method, ctxcomp.load('sentence_pruner')"
)
_SENTENCES = "LLMLingua-2 has no sentence filter: use ctxcomp.load('sentence_pruner')"
_PERPLEXITY = "it steers LLMLingua-1's perplexity pass, which LLMLingua-2 does not have: leave it out"
_ORDER = "LLMLingua-2 keeps the order of the contexts and ranks none by a question: rank them before the call"
_SEGMENTS = "LLMLingua-2 has one rate per call: compress each segment by a call of its own and join the results"

_UNREAD: dict[str, tuple[Any, str]] = {
    "instruction": ("", _QUESTION),
    "question": ("", _QUESTION),
    "concate_question": (True, _QUESTION),
    "add_instruction": (False, _QUESTION),
    "condition_in_question": ("none", _QUESTION),
    "condition_compare": (False, _QUESTION),
    "iterative_size": (200, _PERPLEXITY),
    "use_sentence_level_filter": (False, _SENTENCES),
    "keep_first_sentence": (0, _SENTENCES),
    "keep_last_sentence": (0, _SENTENCES),
    "keep_sentence_number": (0, _SENTENCES),
    "high_priority_bonus": (100, _SENTENCES),
    "token_budget_ratio": (1.4, _SENTENCES),
    "keep_split": (False, "give the separators in force_tokens instead, for example force_tokens=['\\n']"),
    "force_context_number": (None, "use target_context, or force_context_ids"),
    "context_budget": ("+100", "use context_level_target_token"),
    "reorder_context": ("original", _ORDER),
    "rank_method": ("llmlingua", _ORDER),
    "dynamic_context_compression_ratio": (0.0, _ORDER),
    "context_segs": (None, _SEGMENTS),
    "context_segs_rate": (None, _SEGMENTS),
    "context_segs_compress": (None, _SEGMENTS),
    "strict_preserve_uncompressed": (True, _SEGMENTS),
}
"""Option -> (its default, what to do instead). llmlingua 0.2.2 accepts these and reads none of them."""

Dtype = Literal["float32", "float16", "bfloat16"]
_DTYPES: dict[str, Dtype] = {
    "auto": "float32",
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
}


def refuse_unread(given: Mapping[str, Any]) -> None:
    """Refuse options that would have no effect.

    Parameters
    ----------
    given: arguments by name; names that are not in the table pass.

    Raises
    ------
    InputError: one of them has another value than its default.
    """
    for name, (default, advice) in _UNREAD.items():
        value = given.get(name, default)
        if value != default and not (default == "" and value is None):
            raise InputError(f"{name}={value!r} has no effect with LLMLingua-2 (allowed: {default!r}): {advice}")


def check_constructor(
    use_llmlingua2: bool, open_api_config: Mapping[str, Any], llmlingua2_config: Mapping[str, Any]
) -> tuple[int, int]:
    """``(max_batch_size, max_force_token)`` from the constructor's arguments.

    Raises
    ------
    InputError: LLMLingua-1 is asked for, or a setting is unknown or out of range.
    """
    if not use_llmlingua2:
        raise InputError(
            "use_llmlingua2=False asks for LLMLingua-1, which ctxcomp does not offer: pass use_llmlingua2=True and an "
            "LLMLingua-2 checkpoint, for example 'microsoft/llmlingua-2-xlm-roberta-large-meetingbank'"
        )
    if open_api_config:
        raise InputError("open_api_config has no effect with LLMLingua-2, which calls no API: leave it out")
    sizes = {"max_batch_size": 50, "max_force_token": 100, **llmlingua2_config}
    for name, value in sizes.items():
        if name not in ("max_batch_size", "max_force_token"):
            raise InputError(f"llmlingua2_config has no {name!r}: allowed are max_batch_size and max_force_token")
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "max_batch_size"):
            raise InputError(f"llmlingua2_config[{name!r}] must be a whole number, got {value!r}")
    return sizes["max_batch_size"], sizes["max_force_token"]


def read_model_config(config: Mapping[str, Any]) -> tuple[Dtype, str | None]:
    """``(dtype, revision)`` from ``model_config``, which is not modified.

    ``trust_remote_code`` is accepted as the permission it is: no code of a checkpoint ever runs here.

    Raises
    ------
    InputError: another key, or a value that cannot be served.
    """
    known = {"trust_remote_code", "local_files_only", "pad_to_left", "torch_dtype", "dtype", "revision"}
    for key in config:
        if key not in known:
            raise InputError(f"model_config has no {key!r} here: allowed are {', '.join(sorted(known))}")
    if config.get("pad_to_left", True) is not True or config.get("local_files_only", True) is not True:
        raise InputError(
            "model_config: pad_to_left=False and local_files_only=False have no effect, as nothing is padded to the "
            "left and nothing downloaded: leave them out"
        )
    dtype = str(config.get("torch_dtype", config.get("dtype", "float32"))).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise InputError(f"model_config['torch_dtype'] must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return _DTYPES[dtype], config.get("revision")


def pick_map(device_map: str) -> str:
    """The device that ``device_map`` means.

    Raises
    ------
    InputError: CUDA is asked for and not there.
    """
    if not isinstance(device_map, str):
        raise InputError(f"device_map must be a str such as 'cpu' or 'cuda', got {type(device_map).__name__}")
    if device_map.startswith("cuda"):
        from ctxcomp.loading import pick_device

        if pick_device("auto") != "cuda":
            raise InputError(f"device_map={device_map!r}, but no CUDA device is usable: pass device_map='cpu'")
        return device_map
    return device_map if device_map in ("cpu", "mps") else "auto"


def load_cl100k() -> Any:
    """The tokenizer that counts, from tiktoken's cache; never from the network.

    Raises
    ------
    ModelError: the cache does not hold it.
    """
    import tiktoken

    from ctxcomp.counting import is_cached

    if not is_cached("cl100k_base"):
        raise ModelError(
            "tiktoken's cl100k_base, which LLMLingua counts with, is not in its cache: run once with network "
            "`python -c \"import tiktoken; tiktoken.get_encoding('cl100k_base')\"` with TIKTOKEN_CACHE_DIR set to a "
            "folder that stays, and set it here too"
        )
    return tiktoken.get_encoding("cl100k_base")
