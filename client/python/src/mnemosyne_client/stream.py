"""A stream of steps that survives the loss of its connection."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client.connection import Connection
from mnemosyne_client.draft import Draft
from mnemosyne_client.errors import (
    InvalidRequestError,
    ResourceExhaustedError,
    ServerError,
    SessionLostError,
    SupersededError,
    UnavailableError,
    error_of_step,
)
from mnemosyne_client.link import Link
from mnemosyne_client.patience import Patience
from mnemosyne_client.replay import EventKind, ReplayBuffer, StreamEvent
from mnemosyne_client.session import Session, State
from mnemosyne_client.tensors import (
    Grid,
    Update,
    UpdateAssembler,
    encode,
    encoding_number,
)

if TYPE_CHECKING:
    from mnemosyne_client.client import Client


logger = logging.getLogger("mnemosyne_client")


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

    Use it from one thread at a time; close() is allowed from any. It belongs to the process that
    made it: a step in a forked child raises RuntimeError.
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
        replay_bytes: int = 256 << 20,
        replay_folder: str | None = None,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> None:
        """Opens the stream; Client.open_stream is the usual way.

        Args:
            client: The connection's daemon and the waiting policy.
            session: The session to step.
            gradient_encoding: `float32`, `bfloat16` or `float16`.
            update_encoding: `float32`, `bfloat16` or `float16`.
            checksums: Whether chunks carry checksums in both directions.
            accept_loss: Whether to go on where a restarted daemon has lost the last steps.
            replay_bytes: The most bytes of gradients that are kept of steps which a crash of the
                daemon could lose, to send them again; 0 keeps none. A daemon that keeps no
                sessions, or makes every step durable, needs none.
            replay_folder: A folder to keep them in; None is memory.
            on_event: Called with what happens to the stream beside its steps; the log
                `mnemosyne_client` tells it, too.

        Raises:
            ValueError: An encoding is unknown.
            MnemosyneError: The daemon cannot be reached, or refuses the session or the token.
        """
        self._client = client
        self._session = session
        self._shapes = session.shapes
        self._sizes = session.sizes
        self._gradient_encoding = encoding_number(gradient_encoding)
        self._checksums = checksums
        request = messages.OpenStream(
            gradient_encoding=self._gradient_encoding,
            update_encoding=encoding_number(update_encoding),
            accept_loss=accept_loss,
            checksums=checksums,
        )
        self._replay = ReplayBuffer(replay_bytes, replay_folder)
        self._on_event = on_event
        self._accepts_loss = accept_loss
        self._durability_error = ""
        self._seen_opens = 1
        self._link = Link(client, session, request, self._replay.has)
        self._in_use = threading.Lock()
        self._connect()

    @property
    def session(self) -> Session:
        """The session that is stepped."""
        return self._session

    @property
    def last_step(self) -> int:
        """The last step whose answer this stream has, or the session's last when it opened."""
        last = self._link.last_step
        return self._link.opened.last_applied_step if last is None else last

    @property
    def opened(self) -> messages.StreamOpened:
        """The daemon's answer to the last open: epoch, grid, limits."""
        return self._link.opened

    def step(
        self,
        gradients: Sequence[npt.NDArray[Any] | None],
        *,
        loss: float | None = None,
        learning_rates: Sequence[float] = (),
        learning_rate_factors: Sequence[float] = (),
        parameter_rms: Sequence[float] = (),
        draft: Draft | None = None,
    ) -> StepResult:
        """Runs one step.

        Args:
            gradients: For each parameter, in the session's order, an array of its shape, or None
                if it has no gradient. Arrays must not change until the call returns.
            loss: The training loss, if it is to be told.
            learning_rates: One value a group, in place of the group's value and the schedule.
            learning_rate_factors: One factor a group on the learning rate.
            parameter_rms: The root mean square of each parameter's values.
            draft: What begin_early() returned, if the step was begun there.

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
            ResourceExhaustedError: The daemon has no room for the step, and will have none.
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
            return self._step(begin, arrays, draft)
        finally:
            self._in_use.release()

    def begin_early(
        self, learning_rates: Sequence[float] = (), parameter_rms: Sequence[float] = ()
    ) -> Draft | None:
        """Begins the next step before all its gradients are there.

        Args:
            learning_rates: As step() takes them.
            parameter_rms: As step() takes it. The loss is told with step().

        Returns:
            What takes gradients until step() is called with it; None if the daemon is away, in
            which case step() sends all.

        Raises:
            MnemosyneError: As step(), but for UnavailableError.
        """
        try:
            connection = self._ready()
        except UnavailableError:
            self._link.drop()
            return None
        connection.keep_alive(self._link.opened.heartbeat_seconds, self.last_step)
        begin = messages.StepBegin(
            step=self.last_step + 1, learning_rates=learning_rates, parameter_rms=parameter_rms
        )
        return Draft(
            connection, begin, self._grid(), self._gradient_encoding, checksums=self._checksums
        )

    def settle(self) -> int:
        """Makes sure that the daemon has all steps of this stream; returns the last one.

        Raises:
            MnemosyneError: As step().
        """
        patience = self._patience(free_tries=1 if self._link.is_connected else 0)
        while True:
            try:
                self._ready()
            except (UnavailableError, ResourceExhaustedError) as error:
                self._wait(patience, error)
            except SupersededError as error:
                self._link.give_up(error)
                raise
            else:
                patience.succeed()
                return self.last_step

    def snapshot(self, pin: str = "") -> int:
        """Takes a snapshot at the last step of this stream, as Client.snapshot_session() does.

        Raises:
            MnemosyneError: As step() and Client.snapshot_session().
        """
        while True:
            step = self.settle()
            try:
                return self._client.snapshot_session(self._session, pin, step=step)
            except InvalidRequestError as error:
                if error.reason != "NOT_AT_STEP":
                    raise
                self._link.drop()  # The daemon was restarted in between.

    def update_session(self, **changes: Any) -> messages.Session:
        """Changes values of the session from the next step on, as Client.update_session() does.

        Steps that a crash of the daemon could lose are made durable first: sent again later, they
        would be taken with the new values.

        Raises:
            MnemosyneError: As step() and Client.update_session().
        """
        if self._link.opened.keeps_sessions:
            try:
                self.snapshot()
            except (ResourceExhaustedError, ServerError) as error:
                self._tell("durability", f"a change is not safe from a crash: {error.message}")
        return self._client.update_session(self._session, **changes)

    def export_state(self) -> State:
        """Returns the session's state after the last step of this stream.

        Raises:
            MnemosyneError: As step() and Client.export_state().
        """
        while True:
            step = self.settle()
            state = self._client.export_state(self._session)
            if state.header.step == step:
                return state
            self._link.drop()  # The daemon was restarted in between.

    def close(self) -> None:
        """Ends the stream; the session stays. May be called again."""
        self._link.close()
        self._replay.clear()

    def __enter__(self) -> OptimizeStream:
        """Returns the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the stream."""
        self.close()

    def _encode(self, gradients: Sequence[npt.NDArray[Any] | None]) -> list[Any]:
        """Returns the gradients as they travel, flat."""
        if len(gradients) != len(self._shapes):
            raise ValueError(f"{len(gradients)} gradients for {len(self._shapes)} parameters")
        arrays: list[Any] = []
        for number, (gradient, shape) in enumerate(zip(gradients, self._shapes)):
            if gradient is not None and gradient.shape != shape:
                raise ValueError(
                    f"the gradient of parameter {number} has shape {gradient.shape}, "
                    f"expected {shape}"
                )
            arrays.append(None if gradient is None else encode(gradient, self._gradient_encoding))
        return arrays

    def _step(
        self, begin: messages.StepBegin, arrays: list[Any], draft: Draft | None
    ) -> StepResult:
        """Sends the step until it is answered."""
        patience = self._patience(free_tries=1 if self._link.is_connected else 0)
        while True:
            try:
                connection = self._ready()
                begin.step = self.last_step + 1
                result = self._exchange(connection, begin, arrays, draft)
            except (UnavailableError, ResourceExhaustedError) as error:
                self._wait(patience, error)
            except SupersededError as error:
                self._link.give_up(error)
                raise
            except (SessionLostError, ServerError):
                self._link.drop()
                raise
            except (KeyboardInterrupt, SystemExit):
                # Whether the step was applied is unknown; the next open tells.
                self._link.drop()
                self._link.last_step = None
                raise
            else:
                patience.succeed()
                self._link.last_step = result.step
                self._keep(begin, arrays, result.statistics)
                return result

    def _ready(self) -> Connection:
        """Returns a connection to a daemon that has all steps before the next one."""
        connection = self._link.connect()
        if self._link.open_count > self._seen_opens:
            self._seen_opens = self._link.open_count
            self._tell("reconnected", f"connected again; the daemon is at {self._link.daemon_step}")
        first, last = self._link.daemon_step + 1, self.last_step
        if first > last:
            return connection
        if not self._replay.has(first, last):
            self._link.daemon_step = last
            self._tell("lost", f"the daemon lost steps {first} to {last} for good", first, last)
            return connection
        for step in range(first, last + 1):
            begin, arrays = self._replay.get(step)
            # Its update was applied the first time.
            self._exchange(connection, begin, arrays, None)
            self._link.daemon_step = step
        self._tell("resent", f"the daemon had lost steps {first} to {last}", first, last)
        return connection

    def _keep(self, begin: messages.StepBegin, arrays: list[Any], done: messages.StepDone) -> None:
        """Keeps a step as long as the daemon could lose it."""
        if done.durability_error != self._durability_error:
            self._durability_error = done.durability_error
            error = done.durability_error or "none"
            self._tell("durability", f"the daemon's error with keeping steps is now: {error}")
        self._link.daemon_step = begin.step
        if not self._link.opened.keeps_sessions:
            return
        self._replay.trim(done.last_durable_step)
        if begin.step > done.last_durable_step:
            self._replay.add(begin, arrays)

    def _tell(self, kind: EventKind, message: str, first: int = 0, last: int = 0) -> None:
        logger.warning("%s: %s", self._session.name, message)
        if self._on_event is not None:
            self._on_event(StreamEvent(kind, message, first, last))

    def _exchange(
        self,
        connection: Connection,
        begin: messages.StepBegin,
        arrays: list[Any],
        draft: Draft | None,
    ) -> StepResult:
        """Sends the step over the connection and reads its answer."""
        opened = self._link.opened
        assembler = UpdateAssembler(self._shapes, opened.cell_elements, opened.update_encoding)
        connection.keep_alive(opened.heartbeat_seconds, begin.step - 1)
        if draft is not None and draft.fits(connection, begin):
            rest = [None if draft.has(i) else array for i, array in enumerate(arrays)]
            end = messages.StepEnd(
                step=begin.step, loss=begin.loss if begin.HasField("loss") else None
            )
            connection.send(self._requests(messages.OptimizeRequest(), end, rest))
        else:
            end = messages.StepEnd(step=begin.step)
            connection.send(self._requests(messages.OptimizeRequest(begin=begin), end, arrays))
        # The daemon counts as gone after this long without a message.
        longest_silence = max(3.0 * opened.heartbeat_seconds, self._client.timeout)
        while True:
            response = connection.receive(longest_silence)
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
        self, request: messages.OptimizeRequest, end: messages.StepEnd, arrays: list[Any]
    ) -> Iterator[messages.OptimizeRequest]:
        """Yields `request`, filled with chunks, and all that follow it until the end."""
        groups = self._grid().pack(arrays, checksums=self._checksums)
        pending = next(groups)
        for group in groups:
            request.chunks.extend(pending)
            yield request
            request, pending = messages.OptimizeRequest(), group
        request.chunks.extend(pending)
        request.end.CopyFrom(end)
        yield request

    def _grid(self) -> Grid:
        opened = self._link.opened
        return Grid(self._sizes, opened.cell_elements, opened.message_bytes_max)

    def _connect(self) -> None:
        """Connects with the patience of the policy."""
        patience = self._patience()
        while True:
            try:
                self._link.connect()
            except (UnavailableError, ResourceExhaustedError) as error:
                self._wait(patience, error)
            else:
                patience.succeed()
                return

    def _wait(self, patience: Patience, error: UnavailableError | ResourceExhaustedError) -> None:
        """Waits for what passes by itself, with the patience of the policy; raises other errors."""
        if isinstance(error, ResourceExhaustedError):
            # Memory may come free as long as the daemon says when to ask again.
            memory = error.reason == "MEMORY_EXHAUSTED" and "retry_after_ms" in error.metadata
            if memory:
                self._link.drop()  # It ended the stream.
            elif error.reason not in ("QUEUE_FULL", "RATE_LIMITED"):
                raise error
            error = UnavailableError(error.message, code=error.code, reason=error.reason)
        else:
            self._link.drop()
            self._client.renew(error)
        patience.pause(error)

    def _patience(self, *, free_tries: int = 0) -> Patience:
        return Patience(
            self._client.wait_policy,
            f"the daemon at {self._client.address}",
            free_tries=free_tries,
        )
