"""Lion as a local optimizer of PyTorch, for comparison."""

from __future__ import annotations

import torch


class Lion(torch.optim.Optimizer):
    """The formula of the paper that introduced Lion; its state is `exp_avg` alone."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        """Takes the arguments that implementations of Lion for PyTorch take."""
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Steps all parameters."""
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                direction = (beta1 * momentum + (1 - beta1) * p.grad).sign()
                p.mul_(1 - rate * group["weight_decay"]).sub_(rate * direction)
                momentum.copy_(beta2 * momentum + (1 - beta2) * p.grad)
