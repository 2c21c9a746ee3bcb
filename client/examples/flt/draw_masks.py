"""Draws what FLT attention on the daemon attends to, beside exact attention with the exact mask.

Two examples: the points of a helix in R^3 with a local ball around each, and a sentence with a
window over the characters before each, where equal characters attract. Values are unit vectors, so
that the outputs are the attention weights themselves.

    python3 client/examples/flt/draw_masks.py --address localhost:50051 --out masks.png
"""

from __future__ import annotations

import argparse

import matplotlib
import numpy as np

matplotlib.use("agg")

import matplotlib.pyplot as plt

from mnemosyne_client import Client, Encoding, Kernel

TEXT = "the optimizer remembers what it has seen, and the memory tells where to go from here"
AMPLITUDE, NORM_MAX = 1.5, 4.0


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows that add up to 1."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def point_cloud() -> tuple[np.ndarray, np.ndarray, Encoding, bool, np.ndarray]:
    """A helix that comes near itself: q and k of zeros, positions, the encoding, exact weights."""
    turn = np.linspace(0, 4 * np.pi, 96)
    points = np.stack([np.cos(turn), np.sin(turn), 0.12 * turn], -1).astype(np.float32)
    radius = 0.9
    encoding = Encoding(
        "local_ball",
        [[AMPLITUDE, np.log(radius)]],
        positions=3,
        waves=128,
        frequency_scale=0.45,
        norm_max=NORM_MAX,
    )
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    exact = softmax(AMPLITUDE * (distance <= radius))
    return np.zeros((96, 16), np.float32), points, encoding, False, exact


def sentence() -> tuple[np.ndarray, np.ndarray, Encoding, bool, np.ndarray]:
    """Characters as random directions, with a Gaussian window over the last few."""
    characters = np.frombuffer(TEXT.encode(), np.uint8)
    directions = np.random.default_rng(0).normal(size=(256, 16))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    x = (2 * directions[characters]).astype(np.float32)
    at = np.arange(len(TEXT), dtype=np.float32)[:, None]
    precision = 1 / 12**2
    encoding = Encoding(
        "shift_invariant", [[AMPLITUDE, np.log(precision)]], waves=64, norm_max=NORM_MAX
    )
    logits = x @ x.T / 4 + AMPLITUDE * np.exp(-0.5 * precision * (at - at.T) ** 2)
    exact = softmax(np.where(np.tri(len(at)) > 0, logits, -np.inf))
    return x, at, encoding, True, exact


def main() -> None:
    """Asks the daemon, and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="localhost:50051")
    parser.add_argument("--out", default="masks.png")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), constrained_layout=True)
    titles = ("3-D points, local ball", "text, Gaussian window, causal")
    with Client(arguments.address) as client:
        for row, (title, example) in enumerate(zip(titles, (point_cloud(), sentence()))):
            x, positions, encoding, causal, exact = example
            values = np.eye(len(x), dtype=np.float32)[None, None]
            pictures = [("exact", exact)]
            for factor in (False, True):
                chosen = Encoding(**{**encoding.__dict__})
                if factor:
                    # exp(a m) is 1 + (e^a - 1) m of a mask m of 0 and 1, and much like it else.
                    first = np.array(encoding.parameters, float)
                    first[:, 0] = np.exp(AMPLITUDE) - 1
                    chosen = Encoding(
                        **{
                            **encoding.__dict__,
                            "parameters": np.concatenate([first, [[1.0]]], -1),
                            "multiplicative": True,
                            "clamp_negative_masks": True,
                        }
                    )
                kernel = Kernel(
                    chosen, causal=causal, features=256, feature_map="hyperbolic", seed=1
                )
                answer = client.attend(
                    x[None, None], x[None, None], values, positions, kernel=kernel
                )
                name = "FLT, as a factor" if factor else "FLT, in the exponent"
                pictures.append((name, answer.out[0, 0]))
            for axis, (name, weights) in zip(axes[row], pictures):
                # Roots show small weights, too.
                axis.imshow(np.sqrt(np.maximum(weights, 0)), vmin=0, vmax=np.sqrt(exact.max()))
                error = np.linalg.norm(weights - exact) / np.linalg.norm(exact)
                axis.set(title=f"{title}\n{name}, error {error:.2f}", xlabel="key", ylabel="query")
    figure.savefig(arguments.out, dpi=90)
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
