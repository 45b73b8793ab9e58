"""What the optimizer steps measured, read only where a run waits for its device anyway."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Meter:
    """What the steps measured, summed on the device, so that nothing waits for it before it is read."""

    def __init__(self, device: torch.device) -> None:
        # Rows: since the last evaluation, since the last log line. Columns: loss, gradient norm, steps.
        self.sums_23 = torch.zeros(2, 3, dtype=torch.float64, device=device)
        # Columns: loss, gradient norm. Rows: first step at which it was not finite (0: none yet), and its value there.
        self.bad_22 = torch.zeros(2, 2, dtype=torch.float64, device=device)
        self.one = torch.ones((), device=device)

    def add(self, loss: Tensor, grad_norm: Tensor, step: int) -> None:
        measured_3 = torch.stack((loss, grad_norm, self.one))
        self.sums_23 += measured_3
        if not measured_3.is_cuda and measured_3.isfinite().all():
            return  # On the CPU a look costs less than the arithmetic below.
        first_2 = (self.bad_22[0] == 0) & ~measured_3[:2].isfinite()
        self.bad_22[0].masked_fill_(first_2, step)
        self.bad_22[1] = torch.where(first_2, measured_3[:2], self.bad_22[1])

    def divergence(self) -> str:
        """What went wrong first, and when; empty while nothing did. Waits for the device."""
        (loss_step, norm_step), (loss, norm) = self.bad_22.tolist()
        if loss_step and (not norm_step or loss_step <= norm_step):
            return f"the loss was {loss} at step {loss_step:.0f}"
        return f"the gradient norm was {norm} at step {norm_step:.0f}" if norm_step else ""

    def take(self, row: int) -> tuple[float, float]:
        """Mean loss and gradient norm of window `row`, which starts anew."""
        loss, norm, steps = self.sums_23[row].tolist()
        self.sums_23[row].zero_()
        return (loss / steps, norm / steps) if steps else (math.nan, math.nan)
