"""`rollout-server`: parse first, import vLLM afterwards, so that --help answers at once."""

from __future__ import annotations

import argparse
import logging
import sys
import tomllib
from pathlib import Path

import tyro
from pydantic import ValidationError

from rollout_server.config import ServeConfig

USAGE = """usage: rollout-server COMMAND [options]

commands:
  serve     sample a student's responses over gRPC

`rollout-server COMMAND --help` shows a command's options."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, or 2 where the command line or configuration is wrong."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    command, *rest = arguments
    if command != "serve":
        print(f"unknown command {command!r}\n{USAGE}", file=sys.stderr)
        return 2
    try:
        config = _read_config(rest)
        if not config.model:
            raise ValueError(
                "no model given; say --model FOLDER_OR_HUB_ID or set it in the TOML file"
            )
        status = _run_serve(config)
    except ValidationError as error:
        for wrong in error.errors():
            place = ".".join(map(str, wrong["loc"]))
            print(f"rollout-server serve: {place}: {wrong['msg']}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"rollout-server serve: {error}", file=sys.stderr)
        return 2
    return status


def _read_config(arguments: list[str]) -> ServeConfig:
    """TOML first (--config), then the other options over it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(arguments)
    values = tomllib.loads(known.config.read_text()) if known.config else {}
    return tyro.cli(
        ServeConfig,
        args=rest,
        default=ServeConfig.model_validate(values),
        prog="rollout-server serve [--config TOML]",
        description="Sample a student over gRPC. Options override the TOML file given with --config.",
    )


def _run_serve(config: ServeConfig) -> int:
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    from rollout_server.serve import EngineDied, serve

    try:
        serve(config)
    except EngineDied as error:
        print(f"rollout-server serve: {error}", file=sys.stderr)
        return 1
    return 0
