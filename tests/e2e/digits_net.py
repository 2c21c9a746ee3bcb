"""A small net on real digits, stepped by two optimizers side by side."""

from __future__ import annotations

import numpy as np
import torch
from sklearn import datasets

from mnemosyne_client.torch import RemoteOptimizer


def load_digits():
    """Images [1797, 1, 8, 8] of 0 to 1, and their labels."""
    data = datasets.load_digits()
    images = torch.from_numpy((data.images / 16).astype(np.float32)).unsqueeze(1)
    return images, torch.from_numpy(data.target)


def conv_net():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(54, 33),
        torch.nn.ReLU(),
        torch.nn.Linear(33, 10),
    )


def gradients_of(model, digits, step: int) -> float:
    """Leaves the gradients of a batch in the model's parameters; returns the loss."""
    images, labels = digits
    rows = torch.arange(step * 16, step * 16 + 16) % len(labels)
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
    loss.backward()
    return loss.item()


def train_both(remote_of, local_of, digits, steps: int = 1000, scheduler_of=None):
    """Returns both models' parameters after `steps`; the gradients are those of the remote one.

    As long as both have the same bits, so have their gradients.
    """
    remote, local = conv_net(), conv_net()
    optimizers = remote_of(remote.parameters()), local_of(local.parameters())
    schedulers = [scheduler_of(optimizer) for optimizer in optimizers] if scheduler_of else []
    for step in range(steps):
        loss = gradients_of(remote, digits, step)
        for p, q in zip(remote.parameters(), local.parameters()):
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            if isinstance(optimizer, RemoteOptimizer):
                optimizer.tell_loss(loss)
        for stepper in (*optimizers, *schedulers):
            stepper.step()
    for optimizer in optimizers:
        if isinstance(optimizer, RemoteOptimizer):
            optimizer.close()
    return list(remote.parameters()), list(local.parameters())
