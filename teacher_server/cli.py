"""`teacher-server`: parse first, import torch afterwards, so that --help answers at once."""

from __future__ import annotations

import argparse
import logging
import sys
import tomllib
from pathlib import Path

import tyro
from pydantic import ValidationError

from teacher_server.config import ServeConfig

USAGE = """usage: teacher-server COMMAND [options]

commands:
  serve     score students' responses over gRPC

`teacher-server COMMAND --help` shows a command's options."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 2 where the command line or configuration is wrong, 1 where the engine
    died, else 0.
    """
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
            print(f"teacher-server serve: {place}: {wrong['msg']}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"teacher-server serve: {error}", file=sys.stderr)
        return 2
    return status


def _read_config(arguments: list[str]) -> ServeConfig:
    """TOML first (--config), then the other options over it. The kind of engine decides which options there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--engine.kind", dest="engine")
    known, rest = parser.parse_known_args(arguments)
    values = tomllib.loads(known.config.read_text()) if known.config else {}
    engine = values.setdefault("engine", {})
    if known.engine is not None:
        if engine.get("kind", known.engine) != known.engine:
            raise ValueError(
                f"{known.config} has settings for the {engine['kind']} engine, the command line asks for "
                f"{known.engine}; write a file for it"
            )
        engine["kind"] = known.engine
    return tyro.cli(
        tyro.conf.AvoidSubcommands[ServeConfig],
        args=rest,
        default=ServeConfig.model_validate(values),
        prog="teacher-server serve [--config TOML]",
        description="Serve a teacher over gRPC. Options override the TOML file given with --config.",
    )


def _run_serve(config: ServeConfig) -> int:
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    if not sys.stderr.isatty():  # in a log, bars for loading are noise
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    from teacher_server.serve import EngineDied, serve

    try:
        serve(config)
    except EngineDied as error:
        print(f"teacher-server serve: {error}", file=sys.stderr)
        return 1
    return 0
