"""Methods as the command line names them: ``name``, ``name?field=value&field=value``, chains "a+b", ``peer:NAME``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from ctxcomp import load
from ctxcomp.compressor import Compressor
from ctxcomp.errors import InputError
from ctxcomp.fields import parse_value
from ctxcomp.types import CompressedText
from ctxcomp_eval.data import Example

PEER = "peer:"
_COMMA = re.compile(r",(?![^\[]*\])")
"""A comma between methods, not one inside a list that is a field's value."""


@dataclass(frozen=True)
class Spec:
    """A method with its settings.

    Parameters
    ----------
    name: a registered method, a chain of them joined by "+", or ``peer:NAME``.
    fields: its configuration, as `ctxcomp.load` takes it.
    """

    name: str
    fields: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Read ``name?field=value&field=value``: values are JSON where they parse as such, else text.

        Raises
        ------
        InputError: a field without a value, or no name.
        """
        name, _, query = text.strip().partition("?")
        try:
            # A plus is no space here: it stands in patterns and numbers.
            pairs = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=bool(query))
        except ValueError:
            raise InputError(f"a method is NAME or NAME?FIELD=VALUE&FIELD=VALUE, got {text.strip()!r}") from None
        if not name:
            raise InputError(f"a method needs a name, got {text!r}")
        return cls(name, {field.replace(".", "__"): parse_value(value) for field, value in pairs})

    @property
    def settings(self) -> str:
        """The settings as JSON, the same text for the same settings."""
        return json.dumps(self.fields, sort_keys=True)

    def __str__(self) -> str:
        values = {k: v if isinstance(v, str) else json.dumps(v) for k, v in sorted(self.fields.items())}
        return self.name + ("?" if values else "") + "&".join(f"{k}={v}" for k, v in values.items())

    def load(self) -> Compressor[CompressedText]:
        """The compressor.

        Raises
        ------
        InputError: no such method, peer or field, or a value that it does not take.
        """
        if not self.name.startswith(PEER):
            return load(self.name, **self.fields)
        from ctxcomp_eval.peers import load_peer

        return load_peer(self.name.removeprefix(PEER), **self.fields)


def parse_methods(text: str) -> list[Spec]:
    """The methods of a comma-separated list, each once.

    Raises
    ------
    InputError: one of them cannot be read.
    """
    return unique([Spec.parse(one) for one in _COMMA.split(text)])


def unique(specs: Sequence[Spec]) -> list[Spec]:
    """Without repetitions, in the same order."""
    return list({str(spec): spec for spec in specs}.values())


def baselines(examples: Sequence[Example]) -> list[Spec]:
    """What every method must beat: chance, the retriever's order where it gave scores, and lexical matches."""
    scored = any(passage.score is not None for example in examples for passage in example.passages)
    return [
        Spec("random", {}),
        Spec("truncate", {"by_passage_score": True} if scored else {}),
        Spec("bm25", {}),
    ]
