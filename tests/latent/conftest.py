"""A tiny generator, a projector and memory slots for it, and a retriever that needs no model."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from tiny_chat import tiny_chat

DIM = 12


class Hashing:
    """A retriever with the method of a SentenceTransformer: the same text, the same vector."""

    def encode(self, texts):
        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest()[:DIM], np.uint8) for t in texts]
        vectors = np.array(rows, np.float32) - 127.5
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("latent") / "tiny")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory):
    return tiny_chat(tmp_path_factory.mktemp("latent") / "other", hidden_size=64)


@pytest.fixture(scope="session")
def generator(checkpoint):
    from ctxcomp.generate import Generator

    return Generator.from_pretrained(checkpoint, dtype="float32")


@pytest.fixture(scope="session")
def other_generator(other_checkpoint):
    from ctxcomp.generate import Generator

    return Generator.from_pretrained(other_checkpoint, dtype="float32")


@pytest.fixture(scope="session")
def retriever():
    return Hashing()


@pytest.fixture(scope="session")
def projector_file(generator, tmp_path_factory):
    from ctxcomp.latent.binding import generator_id
    from ctxcomp.latent.networks import ProjectorNetwork
    from ctxcomp.latent.weights import save_projector

    torch.manual_seed(1)
    network = ProjectorNetwork(DIM, 32)
    network.reset(1.0)
    path = tmp_path_factory.mktemp("projector") / "projector.safetensors"
    save_projector(network, path, "hashing", generator_id(generator.model))
    return path


@pytest.fixture(scope="session")
def projector(generator, projector_file, retriever):
    from ctxcomp.latent import Projector

    return Projector(generator=generator, weights=projector_file, retriever=retriever, shard_tokens=100)


@pytest.fixture(scope="session")
def slots_folder(generator, tmp_path_factory):
    import copy

    from ctxcomp.latent.binding import generator_id
    from ctxcomp.latent.networks import SlotsNetwork
    from ctxcomp.latent.weights import save_slots

    torch.manual_seed(2)
    network = SlotsNetwork(copy.deepcopy(generator.model.base_model), 3, 32)
    network.reset(1.0)
    folder = tmp_path_factory.mktemp("slots") / "model"
    save_slots(network, generator.tokenizer, folder, generator_id(generator.model))
    return folder
