"""Measures on a GPU what the daemon's steps are compared with.

    gpu_peers.py SHAPES.json

SHAPES.json is what `device_bench --shapes` prints. Prints a line of JSON for each figure: the
bandwidth of a copy on the device, the milliseconds of PyTorch's fused AdamW over each set of
tensors, and of PyLO's learned optimizers where that package is installed.
"""

import importlib.util
import json
import statistics
import sys

import torch

WARM_UP = 5
STEPS = 30


def milliseconds(step):
    """Returns the median and the least time of a call of `step` on the GPU."""
    times = []
    for i in range(WARM_UP + STEPS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        if i >= WARM_UP:
            times.append(start.elapsed_time(end))
    return statistics.median(times), min(times)


def report(**figures):
    """Prints a line of JSON."""
    print(json.dumps(figures), flush=True)


def copy_bandwidth():
    """Measures bytes read and written by a copy of 4 GB, in a second."""
    source = torch.empty(1_000_000_000, device="cuda")
    target = torch.empty_like(source)
    median, least = milliseconds(lambda: target.copy_(source))
    moved = 2 * source.numel() * source.element_size()
    report(peer="copy", bytes_per_second=moved / median * 1e3, best=moved / least * 1e3)


def make_parameters(shapes):
    """Returns parameters of these shapes with gradients."""
    parameters = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, device="cuda") * 0.02)
        p.grad = torch.randn_like(p) * 0.01
        parameters.append(p)
    return parameters


def time_optimizer(name, set_name, parameters, optimizer):
    """Reports the time of the optimizer's step."""
    median, least = milliseconds(optimizer.step)
    count = sum(p.numel() for p in parameters)
    report(peer=name, set=set_name, parameters=count, median_ms=median, shortest_ms=least)


def main():
    """Measures all peers."""
    with open(sys.argv[1], encoding="utf-8") as file:
        sets = json.load(file)
    report(peer="device", name=torch.cuda.get_device_name(), torch=torch.__version__)
    copy_bandwidth()
    for set_name, shapes in sets.items():
        parameters = make_parameters(shapes)
        fused = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
        time_optimizer("torch_adamw_fused", set_name, parameters, fused)
        del fused
        if importlib.util.find_spec("pylo") and set_name in {"vit_b16", "resnet50"}:
            from pylo.optim import MetaLO_CUDA

            time_optimizer("pylo_small_fc", set_name, parameters, MetaLO_CUDA(parameters))
        del parameters
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
