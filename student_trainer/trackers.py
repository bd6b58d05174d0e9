"""Where metrics go beside metrics.jsonl, by name: TensorBoard, trackio, Weights & Biases.

A tracker's package is imported when a run first asks for it. A resumed run goes on in the same tracker run.
"""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

PROJECT = "student-trainer"
"""Where runs are filed, unless TRACKIO_PROJECT or WANDB_PROJECT says otherwise."""
NEEDS = {
    "tensorboard": ("tensorboard", "pip install tensorboard"),
    # trackio asks for an older Pillow than the trainer does, and works with the newer one.
    "trackio": ("trackio", "pip install --no-deps trackio gradio-client orjson brotli python-multipart"),
    "wandb": ("wandb", "pip install wandb"),
}  # fmt: skip
"""Package and command of each tracker."""


class Tracker(Protocol):
    """Takes the metrics of each step, in order."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """`step` counts finished optimizer steps."""
        ...

    def close(self) -> None:
        """Write out what is buffered, and wait for it."""
        ...


def refuse_absent(names: Sequence[str]) -> None:
    """Raise ValueError where a tracker's package is not installed."""
    for name in names:
        package, command = NEEDS[name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"trackers names {name}, and there is no package {package}: {command}, or leave it out"
            )


def open_trackers(
    names: Sequence[str], run_dir: Path, first_step: int, settings: Mapping[str, Any]
) -> list[Tracker]:
    """Trackers of a run that has done `first_step` steps; `settings` are shown beside its curves.

    Raises ValueError where one can't be opened.
    """
    refuse_absent(names)
    kinds: dict[str, type[TensorBoard | Trackio | WeightsAndBiases]] = {
        "tensorboard": TensorBoard,
        "trackio": Trackio,
        "wandb": WeightsAndBiases,
    }
    return [kinds[name](run_dir, first_step, settings) for name in names]


class TensorBoard:
    """Event files in `run_dir`/tensorboard; what a resumed run does again replaces what stood there."""

    def __init__(self, run_dir: Path, first_step: int, settings: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = first_step + 1 if first_step else 0
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purged)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar for each."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Wait until all is written."""
        self._board.close()


class Trackio:
    """A local SQLite database, or what trackio's own variables (TRACKIO_DIR, TRACKIO_SPACE_ID) say.

    A run is found again by its name, which `run_dir`/trackio_name keeps. Steps that a resumed run does again stand
    there twice.
    """

    def __init__(self, run_dir: Path, first_step: int, settings: Mapping[str, Any]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        name = _kept(run_dir / "trackio_name", f"{run_dir.name}-{uuid.uuid4().hex[:8]}", first_step)
        project = os.environ.get("TRACKIO_PROJECT") or PROJECT
        self._run = trackio.init(
            project, name=name, config=dict(settings), resume="allow", embed=False
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All at once."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is written."""
        self._run.finish()


class WeightsAndBiases:
    """Online, or in `run_dir`/wandb where WANDB_MODE=offline says so (`wandb sync` sends that later).

    A run is found again by its id, which `run_dir`/wandb_id keeps. The service takes steps in order only: those that a
    resumed run does again stay there as they were.
    """

    def __init__(self, run_dir: Path, first_step: int, settings: Mapping[str, Any]) -> None:
        import wandb

        kept = _kept(run_dir / "wandb_id", uuid.uuid4().hex[:8], first_step)
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                name=os.environ.get("WANDB_NAME") or run_dir.name,
                id=kept,
                resume="allow",
                dir=str(run_dir),
                config=dict(settings),
                allow_val_change=True,
            )
        except wandb.Error as error:
            raise ValueError(
                f"trackers names wandb, which says: {error} (`wandb login` first, or set WANDB_MODE=offline)"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """All at once."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Wait until all is written."""
        self._run.finish()


def _kept(path: Path, new: str, first_step: int) -> str:
    """What a run's file says it is called; a run that begins is called `new`, and its file says so from now on."""
    if first_step and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new + "\n", encoding="utf-8")
    return new
