"""Options of an answer: how long it may be, how its tokens are chosen, and where it stops."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ctxcomp.errors import InputError
from ctxcomp.fields import check_fields, nearest


@dataclass(frozen=True)
class Sampling:
    """Options of one answer.

    Parameters
    ----------
    max_tokens: tokens of the answer, at most; fewer where the model's window ends.
    temperature: 0 takes the likeliest token; otherwise scores are divided by it, up to 100.
    top_p: draw from the smallest set of tokens that has this probability, in (0, 1].
    top_k: draw from this many likeliest tokens; 0 draws from all.
    seed: the same one gives the same answer; None takes a new one each time.
    stop: texts that end the answer and are no part of it.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if "" in self.stop:
            raise InputError("stop must not hold an empty text: it would end every answer before it begins")
        for name, fits, allowed in (
            ("max_tokens", self.max_tokens >= 1, "1 or more"),
            ("temperature", 0 <= self.temperature <= 100, "in [0, 100]"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("top_k", self.top_k >= 0, "0 or more"),
        ):
            if not fits:
                raise InputError(f"{name} must be {allowed}, got {getattr(self, name)}")

    @classmethod
    def of(cls, options: dict[str, Any]) -> Sampling:
        """From keyword arguments.

        Raises
        ------
        InputError: a name or a value is wrong.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise InputError(f"no option {name!r}: {nearest(name, known)}")
        return cls(**options)
