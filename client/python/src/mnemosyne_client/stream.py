"""A stream of steps that survives the loss of its connection."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client._wire import PROTOCOL_REVISION
from mnemosyne_client.connection import Connection
from mnemosyne_client.errors import (
    ResourceExhaustedError,
    ServerError,
    SessionLostError,
    SupersededError,
    UnavailableError,
    error_of_step,
)
from mnemosyne_client.patience import Patience
from mnemosyne_client.session import Session
from mnemosyne_client.tensors import (
    Grid,
    Update,
    UpdateAssembler,
    encode,
    encoding_number,
)

if TYPE_CHECKING:
    from mnemosyne_client.client import Client

# Connections of a parent process: kept, because destroying them in a fork may block for ever.
_inherited: list[Connection] = []


@dataclass(frozen=True)
class StepResult:
    """The answer to a step.

    Attributes:
        step: The step's number.
        updates: The update of each parameter; None for one that took no part.
        statistics: Norms, counts and times of the step.
    """

    step: int
    updates: list[Update | None]
    statistics: messages.StepDone


class OptimizeStream:
    """Sends the gradients of a session's steps and returns the updates.

    One step is in flight at a time. If the connection breaks, the stream opens another one and
    sends the same step again; the daemon applies it once and answers with the same bits. It never
    reopens after a newer stream took the session over.

    Use it from one thread at a time; close() is allowed from any. After a fork, the child opens a
    connection of its own, which takes the session over from the parent.
    """

    def __init__(
        self,
        client: Client,
        session: Session,
        *,
        gradient_encoding: str = "float32",
        update_encoding: str = "float32",
        checksums: bool = False,
        accept_loss: bool = False,
    ) -> None:
        """Opens the stream; Client.open_stream is the usual way.

        Args:
            client: The connection's daemon and the waiting policy.
            session: The session to step.
            gradient_encoding: `float32`, `bfloat16` or `float16`.
            update_encoding: `float32`, `bfloat16` or `float16`.
            checksums: Whether chunks carry checksums in both directions.
            accept_loss: Whether to go on where a restarted daemon has lost the last steps.

        Raises:
            ValueError: An encoding is unknown.
            MnemosyneError: The daemon cannot be reached, or refuses the session or the token.
        """
        self._client = client
        self._session = session
        self._sizes = session.sizes
        self._gradient_encoding = encoding_number(gradient_encoding)
        self._update_encoding = encoding_number(update_encoding)
        self._checksums = checksums
        self._accept_loss = accept_loss
        self._connection: Connection | None = None
        self._opened = messages.StreamOpened()
        self._last_step: int | None = None
        # Opens whose answer was lost: each may have advanced the session's epoch.
        self._blind_opens = 0
        self._superseded: SupersededError | None = None
        self._pid = os.getpid()
        self._in_use = threading.Lock()
        self._closed = False
        self._until_connected()

    @property
    def session(self) -> Session:
        """The session that is stepped."""
        return self._session

    @property
    def last_step(self) -> int:
        """The last step whose answer this stream has, or the session's last when it opened."""
        return self._opened.last_applied_step if self._last_step is None else self._last_step

    @property
    def opened(self) -> messages.StreamOpened:
        """The daemon's answer to the last open: epoch, grid, limits."""
        return self._opened

    def step(
        self,
        gradients: Sequence[npt.NDArray[Any] | None],
        *,
        loss: float | None = None,
        learning_rates: Sequence[float] = (),
        learning_rate_factors: Sequence[float] = (),
        parameter_rms: Sequence[float] = (),
    ) -> StepResult:
        """Runs one step.

        Args:
            gradients: For each parameter, in the session's order, an array of its shape, or None
                if it has no gradient. Arrays must not change until the call returns.
            loss: The training loss, if it is to be told.
            learning_rates: One value a group, in place of the group's value and the schedule.
            learning_rate_factors: One factor a group on the learning rate.
            parameter_rms: The root mean square of each parameter's values.

        Returns:
            The updates; they have yet to be applied.

        Raises:
            ValueError: An array is missing or has another shape than its parameter.
            InvalidRequestError: The daemon refused the step. It was not applied, and the stream
                takes another one under the same number.
            SupersededError: A newer stream holds the session.
            SessionLostError: The session is gone, or stands at another step.
            UnavailableError: The daemon is away for longer than the policy allows. Calling again
                with the same gradients is safe.
            ResourceExhaustedError: The daemon has no room for the step.
            ServerError: The daemon failed.
        """
        arrays = self._encode(gradients)
        begin = messages.StepBegin(
            loss=loss,
            learning_rates=learning_rates,
            learning_rate_factors=learning_rate_factors,
            parameter_rms=parameter_rms,
            absent_parameters=[i for i, array in enumerate(arrays) if array is None],
        )
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("another thread is in a step of this stream")
        try:
            return self._step(begin, arrays)
        finally:
            self._in_use.release()

    def close(self) -> None:
        """Ends the stream; the session stays. May be called again."""
        self._closed = True
        if self._connection is not None and self._pid == os.getpid():
            self._connection.close(graceful=True)
        self._connection = None

    def __enter__(self) -> OptimizeStream:
        """Returns the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the stream."""
        self.close()

    def _encode(self, gradients: Sequence[npt.NDArray[Any] | None]) -> list[Any]:
        """Returns the gradients as they travel, flat."""
        shapes = self._session.shapes
        if len(gradients) != len(shapes):
            raise ValueError(f"{len(gradients)} gradients for {len(shapes)} parameters")
        arrays: list[Any] = []
        for number, (gradient, shape) in enumerate(zip(gradients, shapes)):
            if gradient is not None and np.shape(gradient) != shape:
                raise ValueError(
                    f"the gradient of parameter {number} has shape {np.shape(gradient)}, "
                    f"expected {shape}"
                )
            arrays.append(None if gradient is None else encode(gradient, self._gradient_encoding))
        return arrays

    def _step(self, begin: messages.StepBegin, arrays: list[Any]) -> StepResult:
        """Sends the step until it is answered."""
        patience = self._patience(free_tries=1 if self._connection is not None else 0)
        while True:
            try:
                begin.step = self._connect() + 1
                result = self._exchange(begin, arrays)
            except UnavailableError as error:
                self._drop_connection()
                patience.pause(error)
            except ResourceExhaustedError as error:
                if error.reason != "QUEUE_FULL":
                    raise
                patience.pause(
                    UnavailableError(error.message, code=error.code, reason="QUEUE_FULL")
                )
            except SupersededError as error:
                self._superseded = error
                self._drop_connection()
                raise
            except (SessionLostError, ServerError):
                self._drop_connection()
                raise
            except (KeyboardInterrupt, SystemExit):
                # Whether the step was applied is unknown; the next open tells.
                self._drop_connection()
                self._last_step = None
                raise
            else:
                patience.succeed()
                self._last_step = result.step
                return result

    def _exchange(self, begin: messages.StepBegin, arrays: list[Any]) -> StepResult:
        """Sends the step over the connection and reads its answer."""
        assert self._connection is not None
        connection, opened = self._connection, self._opened
        assembler = UpdateAssembler(
            self._session.shapes, opened.cell_elements, opened.update_encoding
        )
        connection.keep_alive(opened.heartbeat_seconds, begin.step - 1)
        connection.send(self._requests(begin, arrays))
        while True:
            response = connection.receive(self._longest_silence())
            try:
                for chunk in response.chunks:
                    assembler.add(chunk)
            except ValueError as error:
                # The daemon still has the update: the step is sent again on a new connection.
                raise UnavailableError(str(error), code="DATA_LOSS") from error
            if response.HasField("error"):
                raise error_of_step(response.error)
            if response.HasField("done"):
                return StepResult(response.done.step, assembler.updates(), response.done)

    def _requests(
        self, begin: messages.StepBegin, arrays: list[Any]
    ) -> Iterator[messages.OptimizeRequest]:
        """Yields the messages of a step: begin in the first, end in the last."""
        grid = Grid(self._sizes, self._opened.cell_elements, self._opened.message_bytes_max)
        request = messages.OptimizeRequest(begin=begin)
        groups = grid.pack(arrays, checksums=self._checksums)
        pending = next(groups)
        for group in groups:
            request.chunks.extend(pending)
            yield request
            request, pending = messages.OptimizeRequest(), group
        request.chunks.extend(pending)
        request.end.step = begin.step
        yield request

    def _until_connected(self) -> None:
        """Connects for the first time, with the patience of the policy."""
        patience = self._patience()
        while True:
            try:
                self._connect()
            except UnavailableError as error:
                self._drop_connection()
                patience.pause(error)
            else:
                patience.succeed()
                return

    def _connect(self) -> int:
        """Makes sure that there is a connection; returns the last step."""
        if self._closed:
            raise ValueError("the stream is closed")
        if self._superseded is not None:
            raise self._superseded
        if self._pid != os.getpid() and self._connection is not None:
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            self._check_not_superseded()
            self._open()
        assert self._last_step is not None
        return self._last_step

    def _open(self) -> None:
        """Opens a connection and learns where the session stands."""
        request = messages.OpenStream(
            session=self._session.name,
            token=self._session.token,
            protocol_revision=PROTOCOL_REVISION,
            gradient_encoding=self._gradient_encoding,
            update_encoding=self._update_encoding,
            accept_loss=self._accept_loss,
            checksums=self._checksums,
        )
        self._pid = os.getpid()
        self._connection = Connection(self._client.methods.optimize)
        self._connection.send([messages.OptimizeRequest(open=request)])
        self._blind_opens += 1
        response = self._connection.receive(self._client.timeout)
        while not response.HasField("opened"):
            response = self._connection.receive(self._client.timeout)
        self._opened = response.opened
        self._blind_opens = 0

        applied = self._opened.last_applied_step
        if self._last_step is None:
            self._last_step = applied
        elif applied not in (self._last_step, self._last_step + 1) and not self._accept_loss:
            self._drop_connection()
            raise SessionLostError(
                f"the session stands at step {applied}, this client at {self._last_step}; "
                "load a checkpoint into the session to go on",
                code="FAILED_PRECONDITION",
                reason="STATE_MISMATCH",
                metadata={"last_step": str(applied)},
            )

    def _check_not_superseded(self) -> None:
        """Before reopening, makes sure that nobody opened the session in the meantime."""
        if self._opened.epoch == 0:
            return
        epoch = self._client.current_epoch(self._session.name)
        if epoch > self._opened.epoch + self._blind_opens:
            self._superseded = SupersededError(
                "a newer stream has held the session since this one broke",
                code="ABORTED",
                reason="SUPERSEDED",
                metadata={"epoch": str(epoch)},
            )
            raise self._superseded

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _longest_silence(self) -> float:
        """Seconds without a message after which the daemon counts as gone."""
        return max(3.0 * self._opened.heartbeat_seconds, self._client.timeout)

    def _patience(self, *, free_tries: int = 0) -> Patience:
        return Patience(
            self._client.wait_policy,
            f"the daemon at {self._client.address}",
            free_tries=free_tries,
        )
