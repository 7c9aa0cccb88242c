"""Weights that pretraining starts from instead of random ones: published, or from a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from leuk_lib.fcmae.encoder import VARIANTS, Encoder
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.weights import load_backbone, with_stem_stride
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.pretrained import Weights, find_file, locate_encoder

FAMILY = "convnextv2_"  # of timm's names


@dataclass(frozen=True)
class Start:
    """An encoder with given weights.

    Attributes:
        encoder: With the stem stride of the stage.
        weights: The file, its licence and source.
        params: Parameters of the stage, with the variant of the weights.
        file_stride: Stem stride of the file.
    """

    encoder: Encoder
    weights: Weights
    params: FcmaeParams
    file_stride: int

    def facts(self) -> dict[str, Any]:
        """What the encoder's file and the cards say of the weights."""
        return {**self.weights.facts(), "stem_stride": self.file_stride}


def load_start(params: FcmaeParams) -> Start | None:
    """Load the weights that ``params.weights`` names; None for "", random weights.

    The variant is that of the weights. ``params.variant`` may name the same; its default stands for any.

    Raises:
        LeukError: There are no such weights, they cannot be fetched or read, are no ConvNeXt V2, or are of another
            variant than their name or the parameters state.
    """
    if not params.weights:
        return None
    named = params.weights.partition("@")[0]
    stated = ""
    if named.startswith(FAMILY) and find_file(params.weights) is None:  # before anything is fetched
        stated = named.removeprefix(FAMILY).partition(".")[0]
        _check_variant(params, stated)
    weights = locate_encoder(params.weights, params.weights_revision, f"{FAMILY}*")
    encoder = load_backbone(weights.path)
    if stated not in ("", encoder.variant):
        raise LeukError(
            f"weights {params.weights!r}: the file holds variant {encoder.variant}, not {stated} as named; bring the right file",
            2,
        )
    _check_variant(params, encoder.variant)
    resampled = with_stem_stride(encoder, params.stem_stride)
    return Start(resampled, weights, params.model_copy(update={"variant": encoder.variant}), encoder.stem_stride)


def _check_variant(params: FcmaeParams, variant: str) -> None:
    default = FcmaeParams.model_fields["variant"].default
    if variant not in VARIANTS:
        raise LeukError(f"weights {params.weights!r}: variant {variant!r} is none of {', '.join(VARIANTS)}", 2)
    if params.variant not in (default, variant):
        raise LeukError(
            f"weights {params.weights!r} are a {variant}, but parameter variant = {params.variant!r}: set variant to "
            f"{variant!r} (or leave it at {default!r}), or choose other weights",
            2,
        )
