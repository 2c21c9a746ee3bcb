"""Trains a small vision transformer on 8 x 8 digits with FLT attention, and without its encoding.

Each patch of 2 x 2 pixels is a token, and nothing but the relative positional encoding over
(row, column) tells where it is: without it the net sees a bag of patches. Both nets have the same
seed, data, steps and optimizer. It takes a minute or two on a CPU.

    MNEMOSYNE_FLT_LIBRARY=build/dev/lib/libmnemosyne_flt.so PYTHONPATH=client/python/src \
        python3 client/examples/flt/train_vit.py
"""

from __future__ import annotations

import argparse
import time

import torch
from sklearn.datasets import load_digits

from mnemosyne_client.flt import FLTAttention, Rpe


class Block(torch.nn.Module):
    """Attention and a perceptron, each behind a layer norm."""

    def __init__(self, dim: int, heads: int, rpe: Rpe, seed: int) -> None:
        """Makes the layers."""
        super().__init__()
        self.attention = FLTAttention(dim, heads, rpe, features=32, seed=seed)
        self.norms = torch.nn.ModuleList([torch.nn.LayerNorm(dim) for _ in range(2)])
        self.perceptron = torch.nn.Sequential(
            torch.nn.Linear(dim, 2 * dim), torch.nn.GELU(), torch.nn.Linear(2 * dim, dim)
        )

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Returns tokens of the same shape."""
        x = x + self.attention(self.norms[0](x), positions)
        return x + self.perceptron(self.norms[1](x))


class SmallVit(torch.nn.Module):
    """Patches as tokens, blocks, and a mean over the tokens."""

    def __init__(self, rpe: Rpe, dim: int = 32, heads: int = 4, blocks: int = 2) -> None:
        """Makes the layers."""
        super().__init__()
        self.embed = torch.nn.Linear(4, dim)
        self.blocks = torch.nn.ModuleList([Block(dim, heads, rpe, seed) for seed in range(blocks)])
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(dim), torch.nn.Linear(dim, 10))
        grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
        self.register_buffer("positions", grid)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits [batch, 10] for images [batch, 64]."""
        patches = images.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.embed(patches)
        for block in self.blocks:
            x = block(x, self.positions)
        return self.head(x.mean(1))


def accuracy_after(rpe: Rpe, epochs: int, seed: int, log: bool) -> float:
    """Trains a net and returns its accuracy on images that it has not seen."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    train, test = order[:1400], order[1400:]
    torch.manual_seed(seed)
    model = SmallVit(rpe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    batches = len(train) // 50
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for epoch in range(epochs):
        started = time.perf_counter()
        for batch in train[torch.randperm(len(train))].split(50):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            correct = model(images[test]).argmax(-1) == labels[test]
        if log:
            print(
                f"  epoch {epoch + 1}: loss {loss.item():.3f}, accuracy "
                f"{correct.float().mean():.3f}, {time.perf_counter() - started:.1f} s"
            )
    return float(correct.float().mean())


def main() -> None:
    """Trains with and without the encoding and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rpe = Rpe("gaussian_mixture", positions=2, waves=16, frequency_scale=0.25, norm_max=1.5)
    results = {}
    for name, encoding in (("with", rpe), ("without", Rpe("none", positions=2))):
        print(f"{name} a relative positional encoding:")
        results[name] = accuracy_after(encoding, arguments.epochs, arguments.seed, log=True)
    print(f"accuracy: {results['with']:.3f} with, {results['without']:.3f} without")


if __name__ == "__main__":
    main()
