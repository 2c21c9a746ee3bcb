"""Sends gradients while the backward pass still computes others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mnemosyne_client._torch_tensors import ParameterMirror
from mnemosyne_client.draft import Draft

_REFUSED = (
    "overlap_backward sends each gradient as soon as it is computed, so it cannot be used with "
    "{}; make the optimizer without overlap_backward"
)
_CHANGES = "GradScaler, clipping or anything else that changes gradients"


class BackwardOverlap:
    """Hooks on parameters that send each gradient at once.

    The hooks run on the threads of the backward pass; everything else belongs to the optimizer's.
    """

    def __init__(
        self,
        mirrors: Sequence[ParameterMirror],
        begin: Callable[[], tuple[Draft, Sequence[float]] | None],
    ) -> None:
        """Hooks the parameters.

        Args:
            mirrors: The parameters, in the order of the session.
            begin: Begins a step; returns it, and what each parameter is multiplied by before it is
                added to its gradient. None if the daemon is away.
        """
        self._mirrors = mirrors
        self._begin = begin
        self._draft: Draft | None = None
        self._decays: Sequence[float] = ()
        self._active = False
        self._marks: dict[int, tuple[int, int]] = {}
        self._accumulated = False
        self._handles = [
            _hook_gradient(mirror.parameter, self._hook_of(number))
            for number, mirror in enumerate(mirrors)
            if mirror.parameter.requires_grad
        ]

    def finish(self) -> Draft | None:
        """Returns what has been sent of this step; the next gradient starts another one.

        Raises:
            RuntimeError: A gradient has changed since it was sent.
        """
        draft, marks, accumulated = self._draft, self._marks, self._accumulated
        self.discard()
        if accumulated:
            raise RuntimeError(_REFUSED.format("gradients accumulated over several passes"))
        for number, mark in marks.items():
            if _mark_of(self._mirrors[number].parameter.grad) != mark:
                raise RuntimeError(_REFUSED.format(_CHANGES))
        return draft

    def refuse_scaler(self) -> None:
        """Raises RuntimeError: what was sent is scaled."""
        self.discard()
        raise RuntimeError(_REFUSED.format(_CHANGES))

    def discard(self) -> None:
        """Forgets what has been sent."""
        self._draft, self._active, self._accumulated = None, False, False
        self._marks = {}

    def remove(self) -> None:
        """Takes the hooks away."""
        self.discard()
        for handle in self._handles:
            handle.remove()

    def _hook_of(self, number: int) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            mirror = self._mirrors[number]
            if number in self._marks:
                self._accumulated = True
                return
            if not self._active:
                self._active = True
                begun = self._begin()
                if begun is not None:
                    self._draft, self._decays = begun
            if self._draft is None:
                return
            with torch.no_grad():
                mirror.start_gradient(self._decays[number])
            self._marks[number] = _mark_of(mirror.parameter.grad)
            self._draft.add(number, mirror.finish_gradient)

        return hook


class _NodeHook:
    """A hook on the node that accumulates a gradient, which must be kept alive."""

    def __init__(self, parameter: torch.Tensor, hook: Callable[..., None]):
        with torch.enable_grad():
            self._node = parameter.expand_as(parameter).grad_fn.next_functions[0][0]
        self._handle = self._node.register_hook(hook)

    def remove(self) -> None:
        """Takes the hook away."""
        self._handle.remove()


def _hook_gradient(parameter: torch.Tensor, hook: Callable[..., None]) -> Any:
    """Calls `hook` whenever the gradient of `parameter` has been accumulated."""
    if hasattr(parameter, "register_post_accumulate_grad_hook"):
        return parameter.register_post_accumulate_grad_hook(hook)
    return _NodeHook(parameter, hook)


def _mark_of(gradient: torch.Tensor | None) -> tuple[int, int]:
    """Returns what changes when a gradient is written or replaced."""
    return (0, 0) if gradient is None else (id(gradient), gradient._version)
