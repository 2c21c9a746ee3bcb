"""A parameter of PyTorch on its way to the daemon and back."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from mnemosyne_client import messages
from mnemosyne_client.tensors import Update

_DATA_TYPES = {
    torch.float32: messages.DATA_TYPE_FLOAT32,
    torch.float64: messages.DATA_TYPE_FLOAT64,
    torch.bfloat16: messages.DATA_TYPE_BFLOAT16,
    torch.float16: messages.DATA_TYPE_FLOAT16,
}


class ParameterMirror:
    """One parameter, with its float32 master and the host memory that its gradient passes through.

    Attributes:
        parameter: The parameter.
        master: float32, what updates are added to, for a parameter of 16 bits; None for others.
    """

    def __init__(self, parameter: torch.Tensor):
        """Starts with the parameter's values.

        Raises:
            ValueError: The parameter's type is none that the daemon knows.
        """
        if parameter.dtype not in _DATA_TYPES:
            raise ValueError(
                f"a parameter has type {parameter.dtype}; the daemon takes "
                f"{', '.join(str(t) for t in _DATA_TYPES)}"
            )
        self.parameter = parameter
        self.master: torch.Tensor | None = None
        self._gradient: torch.Tensor | None = None
        self._staging: torch.Tensor | None = None
        self._event: Any = None
        self._seen = (0, 0)
        self.reset()

    @property
    def data_type(self) -> int:
        """The wire's number of the parameter's type."""
        return _DATA_TYPES[self.parameter.dtype]

    def reset(self, master: torch.Tensor | None = None) -> None:
        """Takes `master`, or else the parameter's values, for the master.

        A master that does not round to the parameter's values is not taken: somebody has set the
        parameter since.
        """
        parameter = self.parameter.detach()
        if parameter.dtype in (torch.bfloat16, torch.float16):
            self.master = parameter.float().clone()
            if master is not None:
                candidate = master.to(device=parameter.device, dtype=torch.float32)
                if torch.equal(candidate.to(parameter.dtype), parameter):
                    self.master = candidate.clone()
        self._seen = self._mark()

    def start_gradient(self, decay: float) -> None:
        """Starts to bring the gradient to the host.

        Args:
            decay: What the parameter is multiplied by before it is added to the gradient.

        Raises:
            RuntimeError: The gradient is sparse.
        """
        gradient = self.parameter.grad
        self._gradient = None
        if gradient is None:
            return
        if gradient.is_sparse:
            raise RuntimeError("sparse gradients are not supported")
        if self.master is not None and self._seen != self._mark():
            # Somebody has set the parameter since the last step: the master follows.
            self.reset()
        gradient = gradient.detach()
        if decay != 0:
            source = self.parameter.detach() if self.master is None else self.master
            gradient = gradient.to(source.dtype).add(source, alpha=decay)
        gradient = gradient.float()
        if gradient.device.type == "cpu":
            self._gradient = gradient.contiguous()
            return
        if self._staging is None:
            pinned = gradient.device.type == "cuda"
            self._staging = torch.empty(gradient.shape, dtype=torch.float32, pin_memory=pinned)
        self._staging.copy_(gradient, non_blocking=True)
        self._gradient = self._staging
        if gradient.device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(gradient.device))

    def finish_gradient(self) -> npt.NDArray[Any] | None:
        """Returns the gradient on the host, float32; None if there is none.

        It is valid until the next start_gradient(), as long as nobody changes `grad`. May be
        called from any thread, and again.
        """
        if self._event is not None:
            self._event.synchronize()
        if self._gradient is None:
            return None
        array: npt.NDArray[Any] = self._gradient.numpy()
        return array

    def forget_gradient(self) -> None:
        """Lets go of the gradient."""
        self._gradient = None

    def apply(self, update: Update) -> None:
        """Applies `update` to the parameter, through the master if there is one."""
        # This sequence, with one rounding for the scaled sum, is that of torch.optim.
        target = self.parameter if self.master is None else self.master
        values = torch.from_numpy(update.values).to(target.device)
        if update.decay != 0:
            target.mul_(1 - update.decay)
        target.add_(values, alpha=update.scale)
        if self.master is not None:
            self.parameter.copy_(self.master)
        self._seen = self._mark()

    def _mark(self) -> tuple[int, int]:
        """What changes when somebody writes the parameter."""
        return self.parameter._version, self.parameter.data_ptr()
