"""Do synthetic cells help rare classes? A data set made long-tailed, and a classifier trained with each remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor

from leuk_lib.data.catalog import load_dataset
from leuk_lib.data.loading import CellSet
from leuk_lib.data.splits import split_groups
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import pretrain
from leuk_lib.gan import pipeline as chapter
from leuk_lib.gan.controls import controls
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.samples import generate
from leuk_lib.runs.errors import LeukError
from leuk_lib.runs.files import atomic, read_json, write_json
from leuk_lib.runs.seeds import derive, numpy_rng
from leuk_lib.studies.paired import Outcomes, Score, between, differences, scores, with_holm
from leuk_lib.studies.study import Row, Study, StudyParams, slug
from leuk_lib.training.fabric import make_fabric
from leuk_lib.wpat.finetune import finetune, predict_logits
from leuk_lib.wpat.params import WpatParams

NOTHING, OVERSAMPLING, WEIGHTS = "nothing", "oversampling", "class-balanced loss"
UNGATED, GATED = "ungated GAN", "gated GAN"
FILLED, FILLED_GATED = "ungated GAN, filled up", "gated GAN, filled up"
BOTH, BOTH_GATED = "oversampling + ungated GAN", "oversampling + gated GAN"
#: Arms that draw every class equally often; the others, apart from doing nothing, weigh the classes in the loss.
SAMPLED = (OVERSAMPLING, BOTH, BOTH_GATED)
ARMS = (NOTHING, OVERSAMPLING, WEIGHTS, UNGATED, GATED, FILLED, FILLED_GATED, BOTH, BOTH_GATED)
#: What the gated arms are compared with besides doing nothing.
RIVALS = {
    GATED: (OVERSAMPLING, WEIGHTS, UNGATED),
    FILLED_GATED: (OVERSAMPLING, WEIGHTS, FILLED),
    BOTH_GATED: (OVERSAMPLING, BOTH),
}
#: Which synthetic cells an arm is given.
GIVEN = {
    UNGATED: "ungated", GATED: "gated", FILLED: "filled", FILLED_GATED: "filled gated",
    BOTH: "ungated", BOTH_GATED: "gated",
}  # fmt: skip
FRACTIONS = (0.7, 0.1, 0.2)  # training, validation, test
TAIL, F1 = "tail recall", "macro F1"


class BalancingParams(StudyParams):
    """How long the tail is, what draws the synthetic cells, and what is trained with them."""

    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions: split, weights, batches")
    tail: tuple[str, ...] = Field(
        ("basophil", "lymphocyte", "monocyte"), min_length=1, description="classes made rare in training"
    )
    tail_share: float = Field(0.1, gt=0, le=1, description="share of a tail class's training cells that is kept")
    image_size: Literal[16, 32, 64, 128] = Field(
        32, description="side of the images and of the synthetic cells, pixels"
    )
    per_class: int = Field(0, ge=0, description="at most this many cells a class (0: all)")
    gan_steps: int = Field(1500, ge=1, le=10**7, description="optimiser steps of generator and discriminator")
    gan_batch: int = Field(32, ge=2, le=1024, description="images a step of the GAN")
    feature_steps: int = Field(60, ge=2, le=10**6, description="optimiser steps of the gate's feature network")
    judge_steps: int = Field(200, ge=1, le=10**6, description="optimiser steps of the gate's judge")
    min_count: int = Field(12, ge=2, description="fewest inner-training cells of a class that the GAN may learn")
    max_candidates: int = Field(400, ge=8, description="most candidates drawn for a class by the gated arm")
    network: str = Field("test_resnet", description="the classifier: a timm model, trained from random weights")
    steps: int = Field(250, ge=1, le=10**6, description="optimiser steps of the classifier, the same in every arm")
    batch_size: int = Field(48, ge=2, le=8192, description="images a step of the classifier")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate of the classifier")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    def gan(self, seed: int) -> AcdbGanParams:
        """The stage's parameters: the laptop profile's, at this study's size."""
        return AcdbGanParams(
            seed=seed, threads=self.threads, accelerator="cpu", images="raw", gan_size=self.image_size,
            steps=self.gan_steps, batch_size=self.gan_batch, feature_steps=self.feature_steps, judge_steps=self.judge_steps,
            min_count=self.min_count, max_candidates=self.max_candidates,
            pilot=min(64, self.max_candidates), checkpoint_every=200,
        )  # fmt: skip


class Balancing(Study[BalancingParams]):
    """Every repetition has its own split (by groups), tail, GAN, gate and initial weights; all arms share them.

    GAN, gate and their networks are given the kept training cells only. Validation cells choose among each
    classifier's weights, in every arm alike; test cells are scored once. Validation and test keep all their cells.
    A GAN arm without oversampling weighs the classes in the loss by the cells it learns from, the synthetic ones
    counted in: the class-balanced loss is the same without them. The filled-up arms draw as many cells of a tail class
    as it lacks to the largest class: nine to one real cell, far over the quota. With oversampling the quota is given,
    and every class is drawn equally often from its real and synthetic cells.
    """

    title = "Do synthetic cells help rare classes?"
    params_model = BalancingParams
    not_of_jobs = frozenset({"seeds", "resamples"})

    def waves(self) -> Sequence[Sequence[str]]:
        """The cells; a GAN with its gate a seed; a classifier an arm and seed."""
        seeds = self.params.seeds
        return [["cells"], [f"gan-{seed}" for seed in seeds], [f"{slug(arm)}-{seed}" for seed in seeds for arm in ARMS]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """One job of any wave."""
        if job == "cells":
            return self._cells(folder / job)
        for seed in self.params.seeds:
            if job == f"gan-{seed}":
                return self._gan(seed, folder, identity)
            for arm in ARMS:
                if job == f"{slug(arm)}-{seed}":
                    return self._classify(arm, seed, folder, identity)
        raise ValueError(f"no job {job!r}")

    def tables(self, rows: Mapping[str, list[Row]]) -> dict[str, pd.DataFrame]:
        """`scores`, `differences` from doing nothing, `rivals` (gated minus its rivals): a row a score and arm;
        `recalls`: of every class; `delivery`, `controls`: of every seed's GAN and gate; `cells`."""
        p, ratio = self.params, FRACTIONS[2] / FRACTIONS[0]
        jobs = [f"{slug(arm)}-{seed}" for arm in ARMS for seed in p.seeds]
        cells = pd.concat([_table(rows[job][0]) for job in jobs], ignore_index=True)
        kinds = {TAIL: Score("recall", p.tail), F1: Score("F1")}
        by_kind = {name: Outcomes(cells, p.resamples, min(p.seeds), score) for name, score in kinds.items()}
        base = dict.fromkeys(ARMS, NOTHING)
        gains = [differences(found, base, ratio).assign(condition=name) for name, found in by_kind.items()]
        compared = [(arm, rival) for arm, rivals in RIVALS.items() for rival in rivals]
        against = [between(found, compared, ratio).assign(condition=name) for name, found in by_kind.items()]
        gans = [row for seed in p.seeds for row in rows[f"gan-{seed}"]]
        return {
            "scores": pd.concat([scores(found).assign(condition=name) for name, found in by_kind.items()]),
            "differences": with_holm(gains),
            "rivals": with_holm(against),
            "recalls": cells.groupby(["arm", "label"], sort=False)["right"].mean().rename("recall").reset_index(),
            "delivery": pd.DataFrame([row for row in gans if "quota" in row]),
            "controls": pd.DataFrame([row for row in gans if "key" in row]),
            "cells": pd.DataFrame(rows["cells"]),
        }

    # -- jobs --------------------------------------------------------------------------------------------------

    def _cells(self, folder: Path) -> list[Row]:
        p = self.params
        data = load_dataset(p.dataset, size=p.image_size, workers=p.threads, per_class=p.per_class)
        unknown = sorted(set(p.tail) - set(data.classes))
        if unknown:
            raise LeukError(
                f"study balancing: {data.name} has no class {unknown[0]!r}; it has {', '.join(data.classes)}"
            )
        images = torch.from_numpy(np.ascontiguousarray(data.images.transpose(0, 3, 1, 2)))
        with atomic(folder / "cells.safetensors") as temporary:
            save_file({"images": images, "labels": torch.from_numpy(data.labels)}, temporary)
        groups = pd.factorize(data.table["group"])[0].tolist()
        write_json(folder / "about.json", {"classes": data.classes, "groups": groups, "name": data.name})
        return [
            {"source": data.name, "cells": len(images), "classes": len(data.classes), "grouped by": data.grouped_by}
        ]

    def _material(self, folder: Path, seed: int) -> tuple[CellSet, dict[str, Tensor]]:
        """All cells, with their part in column ``split``, and the positions of the parts; the tail is cut already."""
        kept, about = load_file(folder / "cells" / "cells.safetensors"), read_json(folder / "cells" / "about.json")
        labels, groups = kept["labels"], np.array(about["groups"])
        part = split_groups(labels.numpy(), groups, FRACTIONS, seed)
        rare = [about["classes"].index(name) for name in self.params.tail]
        train = long_tailed(np.flatnonzero(part == 0), labels.numpy(), rare, self.params.tail_share, seed)
        parts = {"train": train, "val": np.flatnonzero(part == 1), "test": np.flatnonzero(part == 2)}
        table = pd.DataFrame({"path": [f"cell {k}" for k in range(len(labels))], "group": groups.astype(str)})
        table["label"], table["split"] = [about["classes"][k] for k in labels.tolist()], "left out"
        for name, positions in parts.items():
            table.loc[positions, "split"] = name
        cells = CellSet(kept["images"], None, labels, tuple(about["classes"]), table, "micrographs", about["name"])
        return cells, {name: torch.from_numpy(positions) for name, positions in parts.items()}

    def _gan(self, seed: int, folder: Path, identity: str) -> list[Row]:
        """Train feature network, judge and GAN on the kept training cells; draw, judge, hand on."""
        p = self.params
        whole, parts = self._material(folder, seed)
        train = parts["train"]
        # A set of its own: no other cell is there to be read.
        cells = replace(
            whole, images=whole.images[train], labels=whole.labels[train],
            table=whole.table.iloc[train.numpy()].reset_index(drop=True),
        )  # fmt: skip
        params, own, k = p.gan(seed), folder / f"gan-{seed}", len(cells.classes)
        room = chapter.Chapter.open(cells, params)
        settings = FcmaeParams(**chapter.feature_settings(params))
        encoder = pretrain(room.images_train, settings, own / "features", identity, room.fabric).encoder
        tuning = WpatParams(**chapter.judge_settings(params))
        judge = finetune(
            room.images_train, torch.from_numpy(room.labels_train), room.images_held, torch.from_numpy(room.labels_held),
            chapter.judge_network(params, k), tuning, own / "judge", identity, room.fabric, n_classes=k, label="judge",
        ).model  # fmt: skip
        room.fit_gate(encoder, encoder.pool, judge)
        generator = room.train(own / "checkpoints", identity).generator
        done = room.deliver()
        kept = {"gated": done.images, "gated labels": done.labels}
        # Without a gate: the first samples, as many as the quota; and as many as the class lacks.
        counts = room.real_counts
        quota = done.classes.set_index("class_number")["quota"]
        lacking = {cells.classes.index(name): int(counts.max() - counts[cells.classes.index(name)]) for name in p.tail}
        for name, wanted in (("ungated", dict(quota)), ("filled", lacking)):
            drawn = {c: generate(generator, int(c), n, params.latent, seed) for c, n in wanted.items() if n}
            kept[name] = torch.cat([*drawn.values(), done.images[:0]])
            kept[f"{name} labels"] = torch.tensor([c for c in drawn for _ in range(len(drawn[c]))], dtype=torch.int64)
        judged = room.gate.judge(room.frozen.embed(kept["filled"]), kept["filled labels"].numpy(), kept["filled"])
        passed = torch.tensor(judged["accepted"].to_list(), dtype=torch.bool)
        kept["filled gated"], kept["filled gated labels"] = kept["filled"][passed], kept["filled labels"][passed]
        with atomic(own / "synthetic.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in kept.items()}, temporary)
        known = controls(
            room.gate, room.frozen.embed, (room.images_train, room.labels_train),
            (room.images_held, room.labels_held), seed, each=96,
        )  # fmt: skip
        through = kept["filled gated labels"].bincount(minlength=k).tolist()
        classes = done.classes.assign(seed=seed)
        classes.insert(0, "class", cells.classes)
        numbers = classes.pop("class_number")
        classes["drawn to fill up"] = [lacking.get(c, 0) for c in numbers]
        classes["of these passed"] = [through[c] for c in numbers]
        return _rows(known.assign(seed=seed)) + _rows(classes)

    def _classify(self, arm: str, seed: int, folder: Path, identity: str) -> list[Row]:
        import timm

        p = self.params
        cells, parts = self._material(folder, seed)
        images, labels, k = cells.images[parts["train"]], cells.labels[parts["train"]], len(cells.classes)
        gan = folder / f"gan-{seed}"
        made, extra = load_file(gan / "synthetic.safetensors"), GIVEN.get(arm)
        balance = "none" if arm == NOTHING else "sampling" if arm in SAMPLED else "weights"
        settings = WpatParams(
            seed=seed, threads=p.threads, accelerator="cpu", steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            balance=balance, layer_decay=1.0, checkpoint_every=200, muon=0.0, crop_min=0.7,  # type: ignore[arg-type]
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "balancing", "classifier"))
            network = timm.create_model(p.network, num_classes=k)
        tuned = finetune(
            images, labels, cells.images[parts["val"]], cells.labels[parts["val"]], network, settings,
            folder / f"{slug(arm)}-{seed}" / "checkpoints", identity, make_fabric(settings),
            None if extra is None else made[extra], None if extra is None else made[f"{extra} labels"],
            n_classes=k, label="classifier",
        )  # fmt: skip
        said = predict_logits(tuned.model, cells.images[parts["test"]], torch.device("cpu")).argmax(1)
        test = parts["test"].tolist()
        return [{
            "arm": arm, "seed": seed, "condition": "test", "synthetic": 0 if extra is None else len(made[extra]),
            "cell": ",".join(map(str, test)), "group": ",".join(cells.groups[test]),
            "label": ",".join(cells.classes[c] for c in cells.labels[test].tolist()),
            "predicted": ",".join(cells.classes[c] for c in said.tolist()),
        }]  # fmt: skip


def long_tailed(
    train: NDArray[np.int64], labels: NDArray[np.int64], rare: Sequence[int], share: float, seed: int
) -> NDArray[np.int64]:
    """The positions ``train`` without all but ``share`` of the cells of the ``rare`` classes (one at least), in order."""
    order = numpy_rng(seed, "long tail").permutation(train)
    keep = [c for c in order.tolist() if labels[c] not in rare]
    for label in rare:
        mine = [c for c in order.tolist() if labels[c] == label]
        keep += mine[: max(1, round(share * len(mine)))]
    return np.sort(np.array(keep, dtype=np.int64))


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _table(row: Row) -> pd.DataFrame:
    """One row a test cell."""
    frame = pd.DataFrame({key: row[key].split(",") for key in ("cell", "group", "label", "predicted")})
    frame["right"] = (frame["label"] == frame["predicted"]).astype(int)
    return frame.assign(**{key: row[key] for key in ("arm", "seed", "condition")})
