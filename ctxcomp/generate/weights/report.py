"""What quantization did to a model: bytes, errors of layers, and what it now says of text it was not calibrated on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ctxcomp.generate.weights.calibration import run_model

if TYPE_CHECKING:
    from torch import Tensor, nn

TOKENS_MEASURED = 32_768
KEPT_BYTES = 1 << 30
"""Log-probabilities of the original that are kept for the divergence: 2,000 tokens of a vocabulary of 128,000."""


@dataclass(frozen=True)
class LayerReport:
    """One linear layer.

    Parameters
    ----------
    name: in the model.
    shape: (N, K).
    method: that quantized it: "rtn" too where calibration never reached the layer.
    bytes_before, bytes_after: of the weight.
    error: relative error of its output on calibration inputs (2-norm), of its weight where there were none.
    """

    name: str
    shape: tuple[int, int]
    method: str
    bytes_before: int
    bytes_after: int
    error: float


@dataclass(frozen=True)
class Fidelity:
    """The quantized model against the original on held-out text.

    Parameters
    ----------
    tokens: predicted tokens.
    perplexity_before, perplexity_after: of the original and the quantized model.
    mean_kl: mean divergence of the next-token distributions, nats: original from quantized.
    kl_error: its standard error over windows; 0 with one window.
    kl_tokens: tokens the divergence was measured on.
    same_choice: share of them where both models find the same token likeliest.
    """

    tokens: int
    perplexity_before: float
    perplexity_after: float
    mean_kl: float
    kl_error: float
    kl_tokens: int
    same_choice: float


@dataclass(frozen=True)
class QuantizationReport:
    """The result of `quantize`; ``str()`` is a table.

    Parameters
    ----------
    method: its name, "+eora" where low-rank parts were added.
    settings: the method's fields.
    layers: in order.
    left: names of linear layers that stayed as they were.
    bytes_before, bytes_after: of the whole model, as held in memory.
    seconds: that quantizing took, measuring left out.
    fidelity: None without held-out text.
    """

    method: str
    settings: dict[str, Any]
    layers: tuple[LayerReport, ...]
    left: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    seconds: float
    fidelity: Fidelity | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=5)
        rows = [f"{'layer':<{width}}  {'shape':>13}  {'MB':>8}  {'MB now':>8}  error"]
        rows += [
            f"{one.name:<{width}}  {one.shape[0]:>6}x{one.shape[1]:<6}  {one.bytes_before / 1e6:>8.2f}  "
            f"{one.bytes_after / 1e6:>8.2f}  {one.error:.4f}{'' if one.method in self.method else ' ' + one.method}"
            for one in self.layers
        ]
        return "\n".join([*rows, self.summary()])

    def summary(self) -> str:
        """The totals, in a few lines."""
        size, now = self.bytes_before / 1e6, self.bytes_after / 1e6
        lines = [f"{self.method}: {len(self.layers)} layers in {self.seconds:.0f} s; {size:.1f} MB -> {now:.1f} MB"]
        if self.left:
            lines.append(f"left as they were: {', '.join(self.left)}")
        f = self.fidelity
        if f is not None:
            lines += [
                f"held-out perplexity {f.perplexity_before:.3f} -> {f.perplexity_after:.3f} ({f.tokens} tokens)",
                f"mean KL {f.mean_kl:.5f} ± {1.96 * f.kl_error:.5f} nats, same choice {f.same_choice:.1%} "
                f"({f.kl_tokens} tokens)",
            ]
        return "\n".join(lines)


class Reference:
    """What the original model says of held-out text, kept to compare with.

    Parameters
    ----------
    model: the original.
    ids: [n, length]; windows beyond ``TOKENS_MEASURED`` tokens are not used.
    """

    def __init__(self, model: nn.Module, ids: Tensor) -> None:
        self.ids = ids[: max(1, TOKENS_MEASURED // ids.shape[1])]
        self.losses: list[Tensor] = []
        self.kept: list[Tensor] = []
        free = KEPT_BYTES
        for row in self.ids:
            log_probabilities = _log_probabilities(model, row)
            self.losses.append(_loss(log_probabilities, row))
            free -= log_probabilities.numel() * 4
            if free >= 0 or not self.kept:
                self.kept.append(log_probabilities.cpu())

    def compare(self, model: nn.Module) -> Fidelity:
        """Measure the quantized model on the same text."""
        losses, divergences, same = [], [], []
        for i, row in enumerate(self.ids):
            log_probabilities = _log_probabilities(model, row)
            losses.append(_loss(log_probabilities, row))
            if i < len(self.kept):
                original = self.kept[i].to(log_probabilities.device)
                divergences.append((original.exp() * (original - log_probabilities)).sum(-1).mean().cpu())
                same.append((original.argmax(-1) == log_probabilities.argmax(-1)).float().mean().cpu())
        by_window = torch.stack(divergences)
        return Fidelity(
            tokens=sum(len(loss) for loss in losses),
            perplexity_before=float(torch.cat(self.losses).mean().exp()),
            perplexity_after=float(torch.cat(losses).mean().exp()),
            mean_kl=float(by_window.mean()),
            kl_error=float(by_window.std() / len(by_window) ** 0.5) if len(by_window) > 1 else 0.0,
            kl_tokens=len(by_window) * self.ids.shape[1],
            same_choice=float(torch.stack(same).mean()),
        )


@torch.no_grad()
def _log_probabilities(model: nn.Module, row: Tensor) -> Tensor:
    """Of every next token, [length, vocabulary], float32."""
    logits: Tensor = run_model(model, row[None]).logits[0]
    return functional.log_softmax(logits.float(), dim=-1)


def _loss(log_probabilities: Tensor, row: Tensor) -> Tensor:
    """Negative log-likelihood of each token but the first, [length - 1]."""
    return -log_probabilities[:-1].gather(1, row[1:, None].to(log_probabilities.device))[:, 0].cpu()
