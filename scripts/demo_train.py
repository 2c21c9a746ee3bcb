"""Trains a net on scikit-learn's handwritten digits, its optimizer running in a daemon.

By default the optimizer is `mnemosyne`, of which nothing is tuned, and AdamW is trained beside it:
with PyTorch's defaults, and with the best of a small grid of learning rates and a cosine schedule
that knows the number of steps. A classic optimizer is trained beside its twin of torch.optim, from
the same seed. Exits with 1 if twins part, or if the run stays below its accuracy.
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
from demo_plot import Line, draw
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from mnemosyne_client import Client, MnemosyneError
from mnemosyne_client.torch import RemoteOptimizer

ACCURACY_WANTED = 0.97
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TWIN_STEPS = 100
BATCH = 64
EVALUATE_EVERY = 20
THREADS_MAX = 4  # Nets as small as these wait for more threads longer than those compute.
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
    test_loss: float = float("nan")
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        """The last one."""
        return self.accuracies[-1][1]


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
            print(f"\r  {self._label:<14} {bar} {text}", end=end, flush=True)
        elif step % 200 == 0 or step == self._total:
            print(f"  {self._label:<14} {text}", flush=True)


def test(model: nn.Module, digits: Digits) -> tuple[float, float]:
    """Returns the share of test images that `model` gets right, and their mean loss."""
    model.eval()
    with torch.no_grad():
        logits = model(digits.test_images)
        right = (logits.argmax(dim=1) == digits.test_labels).float().mean()
        loss = nn.functional.cross_entropy(logits, digits.test_labels)
    model.train()
    return float(right), float(loss)


@dataclass
class Demo:
    """What all runs of a demo share."""

    make_model: Callable[[], nn.Module]
    digits: Digits
    seed: int

    def train(
        self,
        label: str,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        steps: int,
        cosine: bool,
    ) -> Curve:
        """Trains a model from the seed and returns its curve."""
        torch.manual_seed(self.seed)
        model = self.make_model()
        optimizer = make_optimizer(model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if cosine else None
        order = torch.Generator().manual_seed(self.seed)
        curve, progress = Curve(), Progress(label, steps)
        started = time.monotonic()
        accuracy, _ = test(model, self.digits)
        curve.accuracies.append((0, accuracy))
        for step in range(1, steps + 1):
            rows = torch.randint(len(self.digits.train_labels), (BATCH,), generator=order)
            optimizer.zero_grad()
            logits = model(self.digits.train_images[rows])
            loss = nn.functional.cross_entropy(logits, self.digits.train_labels[rows])
            loss.backward()
            if isinstance(optimizer, RemoteOptimizer):
                optimizer.tell_loss(loss)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            curve.losses.append(loss.item())
            if step % EVALUATE_EVERY == 0 or step == steps:
                accuracy, curve.test_loss = test(model, self.digits)
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


def parse_arguments() -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help="the daemon's: HOST:PORT or unix:/path")
    parser.add_argument("--optimizer", default="mnemosyne", help="default: %(default)s")
    parser.add_argument("--model", default="cnn", choices=MODELS, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=600, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--lr", type=float, help="of a classic optimizer; default: one that suits")
    parser.add_argument("--output", type=Path, default=Path("demo/training.png"))
    arguments = parser.parse_args()
    if arguments.steps < 1:
        parser.error("--steps must be at least 1")
    return arguments


def run_twins(
    demo: Demo, client: Client, name: str, options: dict[str, float], steps: int
) -> tuple[bool, str, Curve, Curve]:
    """Trains a classic optimizer in the daemon and locally; returns the verdict and both curves."""
    remote = demo.train(
        "daemon",
        lambda model: RemoteOptimizer(
            model.named_parameters(), client, name, label="demo: twins", **options
        ),
        steps,
        cosine=True,
    )
    twin = LOCAL_TWINS[name]
    local = demo.train("local", lambda model: twin(model.parameters(), **options), steps, True)
    agree, verdict = compare(remote, local)
    return agree, verdict, remote, local


def show_classic(demo: Demo, client: Client, arguments: argparse.Namespace) -> tuple[bool, Curve]:
    """Trains a classic optimizer and its twin; returns whether they agree, and the first."""
    name, steps = arguments.optimizer, arguments.steps
    options = {"lr": arguments.lr or LEARNING_RATES.get(name, 8e-3)}
    if name == "sgd":
        options["momentum"] = 0.9
    if name in LOCAL_TWINS:
        print(f"{name} in the daemon, then torch.optim's in this process, from the same seed:")
        agree, verdict, remote, local = run_twins(demo, client, name, options, steps)
        print(f"\nTwins:         {verdict}")
    else:
        print(f"{name} in the daemon, then torch.optim's adamw in this process:")
        remote = demo.train(
            "daemon",
            lambda model: RemoteOptimizer(model.named_parameters(), client, name, **options),
            steps,
            cosine=True,
        )
        local = demo.train("local", lambda m: torch.optim.AdamW(m.parameters(), 8e-3), steps, True)
        agree, verdict = True, f"torch.optim has no {name}; adamw is drawn for comparison"
    print(f"Test accuracy: {remote.accuracy:.2%} with the daemon, {local.accuracy:.2%} locally")
    lines = [
        Line("torch.optim on this machine", local.losses, local.accuracies),
        Line(f"{name} in the daemon", remote.losses, remote.accuracies),
    ]
    title = f"{name} in the daemon trains a {arguments.model} on handwritten digits"
    draw(arguments.output, title, f"Seed {arguments.seed}: {verdict}.", lines)
    return agree, remote


def show_learned(demo: Demo, client: Client, arguments: argparse.Namespace) -> tuple[bool, Curve]:
    """Trains a learned optimizer beside AdamW; returns whether adamw's twins agree, and its run."""
    name, steps = arguments.optimizer, arguments.steps
    print(f"{name} in the daemon, nothing tuned, no number of steps told:")
    learned = demo.train(
        name,
        lambda model: RemoteOptimizer(model.named_parameters(), client, name, label="demo: digits"),
        steps,
        cosine=False,
    )
    print(f"  {steps / learned.seconds:.0f} steps a second\n\nAdamW in this process:")
    default = demo.train("as it comes", lambda m: torch.optim.AdamW(m.parameters()), steps, False)
    grid = {
        rate: demo.train(
            f"{rate:g}, cosine",
            lambda m, rate=rate: torch.optim.AdamW(m.parameters(), rate),
            steps,
            cosine=True,
        )
        for rate in GRID
    }
    rate, best = min(grid.items(), key=lambda item: item[1].test_loss)
    print(f"\nadamw in the daemon against torch.optim's, {TWIN_STEPS} steps:")
    agree, verdict, _, _ = run_twins(demo, client, "adamw", {"lr": 8e-3}, TWIN_STEPS)
    print(f"  {verdict}\n")
    rows = [
        (f"{name}, nothing tuned", learned),
        ("AdamW as it comes (rate 0.001)", default),
        (f"AdamW, best of {len(GRID)} rates with cosine ({rate:g})", best),
    ]
    print(f"{'':44} test loss  test accuracy  mean training loss")
    for label, curve in rows:
        mean = float(np.mean(curve.losses))
        print(f"{label:44} {curve.test_loss:9.4f}  {curve.accuracy:13.2%}  {mean:18.4f}")
    lines = [Line(label, curve.losses, curve.accuracies) for label, curve in reversed(rows)]
    title = f"{name} trains a {arguments.model} on handwritten digits, untuned"
    note = f"The grid of AdamW took {len(GRID)} runs, and its best is told the number of steps."
    draw(arguments.output, title, note, [lines[1], lines[0], lines[2]])
    return agree, learned


def main() -> int:
    """Runs the demo; returns the exit status."""
    arguments = parse_arguments()
    torch.set_num_threads(min(torch.get_num_threads(), THREADS_MAX))
    client = Client(arguments.address, wait_seconds=30)
    demo = Demo(MODELS[arguments.model], Digits.load(), arguments.seed)
    size = sum(p.numel() for p in demo.make_model().parameters())
    count = len(demo.digits.train_labels)
    print(f"A {arguments.model} of {size:,} parameters, {count:,} handwritten digits, ", end="")
    print(f"the optimizer in {client.address}.\n")
    learned = arguments.optimizer in {model.name for model in client.list_models()}
    show = show_learned if learned else show_classic
    try:
        agree, curve = show(demo, client, arguments)
    except (MnemosyneError, TypeError, ValueError) as error:
        print(f"The demo stopped: {error}", file=sys.stderr)
        return 1
    print(f"Curves:        {arguments.output}")
    if not agree:
        print("The twins part where they should not.", file=sys.stderr)
        return 1
    wanted = arguments.optimizer in ("mnemosyne", "adamw") and arguments.steps >= 600
    if wanted and curve.accuracy < ACCURACY_WANTED:
        print(f"The accuracy is below {ACCURACY_WANTED:.0%}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
