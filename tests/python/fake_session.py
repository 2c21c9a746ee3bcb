"""A session of the fake daemon: AdamW in numpy, and the protocol's numbering of steps."""

from __future__ import annotations

import math

import grpc
import numpy as np

from mnemosyne_client import messages as m
from mnemosyne_client.tensors import Grid, decode, encode

DEFAULTS = {
    "learning_rate": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
}
SLOTS = ("exp_avg", "exp_avg_sq")


class Refusal(Exception):
    """A call or step that is refused."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str = "refused", **metadata):
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.metadata = {key: str(value) for key, value in metadata.items()}


class FakeSession:
    """The state of one session."""

    def __init__(self, name: str, token: str, spec: m.SessionSpec, cell_elements: int):
        self.proto = m.Session(name=name, spec=spec, cell_elements=cell_elements)
        self.token = token
        self.sizes = [math.prod(p.shape) for p in spec.parameters]
        self.slots = {s: [np.zeros(n, np.float32) for n in self.sizes] for s in SLOTS}
        self.clocks = [0] * len(self.sizes)
        self.begins: list[m.StepBegin] = []
        self._last_gradients: list = []
        self._last_answer: tuple = ()

    def step(self, begin: m.StepBegin, gradients: list):
        """Returns updates, decays and whether this is a replay."""
        last = self.proto.last_step
        if begin.step == last and self._last_answer:
            if not all(np.array_equal(a, b) for a, b in zip(gradients, self._last_gradients)):
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "RESEND_DIFFERS")
            return (*self._last_answer, True)
        if begin.step <= last:
            raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "STEP_TOO_OLD", last_step=last)
        if begin.step != last + 1:
            raise Refusal(grpc.StatusCode.OUT_OF_RANGE, "STEP_GAP", expected_step=last + 1)
        for number, gradient in enumerate(gradients):
            if gradient is not None and not np.isfinite(gradient).all():
                name = self.proto.spec.parameters[number].name
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "NON_FINITE", parameter=name)
        updates, decays = [], []
        for number, gradient in enumerate(gradients):
            values = self._values_of(self.proto.spec.parameters[number].group, begin)
            updates.append(None if gradient is None else self._adamw(number, gradient, values))
            decays.append(values["learning_rate"] * values["weight_decay"])
        self.proto.last_step = begin.step
        self._last_gradients, self._last_answer = gradients, (updates, decays)
        self.begins.append(begin)
        return updates, decays, False

    def _values_of(self, group: int, begin: m.StepBegin) -> dict[str, float]:
        spec = self.proto.spec
        values = {**DEFAULTS, **spec.hyperparameters}
        if spec.groups:
            values.update(spec.groups[group].hyperparameters)
        if begin.learning_rates:
            values["learning_rate"] = begin.learning_rates[group]
        return values

    def _adamw(self, number: int, gradient: np.ndarray, values: dict[str, float]) -> np.ndarray:
        self.clocks[number] += 1
        average, square = (self.slots[slot][number] for slot in SLOTS)
        average += (gradient - average) * np.float32(1 - values["beta1"])
        square += (gradient * gradient - square) * np.float32(1 - values["beta2"])
        first = average / (1 - values["beta1"] ** self.clocks[number])
        second = square / (1 - values["beta2"] ** self.clocks[number])
        update = -values["learning_rate"] * first / (np.sqrt(second) + values["epsilon"])
        return update.astype(np.float32)

    def assemble(self, chunks, encoding: int) -> list:
        """Returns the gradient of each parameter; None where there are no chunks."""
        gradients: list = [None] * len(self.sizes)
        for chunk in chunks:
            if gradients[chunk.parameter] is None:
                gradients[chunk.parameter] = np.full(
                    self.sizes[chunk.parameter], np.nan, np.float32
                )
            begin = chunk.cell * self.proto.cell_elements
            values = decode(chunk.payload, encoding or m.DATA_TYPE_FLOAT32)
            gradients[chunk.parameter][begin : begin + len(values)] = values
        return gradients

    def pack(self, updates, decays, encoding: int):
        """Yields the chunks of the updates, a group for each message."""
        encoding = encoding or m.DATA_TYPE_FLOAT32
        grid = Grid(self.sizes, self.proto.cell_elements)
        arrays = [None if u is None else encode(u, encoding) for u in updates]
        for group in grid.pack(arrays, checksums=False):
            for chunk in group:
                chunk.decay = decays[chunk.parameter]
            yield group

    def export_parts(self):
        """Returns the header and the bytes of the state."""
        order = [(slot, i) for i in range(len(self.sizes)) for slot in SLOTS]
        data = b"".join(self.slots[slot][i].tobytes() for slot, i in order)
        header = m.StateHeader(
            format_version=1,
            spec=self.proto.spec,
            step=self.proto.last_step,
            parameter_steps=self.clocks,
            byte_count=len(data),
        )
        for slot, i in order:
            header.tensors.add(
                slot=slot,
                parameter=i,
                shape=self.proto.spec.parameters[i].shape,
                data_type=m.DATA_TYPE_FLOAT32,
                byte_count=4 * self.sizes[i],
            )
        return header, data

    def import_parts(self, header: m.StateHeader, data: bytes) -> None:
        """Replaces the state."""
        shapes = [list(p.shape) for p in header.spec.parameters]
        if shapes != [list(p.shape) for p in self.proto.spec.parameters]:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "STATE_MISMATCH")
        offset = 0
        for tensor in header.tensors:
            values = np.frombuffer(data[offset : offset + tensor.byte_count], np.float32)
            self.slots[tensor.slot][tensor.parameter] = values.copy()
            offset += tensor.byte_count
        self.clocks = list(header.parameter_steps)
        self.proto.last_step = header.step
        self.proto.epoch += 1
        self._last_answer = ()
