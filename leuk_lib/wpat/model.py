"""WPAT, the windowed patch attention transformer: from an encoder's feature maps to class logits, linear in pixels.

Shapes: B images, K classes, d token width, s window size, R windows of all feature levels together, M latents.
The windows follow Swin V2 (Liu et al. 2022), the latents Perceiver (Jaegle et al. 2021), the class attention CaiT (Touvron
et al. 2021), with one query per class as in DETR (Carion et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.training.backbones import Backbone
from leuk_lib.training.drop_path import drop_path, kept_samples
from leuk_lib.wpat.attention import CosineAttention, PositionBias
from leuk_lib.wpat.batch_norm import GlobalBatchNorm
from leuk_lib.wpat.latents import FourierPositionEmbedding, LatentBlock, Mlp
from leuk_lib.wpat.linear_head import LinearHead, pool
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.windows import (
    padding_mask,
    valid_tokens,
    window_centres,
    window_grid,
    window_partition,
    window_reverse,
)


@dataclass(frozen=True)
class WindowLayout:
    """How the feature maps of one image size are cut into windows; the windows of all levels are concatenated along R.

    Attributes:
        sizes: (h, w) of each level.
        counts: Number of windows of each level.
        valid: Bool (R, s*s), False for padding.
        mask: Additive attention mask (R, 1+s*s, 1+s*s).
        centres: Window centres (R, 2), (y, x) in (0, 1).
    """

    sizes: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]
    valid: Tensor
    mask: Tensor
    centres: Tensor

    @classmethod
    def of(cls, sizes: list[tuple[int, int]], window_size: int, device: torch.device) -> WindowLayout:
        """Layout of maps of the given sizes."""
        grids = [window_grid(h, w, window_size) for h, w in sizes]
        valid = torch.cat([valid_tokens(h, w, window_size, device) for h, w in sizes])
        centres = torch.cat([window_centres(h, w, window_size, device) for h, w in sizes])
        counts = tuple(rows * columns for rows, columns in grids)
        return cls(tuple(sizes), counts, valid, padding_mask(valid), centres)

    def per_level(self, values: Tensor) -> Tensor:
        """Repeat one value per level (levels, ...) for all windows of that level: (R, ...)."""
        return torch.cat([v[None].expand(n, *v.shape) for v, n in zip(values, self.counts, strict=True)])


@dataclass(frozen=True)
class Features:
    """What the class queries read, and how it was obtained.

    Attributes:
        latents: (B, M, d).
        maps: All feature maps of the encoder, each (B, C, h, w).
        layout: Layout of the windows.
        region_attention: Weights of region tokens on the tokens of their window in the last block (B, R, s*s).
        read_attention: Weights of latents on region tokens in the last block (B, M, R).
        self_attention: Weights among latents in the last block (B, M, M).

    The weights are averaged over heads, and None unless they were asked for.
    """

    latents: Tensor
    maps: list[Tensor]
    layout: WindowLayout
    region_attention: Tensor | None
    read_attention: Tensor | None
    self_attention: Tensor | None


def attention_map(
    region_weights: Tensor, region_attention: Tensor, layout: WindowLayout, window_size: int, size: tuple[int, int]
) -> Tensor:
    """Project attention on region tokens back to the image.

    Args:
        region_weights: Weights of Q queries on region tokens (B, Q, R).
        region_attention: Weights of region tokens on the tokens of their window (B, R, s*s).
        layout: Layout of the windows.
        window_size: Side s of a window in tokens.
        size: (H, W) of the image.

    Returns:
        Maps (B, Q, H, W), non-negative, each with sum 1.
    """
    token_weights = region_weights[..., None] * region_attention[:, None]  # (B, Q, R, s*s)
    out = torch.zeros(*token_weights.shape[:2], *size, device=token_weights.device, dtype=token_weights.dtype)
    for (height, width), level in zip(layout.sizes, token_weights.split(layout.counts, dim=2), strict=True):
        image = window_reverse(level.flatten(0, 1)[..., None], height, width, window_size)[..., 0]  # (B*Q, h, w)
        # "nearest" keeps a token's weight within its own pixels; a coarse token's weight is shared by more pixels.
        enlarged = F.interpolate(image[:, None], size=size, mode="nearest")[:, 0].view_as(out)
        out = out + enlarged * (height * width) / (size[0] * size[1])
    return out / out.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


class WindowBlock(nn.Module):
    """Transformer block inside each window: cosine self-attention over [region token; s*s tokens], then an MLP.

    All levels share the weights; each has a position bias of its own.

    Args:
        dim: Width d of the tokens.
        heads: Attention heads.
        window_size: Side s of a window in tokens.
        levels: Number of feature levels.
        mlp_ratio: Hidden width of the MLP in units of ``dim``.
        drop_path: Drop path rate of the residual branches.
        regions_only: Update the region tokens only; for the last block, whose tokens are not used any more.
    """

    def __init__(
        self, dim: int, heads: int, window_size: int, levels: int, mlp_ratio: float, drop_path: float,
        regions_only: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.drop_path, self.regions_only = drop_path, regions_only
        self.norm = nn.LayerNorm(dim)
        self.attention = CosineAttention(dim, heads)
        self.position_biases = nn.ModuleList(PositionBias(window_size, heads) for _ in range(levels))
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(
        self, tokens: Tensor, regions: Tensor, layout: WindowLayout, need_weights: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Update tokens and region tokens.

        Args:
            tokens: Window tokens (B, R, s*s, d).
            regions: Region tokens (B, R, d).
            layout: Layout of the windows.
            need_weights: Whether to return attention weights.

        Returns:
            Tokens (B, R, s*s, d), region tokens (B, R, d), and the weights of the region tokens on the tokens of their
            window (B, R, s*s), averaged over heads, or None. A region token's weight on itself is left out: it has no
            position in the window.
        """
        n_queries = 1 if self.regions_only else 1 + tokens.shape[2]
        bias = layout.per_level(torch.stack([bias() for bias in self.position_biases]))  # (R, heads, 1+s*s, 1+s*s)
        bias = bias[:, :, :n_queries] + layout.mask[:, None, :n_queries]
        x = torch.cat([regions[:, :, None], tokens], dim=2)  # (B, R, 1+s*s, d)
        normed = self.norm(x)
        out, weights = self.attention(normed[:, :, :n_queries], normed, bias, need_weights)
        x = x[:, :, :n_queries] + drop_path(out, self.drop_path, self.training)
        x = x + drop_path(self.mlp(x), self.drop_path, self.training)
        regions = x[:, :, 0]
        if not self.regions_only:
            tokens = x[:, :, 1:]
        return tokens, regions, None if weights is None else weights.mean(dim=2)[:, :, 0, 1:]


class WPAT(nn.Module):
    """Encoder, ``depth`` pairs of a window block and a latent block, and one query per class that reads the latents.

    Takes any image size that the encoder takes, and any number of classes. With ``params.linear_head`` a
    :class:`LinearHead` on the encoder's pooled features adds to the logits: without it the first hundreds of training
    steps go into finding what separates cells that look alike.

    Args:
        encoder: Gives feature maps (B, C_i, h_i, w_i), coarsest last.
        n_classes: Number of classes K.
        params: Uses levels, dim, heads, window, latents, depth, mlp_ratio, drop_path, linear_head.
    """

    def __init__(self, encoder: Backbone, n_classes: int, params: WpatParams) -> None:
        super().__init__()
        d, heads, depth = params.dim, params.heads, params.depth
        self.n_classes, self.window_size, self.levels = n_classes, params.window, params.levels
        self.branch_drop = params.branch_drop
        self.encoder = encoder
        encoder.freeze_unused()
        channels = encoder.channels[-params.levels :]
        self.embed = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, d)) for c in channels)
        self.level_embed = nn.Parameter(torch.empty(params.levels, d))
        self.region_token = nn.Parameter(torch.empty(d))
        self.position_embed = FourierPositionEmbedding(d)
        self.latents = nn.Parameter(torch.empty(params.latents, d))
        rates = torch.linspace(0, params.drop_path, depth, device="cpu").tolist()
        self.window_blocks = nn.ModuleList(
            WindowBlock(d, heads, params.window, params.levels, params.mlp_ratio, rates[i], i == depth - 1)
            for i in range(depth)
        )
        self.latent_blocks = nn.ModuleList(
            LatentBlock(d, heads, params.mlp_ratio, rates[i], i < depth - 1) for i in range(depth)
        )
        self.queries = nn.Parameter(torch.empty(n_classes, d))
        self.class_attention = CosineAttention(d, heads)
        self.latent_norm, self.head_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.batch_norm = GlobalBatchNorm(n_classes * d)
        self.head_weight = nn.Parameter(torch.empty(n_classes, d))
        self.head_bias = nn.Parameter(torch.zeros(n_classes))
        self.linear_head = LinearHead(encoder.channels, n_classes) if params.linear_head else None
        self._init_weights()

    def _init_weights(self) -> None:
        # Small embeddings, so that the image dominates the residual streams from the first step on. The norms before
        # each attention still distinguish the queries.
        for embedding in (self.level_embed, self.region_token, self.latents, self.queries, self.head_weight):
            nn.init.trunc_normal_(embedding, std=0.02)
        for name, module in self.named_modules():
            if name.startswith(("encoder.", "linear_head.")) or "cpb_mlp" in name:
                continue
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def window_tokens(self, maps: list[Tensor]) -> tuple[Tensor, Tensor, WindowLayout]:
        """Embed feature maps and cut them into windows.

        Args:
            maps: Feature maps of the levels, each (B, C, h, w), coarsest last.

        Returns:
            Window tokens (B, R, s*s, d), region tokens (B, R, d): the mean of a window's tokens plus a learned token,
            and the layout of the windows.
        """
        maps = [f.permute(0, 2, 3, 1) for f in maps]  # (B, h, w, C)
        layout = WindowLayout.of([(m.shape[1], m.shape[2]) for m in maps], self.window_size, maps[0].device)
        embedded = [embed(m) for embed, m in zip(self.embed, maps, strict=True)]
        windows = [  # in mixed precision the tokens keep the dtype of the linear layer
            window_partition(e + level.to(e.dtype), self.window_size)
            for e, level in zip(embedded, self.level_embed, strict=True)
        ]
        tokens = torch.cat(windows, dim=1)  # (B, R, s*s, d)
        n_valid = layout.valid[:, :, None].sum(dim=1)
        mean = tokens.sum(dim=2) / n_valid  # padding is 0, so the sum is over valid tokens
        regions = mean + self.region_token.to(mean.dtype)
        return tokens, regions, layout

    def forward_features(self, x: Tensor, need_weights: bool = False) -> Features:
        """Everything before the class queries.

        Args:
            x: Standardised images (B, 3, H, W).
            need_weights: Whether to return the attention weights of the last blocks.
        """
        maps = self.encoder(x)
        tokens, regions, layout = self.window_tokens(maps[-self.levels :])
        positions = self.position_embed(layout.centres) + layout.per_level(self.level_embed)  # (R, d)
        latents = self.latents.expand(x.shape[0], -1, -1)  # (B, M, d)
        region_attention, read_attention, self_attention = None, None, None
        for window_block, latent_block in zip(self.window_blocks, self.latent_blocks, strict=True):
            tokens, regions, region_attention = window_block(tokens, regions, layout, need_weights)
            latents, regions, read_attention, self_attention = latent_block(latents, regions, positions, need_weights)
        return Features(latents, maps, layout, region_attention, read_attention, self_attention)

    def _image_features(self, features: Features, need_weights: bool) -> tuple[tuple[Tensor, ...], Tensor | None]:
        queries = self.queries.expand(features.latents.shape[0], -1, -1)  # (B, K, d)
        out, class_weights = self.class_attention(
            queries, self.latent_norm(features.latents), need_weights=need_weights
        )
        of_images: tuple[Tensor, ...] = (self.head_norm(queries + out).flatten(1),)  # (B, K*d)
        if self.linear_head is not None:
            of_images = (*of_images, pool(features.maps))
        return of_images, class_weights

    def image_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Everything before the batch normalisation of the heads: what depends on one image only.

        Args:
            x: Standardised images (B, 3, H, W).

        Returns:
            What the class queries read (B, K*d) and, with a linear head, the pooled features (B, F).
        """
        return self._image_features(self.forward_features(x), False)[0]

    def classify(self, features: tuple[Tensor, ...]) -> Tensor:
        """Logits (B, K) from `image_features` of the whole batch, whose statistics they depend on while training."""
        out = self.batch_norm(features[0]).unflatten(1, (self.n_classes, -1))  # (B, K, d)
        logits = (out * self.head_weight).sum(dim=-1) + self.head_bias
        if self.linear_head is not None:
            if self.training and self.branch_drop:
                # Unlike drop path not rescaled: the linear head learns to classify alone, the attention part to add to it.
                logits = logits * kept_samples(logits, self.branch_drop)
            logits = logits + self.linear_head.classify(features[1])
        return logits

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        r"""Classify images.

        With A the attention of the class queries on the latents, S the latents' self-attention, and C their
        cross-attention on region tokens, a class's attention on region tokens is :math:`A\,\frac{S + I}{2}\,C`, the
        identity standing for the residual connection as in attention rollout (Abnar & Zuidema 2020);
        :func:`attention_map` projects it to the image. The map does not include the linear head.

        Args:
            x: Standardised images (B, 3, H, W), float.
            return_attention: Whether to return attention maps.

        Returns:
            Logits (B, K); with ``return_attention`` also maps (B, K, H, W), non-negative, each with sum 1.
        """
        features = self.forward_features(x, return_attention)
        of_images, class_weights = self._image_features(features, return_attention)
        logits = self.classify(of_images)
        read, mixing, region = features.read_attention, features.self_attention, features.region_attention
        if read is None or mixing is None or region is None or class_weights is None:
            return logits
        rollout = (mixing + torch.eye(mixing.shape[1], device=mixing.device)) / 2  # (B, M, M)
        region_weights = class_weights.mean(dim=1) @ rollout @ read  # (B, K, R)
        size = (x.shape[-2], x.shape[-1])
        return logits, attention_map(region_weights, region, features.layout, self.window_size, size)


PARTS: dict[str, tuple[str, ...]] = {
    "class queries": ("queries", "class_attention.", "latent_norm.", "head_", "linear_head."),
    "latents": ("latents", "latent_blocks."),
    "windows": ("window_blocks.", "embed.", "level_embed", "region_token", "position_embed."),
    "encoder": ("encoder.",),
}


def parts_of(model: WPAT) -> dict[str, list[str]]:
    """Parts of a model from logits to image, in the order in which the sanity check randomises them.

    Returns:
        Name of a part -> prefixes of its parameters' names.
    """
    names = [name for name, _ in model.named_parameters()]
    return {
        part: [prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)]
        for part, prefixes in PARTS.items()
    }


# Component of a parameter's name -> the same component in model files of format 1.
FORMAT_1 = {
    "level_embed": "scale_embedding", "region_token": "region", "region_bias": "region", "position_embed": "place",
    "window_blocks": "window_steps", "latent_blocks": "latent_steps", "position_biases": "biases", "cpb_mlp": "mlp",
    "class_attention": "ask", "self_attention": "talk", "read_attention": "read", "write_attention": "write",
    "batch_norm": "standardise", "running_mean": "mean", "running_std": "std", "linear_head": "pooled", "linear": "head",
}  # fmt: skip


def format_1_name(name: str) -> str:
    """Name of a parameter or buffer in model files of format 1.

    Example:
        >>> format_1_name("latent_blocks.0.self_attention.q.weight")
        'latent_steps.0.talk.q.weight'
    """
    return ".".join(FORMAT_1.get(component, component) for component in name.split("."))
