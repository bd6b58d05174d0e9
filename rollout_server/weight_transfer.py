# pyright: reportMissingImports=false, reportCallIssue=false
# vLLM has an environment of its own.
"""vLLM's weight-transfer seam without a GPU: new weights come as a safetensors file, which every worker maps.

vLLM's own transports move GPU memory (NCCL, CUDA IPC). This one is registered through the same factory; importing
the module is enough. Workers are processes of their own: they import it because the engine names `Registered` as its
worker extension.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

BACKEND = "safetensors_file"


@dataclass
class FileInitInfo(WeightTransferInitInfo):
    """There is nothing to agree on beforehand."""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):
    """One whole set of weights."""

    path: str
    """A safetensors file that this host's workers can read, under the checkpoint's names."""


class FileWeightTransfer(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):
    """Loads a file through the model's own `load_weights`: names, fused layers and shards are vLLM's affair."""

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """Take the layers back to checkpoint form: kernels keep weights packed, on a CPU without the original."""
        self._tied = _tied_layers(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one file."""
        try:
            if self.device.type != "cpu":
                super().update_weights(update_info)
            else:  # the base class waits for an accelerator afterwards, and there is none
                self.receive_weights(self.parse_update_info(update_info))
        except BaseException:
            # vLLM drops the session without an end. The layers must be whole for the next one; until then nobody
            # samples what they hold.
            self.finish_weight_update()
            raise

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        """Load the file; RuntimeError where it leaves a parameter of the model as it was."""
        with safe_open(update_info.path, framework="pt") as file:
            names = file.offset_keys()  # as they were sent: layer by layer
            loaded = self.model.load_weights((name, file.get_tensor(name)) for name in names)
        if loaded is not None:
            missing = {name for name, _ in self.model.named_parameters()} - set(loaded)
            if missing := missing - self._tied.keys():
                raise RuntimeError(f"no weights came for {sorted(missing)}")

    def finish_weight_update(self) -> None:
        """Pack the layers for their kernels again."""
        finalize_layerwise_reload(self.model, self.model_config)
        # An output embedding that is tied to the input's got nothing of its own to load, so nothing has packed it.
        for layer in self._tied.values():
            layer.quant_method.process_weights_after_loading(layer)

    def shutdown(self) -> None:
        """Nothing to close."""


def _tied_layers(model: Any) -> dict[str, Any]:
    """Layers that share a parameter with another, by the parameter's name; a checkpoint has it once."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    shared = (name for names in owners.values() if len(names) > 1 for name in names)
    return {name: model.get_submodule(name.rpartition(".")[0]) for name in shared}


class Registered:
    """Adds nothing to a worker: to name it is to import this module."""


# At every update it warns of tables that no checkpoint holds (rotary positions); `receive_weights` checks what matters.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").setLevel(logging.ERROR)

if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, FileWeightTransfer)
