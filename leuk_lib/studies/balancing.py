"""Do synthetic cells help rare classes? A long-tailed training part and a classifier trained with each remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from leuk_lib.data.cellset import CellSet
from leuk_lib.data.loading import load_dataset
from leuk_lib.data.splits import split_groups
from leuk_lib.fcmae.params import FcmaeParams
from leuk_lib.fcmae.pretrain import pretrain
from leuk_lib.gan.controls import controls
from leuk_lib.gan.features import feature_settings
from leuk_lib.gan.generate import generate
from leuk_lib.gan.params import AcdbGanParams
from leuk_lib.gan.pipeline import AcdbGan
from leuk_lib.gan.verifier import TRAINING_LABEL, verifier_network, verifier_settings
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
#: Arms that draw all classes equally often; the others, except "nothing", weight the classes in the loss.
SAMPLED = (OVERSAMPLING, BOTH, BOTH_GATED)
ARMS = (NOTHING, OVERSAMPLING, WEIGHTS, UNGATED, GATED, FILLED, FILLED_GATED, BOTH, BOTH_GATED)
#: Arms with which the gated arms are compared, besides "nothing".
BASELINES = {
    GATED: (OVERSAMPLING, WEIGHTS, UNGATED),
    FILLED_GATED: (OVERSAMPLING, WEIGHTS, FILLED),
    BOTH_GATED: (OVERSAMPLING, BOTH),
}
#: Synthetic cells that an arm trains on.
SYNTHETIC = {
    UNGATED: "ungated", GATED: "gated", FILLED: "filled", FILLED_GATED: "filled gated",
    BOTH: "ungated", BOTH_GATED: "gated",
}  # fmt: skip
FRACTIONS = (0.7, 0.1, 0.2)  # training, validation, test
TAIL, F1 = "tail recall", "macro F1"


class BalancingParams(StudyParams):
    """The long tail, the GAN with its gate, and the classifier."""

    seeds: tuple[int, ...] = Field((0, 1, 2, 3, 4), min_length=2, description="repetitions: split, weights, batches")
    tail: tuple[str, ...] = Field(
        ("basophil", "lymphocyte", "monocyte"), min_length=1, description="classes made rare in training"
    )
    tail_share: float = Field(0.1, gt=0, le=1, description="share of a tail class's training cells that is kept")
    image_size: Literal[16, 32, 64, 128] = Field(
        32, description="side of the images and of the synthetic cells, pixels"
    )
    per_class: int = Field(0, ge=0, description="largest number of cells per class (0: all)")
    gan_steps: int = Field(1500, ge=1, le=10**7, description="optimiser steps of generator and discriminator")
    gan_batch: int = Field(32, ge=2, le=1024, description="images per step of the GAN")
    feature_steps: int = Field(60, ge=2, le=10**6, description="optimiser steps of the gate's feature network")
    verifier_steps: int = Field(200, ge=1, le=10**6, description="optimiser steps of the gate's class verifier")
    min_count: int = Field(
        12, ge=2, description="smallest number of inner-training cells of a class that the GAN learns"
    )
    max_candidates: int = Field(400, ge=8, description="largest number of candidates per class for the gated arm")
    network: str = Field("test_resnet", description="classifier: timm model, trained from random weights")
    steps: int = Field(250, ge=1, le=10**6, description="optimiser steps of the classifier, the same in every arm")
    batch_size: int = Field(48, ge=2, le=8192, description="images per step of the classifier")
    lr: float = Field(3e-3, gt=0, le=1, description="peak learning rate of the classifier")
    resamples: int = Field(2000, ge=100, le=10**6, description="bootstrap resamples")

    def gan(self, seed: int) -> AcdbGanParams:
        """Parameters of the GAN and its gate: the laptop profile's, at this study's size."""
        return AcdbGanParams(
            seed=seed, threads=self.threads, accelerator="cpu", images="raw", gan_size=self.image_size,
            steps=self.gan_steps, batch_size=self.gan_batch, feature_steps=self.feature_steps, verifier_steps=self.verifier_steps,
            min_count=self.min_count, max_candidates=self.max_candidates,
            pilot=min(64, self.max_candidates), checkpoint_every=200, light=0.0,
        )  # fmt: skip


class Balancing(Study[BalancingParams]):
    """Each repetition has its own split (by groups), tail, GAN, gate and initial weights, shared by all arms.

    GAN, gate and their networks see only the training cells that are left. Validation cells select each classifier's
    weights; test cells are scored once. Validation and test parts keep all their cells.

    A GAN arm without oversampling weights the classes in the loss by the cells that it trains on, synthetic ones
    included. A filled-up arm adds to a tail class what it lacks to the size of the largest class, far more than the
    quota. With oversampling the quota is added, and all classes are drawn equally often.
    """

    title = "Do synthetic cells help rare classes?"
    version = 1
    canary: ClassVar[Mapping[str, Any]] = {
        "seeds": (0, 1), "tail": ("CLL",), "tail_share": 0.5, "image_size": 16, "gan_steps": 2, "gan_batch": 4,
        "feature_steps": 2, "verifier_steps": 2, "min_count": 4, "max_candidates": 16, "steps": 3, "batch_size": 8,
        "resamples": 100,
    }  # fmt: skip
    params_model = BalancingParams
    not_of_jobs = frozenset({"seeds", "resamples"})

    def waves(self) -> Sequence[Sequence[str]]:
        """The cells; a GAN with its gate per seed; a classifier per arm and seed."""
        seeds = self.params.seeds
        return [["cells"], [f"gan-{seed}" for seed in seeds], [f"{slug(arm)}-{seed}" for seed in seeds for arm in ARMS]]

    def run(self, job: str, folder: Path, identity: str) -> list[Row]:
        """Do one job of any wave."""
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
        """Return the tables.

        Returns:
            scores: tail recall and macro F1 of each arm.
            differences: of each arm from "nothing".
            baselines: of the gated arms from their baselines.
            recalls: recall per arm and class.
            delivery, controls: what the GAN and the gate of each seed did.
            cells: the data.
        """
        p, ratio = self.params, FRACTIONS[2] / FRACTIONS[0]
        jobs = [f"{slug(arm)}-{seed}" for arm in ARMS for seed in p.seeds]
        cells = pd.concat([_table(rows[job][0]) for job in jobs], ignore_index=True)
        kinds = {TAIL: Score("recall", p.tail), F1: Score("F1")}
        by_kind = {name: Outcomes(cells, p.resamples, min(p.seeds), score) for name, score in kinds.items()}
        base = dict.fromkeys(ARMS, NOTHING)
        gains = [differences(kind, base, ratio).assign(condition=name) for name, kind in by_kind.items()]
        pairs = [(arm, other) for arm, others in BASELINES.items() for other in others]
        against = [between(kind, pairs, ratio).assign(condition=name) for name, kind in by_kind.items()]
        gans = [row for seed in p.seeds for row in rows[f"gan-{seed}"]]
        return {
            "scores": pd.concat([scores(kind).assign(condition=name) for name, kind in by_kind.items()]),
            "differences": with_holm(gains),
            "baselines": with_holm(against),
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

    def _split(self, folder: Path, seed: int) -> tuple[CellSet, dict[str, Tensor]]:
        """All cells, with their part in column ``split``, and the positions of the parts; the tail is thinned in training."""
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
        """Train feature network, class verifier and GAN on the training cells that are left; draw and screen cells."""
        p = self.params
        whole, parts = self._split(folder, seed)
        train = parts["train"]
        cells = replace(  # without any other cell
            whole, images=whole.images[train], labels=whole.labels[train],
            table=whole.table.iloc[train.numpy()].reset_index(drop=True),
        )  # fmt: skip
        params, own, k = p.gan(seed), folder / f"gan-{seed}", len(cells.classes)
        method = AcdbGan.from_cells(cells, params)
        settings = FcmaeParams(**feature_settings(params))
        encoder = pretrain(method.images_train, settings, own / "features", identity, method.fabric).encoder
        verifier = finetune(
            *method.verifier_data(), verifier_network(params, k), WpatParams(**verifier_settings(params)),
            own / "verifier", identity, method.fabric, n_classes=k, label=TRAINING_LABEL,
        ).model  # fmt: skip
        method.freeze(encoder, encoder.pool)
        method.fit_gate(verifier)
        trained = method.train(own / "checkpoints", identity)
        delivery = method.deliver()
        kept = {"gated": delivery.images, "gated labels": delivery.labels}
        # Without a gate: the first samples, as many as the quota, and as many as the class lacks.
        counts = method.real_counts
        quota = delivery.classes.set_index("class_number")["quota"]
        lacking = {cells.classes.index(name): int(counts.max() - counts[cells.classes.index(name)]) for name in p.tail}
        for name, wanted in (("ungated", dict(quota)), ("filled", lacking)):
            drawn = {c: generate(trained.generator, int(c), n, params.latent, seed) for c, n in wanted.items() if n}
            kept[name] = torch.cat([*drawn.values(), delivery.images[:0]])
            kept[f"{name} labels"] = torch.tensor([c for c in drawn for _ in range(len(drawn[c]))], dtype=torch.int64)
        embed = method.frozen.embed
        screened = method.gate.screen(embed(kept["filled"]), kept["filled labels"].numpy(), kept["filled"])
        passed = torch.tensor(screened["accepted"].to_list(), dtype=torch.bool)
        kept["filled gated"], kept["filled gated labels"] = kept["filled"][passed], kept["filled labels"][passed]
        with atomic(own / "synthetic.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in kept.items()}, temporary)
        known = controls(
            method.gate, embed, (method.images_train, method.labels_train),
            (method.images_holdout, method.labels_holdout), seed, each=96,
        )  # fmt: skip
        accepted = kept["filled gated labels"].bincount(minlength=k).tolist()
        classes = delivery.classes.assign(seed=seed)
        classes.insert(0, "class", cells.classes)
        numbers = classes.pop("class_number")
        classes["drawn to fill up"] = [lacking.get(c, 0) for c in numbers]
        classes["of these accepted"] = [accepted[c] for c in numbers]
        brightness = float(kept["filled"].float().mean() / 255)
        return _rows(known.assign(seed=seed)) + _rows(classes) + [{"seed": seed, "loss": brightness}]

    def _classify(self, arm: str, seed: int, folder: Path, identity: str) -> list[Row]:
        import timm

        p = self.params
        cells, parts = self._split(folder, seed)
        images, labels, k = cells.images[parts["train"]], cells.labels[parts["train"]], len(cells.classes)
        gan = folder / f"gan-{seed}"
        made, extra = load_file(gan / "synthetic.safetensors"), SYNTHETIC.get(arm)
        balance = "none" if arm == NOTHING else "sampling" if arm in SAMPLED else "weights"
        settings = WpatParams(
            seed=seed, threads=p.threads, accelerator="cpu", steps=p.steps, batch_size=p.batch_size, lr=p.lr,
            balance=balance, layer_decay=1.0, checkpoint_every=200, muon=0.0, crop_min=0.7, light=0.0,  # type: ignore[arg-type]
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
        logits = predict_logits(tuned.model, cells.images[parts["test"]], torch.device("cpu"))
        test, truth = parts["test"].tolist(), cells.labels[parts["test"]]
        return [{
            "arm": arm, "seed": seed, "condition": "test", "synthetic": 0 if extra is None else len(made[extra]),
            "loss": float(functional.cross_entropy(logits, truth)),
            "cell": ",".join(map(str, test)), "group": ",".join(cells.groups[test]),
            "label": ",".join(cells.classes[c] for c in truth.tolist()),
            "predicted": ",".join(cells.classes[c] for c in logits.argmax(1).tolist()),
        }]  # fmt: skip


def long_tailed(
    train: NDArray[np.int64], labels: NDArray[np.int64], rare: Sequence[int], share: float, seed: int
) -> NDArray[np.int64]:
    """Thin the rare classes of a training part.

    Args:
        train: positions of the training cells.
        labels: (N,) labels of all cells.
        rare: labels of the rare classes.
        share: in (0, 1], of the cells of a rare class that are kept; at least one.
        seed: seed of the draw.

    Returns:
        Sorted positions.
    """
    order = numpy_rng(seed, "long tail").permutation(train)
    keep = [c for c in order.tolist() if labels[c] not in rare]
    for label in rare:
        of_class = [c for c in order.tolist() if labels[c] == label]
        keep += of_class[: max(1, round(share * len(of_class)))]
    return np.sort(np.array(keep, dtype=np.int64))


def _rows(table: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _table(row: Row) -> pd.DataFrame:
    """One row per test cell."""
    frame = pd.DataFrame({key: row[key].split(",") for key in ("cell", "group", "label", "predicted")})
    frame["right"] = (frame["label"] == frame["predicted"]).astype(int)
    return frame.assign(**{key: row[key] for key in ("arm", "seed", "condition")})
