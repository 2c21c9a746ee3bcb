"""An optimizer of PyTorch whose state and arithmetic live in a daemon."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from mnemosyne_client import messages
from mnemosyne_client._torch_layers import LayerHints, hint_of_name, hints_of_model
from mnemosyne_client._torch_lease import Lease
from mnemosyne_client._torch_options import OptionTable
from mnemosyne_client._torch_overlap import BackwardOverlap
from mnemosyne_client._torch_state import MASTER, fill_state, merge_states, tensors_of_state
from mnemosyne_client._torch_tensors import ParameterMirror
from mnemosyne_client.client import Client, Durability, StatePrecision
from mnemosyne_client.draft import Draft
from mnemosyne_client.errors import InvalidRequestError, SessionLostError
from mnemosyne_client.patience import OnUnavailable
from mnemosyne_client.replay import StreamEvent
from mnemosyne_client.session import Session

_STATE_KEY = "mnemosyne"
_STATE_FORMAT = 1


class RemoteOptimizer(torch.optim.Optimizer):
    """A `torch.optim.Optimizer` that runs in a daemon.

    `param_groups`, `zero_grad`, closures, learning-rate schedulers, `GradScaler`, `state_dict` and
    `load_state_dict` work as with torch.optim. Options have PyTorch's names (`lr`, `betas`, `eps`,
    `weight_decay`, `momentum`, ...) and mean the same: with `sgd` and `adam`, `weight_decay` is
    added to the gradient. Changes of a group's options count from the next step.

    Parameters are float32, float64, bfloat16 or float16, on any device. Those of 16 bits have a
    float32 copy here, to which updates are added. A parameter whose `grad` is None is left out of
    a step.

    The session belongs to this object and is deleted with it, at the latest when the interpreter
    exits, unless a `request_id` was given.

    Not thread-safe. Data loaders may fork; a step in a forked child raises RuntimeError.
    """

    def __init__(
        self,
        params: Iterable[Any],
        address: str | Client,
        optimizer: str = "adamw",
        *,
        optimizer_version: str = "",
        clip_global_norm: float | None = None,
        clip_tensor_norm: float | None = None,
        schedule: messages.LearningRateSchedule | None = None,
        non_finite_policy: int = messages.NON_FINITE_POLICY_REJECT,
        gradient_encoding: str = "float32",
        update_encoding: str = "float32",
        checksums: bool = False,
        overlap_backward: bool = False,
        on_unavailable: OnUnavailable = "wait",
        wait_seconds: float = 600.0,
        request_id: str | None = None,
        label: str = "",
        model: torch.nn.Module | None = None,
        durability: Durability = "snapshot",
        replay_bytes: int = 256 << 20,
        replay_folder: str | None = None,
        on_event: Callable[[StreamEvent], None] | None = None,
        state_precision: StatePrecision = "full",
        **options: Any,
    ) -> None:
        """Makes the session.

        Args:
            params: Tensors, groups of tensors, or `model.named_parameters()`.
            address: `host:port`, `unix:/path`, or a client, whose waiting policy then counts.
            optimizer: Its name; `Client.list_optimizers()` has all of them.
            optimizer_version: Its version; empty for the newest.
            clip_global_norm: Bound on the norm of all gradients together, kept by the daemon.
            clip_tensor_norm: Bound on the norm of each gradient, kept by the daemon.
            schedule: A schedule of the learning rate that the daemon carries out. A scheduler of
                PyTorch takes its place as soon as it changes `lr`.
            non_finite_policy: What happens to a step with NaN or infinities.
            gradient_encoding: How gradients travel: `float32`, `bfloat16` or `float16`.
            update_encoding: How updates travel.
            checksums: Whether chunks carry checksums.
            overlap_backward: Whether gradients leave while the backward pass computes others. It
                cannot be used with GradScaler, accumulated gradients or clipping in the training
                loop; step() then raises RuntimeError.
            on_unavailable: `wait` for a daemon that is away, or `raise`.
            wait_seconds: The longest wait of a step, in seconds.
            request_id: A unique text of this job, such as a UUID that it keeps. With it, the
                session outlives this object, and a process that starts again with the same text
                gets it back. Keep it secret: whoever knows it gets the session.
            label: A name of the session for people.
            model: The model whose layers tell the fan-in of each parameter, which learned
                optimizers use. Without it, a tensor of two axes or more is taken for PyTorch's
                [outputs, inputs, ...], or for an embedding if its name says so.
            durability: When a step survives a crash of a daemon that keeps sessions: with the next
                `snapshot`, or as a `step`, before it is answered.
            replay_bytes: As OptimizeStream takes it.
            replay_folder: As OptimizeStream takes it.
            on_event: As OptimizeStream takes it.
            state_precision: `half` keeps a state of 16 bits a number, for optimizers that have one.
            **options: Options of the optimizer for groups that do not set them.

        Raises:
            TypeError: The optimizer has no such option; the message lists those it has.
            ValueError: Values that do not fit together.
            InvalidRequestError: The daemon refuses the optimizer, a value or a parameter.
            ResourceExhaustedError: The daemon has no room for the session.
            UnavailableError: The daemon is away for longer than the policy allows.
        """
        if isinstance(address, Client):
            self._client = address
        else:
            self._client = Client(address, on_unavailable=on_unavailable, wait_seconds=wait_seconds)
        self._options = self._find_options(optimizer, optimizer_version)
        self._session_options: dict[str, Any] = {
            "optimizer_version": optimizer_version,
            "schedule": schedule,
            "clipping": messages.GradientClipping(
                global_norm=clip_global_norm, tensor_norm=clip_tensor_norm
            ),
            "non_finite_policy": non_finite_policy,
            "label": label,
            "durability": durability,
            "state_precision": state_precision,
        }
        self._stream_options = {
            "gradient_encoding": gradient_encoding,
            "update_encoding": update_encoding,
            "checksums": checksums,
            "replay_bytes": replay_bytes,
            "replay_folder": replay_folder,
            "on_event": on_event,
        }
        self._optimizer_name = optimizer
        self._request_id = request_id
        self._clips = clip_global_norm is not None or clip_tensor_norm is not None
        self._lease = Lease(self._client, os.getpid(), delete=request_id is None)
        self._group_values: list[dict[str, float]] = []
        self._names: dict[torch.Tensor, str] = {}
        self._hints = {} if model is None else hints_of_model(model)
        self._scales_are_due = False
        self._scales: list[float] = []
        self._mirrors: list[ParameterMirror] = []
        self._overlaps_backward = overlap_backward
        self._overlap: BackwardOverlap | None = None
        # Asks a GradScaler to hand itself over: it changes gradients without leaving a trace.
        self._step_supports_amp_scaling = overlap_backward
        self._told_loss: float | None = None
        super().__init__(self._strip_names(params), self._options.accept(options))
        self._make_session()
        weakref.finalize(self, Lease.release, self._lease)

    @property
    def session(self) -> Session:
        """The session in the daemon."""
        if self._lease.session is None:
            raise RuntimeError("the optimizer is closed")
        return self._lease.session

    def tell_loss(self, loss: Any) -> None:
        """Tells the training loss of the coming step; learned optimizers read it.

        It is optional, and as good told now and then as never: an optimizer that is not told goes
        by the gradients alone. Their guard can only notice a loss that jumps if it is told.

        Args:
            loss: A number or a tensor of one element; reading one of a GPU waits for the GPU.
        """
        self._told_loss = _number(loss)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Sends the gradients and applies the updates.

        Args:
            closure: Evaluates the model again and returns the loss, if given.

        Returns:
            What the closure returned.

        Raises:
            InvalidRequestError: The daemon refuses the step, for example because of a NaN. Neither
                the parameters nor the state have changed.
            SessionLostError: The daemon has lost the session; load a checkpoint to go on.
            SupersededError: Another process has taken the session over.
            UnavailableError: The daemon is away for longer than the policy allows. The same step
                may be tried again as long as the gradients are the same.
        """
        self._refuse_scaler()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            self._take_step(self._told_loss if loss is None else _number(loss))
        self._told_loss = None
        return loss

    def _refuse_scaler(self) -> None:
        """Raises RuntimeError if a GradScaler calls, which it only says where it was asked to."""
        handed = [self.__dict__.pop(name, None) for name in ("grad_scale", "found_inf")]
        if any(value is not None for value in handed) and self._overlap is not None:
            self._overlap.refuse_scaler()

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Resets the gradients, as in torch.optim."""
        super().zero_grad(*args, **kwargs)
        if self._overlap is not None:
            self._overlap.discard()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; from the second step on, the state so far is carried over.

        Args:
            param_group: `params` and options, as in torch.optim.
        """
        group = dict(param_group)
        params = group["params"]
        if not isinstance(params, torch.Tensor):
            group["params"] = list(self._strip_names(params))
        super().add_param_group(group)
        if self._lease.session is not None:
            self._grow_session()

    def state_dict(self) -> Any:
        """Returns the whole state, exported from the daemon.

        `state` has PyTorch's own layout where the optimizer has one there; the dictionary holds no
        token and fits any daemon.
        """
        stream = self._lease.stream
        if stream is not None and stream.opened.keeps_sessions:
            exported = stream.export_state()
        else:
            exported = self._client.export_state(self.session)
        entries = tensors_of_state(exported)
        for mirror, entry in zip(self._mirrors, entries):
            if mirror.master is not None:
                entry[MASTER] = mirror.master.clone()
            if entry:
                self.state[mirror.parameter] = entry
        try:
            result = super().state_dict()
        finally:
            self.state.clear()
        result[_STATE_KEY] = {
            "format": _STATE_FORMAT,
            "optimizer": self._optimizer_name,
            "version": exported.header.spec.optimizer_version,
            "step": int(exported.header.step),
            "parameter_steps": list(exported.header.parameter_steps),
        }
        return result

    def load_state_dict(self, state_dict: Any) -> None:
        """Replaces the daemon's state; the next step goes on from there.

        Works on any daemon, also on one that has lost the session, and with a state_dict of
        torch.optim's optimizer of the same name.

        Args:
            state_dict: What state_dict() returned. Load the model's parameters beside it.

        Raises:
            ValueError: It belongs to other parameters or another optimizer.
        """
        extra = state_dict.get(_STATE_KEY, {})
        if extra.get("optimizer", self._optimizer_name) != self._optimizer_name:
            raise ValueError(
                f"the state_dict is of {extra['optimizer']}, this optimizer is "
                f"{self._optimizer_name}"
            )
        if extra.get("format", _STATE_FORMAT) != _STATE_FORMAT:
            raise ValueError(f"the state_dict has format {extra['format']}, expected 1")
        super().load_state_dict({"state": {}, "param_groups": state_dict["param_groups"]})
        self.state.clear()
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        entries = state_dict["state"]
        try:
            state = self._client.export_state(self.session)
        except SessionLostError:
            self._make_session()
            state = self._client.export_state(self.session)
        fill_state(state, entries, extra.get("step"), extra.get("parameter_steps"))
        self._lease.close_stream()
        self._client.import_state(self.session, state)
        for number, mirror in enumerate(self._mirrors):
            mirror.reset(entries.get(number, {}).get(MASTER))

    def snapshot(self, pin: str = "") -> int:
        """Lets the daemon keep the state of now; returns its step when it is on the disk.

        Args:
            pin: A name for rewind(), as Client.snapshot_session() takes it.

        Raises:
            MnemosyneError: As OptimizeStream.snapshot().
        """
        return self._lease.open_stream(self._stream_options).snapshot(pin)

    def rewind(self, pin: str) -> int:
        """Goes back to the state that was kept under `pin`; returns its step.

        The trainer that goes back to a checkpoint loads the model's parameters beside it. Made for
        an optimizer with a `request_id`, whose session a restarted process finds again. Options of
        the groups are told anew where they differ.

        Raises:
            ValueError: There are parameters of 16 bits, whose float32 copies are here alone; use
                state_dict().
            MnemosyneError: As Client.rewind_session().
        """
        if any(mirror.master is not None for mirror in self._mirrors):
            raise ValueError("parameters of 16 bits go back by load_state_dict()")
        self._lease.close_stream()
        session = self._client.rewind_session(self.session, pin)
        self._group_values = [dict(g.hyperparameters) for g in session.spec.groups]
        return session.last_step

    def close(self) -> None:
        """Ends the stream, and the session if it belongs to this object. May be called again."""
        self._lease.release()

    def __getstate__(self) -> Any:
        """Refuses to be pickled or copied.

        Raises:
            TypeError: Always; two objects cannot own one session.
        """
        raise TypeError("a RemoteOptimizer cannot be copied or pickled; use state_dict()")

    def _find_options(self, name: str, version: str) -> OptionTable:
        """Returns the options that the daemon lists for an optimizer."""
        optimizers = self._client.list_optimizers()
        found = [o for o in optimizers if o.name == name and version in ("", o.version)]
        if not found:
            there_are = ", ".join(f"{o.name} (version {o.version})" for o in optimizers)
            raise InvalidRequestError(
                f"the daemon has no optimizer {' '.join((name, version)).strip()!r}; it has "
                f"{there_are}",
                code="NOT_FOUND",
                reason="UNKNOWN_OPTIMIZER",
            )
        return OptionTable(found[-1])

    def _strip_names(self, params: Iterable[Any]) -> Iterator[Any]:
        """Yields `params` without the names of `named_parameters()`, which are kept."""
        if isinstance(params, torch.Tensor):
            raise TypeError("params is an iterable of tensors or dicts, not a tensor")
        for item in params:
            if isinstance(item, tuple):
                name, tensor = item
                self._names[tensor] = name
                yield tensor
            else:
                yield item

    def _flat_parameters(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yields the group's number and the parameter, in the order of the session."""
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                yield number, parameter

    def _make_session(self) -> None:
        """Makes a session with the groups and parameters of now."""
        self._check_clipping()
        known = {mirror.parameter: mirror for mirror in self._mirrors}
        self._mirrors = [known.get(p) or ParameterMirror(p) for _, p in self._flat_parameters()]
        values = [self._options.daemon_values(group) for group in self.param_groups]
        specs = [
            messages.ParameterSpec(
                name=self._names.get(parameter, str(number)),
                shape=list(parameter.shape),
                data_type=self._mirrors[number].data_type,
                group=group,
                role=self._hint_of(parameter).role,
                fan_in=self._hint_of(parameter).fan_in,
                fan_out=self._hint_of(parameter).fan_out,
            )
            for number, (group, parameter) in enumerate(self._flat_parameters())
        ]
        request_id = uuid.uuid4().hex
        if self._request_id is not None:
            request_id = f"{self._request_id}/{len(self.param_groups)}"
        session = self._client.create_session(
            self._optimizer_name,
            specs,
            groups=[messages.ParameterGroup(hyperparameters=v) for v in values],
            request_id=request_id,
            **self._session_options,
        )
        self._lease.close_stream()
        self._lease.session = session
        self._scales_are_due = bool(session.details.spec.weights_hash)
        self._scales = []
        self._group_values = [dict(g.hyperparameters) for g in session.details.spec.groups]
        self._hook_parameters()

    def _hook_parameters(self) -> None:
        """Lets gradients leave during the backward pass, if that is wanted."""
        if not self._overlaps_backward:
            return
        if self._overlap is not None:
            self._overlap.remove()
        # A weak reference, so that the hooks do not keep the optimizer alive.
        this = weakref.ref(self)

        def begin() -> tuple[Draft, list[float]] | None:
            optimizer = this()
            if optimizer is None or optimizer._lease.session is None:
                return None
            stream = optimizer._lease.open_stream(optimizer._stream_options)
            draft = stream.begin_early(optimizer._tell_changed_values(), optimizer._due_scales())
            return None if draft is None else (draft, optimizer._decay_of_each())

        self._overlap = BackwardOverlap(self._mirrors, begin)

    def _decay_of_each(self) -> list[float]:
        """Returns what each parameter is multiplied by before it is added to its gradient."""
        decays = [self._options.coupled_decay(group) for group in self.param_groups]
        return [decays[group] for group, _ in self._flat_parameters()]

    def _grow_session(self) -> None:
        """Moves the state into a new session that has the added parameters too."""
        old = self.session
        state = self._client.export_state(old)
        self._make_session()
        if state.header.step > 0 and self.session.details.last_step == 0:
            grown = self._client.export_state(self.session)
            merge_states(state, grown)
            self._client.import_state(self.session, grown)
        self._client.delete_session(old)

    def _check_clipping(self) -> None:
        if self._clips and any(self._options.coupled_decay(g) for g in self.param_groups):
            raise ValueError(
                f"weight_decay of {self._optimizer_name} is added to the gradient, so the daemon "
                "would clip it with the gradient; use adamw, or clip in the training loop"
            )

    def _take_step(self, loss: float | None) -> None:
        draft = None if self._overlap is None else self._overlap.finish()
        for number, (mirror, decay) in enumerate(zip(self._mirrors, self._decay_of_each())):
            if draft is None or not draft.has(number):
                mirror.start_gradient(decay)
        gradients = [mirror.finish_gradient() for mirror in self._mirrors]
        if all(gradient is None for gradient in gradients):
            return
        learning_rates = self._tell_changed_values()
        result = self._lease.open_stream(self._stream_options).step(
            gradients,
            loss=loss,
            learning_rates=learning_rates,
            parameter_rms=self._due_scales(),
            draft=draft,
        )
        self._scales_are_due, self._scales = False, []
        for mirror, update in zip(self._mirrors, result.updates):
            mirror.forget_gradient()
            if update is not None:
                mirror.apply(update)

    def _hint_of(self, parameter: torch.Tensor) -> LayerHints:
        hint = self._hints.get(parameter)
        return hint or hint_of_name(self._names.get(parameter, ""), parameter)

    def _due_scales(self) -> list[float]:
        """Returns the root mean square of each parameter, which learned optimizers start from.

        It is empty once it has been told; until then it is measured once.
        """
        if not self._scales_are_due or self._scales:
            return self._scales
        squares = [p.detach().float().square().mean() for _, p in self._flat_parameters()]
        self._scales = [float(square) ** 0.5 for square in squares]
        return self._scales

    def _tell_changed_values(self) -> list[float]:
        """Tells the daemon of changed options; returns the learning rates if one has changed."""
        values = [self._options.daemon_values(group) for group in self.param_groups]
        rates = [group.get("learning_rate", 0.0) for group in values]
        told_rates = [group.get("learning_rate", 0.0) for group in self._group_values]
        changes = [
            {
                name: value
                for name, value in group.items()
                if name != "learning_rate" and value != told.get(name)
            }
            for group, told in zip(values, self._group_values)
        ]
        if any(changes):
            self._check_clipping()
            groups = [messages.ParameterGroup(hyperparameters=c) for c in changes]
            # A step that was begun during the backward pass is between two snapshots.
            if self._lease.stream is None or self._overlap is not None:
                self._client.update_session(self.session, groups=groups)
            else:
                self._lease.stream.update_session(groups=groups)
            for told, change in zip(self._group_values, changes):
                told.update(change)
        return rates if rates != told_rates else []


def _number(loss: Any) -> float:
    """Returns a loss as a number; PyTorch warns of one that has a graph."""
    return float(loss.detach() if isinstance(loss, torch.Tensor) else loss)
