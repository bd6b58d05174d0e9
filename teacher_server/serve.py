"""`teacher-server serve`: load the engine, open the port, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from protos.address import host_for_url, is_loopback
from protos.channel import server_options
from protos.connection import SERVICE
from protos.v1 import teacher_pb2 as pb
from teacher_server.batcher import Batcher
from teacher_server.client_file import ClientFile
from teacher_server.config import ServeConfig, ServerConfig, VllmEngineConfig
from teacher_server.core import TeacherCore
from teacher_server.doorkeeper import Doorkeeper
from teacher_server.engines.engine import BatchEngine, Engine
from teacher_server.gateway.app import NotReady, make_app
from teacher_server.gateway.examples import read_examples
from teacher_server.gateway.http_server import running_gateway
from teacher_server.metrics import Metrics
from teacher_server.servicer import Servicer
from teacher_server.transport import server_credentials
from teacher_server.whole_file import whole_file

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class EngineDied(RuntimeError):
    """The engine can never score again; a supervisor should start the process anew."""


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises EngineDied where the engine ends before."""
    if isinstance(config.engine, VllmEngineConfig) and config.engine.node_rank > 0:
        from teacher_server.engines.vllm_node import compute_for_another

        compute_for_another(config)
        return
    asyncio.run(_serve(config))


async def start_engine(config: ServeConfig, metrics: Metrics | None = None) -> Engine:
    """Load the engine that the configuration names; raises ValueError or OSError where it can't."""
    named, limits = config.engine, config.limits.published()
    if isinstance(named, VllmEngineConfig):
        from teacher_server.engines.vllm_engine import VllmEngine

        return await VllmEngine.start(
            config.model,
            named,
            teacher_id=config.teacher_id,
            limits=limits,
            grace_s=config.server.grace_s,
            metrics=metrics,
        )

    def load() -> BatchEngine:
        from teacher_server.engines.transformers_engine import TransformersEngine

        return TransformersEngine(config.model, named, teacher_id=config.teacher_id, limits=limits)

    return await Batcher.start(
        load, named.batch_wait_ms / 1000, named.score_batch_tokens, metrics=metrics
    )


@contextlib.asynccontextmanager
async def running_server(
    config: ServeConfig, engine: Engine, metrics: Metrics | None = None
) -> AsyncIterator[str]:
    """A server that answers at the gRPC address given; leaving the context drains it and closes the engine."""
    core = TeacherCore(engine, metrics)
    try:
        doorkeeper = _doorkeeper(config.server)
        servicer = Servicer(
            core,
            config.limits.stream_window_tokens,
            doorkeeper,
            write_timeout_s=config.server.write_timeout_s,
        )
        health = HealthServicer()
        server, address = _bind(config.server, core, servicer, health)
    except BaseException:
        await core.close()
        raise
    state = _State(core, health)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(core.close)
        if config.server.http_port is not None:
            http = _gateway(config.server, core, state, doorkeeper)
            log.info("http address=%s", await stack.enter_async_context(http))
        await server.start()
        await state.serve(True)
        watchers = [
            asyncio.create_task(state.when_died()),
            asyncio.create_task(doorkeeper.watch(servicer.identify_again)),
        ]
        try:
            yield address
        finally:
            for watcher in watchers:
                watcher.cancel()
            state.draining = True
            await state.serve(False)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(servicer.drain(), config.server.grace_s)
            await server.stop(1.0)


def _gateway(
    config: ServerConfig, core: TeacherCore, state: _State, doorkeeper: Doorkeeper
) -> contextlib.AbstractAsyncContextManager[str]:
    assert config.http_port is not None, "asked for"
    near = is_loopback(config.http_host)
    app = make_app(
        core,
        core.metrics,
        state.not_ready,
        doorkeeper,
        examples=read_examples(config.examples_file) if config.examples_file else (),
        open_metrics=near or config.clients_file is None,
    )
    tls = None if near else config.tls
    return running_gateway(app, config.http_host, config.http_port, tls)


def _doorkeeper(config: ServerConfig) -> Doorkeeper:
    if config.clients_file is None:
        return Doorkeeper()
    http_host = None if config.http_port is None else config.http_host
    for host in {config.host, http_host} - {None}:
        if config.tls is None and not is_loopback(host):
            log.warning("plaintext host=%s: tokens cross the network readable; give it TLS", host)
    return Doorkeeper(ClientFile(config.clients_file))


def _bind(
    config: ServerConfig, core: TeacherCore, servicer: Servicer, health: HealthServicer
) -> tuple[grpc.aio.Server, str]:
    """A server that is not started yet, with its address; raises OSError where the port is taken."""
    server = grpc.aio.server(options=server_options(core.info.limits.max_message_bytes))
    server.add_generic_rpc_handlers((_methods(servicer),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if config.reflection:
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((SERVICE, health_name, reflection.SERVICE_NAME), server)
    host = host_for_url(config.host)
    wanted = f"{host}:{config.port}"
    try:
        if config.tls is None:
            port = server.add_insecure_port(wanted)
        else:
            port = server.add_secure_port(wanted, server_credentials(config.tls))
    except RuntimeError as error:
        raise OSError(f"can't bind {wanted}: is another server there?") from error
    return server, f"{host}:{port}"


def _methods(servicer: Servicer) -> grpc.GenericRpcHandler:
    """As the generated code would add them, but a stranger's Describe, whose request is empty, is never read."""

    async def describe(
        requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> pb.TeacherInfo:
        return await servicer.Describe(pb.DescribeRequest(), context)

    handlers = {
        "Describe": grpc.stream_unary_rpc_method_handler(
            describe, response_serializer=pb.TeacherInfo.SerializeToString
        ),
        "Score": grpc.stream_stream_rpc_method_handler(
            servicer.Score,
            request_deserializer=pb.ClientMessage.FromString,
            response_serializer=pb.ServerMessage.SerializeToString,
        ),
    }
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


class _State:
    """What health tells of a server."""

    def __init__(self, core: TeacherCore, health: HealthServicer) -> None:
        self.draining = False
        self._core = core
        self._health = health
        self._dead = False

    def not_ready(self) -> NotReady | None:
        if self._dead:
            return "engine dead"
        return "draining" if self.draining else None

    async def serve(self, serving: bool) -> None:
        for name in ("", SERVICE):
            await self._health.set(name, SERVING if serving else NOT_SERVING)

    async def when_died(self) -> None:
        await self._core.died()
        log.critical("engine_died; nothing can be scored any more")
        self._dead = True
        await self.serve(False)


async def _serve(config: ServeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if config.server.clients_file is not None:  # told before a model is loaded, not after
        ClientFile(config.server.clients_file)
    if config.server.tls is not None:
        server_credentials(config.server.tls)
    if config.server.examples_file is not None:
        read_examples(config.server.examples_file)
    metrics = Metrics()
    engine = await start_engine(config, metrics)
    info = engine.info
    log.info("loaded model=%s dtype=%s vocab_size=%d", info.model_id, info.dtype, info.vocab_size)
    async with running_server(config, engine, metrics) as address:
        log.info(
            "serving address=%s teacher_id=%s engine=%s", address, info.teacher_id, info.engine
        )
        if config.server.port_file is not None:
            config.server.port_file.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(config.server.port_file) as file:
                file.write(address.encode())
        stopped, died = asyncio.create_task(stop.wait()), asyncio.create_task(engine.died())
        await asyncio.wait({stopped, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        log.info("draining grace_s=%g", config.server.grace_s)
    if not stopped.done():
        stopped.cancel()
        raise EngineDied("the engine died; its log says why")
    log.info("stopped")
