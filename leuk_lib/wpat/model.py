"""WPAT, the windowed patch attention transformer: an encoder's feature maps to class logits, linear in pixels.

Shapes: B images, K classes, d token width, s window side, n windows of a scale, R windows of all scales together,
M latents, L pairs of a window step and a latent step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leuk_lib.fcmae.encoder import Encoder
from leuk_lib.training.drop_path import drop_path
from leuk_lib.wpat.attention import CosineAttention, PositionBias
from leuk_lib.wpat.latents import LatentStep, Mlp, PlaceEmbedding
from leuk_lib.wpat.params import WpatParams
from leuk_lib.wpat.pooled import PooledHead
from leuk_lib.wpat.standardise import Standardise
from leuk_lib.wpat.windows import centres, grid, is_real, merge, pad_mask, partition


@dataclass(frozen=True)
class Layout:
    """How the maps of one image size fall into windows; all scales strung together along R."""

    sizes: tuple[tuple[int, int], ...]  # (h, w) of every scale
    counts: tuple[int, ...]  # windows of every scale
    real: Tensor  # bool (R, s*s)
    mask: Tensor  # additive (R, 1+s*s, 1+s*s): padding apart
    centres: Tensor  # (R, 2), (y, x) in (0, 1)

    @classmethod
    def of(cls, sizes: list[tuple[int, int]], side: int, device: torch.device) -> Layout:
        """Layout of maps of ``sizes`` under windows of ``side`` tokens."""
        counts = [grid(h, w, side)[0] * grid(h, w, side)[1] for h, w in sizes]
        real = torch.cat([is_real(h, w, side, device) for h, w in sizes])
        middles = torch.cat([centres(h, w, side, device) for h, w in sizes])
        return cls(tuple(sizes), tuple(counts), real, pad_mask(real), middles)

    def per_scale(self, values: Tensor) -> Tensor:
        """Values (scales, …) repeated for the windows of each scale: (R, …)."""
        return torch.cat([v[None].expand(n, *v.shape) for v, n in zip(values, self.counts, strict=True)])


@dataclass(frozen=True)
class Look:
    """What the latents know of a batch, and how: inside (B, R, s*s) the region tokens' attention, between (reading
    (B, M, R), talking (B, M, M)); None where the weights were not asked for. maps: the encoder's, all of them."""

    latents: Tensor
    layout: Layout
    inside: Tensor | None
    between: tuple[Tensor, Tensor] | None
    maps: list[Tensor]


def paint(by_region: Tensor, inside: Tensor, layout: Layout, side: int, size: tuple[int, int]) -> Tensor:
    """Attention on region tokens (B, Q, R), spread by theirs ``inside`` (B, R, s*s), on the image: (B, Q, *size), sum 1."""
    by_token = by_region[..., None] * inside[:, None]  # (B, Q, R, s*s)
    out = torch.zeros(*by_token.shape[:2], *size, device=by_token.device, dtype=by_token.dtype)
    for (height, width), part in zip(layout.sizes, by_token.split(layout.counts, dim=2), strict=True):
        image = merge(part.flatten(0, 1)[..., None], height, width, side)[..., 0]
        # Nearest keeps every token's weight in its own pixels; coarser tokens are shared out over more pixels.
        spread = F.interpolate(image[:, None], size=size, mode="nearest")[:, 0].view_as(out)
        out = out + spread * (height * width) / (size[0] * size[1])
    return out / out.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)


class WindowStep(nn.Module):
    """Cosine attention and an MLP inside [region; s*s tokens]; weights shared by all scales, position bias per scale.

    With ``regions_only`` (the last pair, whose tokens nobody reads) only the region token asks.
    """

    def __init__(
        self, dim: int, heads: int, side: int, scales: int, mlp_ratio: float, drop: float, regions_only: bool
    ) -> None:
        super().__init__()
        self.drop, self.regions_only = drop, regions_only
        self.norm = nn.LayerNorm(dim)
        self.attention = CosineAttention(dim, heads)
        self.biases = nn.ModuleList(PositionBias(side, heads) for _ in range(scales))
        self.mlp = Mlp(dim, mlp_ratio)

    def forward(
        self, tokens: Tensor, regions: Tensor, layout: Layout, need_weights: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """tokens (B, R, s*s, d), regions (B, R, d) -> both anew, and the region token's weights (B, R, s*s)."""
        rows = 1 if self.regions_only else 1 + tokens.shape[2]
        bias = layout.per_scale(torch.stack([bias() for bias in self.biases]))
        bias = bias[:, :, :rows] + layout.mask[:, None, :rows]
        x = torch.cat([regions[:, :, None], tokens], dim=2)
        normed = self.norm(x)
        heard, weights = self.attention(normed[:, :, :rows], normed, bias, need_weights)
        x = x[:, :, :rows] + drop_path(heard, self.drop, self.training)
        x = x + drop_path(self.mlp(x), self.drop, self.training)
        regions = x[:, :, 0]
        if not self.regions_only:
            tokens = x[:, :, 1:]
        # The region's own share is left out: it is a view of the same window, not a place in it.
        return tokens, regions, None if weights is None else weights.mean(dim=2)[:, :, 0, 1:]


class WPAT(nn.Module):
    """Encoder, windows, latents, one query a class. Any image size that the encoder takes; any number of classes.

    With ``params.pooled`` the logits also have a linear part in the encoder's pooled features (``PooledHead``), to which
    attention adds: without it the first hundreds of steps go into finding what tells alike cells apart.
    ``params``: sizes (scales, dim, heads, window, latents, pairs, mlp_ratio, drop_path). Source: design/methods.md.
    """

    def __init__(self, encoder: Encoder, n_classes: int, params: WpatParams) -> None:
        super().__init__()
        d, heads, pairs = params.dim, params.heads, params.pairs
        self.n_classes, self.side, self.scales = n_classes, params.window, params.scales
        self.encoder = encoder
        encoder.norm.requires_grad_(False)  # belongs to the pooled features, which nobody reads here
        channels = encoder.channels[-params.scales :]
        self.embed = nn.ModuleList(nn.Sequential(nn.LayerNorm(c), nn.Linear(c, d)) for c in channels)
        self.scale_embedding = nn.Parameter(torch.empty(params.scales, d))
        self.region = nn.Parameter(torch.empty(d))
        self.place = PlaceEmbedding(d)
        self.latents = nn.Parameter(torch.empty(params.latents, d))
        rates = torch.linspace(0, params.drop_path, pairs).tolist()
        self.window_steps = nn.ModuleList(
            WindowStep(d, heads, params.window, params.scales, params.mlp_ratio, rates[i], i == pairs - 1)
            for i in range(pairs)
        )
        self.latent_steps = nn.ModuleList(
            LatentStep(d, heads, params.mlp_ratio, rates[i], i < pairs - 1) for i in range(pairs)
        )
        self.queries = nn.Parameter(torch.empty(n_classes, d))
        self.ask = CosineAttention(d, heads)
        self.latent_norm, self.head_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.standardise = Standardise(n_classes * d)
        self.head_weight = nn.Parameter(torch.empty(n_classes, d))
        self.head_bias = nn.Parameter(torch.zeros(n_classes))
        self.pooled = PooledHead(encoder.channels, n_classes) if params.pooled else None
        self._start()

    def _start(self) -> None:
        # Small tables: what the image says then dominates the residual streams from the first step on (the norms before
        # each attention still tell the queries apart).
        for table in (self.scale_embedding, self.region, self.latents, self.queries, self.head_weight):
            nn.init.trunc_normal_(table, std=0.02)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith(("encoder.", "pooled.")) and "biases" not in name:
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tokens(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Layout]:
        """Feature maps (B, C, h, w), coarsest last -> window tokens (B, R, s*s, d), region tokens (B, R, d), layout."""
        maps = [f.permute(0, 2, 3, 1) for f in features]
        layout = Layout.of([(m.shape[1], m.shape[2]) for m in maps], self.side, maps[0].device)
        cut = [
            partition(embed(m) + scale, self.side)
            for embed, m, scale in zip(self.embed, maps, self.scale_embedding, strict=True)
        ]
        tokens = torch.cat(cut, dim=1)
        real = layout.real[:, :, None]
        # Padding is zero, so the sum is the sum over real tokens.
        regions = tokens.sum(dim=2) / real.sum(dim=1) + self.region
        return tokens, regions, layout

    def look(self, x: Tensor, need_weights: bool = False) -> Look:
        """Everything before the class queries: x (B, 3, H, W) -> latents, and the last pair's attention if asked for."""
        maps = self.encoder(x)
        tokens, regions, layout = self.tokens(maps[-self.scales :])
        places = self.place(layout.centres) + layout.per_scale(self.scale_embedding)
        latents = self.latents.expand(x.shape[0], -1, -1)
        inside, between = None, None
        for window_step, latent_step in zip(self.window_steps, self.latent_steps, strict=True):
            tokens, regions, inside = window_step(tokens, regions, layout, need_weights)
            latents, regions, between = latent_step(latents, regions, places, need_weights)
        return Look(latents, layout, inside, between, maps)

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """x (B, 3, H, W) float, standardised -> logits (B, K); with ``return_attention`` also maps (B, K, H, W).

        A map is the class's attention traced back (latents <- regions <- tokens of the last pair; through the latents'
        self-attention with its residual, as in attention rollout, Abnar & Zuidema 2020): non-negative, sum 1 an image.
        """
        seen = self.look(x, return_attention)
        queries = self.queries.expand(x.shape[0], -1, -1)
        answer, asking = self.ask(queries, self.latent_norm(seen.latents), need_weights=return_attention)
        heard = self.standardise(self.head_norm(queries + answer).flatten(1)).view_as(answer)
        logits = (heard * self.head_weight).sum(dim=-1) + self.head_bias
        if self.pooled is not None:
            logits = logits + self.pooled(seen.maps)
        if seen.inside is None or seen.between is None or asking is None:
            return logits
        reading, talking = seen.between
        mixed = (talking + torch.eye(talking.shape[1], device=talking.device)) / 2
        by_region = asking.mean(dim=1) @ mixed @ reading  # (B, K, R)
        return logits, paint(by_region, seen.inside, seen.layout, self.side, (x.shape[-2], x.shape[-1]))


PARTS: dict[str, tuple[str, ...]] = {
    "class queries": ("queries", "ask.", "latent_norm.", "head_", "pooled."),
    "latents": ("latents", "latent_steps."),
    "windows": ("window_steps.", "embed.", "scale_embedding", "region", "place."),
    "encoder": ("encoder.",),
}


def parts_of(model: WPAT) -> dict[str, list[str]]:
    """A model's parameters in the order in which the sanity check makes them random, the answer first: name -> prefixes."""
    names = [name for name, _ in model.named_parameters()]
    return {
        part: [prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)]
        for part, prefixes in PARTS.items()
    }
