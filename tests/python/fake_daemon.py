"""A small daemon in this process, with faults on demand."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
from fake_session import DEFAULTS, FakeSession, Refusal

from mnemosyne_client import messages as m
from mnemosyne_client.checksum import crc32c

_METHODS = {
    "ListOptimizers": "unary_unary",
    "ReloadModels": "unary_unary",
    "CreateSession": "unary_unary",
    "GetSession": "unary_unary",
    "ListSessions": "unary_unary",
    "UpdateSession": "unary_unary",
    "DeleteSession": "unary_unary",
    "Step": "unary_unary",
    "GetServerInfo": "unary_unary",
    "Optimize": "stream_stream",
    "ExportState": "unary_stream",
    "ImportState": "stream_unary",
}


class FakeDaemon:
    """Serves on a free port of the loopback until close().

    Faults, each taken once:
        lose_answer: steps that are applied and whose stream then breaks.
        break_step: steps that break the stream before they are applied.
        damage_update: steps whose update arrives with a wrong checksum.
        refuse_opens: how many opens are answered with UNAVAILABLE.
    """

    def __init__(self, *, cell_elements: int = 8):
        self.sessions: dict[str, FakeSession] = {}
        self.lose_answer: set[int] = set()
        self.break_step: set[int] = set()
        self.damage_update: set[int] = set()
        self.refuse_opens = 0
        self.opens = 0
        self.updates: list[m.UpdateSessionRequest] = []
        self._requests: dict[str, FakeSession] = {}
        self._cell_elements = cell_elements
        self._lock = threading.Lock()
        self._server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)]
        )
        handlers = {name: self._handler(name, kind) for name, kind in _METHODS.items()}
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("mnemosyne.v1.OptimizerService", handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(grace=0).wait()

    def session(self, name: str, token: str | None = None) -> FakeSession:
        if name not in self.sessions:
            raise Refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND", f"no session {name}")
        if token is not None and token != self.sessions[name].token:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "WRONG_TOKEN")
        return self.sessions[name]

    def list_optimizers(self, _):
        table = [m.Hyperparameter(name=k, default_value=v) for k, v in DEFAULTS.items()]
        return m.ListOptimizersResponse(
            optimizers=[
                m.Optimizer(name=name, version="1", hyperparameters=table, learned=name == "lstm")
                for name in ("adam", "adamw", "lstm")
            ]
        )

    def reload_models(self, _):
        loaded = m.ModelVersion(name="lstm", version="2", weights_hash="f00d")
        return m.ReloadModelsResponse(loaded=[loaded])

    def create_session(self, request):
        if request.spec.optimizer not in ("adamw", "adam"):
            raise Refusal(
                grpc.StatusCode.NOT_FOUND, "UNKNOWN_OPTIMIZER", "no such optimizer; there is adamw"
            )
        for name in request.spec.hyperparameters:
            if name not in DEFAULTS:
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_HYPERPARAMETER", name)
        with self._lock:
            session = self._requests.get(request.request_id)
            if session is None:
                name = f"sessions/{len(self._requests) + 1}"
                token = f"token-{request.request_id}"
                session = FakeSession(name, token, request.spec, self._cell_elements)
                self.sessions[name] = self._requests[request.request_id] = session
        return m.CreateSessionResponse(session=session.proto, token=session.token)

    def get_session(self, request):
        return m.GetSessionResponse(session=self.session(request.name).proto)

    def list_sessions(self, request):
        """Pages of one session."""
        sessions = [s.proto for s in self.sessions.values()]
        at = int(request.page_token or 0)
        token = str(at + 1) if at + 1 < len(sessions) else ""
        return m.ListSessionsResponse(sessions=sessions[at : at + 1], next_page_token=token)

    def update_session(self, request):
        session = self.session(request.name, request.token)
        self.updates.append(request)
        spec = session.proto.spec
        spec.hyperparameters.update(request.spec.hyperparameters)
        for old, new in zip(spec.groups, request.spec.groups):
            old.hyperparameters.update(new.hyperparameters)
        return m.UpdateSessionResponse(session=session.proto)

    def delete_session(self, request):
        self.session(request.name, request.token)
        del self.sessions[request.name]
        return m.DeleteSessionResponse()

    def get_server_info(self, _):
        return m.GetServerInfoResponse(version="fake", protocol_revision=1)

    def step(self, request):
        session = self.session(request.session, request.token)
        if request.epoch == 0:
            session.proto.epoch += 1
        elif request.epoch != session.proto.epoch:
            raise Refusal(grpc.StatusCode.ABORTED, "SUPERSEDED")
        gradients = session.assemble(request.chunks, request.gradient_encoding)
        updates, decays, replayed = session.step(request.begin, gradients)
        done = m.StepDone(step=request.begin.step, replayed=replayed)
        groups = session.pack(updates, decays, request.update_encoding)
        chunks = [chunk for group in groups for chunk in group]
        return m.StepResponse(epoch=session.proto.epoch, chunks=chunks, done=done)

    def optimize(self, requests):
        opened = next(requests).open
        self.opens += 1
        if self.refuse_opens > 0:
            self.refuse_opens -= 1
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        session = self.session(opened.session, opened.token)
        session.proto.epoch += 1
        epoch = session.proto.epoch
        yield m.OptimizeResponse(
            opened=m.StreamOpened(
                epoch=epoch,
                last_applied_step=session.proto.last_step,
                gradient_encoding=opened.gradient_encoding,
                update_encoding=opened.update_encoding,
                cell_elements=self._cell_elements,
                protocol_revision=1,
                message_bytes_max=4 << 20,
                heartbeat_seconds=1,
            )
        )
        chunks: list = []
        for request in requests:
            if request.HasField("begin"):
                begin, chunks = request.begin, []
            chunks.extend(request.chunks)
            if request.HasField("end"):
                if epoch != session.proto.epoch:
                    raise Refusal(grpc.StatusCode.ABORTED, "SUPERSEDED")
                if request.end.HasField("loss"):
                    begin.loss = request.end.loss
                gradients = session.assemble(chunks, opened.gradient_encoding)
                yield from self._answer(session, begin, gradients, opened.update_encoding)

    def _answer(self, session, begin, gradients, encoding):
        """Yields the answer to a step, or breaks the stream."""
        if begin.step in self.break_step:
            self.break_step.discard(begin.step)
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        try:
            updates, decays, replayed = session.step(begin, gradients)
        except Refusal as refusal:
            yield m.OptimizeResponse(heartbeat=m.Heartbeat(last_step=session.proto.last_step))
            error = m.StepError(
                step=begin.step,
                code=refusal.code.value[0],
                reason=refusal.reason,
                message=refusal.message,
                metadata=refusal.metadata,
            )
            yield m.OptimizeResponse(error=error)
            return
        if begin.step in self.lose_answer:
            self.lose_answer.discard(begin.step)
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        for group in session.pack(updates, decays, encoding):
            if begin.step in self.damage_update:
                self.damage_update.discard(begin.step)
                group[0].crc32c = crc32c(group[0].payload) ^ 1
            yield m.OptimizeResponse(chunks=group)
        yield m.OptimizeResponse(done=m.StepDone(step=begin.step, replayed=replayed))

    def export_state(self, request):
        header, data = self.session(request.name, request.token).export_parts()
        yield m.ExportStateResponse(part=m.StatePart(header=header))
        for begin in range(0, len(data), 1000):
            yield m.ExportStateResponse(part=m.StatePart(data=data[begin : begin + 1000]))
        end = m.StateEnd(crc32c=crc32c(data))
        yield m.ExportStateResponse(part=m.StatePart(end=end))

    def import_state(self, requests):
        parts = list(requests)
        session = self.session(parts[0].name, parts[0].token)
        data = b"".join(p.part.data for p in parts[1:-1])
        if crc32c(data) != parts[-1].part.end.crc32c:
            raise Refusal(grpc.StatusCode.DATA_LOSS, "CHECKSUM_MISMATCH")
        session.import_parts(parts[0].part.header, data)
        return m.ImportStateResponse(session=session.proto)

    def _handler(self, name: str, kind: str):
        snake = "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")
        return getattr(grpc, f"{kind}_rpc_method_handler")(
            _refusing(getattr(self, snake), streams=kind.endswith("_stream")),
            request_deserializer=getattr(m, name + "Request").FromString,
            response_serializer=getattr(m, name + "Response").SerializeToString,
        )


def _refusing(method, *, streams: bool):
    """Turns a Refusal into a status with an ErrorInfo."""

    def end(context, refusal: Refusal) -> None:
        info = m.ErrorInfo(reason=refusal.reason, domain="mnemosyne", metadata=refusal.metadata)
        detail = m.Any(
            type_url="type.googleapis.com/google.rpc.ErrorInfo", value=info.SerializeToString()
        )
        status = m.ErrorStatus(
            code=refusal.code.value[0], message=refusal.message, details=[detail]
        )
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(refusal.code, refusal.message)

    def one(request, context):
        try:
            return method(request)
        except Refusal as refusal:
            end(context, refusal)

    def many(request, context):
        try:
            yield from method(request)
        except Refusal as refusal:
            end(context, refusal)

    return many if streams else one
