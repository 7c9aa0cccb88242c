"""Backbones: networks that give feature maps at several strides, ours or any of timm's, behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from leuk_lib.runs.errors import LeukError
from leuk_lib.training.pretrained import NetworkSpec, OwnInput, Weights, build, locate, split_name

MAPS = 4  # feature maps that are read from a network whose blocks all have one stride, such as a ViT


class Backbone(nn.Module):
    """What WPAT and a linear head need of a network: standardised images (B, 3, H, W) -> a list of feature maps.

    Attributes:
        channels: Channels C_i of each feature map (B, C_i, H_i, W_i), coarsest last.
        strides: Their strides in pixels of the network's input.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def freeze_unused(self) -> None:
        """Exclude from training what does not reach the feature maps; by default everything does."""

    def level_of(self, parameter: str) -> int:
        """Position of the first feature map that depends on a parameter of this module, given by name."""
        raise NotImplementedError


class TimmBackbone(Backbone):
    """Feature maps of a timm network, convolutional or ViT, from random or published weights.

    Args:
        spec: The network.
        image_size: Side of the images in px.
        weights: Its published weights; None for random ones, from torch's global generator.

    Attributes:
        spec: The network.
        channels: As in :class:`Backbone`.
        strides: As in :class:`Backbone`.

    Raises:
        LeukError: For a network without feature maps, or weights that do not fit.
    """

    def __init__(self, spec: NetworkSpec, image_size: int, weights: Weights | None = None) -> None:
        super().__init__()
        self.spec = spec
        network = build(spec, 0, image_size, weights)
        body: Any = network.model if isinstance(network, OwnInput) else network
        if not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
            raise LeukError(
                f"backbone {spec.architecture}: timm reads no feature maps from this network; choose another", 2
            )
        self.own_input = OwnInput(nn.Identity(), spec.side, spec.mean, spec.std)
        self.body = body
        info = [body.feature_info[k] for k in range(len(body.feature_info))]
        levels = select_levels([int(entry["reduction"]) for entry in info])
        self._levels = body.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)
        self.channels = tuple(int(info[k]["num_chs"]) for k in levels)
        self.strides = tuple(int(info[k]["reduction"]) for k in levels)
        try:
            ends = _last_parameters(body, [str(info[k]["module"]) for k in levels])
        except ValueError as error:
            raise LeukError(
                f"backbone {spec.architecture}: timm does not say where its feature maps end; choose another", 2
            ) from error
        self._level_of = {
            name: next((level for level, end in enumerate(ends) if position <= end), len(ends) - 1)
            for position, (name, _) in enumerate(self.named_parameters())
        }

    @classmethod
    def of(cls, name: str, image_size: int) -> TimmBackbone:
        """The network ``NAME`` with random weights from torch's global generator, or ``NAME@WEIGHTS``.

        Raises:
            LeukError: As the class, or where there is no such network or there are no such weights.
        """
        base, weights = split_name(name)
        spec = NetworkSpec.of(base, image_size, bool(weights))
        return cls(spec, image_size, locate(name) if weights else None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Standardised images (B, 3, S, S) -> feature maps, each (B, C_i, H_i, W_i), coarsest last."""
        body: Any = self.body
        return body.forward_intermediates(
            self.own_input(x), indices=self._levels, output_fmt="NCHW", intermediates_only=True, stop_early=True
        )

    def level_of(self, parameter: str) -> int:
        """Position of the first feature map that depends on a parameter of this module, given by name."""
        return self._level_of[parameter]


def select_levels(strides: Sequence[int]) -> list[int]:
    """Positions of the feature maps to read: the last one of each stride, or of one stride ``MAPS`` at equal distances.

    Example:
        >>> select_levels([2, 4, 8, 16, 32]), select_levels([14] * 12)
        ([0, 1, 2, 3, 4], [2, 5, 8, 11])
    """
    if len(set(strides)) > 1:
        return [k for k, stride in enumerate(strides) if stride not in strides[k + 1 :]]
    count = min(MAPS, len(strides))
    return [len(strides) * (k + 1) // count - 1 for k in range(count)]


def _last_parameters(body: nn.Module, modules: Sequence[str]) -> list[int]:
    """Position of the last parameter that is registered before the end of each of some modules."""
    names = [name for name, _ in body.named_modules()]
    ends = []
    for end in modules:
        last = max(k for k, name in enumerate(names) if name == end or name.startswith(f"{end}."))  # ValueError if none
        before = set(names[: last + 1])
        ends.append(sum(name.rpartition(".")[0] in before for name, _ in body.named_parameters()) - 1)
    return ends
