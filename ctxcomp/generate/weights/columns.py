"""GPTQ's loop: round a weight column by column, and let the columns to come make up for each error.

Source: Frantar et al. 2022, "GPTQ" (arXiv 2210.17323), in blocks of columns as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctxcomp.generate.weights.hessian import inverse_factor

BLOCK = 128
"""Columns between two corrections of all that follow."""


@dataclass(frozen=True, eq=False)
class Plan:
    """In which order columns are rounded, and what an error in each costs.

    Parameters
    ----------
    order: int64 [K], the column that is rounded j-th; ``back`` is its inverse.
    factor: [K, K], of the inverse Hessian in that order: see ``hessian.inverse_factor``.
    importance: [K], in the order of the weight's columns: a squared error counts so much once the columns rounded
        after it have made up for what they can.
    """

    order: Tensor
    back: Tensor
    factor: Tensor
    importance: Tensor

    @classmethod
    def of(cls, hessian: Tensor, *, act_order: bool, damping: float) -> Plan:
        """For these inputs; ``act_order`` puts the columns with the largest inputs first."""
        diagonal = hessian.diagonal()
        order = torch.arange(len(diagonal), device=hessian.device)
        if act_order:
            order = diagonal.argsort(descending=True, stable=True)
        back = order.argsort()
        factor = inverse_factor(hessian[order][:, order], damping)
        return cls(order, back, factor, factor.diagonal().square().reciprocal()[back])


class Rounder:
    """Rounds to grids that are known beforehand, and keeps the codes.

    Parameters
    ----------
    plan: the order.
    scales: [N, G], as stored.
    zeros: [N or 1, G], the codes that stand for 0.
    bits: [G], of each group's codes.
    groups: int64 [K], the group of each column of the weight.
    """

    def __init__(self, plan: Plan, scales: Tensor, zeros: Tensor, bits: Tensor, groups: Tensor) -> None:
        self.plan = plan
        self.scales, self.zeros = scales.float(), zeros.float()
        self.highest = 2.0**bits - 1
        self.groups = groups[plan.order].tolist()
        self.codes = torch.empty(len(scales), len(groups), dtype=torch.uint8, device=scales.device)

    def open_group(self, start: int, weight: Tensor) -> None:
        """A group of columns [N, g] begins at position ``start``: so they should be now, earlier errors included."""

    def round(self, position: int, weight: Tensor) -> Tensor:
        """What the column [N] at this position of the order becomes, as it decodes."""
        group = self.groups[position]
        scale, zero = self.scales[:, group], self.zeros[:, group]
        codes = (weight / scale + zero).round().clamp(min=0).minimum(self.highest[group])
        self.codes[:, position] = codes.to(torch.uint8)
        return (codes - zero) * scale

    def run(self, weight: Tensor, group_size: int) -> Tensor:
        """Round a weight [N, K]; returns its codes, uint8 [N, K], in the order of its columns.

        Corrections reach ``group_size`` columns whole before their group is opened.
        """
        weight, factor = weight[:, self.plan.order], self.plan.factor
        columns = weight.shape[1]
        block = group_size * max(1, BLOCK // group_size)
        for first in range(0, columns, block):
            last = min(first + block, columns)
            errors = torch.empty_like(weight[:, first:last])
            for j in range(first, last):
                if j % group_size == 0:
                    self.open_group(j, weight[:, j : min(j + group_size, columns)])
                error = (weight[:, j] - self.round(j, weight[:, j])) / factor[j, j]
                weight[:, j + 1 : last].addr_(error, factor[j, j + 1 : last], alpha=-1)
                errors[:, j - first] = error
            weight[:, last:].addmm_(errors, factor[first:last, last:], alpha=-1)
        return self.codes[:, self.plan.back]
