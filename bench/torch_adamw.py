"""Times PyTorch's AdamW on the CPU, and the applying of an update as a client does it.

    torch_adamw.py COUNT [SECONDS]

Prints one line of JSON: the release of PyTorch, and for each variant the least seconds of a step
over COUNT parameters in 16 tensors, measured for SECONDS (default 1). A variant that this release
lacks is null.
"""

import json
import sys
import time

import torch

TENSORS = 16
DECAY = 1e-5


def least_seconds(step, seconds):
    """Returns the seconds of the shortest call of `step`."""
    step()  # Makes the state.
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        best = min(best, time.perf_counter() - start)
    return best


def make_tensors(count):
    """Returns tensors that hold `count` random elements together."""
    return [torch.randn(count // TENSORS) for _ in range(TENSORS)]


def time_adamw(count, seconds, **variant):
    """Returns the seconds of a step of a variant of AdamW."""
    parameters = make_tensors(count)
    for p in parameters:
        p.grad = torch.randn_like(p)
    try:
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, **variant)
        return least_seconds(optimizer.step, seconds)
    except (TypeError, RuntimeError):
        return None


def time_apply(count, seconds):
    """Returns the seconds of applying an update as the client does."""
    parameters, updates = make_tensors(count), make_tensors(count)

    def apply():
        for p, update in zip(parameters, updates):
            p.mul_(1 - DECAY)
            p.add_(update, alpha=1)

    return least_seconds(apply, seconds)


def main():
    """Prints the table."""
    count = int(sys.argv[1])
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    answer = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "single": time_adamw(count, seconds, foreach=False),
        "foreach": time_adamw(count, seconds, foreach=True),
        "fused": time_adamw(count, seconds, fused=True),
        "apply": time_apply(count, seconds),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
