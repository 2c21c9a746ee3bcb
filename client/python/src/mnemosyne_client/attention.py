"""Attention on the daemon: blocks of arrays out, answers in."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client.errors import MnemosyneError, error_of_call
from mnemosyne_client.tensors import Float32Array, decode, encode, encoding_number

_PART_BYTES = 1 << 20


@dataclass(frozen=True)
class Encoding:
    """A relative positional encoding f(r_i - r_j); docs/flt.md describes the kinds.

    Attributes:
        kind: "none", "gaussian_mixture", "shift_invariant", "local_box" or "local_ball".
        parameters: [heads, count], in the order that the proto tells.
        positions: Coordinates of a position.
        waves: Waves that the mask is a sum of.
        modes: Gaussians of a mixture.
        signed: Whether f(z) may differ from f(-z).
        multiplicative: Whether the mask is a factor, and not in the exponent.
        squared: Whether a multiplicative mask is a square.
        clamp_negative_masks: Whether a mask that may be negative is taken.
        frequency_scale: Standard deviation of the frequencies.
        norm_max: Bound of the sum of the magnitudes of the mask's weights; 0 for none.
        base_frequencies: [waves, positions]; drawn from the kernel's seed by default.
    """

    kind: str = "none"
    parameters: npt.ArrayLike = ()
    positions: int = 1
    waves: int = 32
    modes: int = 8
    signed: bool = False
    multiplicative: bool = False
    squared: bool = False
    clamp_negative_masks: bool = False
    frequency_scale: float = 1.0
    norm_max: float = 0.5
    base_frequencies: npt.ArrayLike = ()

    def message(self) -> messages.PositionalEncoding:
        """Returns it as it travels."""
        return messages.PositionalEncoding(
            kind=self.kind,
            positions=self.positions,
            waves=self.waves,
            modes=self.modes,
            signed=self.signed,
            multiplicative=self.multiplicative,
            squared=self.squared,
            clamp_negative_masks=self.clamp_negative_masks,
            frequency_scale=self.frequency_scale,
            norm_max=self.norm_max,
            parameters=np.asarray(self.parameters, np.float32).reshape(-1).tolist(),
            base_frequencies=np.asarray(self.base_frequencies, np.float32).reshape(-1).tolist(),
        )


@dataclass(frozen=True)
class Kernel:
    """What is computed.

    Attributes:
        encoding: The relative positional encoding.
        causal: Whether a row sees itself and those before it, and not all.
        feature_map: "favor_plus", "favor_plus_plus", "hyperbolic", "relu", "elu" or "dpfp".
        features: How many, nearly.
        scale: Of q . k; 0 is 1 / sqrt(dim).
        projection: [features, inputs]; drawn from `seed` by default.
        seed: Of what is drawn.
        wire: Type in which arrays travel: "float32", "bfloat16" or "float16".
    """

    encoding: Encoding = Encoding()
    causal: bool = False
    feature_map: str = "favor_plus"
    features: int = 64
    scale: float = 0.0
    projection: npt.ArrayLike = ()
    seed: int = 0
    wire: str = "float32"

    def message(self, heads: int, dim: int, value_dim: int) -> messages.AttentionKernel:
        """Returns it as it travels, for arrays of these sizes."""
        return messages.AttentionKernel(
            heads=heads,
            dim=dim,
            value_dim=value_dim,
            feature_map=self.feature_map,
            features=self.features,
            scale=self.scale,
            encoding=self.encoding.message(),
            projection=np.asarray(self.projection, np.float32).reshape(-1).tolist(),
            seed=self.seed,
            causal=self.causal,
            type=encoding_number(self.wire),
        )


@dataclass(frozen=True)
class Attention:
    """An answer: the outputs, and the rows whose denominator was held above its floor."""

    out: Float32Array
    rows: int
    clamped_rows: int
    state: Float32Array | None = None


class AttentionStream:
    """A stream of blocks through one kernel; with `keep_state`, pieces of one causal sequence.

    Not for several threads at once.
    """

    def __init__(
        self, method: Any, kernel: Kernel, *, keep_state: bool = False, timeout: float = 60.0
    ) -> None:
        """Opens at the first block, whose shapes the others must have but for the length."""
        self._method = method
        self._kernel = kernel
        self._keep_state = keep_state
        self._timeout = timeout
        self._requests: queue.SimpleQueue[messages.AttendRequest | None] = queue.SimpleQueue()
        self._call: Any = None
        self._encoding = encoding_number(kernel.wire)

    def attend(
        self,
        q: npt.ArrayLike,
        k: npt.ArrayLike,
        v: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        *,
        mask: npt.ArrayLike | None = None,
        sequence_starts: Sequence[int] = (),
        state: npt.ArrayLike | None = None,
        return_state: bool = False,
    ) -> Attention:
        """Attends within one block.

        Args:
            q: Queries [batch, heads, length, dim].
            k: Keys, as the queries.
            v: Values [batch, heads, length, value_dim].
            positions: [length], [length, l] or [batch, length, l]; by default 0, 1, 2, ...
            mask: [batch, length], 0 for padding.
            sequence_starts: Where packed sequences start, and the length at the end.
            state: The running state to go on from.
            return_state: Whether the running state after the block comes back.

        Raises:
            InvalidRequestError: The daemon found something wrong with the arrays.
            ResourceExhaustedError: There is no room for the block.
            ValueError: The arrays do not have four axes.
        """
        q, k, v = (np.asarray(x) for x in (q, k, v))
        if q.ndim != 4 or k.shape != q.shape or v.ndim != 4 or v.shape[:3] != q.shape[:3]:
            raise ValueError(
                f"wrong shapes: q {q.shape}, k {k.shape}, v {v.shape}; expected "
                "[batch, heads, length, dim] and [batch, heads, length, value_dim]"
            )
        batch, heads, length, dim = q.shape
        tensors = [
            (messages.ATTENTION_TENSOR_QUERIES, encode(q, self._encoding)),
            (messages.ATTENTION_TENSOR_KEYS, encode(k, self._encoding)),
            (messages.ATTENTION_TENSOR_VALUES, encode(v, self._encoding)),
        ]
        per_batch = False
        if self._kernel.encoding.kind != "none":
            at = np.arange(length) if positions is None else np.asarray(positions)
            at = at[:, None] if at.ndim == 1 else at
            per_batch = at.ndim == 3
            tensors.append((messages.ATTENTION_TENSOR_POSITIONS, at.astype(np.float32)))
        if mask is not None:
            valid = (np.asarray(mask) != 0).astype(np.uint8)
            tensors.append((messages.ATTENTION_TENSOR_MASK, valid))
        if state is not None:
            tensors.append((messages.ATTENTION_TENSOR_STATE, np.asarray(state, np.float32)))
        begin = messages.AttendBegin(
            batch=batch,
            length=length,
            positions_per_batch=per_batch,
            has_mask=mask is not None,
            has_state=state is not None,
            sequence_starts=list(sequence_starts),
        )
        try:
            if self._call is None:
                self._open(self._kernel.message(heads, dim, v.shape[3]))
            self._send(messages.AttendRequest(begin=begin))
            for tensor, values in tensors:
                self._send_tensor(tensor, np.ascontiguousarray(values).tobytes())
            self._send(messages.AttendRequest(end=messages.AttendEnd(return_state=return_state)))
            return self._receive(v.shape, batch, heads)
        except grpc.RpcError as error:
            raise error_of_call(error) from None

    def close(self) -> None:
        """Ends the stream."""
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def __enter__(self) -> AttentionStream:
        """Returns the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the stream."""
        self.close()

    def _open(self, kernel: messages.AttentionKernel) -> None:
        self._call = self._method(iter(self._requests.get, None))
        self._send(
            messages.AttendRequest(
                open=messages.AttendOpen(kernel=kernel, keep_state=self._keep_state)
            )
        )
        if next(self._call).WhichOneof("part") != "opened":
            raise MnemosyneError("the daemon did not answer the opening of the stream")

    def _send(self, request: messages.AttendRequest) -> None:
        self._requests.put(request)

    def _send_tensor(self, tensor: int, data: bytes) -> None:
        for offset in range(0, len(data), _PART_BYTES):
            part = messages.AttentionPart(
                tensor=tensor, offset=offset, payload=data[offset : offset + _PART_BYTES]
            )
            self._send(messages.AttendRequest(data=part))

    def _receive(self, shape: tuple[int, ...], batch: int, heads: int) -> Attention:
        data: dict[int, list[bytes]] = {}
        for response in self._answers():
            if response.WhichOneof("part") == "done":
                parts = data.get(messages.ATTENTION_TENSOR_OUTPUT, [])
                state = data.get(messages.ATTENTION_TENSOR_STATE)
                return Attention(
                    decode(b"".join(parts), self._encoding).reshape(shape),
                    response.done.rows,
                    response.done.clamped_rows,
                    None
                    if state is None
                    else np.frombuffer(b"".join(state), np.float32).reshape(batch, heads, -1),
                )
            data.setdefault(response.data.tensor, []).append(response.data.payload)
        raise MnemosyneError("the daemon ended the stream within an answer")

    def _answers(self) -> Iterator[messages.AttendResponse]:
        yield from self._call
