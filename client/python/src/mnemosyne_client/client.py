"""The calls of a daemon."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy.typing as npt

from mnemosyne_client import messages
from mnemosyne_client._wire import Methods
from mnemosyne_client.attention import Attention, AttentionStream, Kernel
from mnemosyne_client.caller import Caller
from mnemosyne_client.credentials import Credentials
from mnemosyne_client.errors import UnavailableError
from mnemosyne_client.patience import OnUnavailable, WaitPolicy
from mnemosyne_client.session import Session, State
from mnemosyne_client.stream import OptimizeStream, StepResult
from mnemosyne_client.tensors import Grid, UpdateAssembler, encode, encoding_number

Durability = Literal["snapshot", "step"]

StatePrecision = Literal["full", "half"]

_DURABILITIES = {
    "snapshot": messages.DURABILITY_SNAPSHOT,
    "step": messages.DURABILITY_STEP,
}
_STATE_PRECISIONS = {
    "full": messages.STATE_PRECISION_FULL,
    "half": messages.STATE_PRECISION_HALF,
}


class Client:
    """A daemon.

    All methods may be called from several threads. The channel is made at the first call, so
    that a client may be made before a fork and used after it. A process that has made calls may
    fork, for data loaders for example; a call in the child raises RuntimeError.

    Every method raises UnavailableError if the daemon is away for longer than the policy allows,
    ServerError if it fails, and the errors that it documents.
    """

    def __init__(
        self,
        address: str,
        *,
        on_unavailable: OnUnavailable = "wait",
        wait_seconds: float = 600.0,
        timeout: float = 60.0,
        credentials: Credentials | None = None,
    ) -> None:
        """Makes a client; connects at the first call.

        Args:
            address: `host:port`, or `unix:/path` of the daemon's socket.
            on_unavailable: `wait` tries again while the daemon is away and says so in the log
                `mnemosyne_client`; `raise` gives up at once.
            wait_seconds: The longest wait of one call or step, in seconds.
            timeout: How long one try of a call may take, in seconds. A stream takes a daemon that
                sends nothing for this long as gone.
            credentials: What to trust and to show; None is plaintext and no name.

        Raises:
            ValueError: An access token would travel in plaintext beyond this machine.
        """
        policy = WaitPolicy(on_unavailable, wait_seconds)
        self._caller = Caller(address, policy, timeout, credentials)

    @property
    def address(self) -> str:
        """The daemon's address."""
        return self._caller.address

    @property
    def wait_policy(self) -> WaitPolicy:
        """What to do while the daemon is away."""
        return self._caller.wait_policy

    @property
    def timeout(self) -> float:
        """How long one try of a call may take, in seconds."""
        return self._caller.timeout

    def renew(self, error: UnavailableError) -> None:
        """Lets the next call open another channel, unless the daemon answered on this one.

        Args:
            error: Why the last try failed.
        """
        if not error.reason:
            self._caller.renew()

    @property
    def methods(self) -> Methods:
        """The service's methods on this process's channel."""
        return self._caller.methods

    def server_info(self) -> messages.GetServerInfoResponse:
        """Returns what the daemon is and what it allows."""
        request = messages.GetServerInfoRequest()
        return self._caller.call("get_server_info", request, messages.GetServerInfoResponse)

    def list_optimizers(self) -> list[messages.Optimizer]:
        """Returns the optimizers that a session can name."""
        request = messages.ListOptimizersRequest()
        response = self._caller.call("list_optimizers", request, messages.ListOptimizersResponse)
        return list(response.optimizers)

    def list_models(self) -> list[messages.Optimizer]:
        """Returns the learned optimizers: each version of meta-trained weights, with its hash.

        Versions of a name come oldest first; the last is what a session gets by default.
        """
        return [optimizer for optimizer in self.list_optimizers() if optimizer.learned]

    def reload_models(self) -> messages.ReloadModelsResponse:
        """Lets the daemon read its folders of models again; returns what changed.

        Sessions keep the weights that they were made with. A file that cannot be served is named
        under `refused` and takes nothing away.
        """
        request = messages.ReloadModelsRequest()
        return self._caller.call("reload_models", request, messages.ReloadModelsResponse)

    def create_session(
        self,
        optimizer: str,
        parameters: Sequence[messages.ParameterSpec],
        *,
        hyperparameters: Mapping[str, float] | None = None,
        groups: Sequence[messages.ParameterGroup] = (),
        schedule: messages.LearningRateSchedule | None = None,
        clipping: messages.GradientClipping | None = None,
        non_finite_policy: int = messages.NON_FINITE_POLICY_REJECT,
        optimizer_version: str = "",
        weights_hash: str = "",
        horizon: int | None = None,
        label: str = "",
        request_id: str | None = None,
        durability: Durability = "snapshot",
        state_precision: StatePrecision = "full",
    ) -> Session:
        """Makes a session and reserves its memory.

        Args:
            optimizer: Such as `adamw`; list_optimizers() has all of them.
            parameters: At least one. Their order is that of the gradients and updates.
            hyperparameters: Values for all groups; what is not here has its default.
            groups: Groups of parameters, with values of their own.
            schedule: The schedule of the learning rate; None is constant.
            clipping: Bounds on gradients; None is none.
            non_finite_policy: What happens to gradients that are not finite.
            optimizer_version: None given is the newest.
            weights_hash: SHA-256 of a learned optimizer's weights, to get no others; none given
                is any. `session.details.spec.weights_hash` tells those chosen.
            horizon: How many steps the job will take, if it knows.
            label: A name for people.
            request_id: A unique text of 1 to 128 bytes. A second call with the same one returns
                the same session, also in another process: so a job that starts again finds its
                session. Keep it as secret as the token, which it stands for.
            durability: When a step survives a crash of a daemon that keeps sessions: with the next
                `snapshot`, or as a `step`, before it is answered.
            state_precision: `half` keeps 16 bits of each number that the state has for an
                element, for optimizers whose entry in list_optimizers() has `half_state`.

        Raises:
            InvalidRequestError: The daemon refuses a value; the message says what is allowed.
            ResourceExhaustedError: There is no room; the message says what would fit.
        """
        spec = messages.SessionSpec(
            optimizer=optimizer,
            optimizer_version=optimizer_version,
            weights_hash=weights_hash,
            parameters=parameters,
            groups=groups,
            hyperparameters=hyperparameters or {},
            schedule=schedule,
            clipping=clipping,
            non_finite_policy=non_finite_policy,
            horizon=horizon,
            label=label,
            durability=_DURABILITIES[durability],
            state_precision=_STATE_PRECISIONS[state_precision],
        )
        request = messages.CreateSessionRequest(
            request_id=uuid.uuid4().hex if request_id is None else request_id, spec=spec
        )
        response = self._caller.call("create_session", request, messages.CreateSessionResponse)
        # A daemon need not repeat the parameters, which may be many.
        del response.session.spec.parameters[:]
        response.session.spec.parameters.extend(spec.parameters)
        return Session(response.session.name, response.token, response.session)

    def get_session(self, name: str) -> messages.Session:
        """Returns a session.

        Raises:
            SessionLostError: There is no such session.
        """
        request = messages.GetSessionRequest(name=name)
        return self._caller.call("get_session", request, messages.GetSessionResponse).session

    def attach(self, name: str, token: str) -> Session:
        """Returns the session of another client for use by this one.

        Raises:
            SessionLostError: There is no such session.
        """
        return Session(name, token, self.get_session(name))

    def list_sessions(self) -> Iterator[messages.Session]:
        """Yields all sessions in order of creation, without their parameters."""
        request = messages.ListSessionsRequest()
        while True:
            response = self._caller.call("list_sessions", request, messages.ListSessionsResponse)
            yield from response.sessions
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def update_session(self, session: Session, **changes: Any) -> messages.Session:
        """Changes values of a session from the next step on.

        Args:
            session: The session.
            **changes: Any of `hyperparameters`, `groups`, `schedule`, `clipping`,
                `non_finite_policy` and `label`, as create_session() takes them. Hyper-parameters
                and groups are merged with what there is; groups must be as many as before.

        Raises:
            InvalidRequestError: A value is not allowed; nothing was changed.
            SessionLostError: There is no such session.
        """
        request = messages.UpdateSessionRequest(
            name=session.name,
            token=session.token,
            spec=messages.SessionSpec(**changes),
            update_mask=messages.FieldMask(paths=list(changes)),
        )
        return self._caller.call("update_session", request, messages.UpdateSessionResponse).session

    def delete_session(self, session: Session) -> None:
        """Ends a session and frees its memory.

        Raises:
            SessionLostError: There is no such session.
            InvalidRequestError: The token is not the session's.
        """
        request = messages.DeleteSessionRequest(name=session.name, token=session.token)
        self._caller.call("delete_session", request, messages.DeleteSessionResponse)

    def open_stream(self, session: Session, **options: Any) -> OptimizeStream:
        """Opens a stream on a session; see OptimizeStream for the options and errors."""
        return OptimizeStream(self, session, **options)

    def step(
        self,
        session: Session,
        step: int,
        gradients: Sequence[npt.NDArray[Any] | None],
        *,
        epoch: int = 0,
        loss: float | None = None,
        learning_rates: Sequence[float] = (),
        encoding: str = "float32",
    ) -> tuple[StepResult, int]:
        """Runs one step of a small model in a single call.

        Args:
            session: The session.
            step: The step's number: 1, then the last plus 1, or the last again.
            gradients: As OptimizeStream.step() takes them.
            epoch: The epoch that the last call returned; 0 takes the session over.
            loss: The training loss, if it is to be told.
            learning_rates: One value a group, in place of the group's value and the schedule.
            encoding: The encoding of gradients and updates.

        Returns:
            The result and the session's epoch.

        Raises:
            InvalidRequestError: The daemon refused the step; it was not applied.
            SupersededError: Somebody else took the session over.
            SessionLostError: There is no such session.
            ResourceExhaustedError: The step is larger than a message.
        """
        number = encoding_number(encoding)
        cell_elements = session.details.cell_elements
        arrays = [None if g is None else encode(g, number) for g in gradients]
        request = messages.StepRequest(
            session=session.name,
            token=session.token,
            epoch=epoch,
            begin=messages.StepBegin(
                step=step,
                loss=loss,
                learning_rates=learning_rates,
                absent_parameters=[i for i, array in enumerate(arrays) if array is None],
            ),
            gradient_encoding=number,
            update_encoding=number,
        )
        for group in Grid(session.sizes, cell_elements).pack(arrays, checksums=False):
            request.chunks.extend(group)
        response = self._caller.call("step", request, messages.StepResponse)
        assembler = UpdateAssembler(session.shapes, cell_elements, number)
        for chunk in response.chunks:
            assembler.add(chunk)
        result = StepResult(response.done.step, assembler.updates(), response.done)
        return result, response.epoch

    def export_state(self, session: Session) -> State:
        """Returns the state of a session between two steps.

        Raises:
            SessionLostError: There is no such session.
            InvalidRequestError: The token is not the session's.
        """
        request = messages.ExportStateRequest(name=session.name, token=session.token)

        def read() -> State:
            answers = self.methods.export_state(request)
            return State.of_parts(answer.part for answer in answers)

        return self._caller.with_patience(read)

    def import_state(self, session: Session, state: State) -> messages.Session:
        """Replaces the state of a session; it goes on at the step after the state's.

        A stream on the session is superseded. A broken import changes nothing.

        Raises:
            InvalidRequestError: The state belongs to other parameters or another optimizer.
            ResourceExhaustedError: There is no room for the new state beside the old one.
            SessionLostError: There is no such session.
        """

        def requests() -> Iterator[messages.ImportStateRequest]:
            for number, part in enumerate(state.parts()):
                request = messages.ImportStateRequest(part=part)
                if number == 0:
                    request.name, request.token = session.name, session.token
                yield request

        def write() -> messages.ImportStateResponse:
            response: messages.ImportStateResponse = self.methods.import_state(requests())
            return response

        return self._caller.with_patience(write).session

    def snapshot_session(self, session: Session, pin: str = "", *, step: int = 0) -> int:
        """Takes a snapshot of a session now; returns its step when it is durable.

        A job that holds a stream uses OptimizeStream.snapshot(), which sends again what a daemon
        that was restarted meanwhile has lost.

        Args:
            session: The session.
            pin: A name to pin it under, of 1 to 64 letters, digits and `.-_`, such as that of the
                checkpoint that is saved at the same step. It is kept until the name is used again.
            step: The step that the session has to stand at; 0 is any.

        Raises:
            InvalidRequestError: The daemon keeps no sessions, the name is not allowed, or the
                session stands at another step (`NOT_AT_STEP`).
            ResourceExhaustedError: The disk is full, or there are too many pinned snapshots.
            SessionLostError: There is no such session.
        """
        request = messages.SnapshotSessionRequest(
            name=session.name, token=session.token, pin=pin, step=step
        )
        response = self._caller.call("snapshot_session", request, messages.SnapshotSessionResponse)
        return response.step

    def rewind_session(self, session: Session, pin: str) -> messages.Session:
        """Takes a session back to a pinned snapshot; it goes on at the step after it.

        A stream on the session is superseded: open another one.

        Raises:
            InvalidRequestError: No snapshot is pinned under that name; the message lists those.
            SessionLostError: There is no such session.
        """
        request = messages.RewindSessionRequest(name=session.name, token=session.token, pin=pin)
        response = self._caller.call("rewind_session", request, messages.RewindSessionResponse)
        return response.session

    def list_kernels(self) -> messages.ListKernelsResponse:
        """Returns what kernels of attention can be made of, and the bounds of sizes."""
        return self._caller.call(
            "list_kernels", messages.ListKernelsRequest(), messages.ListKernelsResponse
        )

    def attend(
        self,
        q: npt.ArrayLike,
        k: npt.ArrayLike,
        v: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        *,
        kernel: Kernel | None = None,
        mask: npt.ArrayLike | None = None,
        sequence_starts: Sequence[int] = (),
    ) -> Attention:
        """Attends on the daemon's device, within one block; see AttentionStream.attend.

        Args:
            q: Queries [batch, heads, length, dim].
            k: Keys, as the queries.
            v: Values [batch, heads, length, value_dim].
            positions: [length], [length, l] or [batch, length, l]; by default 0, 1, 2, ...
            kernel: What is computed; by default FAVOR+ without positions.
            mask: [batch, length], 0 for padding.
            sequence_starts: Where packed sequences start, and the length at the end.

        Raises:
            InvalidRequestError: The daemon found something wrong with the arrays.
            ResourceExhaustedError: There is no room for the block.
        """
        with self.open_attention(kernel) as stream:
            return stream.attend(q, k, v, positions, mask=mask, sequence_starts=sequence_starts)

    def open_attention(
        self, kernel: Kernel | None = None, *, keep_state: bool = False
    ) -> AttentionStream:
        """Returns a stream of blocks; with `keep_state`, pieces of one causal sequence."""
        return AttentionStream(
            self.methods.attend, kernel if kernel is not None else Kernel(), keep_state=keep_state
        )

    def drain(self) -> None:
        """Asks the daemon to end as SIGTERM does; only over its Unix-domain socket."""
        self._caller.call("drain", messages.DrainRequest(), messages.DrainResponse)

    def current_epoch(self, name: str) -> int:
        """Returns a session's epoch in a single try.

        Raises:
            SessionLostError: There is no such session.
        """
        request = messages.GetSessionRequest(name=name)
        response = self._caller.call_once("get_session", request, messages.GetSessionResponse)
        return response.session.epoch

    def close(self) -> None:
        """Closes the channel; streams on it end. A later call opens another one."""
        self._caller.close()

    def __enter__(self) -> Client:
        """Returns the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the client."""
        self.close()
