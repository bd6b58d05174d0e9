"""Lets a torchvision linked against CUDA be imported beside a CPU build of torch. For the test environment only.

The package index has torchvision for CUDA alone. Beside a CPU torch its compiled operators don't load, and its import
stops where it describes `nms` and `qnms`, which no model here uses. Run as a script, this file copies itself into the
interpreter's environment, with a .pth file that imports it at every start: vLLM's own processes need it too.
"""

import importlib.abc
import shutil
import sys
import sysconfig
from pathlib import Path


class _DefineOperatorsFirst(importlib.abc.MetaPathFinder):
    """Waits for torchvision's import, declares the two operators, and steps aside."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _define()


def _define() -> None:
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _define.keep = library  # type: ignore[attr-defined]  # the operators go when the library object does


def install() -> None:
    """Make every start of this interpreter import this module."""
    packages = Path(sysconfig.get_path("purelib"))
    shutil.copy(__file__, packages)
    name = Path(__file__).stem
    (packages / f"{name}.pth").write_text(f"import {name}\n")


if __name__ == "__main__":
    install()
else:
    sys.meta_path.insert(0, _DefineOperatorsFirst())
