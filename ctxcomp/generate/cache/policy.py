"""KV cache policies in words: "snapkv(keep=0.25)+kivi4" is what to evict, then how to write down the rest."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ctxcomp.errors import InputError, UnknownMethodError
from ctxcomp.fields import field_types, nearest, parse_value
from ctxcomp.generate.cache.codec import Codec
from ctxcomp.generate.cache.dense import Dense
from ctxcomp.generate.cache.evictor import Evictor
from ctxcomp.generate.cache.static import Static

STAGES: dict[str, tuple[str, Mapping[str, Any]]] = {
    "none": ("dense:Dense", {}),
    "int8": ("per_token:PerToken", {"bits": 8}),
    "int4": ("per_token:PerToken", {"bits": 4}),
    "kivi8": ("kivi:Kivi", {"bits": 8}),
    "kivi4": ("kivi:Kivi", {"bits": 4}),
    "kivi2": ("kivi:Kivi", {"bits": 2}),
    "zipcache": ("tokenwise:ZipCache", {}),
    "gear": ("gear:Gear", {}),
    "mustafar": ("mustafar:Mustafar", {}),
    "demote": ("demote:Demote", {}),
    "static8": ("static:Static", {"bits": 8}),
    "static4": ("static:Static", {"bits": 4}),
    "streaming": ("streaming:Streaming", {}),
    "snapkv": ("snapkv:SnapKV", {}),
    "h2o": ("h2o:H2O", {}),
    "scissorhands": ("scissorhands:Scissorhands", {}),
    "expected_attention": ("expected_attention:ExpectedAttention", {}),
    "knorm": ("knorm:KNorm", {}),
    "random": ("random:Random", {}),
    "ems": ("ems:EMS", {}),
}
"""Stage name -> "module:Class" of this package, and the fields that the name fixes."""


@dataclass(frozen=True)
class KVPolicy:
    """What a cache does with keys and values.

    Parameters
    ----------
    codec: how they are written down; ``Static`` for preallocated buffers that torch.compile can follow.
    evictor: which tokens leave; None keeps all.
    """

    codec: Codec | Static = field(default_factory=Dense)
    evictor: Evictor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.codec, (Codec, Static)):
            raise InputError(f"KVPolicy.codec must be a Codec or Static, got {self.codec!r}")
        if self.evictor is not None and not isinstance(self.evictor, Evictor):
            raise InputError(f"KVPolicy.evictor must be an Evictor or None, got {self.evictor!r}")
        if isinstance(self.codec, Static) and self.evictor is not None:
            raise InputError("a static cache never evicts: use the codecs int8, int4, kivi* with an evictor")

    @property
    def observes(self) -> bool:
        """Whether the methods need to see the queries, hence the attention "ctxcomp"."""
        return self.evictor is not None or (isinstance(self.codec, Codec) and self.codec.observes)

    @classmethod
    def parse(cls, text: str) -> KVPolicy:
        """Read "stage(field=value, ...)+stage": at most one evictor and one codec.

        Raises
        ------
        UnknownMethodError: no stage has that name; InputError: a field is unknown or of the wrong kind.
        """
        found: dict[str, Any] = {}
        for part in _split(text):
            stage = _stage(part)
            for kind, base in (("evictor", Evictor), ("codec", (Codec, Static))):
                if isinstance(stage, base):  # a stage may be both: it scores, and writes by its scores
                    if kind in found:
                        raise InputError(f"{text!r} names two {kind}s: a policy takes one evictor and one codec")
                    found[kind] = stage
        return cls(**found)


def as_policy(policy: str | KVPolicy) -> KVPolicy:
    """A policy, read if it is text."""
    if isinstance(policy, KVPolicy):
        return policy
    if isinstance(policy, str):
        return KVPolicy.parse(policy)
    raise InputError(f"a KV policy is text such as 'snapkv(keep=0.25)+kivi4' or a KVPolicy, got {policy!r}")


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\+(?![^(]*\))", text)]


def _stage(text: str) -> Any:
    match = re.fullmatch(r"(\w+)\s*(?:\((.*)\))?", text)
    if not match:
        raise InputError(f"cannot read the KV cache stage {text!r}: write name or name(field=value, ...)")
    name = match[1]
    if name not in STAGES:
        raise UnknownMethodError(f"there is no KV cache stage {name!r}: {nearest(name, STAGES)}")
    target, fixed = STAGES[name]
    module, _, cls_name = target.partition(":")
    cls = getattr(importlib.import_module(f"ctxcomp.generate.cache.{module}"), cls_name)
    fields = _fields(name, match[2] or "")
    known = field_types(cls).keys() - fixed.keys()
    for given in fields:
        if given not in known:
            raise InputError(f"{name} has no field {given!r}: {nearest(given, known)}")
    missing = [f.name for f in dataclasses.fields(cls) if f.init and f.name not in {**fixed, **fields} and _required(f)]
    if missing:
        raise InputError(f"{name} needs {missing[0]}: write {name}({missing[0]}=...)")
    return cls(**fixed, **fields)


def _required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _fields(name: str, text: str) -> dict[str, Any]:
    fields = {}
    for item in filter(None, (part.strip() for part in re.split(r",(?![^\[]*\])", text))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value:
            raise InputError(f"cannot read {item!r} of {name}: write field=value")
        fields[key] = parse_value(value)
    return fields
