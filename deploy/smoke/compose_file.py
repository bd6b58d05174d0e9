"""docker-compose.yml as far as it says what runs: commands, environments, health, order, mounts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.smoke.dockerfile import DockerImage, read_image

VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:?[-?])([^}]*))?\}|(\w+))")
UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")

LEFT_TO_CONTAINERS = {
    "cap_drop", "deploy", "image", "init", "ports", "read_only", "restart", "security_opt", "shm_size", "tmpfs", "user",
}  # fmt: skip
"""What a process of this machine does without."""
UNDERSTOOD = LEFT_TO_CONTAINERS | {
    "build", "command", "depends_on", "entrypoint", "environment", "healthcheck", "networks", "profiles", "stop_signal",
    "stop_grace_period", "volumes",
}  # fmt: skip


@dataclass(frozen=True)
class Mount:
    """Where a container sees something of its host."""

    source: str
    """A folder or file, or the name of a volume."""
    target: str
    read_only: bool
    volume: bool


@dataclass(frozen=True)
class Dependency:
    """What has to be before a service starts."""

    service: str
    condition: str
    """service_started, service_healthy or service_completed_successfully."""


@dataclass(frozen=True)
class Healthcheck:
    """How it is asked whether a service is healthy."""

    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    retries: int
    start_period_s: float


@dataclass(frozen=True)
class Service:
    """One of the services that the profiles choose."""

    name: str
    command: tuple[str, ...]
    """Entry point and its arguments."""
    environment: Mapping[str, str]
    depends_on: tuple[Dependency, ...]
    healthcheck: Healthcheck | None
    mounts: tuple[Mount, ...]
    hostnames: tuple[str, ...]
    """By which others reach it."""
    stop_signal: str
    stop_grace_s: float


def read_environment(path: Path) -> dict[str, str]:
    """The assignments of a .env file."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """`text` with its variables replaced, as compose does it; raises ValueError where one is required and missing."""

    def value(match: re.Match[str]) -> str:
        escaped, braced, operator, operand, bare = match.groups()
        if escaped:
            return "$"
        name = braced or bare
        found = environment.get(name)
        if operator and operator.startswith(":") and not found:
            found = None
        if found is None and operator and operator.endswith("?"):
            raise ValueError(f"{name} is not set: {operand}")
        return found if found is not None else (operand or "")

    return VARIABLE.sub(value, text)


def read_services(
    path: Path, environment: Mapping[str, str], profiles: set[str]
) -> dict[str, Service]:
    """The services of these profiles, each after those that it depends on.

    Raises ValueError where the file says something that this program would not heed.
    """
    document = _interpolated(yaml.safe_load(path.read_text(encoding="utf-8")), environment)
    chosen = {
        name: entry
        for name, entry in document["services"].items()
        if not entry.get("profiles") or profiles & set(entry["profiles"])
    }
    services = {name: _service(name, entry, chosen, path.parent) for name, entry in chosen.items()}
    ordered: dict[str, Service] = {}

    def place(name: str, below: tuple[str, ...] = ()) -> None:
        if name in below:
            raise ValueError(f"services depend on each other: {' -> '.join((*below, name))}")
        for dependency in services[name].depends_on:
            place(dependency.service, (*below, name))
        ordered[name] = services[name]

    for name in services:
        place(name)
    return ordered


def _interpolated(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return interpolate(value, environment)
    if isinstance(value, list):
        return [_interpolated(each, environment) for each in value]
    if isinstance(value, dict):
        return {name: _interpolated(each, environment) for name, each in value.items()}
    return value


def _service(
    name: str, entry: Mapping[str, Any], chosen: Mapping[str, Any], folder: Path
) -> Service:
    if unknown := set(entry) - UNDERSTOOD:
        raise ValueError(
            f"{name}: {', '.join(sorted(unknown))} is new here: teach {__name__} about it"
        )
    image = _image(entry, folder)
    return Service(
        name=name,
        command=(
            *_words(entry.get("entrypoint", image.entrypoint)),
            *_words(entry.get("command", [])),
        ),
        environment={k: str(v) for k, v in (entry.get("environment") or {}).items()},
        depends_on=tuple(_dependencies(name, entry.get("depends_on") or {}, chosen)),
        healthcheck=_healthcheck(entry["healthcheck"]) if "healthcheck" in entry else None,
        mounts=tuple(_mount(volume, folder) for volume in entry.get("volumes") or []),
        hostnames=(name, *_aliases(entry.get("networks") or [])),
        stop_signal=entry.get("stop_signal", image.stop_signal),
        stop_grace_s=seconds(entry.get("stop_grace_period", "10s")),
    )


def _image(entry: Mapping[str, Any], folder: Path) -> DockerImage:
    if "build" not in entry:  # another maker's
        return DockerImage((), "SIGTERM")
    build = entry["build"]
    return read_image(folder / build["context"] / build["dockerfile"], build["target"])


def _words(command: str | list[str]) -> list[str]:
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def _dependencies(
    name: str, depends_on: list[str] | Mapping[str, Any], chosen: Mapping[str, Any]
) -> list[Dependency]:
    entries = (
        {each: {"condition": "service_started"} for each in depends_on}
        if isinstance(depends_on, list)
        else depends_on
    )
    for other, entry in entries.items():
        if other not in chosen and entry.get("required", True):
            raise ValueError(f"{name} depends on {other}, which is in none of these profiles")
    return [
        Dependency(other, entry["condition"]) for other, entry in entries.items() if other in chosen
    ]


def _healthcheck(entry: Mapping[str, Any]) -> Healthcheck:
    kind, *command = entry["test"]
    if kind != "CMD":
        raise ValueError(f"a healthcheck of kind {kind!r}: write it as CMD")
    return Healthcheck(
        tuple(command),
        seconds(entry["interval"]),
        seconds(entry["timeout"]),
        int(entry["retries"]),
        seconds(entry["start_period"]),
    )


def _mount(volume: str | Mapping[str, Any], folder: Path) -> Mount:
    if isinstance(volume, str):
        source, target, *mode = volume.split(":")
        named, read_only = not source.startswith((".", "/", "~")), mode == ["ro"]
    else:
        source, target = volume["source"], volume["target"]
        named, read_only = volume["type"] == "volume", volume.get("read_only", False)
    return Mount(
        source if named else str((folder / Path(source).expanduser()).resolve()),
        target,
        read_only,
        named,
    )


def _aliases(networks: list[str] | Mapping[str, Any]) -> list[str]:
    if isinstance(networks, list):
        return []
    return [
        alias for settings in networks.values() for alias in (settings or {}).get("aliases", [])
    ]


def seconds(text: str) -> float:
    """Of a duration such as "1m30s"; raises ValueError where it is none."""
    if not re.fullmatch(f"(?:{DURATION.pattern})+", text):
        raise ValueError(f"{text!r} is no duration")
    return sum(float(amount) * UNITS_S[unit] for amount, unit in DURATION.findall(text))
