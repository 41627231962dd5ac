"""Tiny causal language models with random weights: they prove exactness, never accuracy."""

from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def build(config: PretrainedConfig, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A model of this configuration; norms and biases are random too, so that no fold hides behind ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(dtype)
            if parameter.dim() == 1:
                parameter.add_(noise * 0.1)
            else:
                parameter.copy_(noise * 0.08)
    return model.eval()


def tiny_llama(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(LlamaConfig(**(SIZES | {"tie_word_embeddings": False} | overrides)), dtype, seed)


def tiny_mistral(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(MistralConfig(**(SIZES | {"sliding_window": None} | overrides)), dtype, seed)


def tiny_qwen2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(Qwen2Config(**(SIZES | overrides)), dtype, seed)


def tiny_qwen3(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(Qwen3Config(**(SIZES | {"head_dim": 16} | overrides)), dtype, seed)


def tiny_gemma2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(Gemma2Config(**(SIZES | {"head_dim": 16, "sliding_window": 8} | overrides)), dtype, seed)


def tiny_phi3(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    return build(Phi3Config(**(SIZES | overrides)), dtype, seed)


def tiny_gpt2(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    sizes = {"vocab_size": 199, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512}
    return build(GPT2Config(**(sizes | {"bos_token_id": 1, "eos_token_id": 2} | overrides)), dtype, seed)


def tiny_gpt_neox(*, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    return build(GPTNeoXConfig(**(sizes | overrides)), dtype, seed)


def random_ids(rows: int, length: int, *, vocabulary: int = 199, seed: int = 0) -> torch.Tensor:
    """Token ids [rows, length], special ones left out."""
    return torch.randint(3, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))
