"""`rollout-server serve`: load the engine, open the port, end on SIGTERM."""

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
from protos.v1 import rollout_pb2 as pb
from protos.v1.rollout_pb2_grpc import add_RolloutsServicer_to_server
from rollout_server.config import ServeConfig
from rollout_server.engine import Engine
from rollout_server.servicer import Servicer

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["Rollouts"].full_name
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEATH_WATCH_S = 0.5


class EngineDied(RuntimeError):
    """The engine can never answer again; a supervisor should start the process anew."""


def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; raises EngineDied where the engine ends before."""
    asyncio.run(_serve(config))


async def start_engine(config: ServeConfig) -> Engine:
    """Load the model; raises ValueError or OSError where that can't be done."""
    try:
        from rollout_server.vllm_engine import VllmEngine
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise OSError(
            "there is no vLLM here; run rollout-server in the vLLM environment"
        ) from error
    return VllmEngine(config)


@contextlib.asynccontextmanager
async def running_server(config: ServeConfig, engine: Engine) -> AsyncIterator[str]:
    """A server that answers at the address given; leaving the context closes it and its engine."""
    try:
        server = grpc.aio.server(options=server_options(engine.info.limits.max_message_bytes))
        add_RolloutsServicer_to_server(Servicer(engine, config.engine.staging_dir), server)
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
            raise OSError(f"can't bind {wanted}: is another server there?") from error
        await server.start()
        for name in ("", SERVICE):
            await health.set(name, SERVING)
        undertaker = asyncio.create_task(_when_died(engine, health))
        try:
            yield f"{host}:{port}"
        finally:
            undertaker.cancel()
            await health.enter_graceful_shutdown()
            await server.stop(config.server.grace_s)
    finally:
        engine.close()


async def died(engine: Engine) -> None:
    """Returns when the engine can never answer again."""
    while engine.alive:
        await asyncio.sleep(DEATH_WATCH_S)


async def _when_died(engine: Engine, health: HealthServicer) -> None:
    await died(engine)
    log.critical("engine_died; nothing can be sampled any more")
    for name in ("", SERVICE):
        await health.set(name, NOT_SERVING)


async def _serve(config: ServeConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    engine = await start_engine(config)
    async with running_server(config, engine) as address:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        log.info("serving address=%s model=%s", address, config.model)
        if config.server.port_file is not None:
            _write_whole(config.server.port_file, address)
        stopped, dead = asyncio.create_task(stop.wait()), asyncio.create_task(died(engine))
        await asyncio.wait({stopped, dead}, return_when=asyncio.FIRST_COMPLETED)
        dead.cancel()
        log.info("stopping grace_s=%g", config.server.grace_s)
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
