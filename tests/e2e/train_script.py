"""A training script that can be killed at any moment and started again.

usage: python train_script.py ADDRESS FOLDER MODE STEPS

MODE is how it goes back to its checkpoint: `rewind` to a snapshot that the daemon pinned with it,
or `import` of the state that lies in it. Prints each step that it begins, and waits for a line of
its standard input before it goes on, so that nobody who wants to kill it comes too late; at the end
FOLDER/final.pt has the parameters.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from mnemosyne_client.torch import RemoteOptimizer

CHECKPOINT_EVERY = 4


def save(path: Path, value: object) -> None:
    """Writes a file that is there whole or not at all."""
    aside = path.with_suffix(".new")
    with aside.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def main() -> None:
    """Trains."""
    address, folder, mode, steps = sys.argv[1:]
    checkpoint = Path(folder) / "checkpoint.pt"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 31), torch.nn.Tanh(), torch.nn.Linear(31, 1))
    # The same text in every life of the job finds its session again.
    optimizer = RemoteOptimizer(
        model.named_parameters(),
        address,
        "adamw",
        lr=0.01,
        request_id=f"train-script-{folder}",
        wait_seconds=60,
    )
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        step = saved["step"]
        model.load_state_dict(saved["model"])
        if mode == "rewind":
            assert optimizer.rewind(saved["pin"]) == step
        else:
            optimizer.load_state_dict(saved["optimizer"])
    elif mode == "rewind":
        # A life before may have taken steps, and none of them is in a checkpoint.
        if optimizer.session.details.last_step == 0:
            optimizer.snapshot("start")
        else:
            optimizer.rewind("start")
    else:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {}, **fresh(optimizer)})
    while step < int(steps):
        print(step + 1, flush=True)
        sys.stdin.readline()
        torch.manual_seed(step)
        inputs = torch.randn(32, 5)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(inputs), inputs.sin().sum(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        step += 1
        if step % CHECKPOINT_EVERY == 0:
            value = {"step": step, "model": model.state_dict()}
            if mode == "rewind":
                # Two names in turn: the one in the checkpoint on the disk is never replaced.
                value["pin"] = f"checkpoint-{step // CHECKPOINT_EVERY % 2}"
                assert optimizer.snapshot(value["pin"]) == step
            else:
                value["optimizer"] = optimizer.state_dict()
            save(checkpoint, value)
    save(Path(folder) / "final.pt", model.state_dict())
    optimizer.close()


def fresh(optimizer: RemoteOptimizer) -> dict[str, object]:
    """The part of a state_dict that says that no step was taken."""
    return {"mnemosyne": {"format": 1, "optimizer": "adamw", "step": 0}}


if __name__ == "__main__":
    main()
