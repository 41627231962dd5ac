"""Rates and quotas of one key: buckets that refill steadily. Each worker process counts for itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ctxcomp_service.errors import ServiceError
from ctxcomp_service.settings import Policy


class Bucket:
    """Holds at most ``capacity``, refilled within ``seconds``.

    More than there is may be taken once it is full, and after the fact: the debt is waited off.
    """

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity = float(capacity)
        self.per_second = capacity / seconds
        self._level = self.capacity
        self._at = time.monotonic()

    def wait_for(self, amount: float) -> float:
        """Seconds until this much can be taken; 0 if it can be now."""
        now = time.monotonic()
        self._level = min(self.capacity, self._level + (now - self._at) * self.per_second)
        self._at = now
        return max(0.0, (min(amount, self.capacity) - self._level) / self.per_second)

    def take(self, amount: float) -> None:
        """Take, or with a negative amount give back."""
        self._level = min(self.capacity, self._level - amount)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one key has left."""

    requests: Bucket | None
    tokens: tuple[Bucket, ...]

    @classmethod
    def of(cls, policy: Policy) -> Allowance:
        """Full buckets for a policy."""
        per_minute, per_day = policy.tokens_per_minute, policy.tokens_per_day
        tokens = [Bucket(n, seconds) for n, seconds in ((per_minute, 60.0), (per_day, 86_400.0)) if n]
        return cls(Bucket(policy.requests_per_minute, 60.0) if policy.requests_per_minute else None, tuple(tokens))

    def take_request(self) -> None:
        """Count one request.

        Raises
        ------
        ServiceError: 429, the rate is used up.
        """
        if self.requests is None:
            return
        if wait := self.requests.wait_for(1):
            message = f"{self.requests.capacity:.0f} requests a minute are allowed for this key: wait {wait:.1f} s"
            raise ServiceError(429, "rate_limited", message, retry_after=wait)
        self.requests.take(1)

    def take_tokens(self, estimate: int) -> None:
        """Reserve tokens before they are counted; `settle` corrects it.

        Raises
        ------
        ServiceError: 429, the quota is used up.
        """
        if wait := max((bucket.wait_for(estimate) for bucket in self.tokens), default=0.0):
            message = f"the token quota of this key is used up: wait {wait:.0f} s"
            raise ServiceError(429, "quota_exceeded", message, retry_after=wait)
        self.settle(0, estimate)

    def settle(self, reserved: int, used: int) -> None:
        """Replace what was reserved by what was used."""
        for bucket in self.tokens:
            bucket.take(used - reserved)
