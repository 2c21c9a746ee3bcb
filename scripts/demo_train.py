"""Trains a net on scikit-learn's handwritten digits, its optimizer running in a daemon.

Then trains a twin from the same seed with torch.optim on this machine, compares the two, and draws
both curves. Exits with 1 if the twins part, or if the default run stays below its accuracy.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from mnemosyne_client import Client, MnemosyneError
from mnemosyne_client.torch import RemoteOptimizer

ACCURACY_WANTED = 0.97
BATCH = 64
EVALUATE_EVERY = 20
LEARNING_RATES = {"sgd": 0.05, "lion": 1e-3}
LOCAL_TWINS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
# The version with which the twins have the same bits; others agree closely at first.
SAME_BITS_WITH = "1.13"
TOLERANCE, TOLERANCE_STEPS = 1e-4, 100


def conv_net() -> nn.Module:
    """Returns a convolutional net for images of 8 x 8 pixels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def mlp() -> nn.Module:
    """Returns a net of two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"cnn": conv_net, "mlp": mlp}


@dataclass
class Digits:
    """Images [n, 8, 8] in [0, 1] and labels [n] in 0..9."""

    train_images: torch.Tensor
    test_images: torch.Tensor
    train_labels: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def load(cls) -> Digits:
        """Returns scikit-learn's digits, a fifth of them for the test."""
        digits = load_digits()
        images = (digits.images / 16).astype(np.float32)
        split = train_test_split(
            images, digits.target, test_size=0.2, random_state=0, stratify=digits.target
        )
        return cls(*(torch.from_numpy(part) for part in split))


@dataclass
class Curve:
    """What a run measured."""

    losses: list[float] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str, total: int):
        """Starts at step 0 of `total`."""
        self._label, self._total = label, total
        self._terminal = sys.stdout.isatty()

    def show(self, step: int, loss: float, accuracy: float) -> None:
        """Shows the state after `step`; `accuracy` is the last one measured."""
        text = f"step {step:4d}/{self._total}  loss {loss:7.4f}  test accuracy {accuracy:6.2%}"
        if self._terminal:
            done = round(28 * step / self._total)
            bar = "█" * done + "░" * (28 - done)
            end = "\n" if step == self._total else ""
            print(f"\r  {self._label:<8} {bar} {text}", end=end, flush=True)
        elif step % 100 == 0 or step == self._total:
            print(f"  {self._label:<8} {text}", flush=True)


def accuracy_of(model: nn.Module, digits: Digits) -> float:
    """Returns the share of test images that `model` gets right."""
    model.eval()
    with torch.no_grad():
        right = model(digits.test_images).argmax(dim=1) == digits.test_labels
    model.train()
    return float(right.float().mean())


def train(
    label: str,
    make_model: Callable[[], nn.Module],
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    digits: Digits,
    steps: int,
    seed: int,
) -> Curve:
    """Trains a model from `seed` and returns its curve."""
    torch.manual_seed(seed)
    model = make_model()
    optimizer = make_optimizer(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    order = torch.Generator().manual_seed(seed)
    curve, progress = Curve(), Progress(label, steps)
    started = time.monotonic()
    accuracy = accuracy_of(model, digits)
    curve.accuracies.append((0, accuracy))
    for step in range(1, steps + 1):
        rows = torch.randint(len(digits.train_labels), (BATCH,), generator=order)
        optimizer.zero_grad()
        logits = model(digits.train_images[rows])
        loss = nn.functional.cross_entropy(logits, digits.train_labels[rows])
        loss.backward()
        optimizer.step()
        scheduler.step()
        curve.losses.append(loss.item())
        if step % EVALUATE_EVERY == 0 or step == steps:
            accuracy = accuracy_of(model, digits)
            curve.accuracies.append((step, accuracy))
        progress.show(step, curve.losses[-1], accuracy)
    curve.seconds = time.monotonic() - started
    if isinstance(optimizer, RemoteOptimizer):
        optimizer.close()
    return curve


def compare(remote: Curve, local: Curve) -> tuple[bool, str]:
    """Returns whether the twins agree as they should, and a sentence about it."""
    if remote.losses == local.losses:
        return True, f"the same bits over all {len(local.losses)} steps"
    differing = next(
        step for step, (a, b) in enumerate(zip(remote.losses, local.losses), 1) if a != b
    )
    early = zip(remote.losses[:TOLERANCE_STEPS], local.losses[:TOLERANCE_STEPS])
    largest = max(abs(a - b) / max(abs(b), 1e-12) for a, b in early)
    text = (
        f"they differ from step {differing} on, by at most {largest:.1e} of the loss over the "
        f"first {TOLERANCE_STEPS} steps"
    )
    exact = torch.__version__.startswith(SAME_BITS_WITH)
    return largest <= TOLERANCE and not exact, text


def smooth(values: list[float], share: float = 0.08) -> np.ndarray:
    """Returns the running mean of `values`, weighted towards the newest."""
    result, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = (1 - share) * mean + share * value
        weight = (1 - share) * weight + share
        result.append(mean / weight)
    return np.array(result)


def draw(path: Path, title: str, note: str, curves: dict[str, Curve]) -> None:
    """Draws losses and accuracies to `path`; the last curve lies on top of the others."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

    ink, grid = "#1f2933", "#dde3ea"
    styles = [
        {"color": "#f2a541", "linewidth": 6.0, "alpha": 0.75, "solid_capstyle": "round"},
        {"color": "#1d4e89", "linewidth": 1.8},
    ][-len(curves) :]
    pyplot.rcParams.update({"font.size": 11, "text.color": ink, "axes.labelcolor": ink})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11.5, 5.2))
    for (label, curve), style in zip(curves.items(), styles):
        steps = np.arange(1, len(curve.losses) + 1)
        if style is styles[-1]:
            left.plot(steps, curve.losses, color=style["color"], linewidth=0.7, alpha=0.22)
        left.plot(steps, smooth(curve.losses), label=label, **style)
        right.plot(*zip(*curve.accuracies), label=label, **style)
    left.set(title="Training loss", xlabel="step", yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_minor_locator(NullLocator())
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.set(title="Test accuracy", xlabel="step", ylim=(0, 1.03))
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.axhline(ACCURACY_WANTED, color="#7b8794", linewidth=1, linestyle=(0, (4, 4)))
    last_step, last_accuracy = list(curves.values())[-1].accuracies[-1]
    right.text(
        last_step, ACCURACY_WANTED - 0.02, f"wanted: {ACCURACY_WANTED:.0%}", ha="right", va="top",
        color="#52606d", fontsize=10,
    )  # fmt: skip
    right.text(
        last_step, 0.84, f"reached: {last_accuracy:.2%}", ha="right", va="top",
        color=styles[-1]["color"], fontsize=13, weight="bold",
    )  # fmt: skip
    for axes in (left, right):
        axes.title.set(fontsize=12, weight="bold")
        axes.grid(color=grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.02)
        axes.tick_params(colors="#52606d", length=0)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    right.legend(loc="lower right", frameon=False, bbox_to_anchor=(1.0, 0.08))
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=15, weight="bold")
    figure.text(0.0125, 0.895, note, ha="left", va="center", fontsize=11, color="#52606d")
    figure.tight_layout(rect=(0, 0, 1, 0.9), w_pad=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def parse_arguments() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help="the daemon's: HOST:PORT or unix:/path")
    parser.add_argument("--optimizer", default="adamw", help="default: %(default)s")
    parser.add_argument("--model", default="cnn", choices=MODELS, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="learning rate; default: one that suits")
    parser.add_argument("--output", type=Path, default=Path("demo/training.png"))
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    return arguments


def main() -> int:
    """Runs the demo; returns the exit status."""
    arguments = parse_arguments()
    name, steps, seed = arguments.optimizer, arguments.steps, arguments.seed
    rate = arguments.lr or LEARNING_RATES.get(name, 8e-3)
    options: dict[str, float] = {"lr": rate}
    if name == "sgd":
        options["momentum"] = 0.9
    client = Client(arguments.address, wait_seconds=30)
    digits = Digits.load()
    make_model = MODELS[arguments.model]

    size = sum(p.numel() for p in make_model().parameters())
    print(
        f"Training a {arguments.model} of {size:,} parameters on {len(digits.train_labels):,} ",
        end="",
    )
    print(f"handwritten digits, {name} running in {client.address}:")
    try:
        remote = train(
            "daemon",
            make_model,
            lambda model: RemoteOptimizer(
                model.named_parameters(), client, name, label="demo: digits", **options
            ),
            digits,
            steps,
            seed,
        )
    except (MnemosyneError, TypeError, ValueError) as error:
        print(f"The demo stopped: {error}", file=sys.stderr)
        return 1
    print(f"  {steps / remote.seconds:.0f} steps a second\n")

    twin = LOCAL_TWINS.get(name)
    reference = "adamw" if twin is None else name
    print(f"The twin from the same seed, with torch.optim's {reference} in this process:")
    local = train(
        "local",
        make_model,
        lambda model: (twin or torch.optim.AdamW)(
            model.parameters(), **(options if twin else {"lr": 8e-3})
        ),
        digits,
        steps,
        seed,
    )
    print(f"  {steps / local.seconds:.0f} steps a second\n")

    agree, verdict = compare(remote, local)
    if twin is None:
        agree, verdict = True, f"torch.optim has no {name}; adamw is drawn for comparison"
    accuracy = remote.accuracies[-1][1]
    print(f"Twins:         {verdict}")
    print(f"Loss:          {remote.losses[0]:.4f} -> {np.mean(remote.losses[-20:]):.4f}")
    print(f"Test accuracy: {accuracy:.2%} with the daemon, {local.accuracies[-1][1]:.2%} locally")
    title = f"{name} in the daemon trains a {arguments.model} on handwritten digits"
    note = f"Against torch.optim's {reference} on this machine, seed {seed}: {verdict}."
    curves = {f"local torch.optim, {reference}": local, f"daemon, {name}": remote}
    draw(arguments.output, title, note, curves)
    print(f"Curves:        {arguments.output}")

    if not agree:
        print("The twins part where they should not.", file=sys.stderr)
        return 1
    if accuracy < ACCURACY_WANTED and name == "adamw" and steps >= 600:
        print(f"The accuracy is below {ACCURACY_WANTED:.0%}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
