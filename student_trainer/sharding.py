"""A student's weights over the ranks: the same on all of them (DDP), or a part on each (FSDP2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from student_trainer.world import World

SAMPLED = 256
"""Numbers of a weight that its fingerprint looks at."""


def shard(
    root: torch.nn.Module,
    embeddings: torch.nn.Module,
    layers: Iterable[torch.nn.Module],
    mesh: DeviceMesh,
    precision: Literal["float32", "bfloat16"],
) -> None:
    """Leave each rank its part of the weights, of one layer after the other and of the rest together.

    Layers cross the wire and compute in `precision`; the rest is as it is, under whatever autocast its passes run in.
    Gradients are summed, in float32: the loss is weighted by counts over all ranks already. `embeddings` make what the
    first layer is given.
    """
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise ValueError(
            f'parallel "fsdp2" needs torch 2.14 or newer, and this is {torch.__version__}; install a newer one or take '
            '"ddp"'
        )
    policy = MixedPrecisionPolicy()
    if precision == "bfloat16":
        # Not the inputs: the residual stream stays float32, as it does without sharding.
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    learns = any(parameter.requires_grad for parameter in root.parameters())
    groups: list[FSDPModule] = [fully_shard(layer, mesh=mesh, mp_policy=policy) for layer in layers]
    # Where a backward pass follows, the rest stays whole until then. After none it would stay whole for good.
    rest = fully_shard(root, mesh=mesh, reshard_after_forward=None if learns else True)
    # A rank without pictures has no gradient for the vision encoder, and all ranks must reduce the same tensors.
    rest.set_reduce_scatter_unused_params(True)
    # Where adapters alone are trained, the first layer's inputs would have a gradient for pictures' sake only; without
    # one its turn to reduce comes later.
    embeddings.register_forward_hook(lambda module, args, output: output.requires_grad_())
    for group in (*groups, rest):
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)  # gloo has no other


def gather_up(root: torch.nn.Module) -> None:
    """Make the model's parameters those that are sharded: passes leave them whole where no backward pass followed."""
    if isinstance(root, FSDPModule):
        root.reshard()


def whole(parameter: Tensor) -> Tensor:
    """A parameter with all its parts; all ranks take part. Where it is not sharded, itself."""
    found = parameter.detach()
    return found.full_tensor() if isinstance(found, DTensor) else found


def whole_state(module: torch.nn.Module, keep: bool) -> dict[str, Tensor]:
    """The state dict. Of sharded weights these are copies on the CPU, for the ranks that `keep` them; {} for others.

    Tied weights are one tensor, before and after.
    """
    state = module.state_dict(keep_vars=True)
    found: dict[int, Tensor] = {}
    for value in state.values():
        if id(value) not in found:
            full = whole(value)
            found[id(value)] = full.cpu() if keep and isinstance(value, DTensor) else full
            if not keep:
                found[id(value)] = torch.empty(0)
    return {name: found[id(value)] for name, value in state.items()} if keep else {}


def refuse_other_weights(parameters: Iterable[Tensor], world: World) -> None:
    """Raise ValueError where a rank begins with another model than the rest: their gradients would be of different
    functions. Looks at some numbers of each weight.
    """
    digest = hashlib.sha256()
    for parameter in parameters:
        numbers = parameter.detach().flatten()
        few = numbers[:: max(1, len(numbers) // SAMPLED)].float().cpu()
        digest.update(f"{tuple(parameter.shape)}".encode() + few.numpy().tobytes())
    own = int.from_bytes(digest.digest()[:8], signed=True)
    found = world.gather(torch.tensor([own]))
    if len(found.unique()) > 1:
        raise ValueError(
            "the ranks have loaded different weights; let `model` and `run_dir` name the same folders on every machine"
        )
