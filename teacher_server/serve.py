"""`teacher-server serve`: load the engine, open the port, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from protos.address import host_for_url
from protos.channel import server_options
from protos.v1 import teacher_pb2 as pb
from protos.v1.teacher_pb2_grpc import add_TeacherServicer_to_server
from teacher_server.batcher import Batcher
from teacher_server.config import ServeConfig, VllmEngineConfig
from teacher_server.core import TeacherCore
from teacher_server.engines.engine import BatchEngine, Engine
from teacher_server.servicer import Servicer

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Teacher"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class EngineDied(RuntimeError):
    """The engine can never score again; a supervisor should start the process anew."""


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises EngineDied where the engine ends before."""
    asyncio.run(_serve(config))


async def start_engine(config: ServeConfig) -> Engine:
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
        )

    def load() -> BatchEngine:
        from teacher_server.engines.transformers_engine import TransformersEngine

        return TransformersEngine(config.model, named, teacher_id=config.teacher_id, limits=limits)

    return await Batcher.start(load, named.batch_wait_ms / 1000, named.score_batch_tokens)


@contextlib.asynccontextmanager
async def running_server(config: ServeConfig, engine: Engine) -> AsyncIterator[str]:
    """A server that answers at the address given; leaving the context drains it and closes the engine."""
    core = TeacherCore(engine)
    servicer = Servicer(core, config.limits.stream_window_tokens)
    server = grpc.aio.server(options=server_options(core.info.limits.max_message_bytes))
    add_TeacherServicer_to_server(servicer, server)
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection(
        (
            SERVICE,
            health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
            reflection.SERVICE_NAME,
        ),
        server,
    )
    host = host_for_url(config.server.host)
    wanted = f"{host}:{config.server.port}"
    try:
        port = server.add_insecure_port(wanted)
    except RuntimeError as error:
        await core.close()
        raise OSError(f"can't bind {wanted}: is another server there?") from error
    await server.start()
    await _set_health(health, SERVING)
    undertaker = asyncio.create_task(_when_died(core, health))
    try:
        yield f"{host}:{port}"
    finally:
        undertaker.cancel()
        await _set_health(health, NOT_SERVING)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(servicer.drain(), config.server.grace_s)
        await server.stop(1.0)
        await core.close()


async def _when_died(core: TeacherCore, health: HealthServicer) -> None:
    await core.died()
    log.critical("engine_died; nothing can be scored any more")
    await _set_health(health, NOT_SERVING)


async def _set_health(
    health: HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus
) -> None:
    for name in ("", SERVICE):
        await health.set(name, status)


async def _serve(config: ServeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    engine = await start_engine(config)
    info = engine.info
    log.info("loaded model=%s dtype=%s vocab_size=%d", info.model_id, info.dtype, info.vocab_size)
    async with running_server(config, engine) as address:
        log.info(
            "serving address=%s teacher_id=%s engine=%s", address, info.teacher_id, info.engine
        )
        if config.server.port_file is not None:
            _write_whole(config.server.port_file, address)
        stopped, died = asyncio.create_task(stop.wait()), asyncio.create_task(engine.died())
        await asyncio.wait({stopped, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        log.info("draining grace_s=%g", config.server.grace_s)
    if not stopped.done():
        stopped.cancel()
        raise EngineDied("the engine died; its log says why")
    log.info("stopped")


def _write_whole(path: Path, text: str) -> None:
    """Readers see nothing or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
