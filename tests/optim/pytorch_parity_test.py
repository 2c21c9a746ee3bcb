"""Trains a convolutional net on real digits, with PyTorch's optimizers and with ours.

    pytorch_parity_test.py OPTIMIZER_STEPPER ISA

Both nets take 1,000 steps from the same weights on the same batches, each with gradients of its
own. With PyTorch 1.13, whose roundings ours repeat, all parameters must have the same bits after
every step; with another release they must be close. Needs PyTorch and scikit-learn; exits with 77
where these or the instruction set are missing.
"""

import os
import subprocess
import sys

SKIPPED = 77
STEPPER, ISA = sys.argv[1], sys.argv[2]
# Without the instruction set PyTorch, told to use it, would not end in order: ours says so first.
if subprocess.run([STEPPER, "adam", ISA, "1"], stdin=subprocess.DEVNULL).returncode == SKIPPED:
    sys.exit(SKIPPED)
# PyTorch's name for the instruction set; AVX2 and AVX-512 round alike. Read at its import.
os.environ["ATEN_CPU_CAPABILITY"] = {"baseline": "default"}.get(ISA, ISA)

try:
    import torch
    from sklearn.datasets import load_digits
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)

STEPS = 1000
BATCH = 32
SAME_ROUNDINGS = torch.__version__.startswith("1.13")


class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv:2302.06675 in PyTorch's operations."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                momentum = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = momentum * beta1 + p.grad * (1 - beta1)
                p.add_(update.sign_(), alpha=-group["lr"])
                momentum.mul_(beta2).add_(p.grad, alpha=1 - beta2)


class Stepper:
    """Our optimizer behind pipes; applies updates as a client does."""

    def __init__(self, params, optimizer, hyperparameters, coupled_decay):
        self.params = list(params)
        self.coupled_decay = coupled_decay
        sizes = ",".join(str(p.numel()) for p in self.params)
        arguments = [f"{name}={value!r}" for name, value in hyperparameters.items()]
        self.process = subprocess.Popen(
            [STEPPER, optimizer, ISA, sizes, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    @torch.no_grad()
    def step(self):
        grads = [p.grad for p in self.params]
        if self.coupled_decay != 0:
            grads = [g.add(p, alpha=self.coupled_decay) for g, p in zip(grads, self.params)]
        self.process.stdin.write(b"".join(g.numpy().tobytes() for g in grads))
        self.process.stdin.flush()
        decay, scale = torch.frombuffer(self._read(16), dtype=torch.float64).tolist()
        for p in self.params:
            update = torch.frombuffer(self._read(4 * p.numel()), dtype=torch.float32)
            if decay != 0:
                p.mul_(1 - decay)
            p.add_(update.view_as(p), alpha=scale)

    def close(self):
        self.process.stdin.close()
        assert self.process.wait() == 0

    def _read(self, size):
        answer = bytearray(self.process.stdout.read(size))
        if len(answer) < size:
            sys.exit(self.process.wait())
        return answer


def make_net():
    torch.manual_seed(1)
    # Sizes that leave every remainder of a vector.
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 5, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(5, 11, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(44, 37),
        torch.nn.Tanh(),
        torch.nn.Linear(37, 10),
    )


def gradients(net, images, labels, sign):
    for p in net.parameters():
        p.grad = None
    loss = torch.nn.functional.cross_entropy(net(images), labels)
    (sign * loss).backward()
    return loss.item()


def compare(theirs, ours, step):
    for p, q in zip(theirs.parameters(), ours.parameters()):
        if SAME_ROUNDINGS:
            different = (p.detach().view(torch.int32) != q.detach().view(torch.int32)).sum().item()
            assert different == 0, f"step {step}: {different} of {p.numel()} elements differ"
        elif step == 100:  # Later the nets part: training multiplies differences.
            error = (p - q).norm() / p.norm()
            assert error < 1e-4, f"step {step}: relative difference {error}"


def check(make, optimizer, hyperparameters, coupled_decay=0.0):
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)
    labels = torch.tensor(digits.target)
    theirs, ours = make_net(), make_net()
    theirs_optimizer = make(theirs.parameters())
    ours_optimizer = Stepper(ours.parameters(), optimizer, hyperparameters, coupled_decay)
    sign = -1 if hyperparameters.get("maximize") else 1
    losses = []
    for step in range(1, STEPS + 1):
        batch = torch.randint(len(labels), (BATCH,), generator=torch.Generator().manual_seed(step))
        losses.append(gradients(theirs, images[batch], labels[batch], sign))
        gradients(ours, images[batch], labels[batch], sign)
        theirs_optimizer.step()
        ours_optimizer.step()
        compare(theirs, ours, step)
    ours_optimizer.close()
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    assert last < first / 2, f"the net does not learn: loss {first} to {last}"
    print(f"{optimizer} {hyperparameters}: loss {first:.3f} to {last:.3f}", flush=True)


def main():
    torch.set_num_threads(1)
    sgd, adam, adamw = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
    check(lambda p: sgd(p, lr=0.1), "sgd", {"learning_rate": 0.1})
    check(lambda p: sgd(p, lr=0.03, momentum=0.9), "sgd", {"learning_rate": 0.03, "momentum": 0.9})
    check(
        lambda p: sgd(p, lr=0.1, momentum=0.8, dampening=0.3, weight_decay=1e-3),
        "sgd",
        {"learning_rate": 0.1, "momentum": 0.8, "dampening": 0.3},
        coupled_decay=1e-3,
    )
    check(
        lambda p: sgd(p, lr=0.03, momentum=0.9, nesterov=True, maximize=True),
        "sgd",
        {"learning_rate": 0.03, "momentum": 0.9, "nesterov": 1, "maximize": 1},
    )
    check(lambda p: adam(p), "adam", {})
    check(
        lambda p: adam(p, lr=2e-3, betas=(0.8, 0.95), eps=1e-5, weight_decay=1e-4, maximize=False),
        "adam",
        {"learning_rate": 2e-3, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-5},
        coupled_decay=1e-4,
    )
    check(lambda p: adamw(p), "adamw", {})
    check(
        lambda p: adamw(p, lr=3e-3, weight_decay=0.1, maximize=True),
        "adamw",
        {"learning_rate": 3e-3, "weight_decay": 0.1, "maximize": 1},
    )
    check(
        lambda p: Lion(p, lr=1e-3, weight_decay=0.05),
        "lion",
        {"learning_rate": 1e-3, "weight_decay": 0.05},
    )


if __name__ == "__main__":
    main()
