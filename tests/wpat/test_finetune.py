"""Fine-tuning: parameter groups, class weights, selection on the validation part, bitwise resume."""

import hashlib

import pytest
import torch

import leuk_lib.wpat.finetune as finetune_module
from leuk_lib.fcmae.encoder import build_encoder
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.augment import normalise
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.loop import TrainingLoop
from leuk_lib.training.optimisers import build_optimisers, parameter_groups
from leuk_lib.wpat.finetune import (
    NO_WEIGHT_DECAY,
    ModelSelection,
    class_balanced_weights,
    finetune,
    predict_logits,
    validation_scores,
    weighted_cross_entropy,
)
from leuk_lib.wpat.model import WPAT
from wpat.toys import blobs


def _digest(model):
    state = b"".join(v.detach().cpu().contiguous().numpy().tobytes() for v in model.state_dict().values())
    return hashlib.sha256(state).hexdigest()


def _run(params, folder, **kwargs):
    images, labels, _ = blobs(36)
    val_images, val_labels, _ = blobs(12, seed=1)
    torch.manual_seed(5)
    encoder = build_encoder("zepto", 4, params.drop_path)
    return finetune(
        images, labels, val_images, val_labels, encoder, params, folder, "id", make_fabric(params), **kwargs
    )


def test_groups_hold_every_trainable_parameter_once(tiny):
    model = WPAT(build_encoder("zepto", 2), 3, tiny)
    groups = parameter_groups(model, 0.05, 0.5, NO_WEIGHT_DECAY)
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    assert scale[id(model.encoder.stages[0][0].pwconv1.weight)] == 0.5**4
    assert scale[id(model.encoder.stages[3][0].pwconv1.weight)] == 0.5
    assert scale[id(model.head_weight)] == 1
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert decay[id(model.latents)] == decay[id(model.head_bias)] == 0
    assert decay[id(model.window_blocks[0].attention.logit_scale)] == 0
    assert decay[id(model.head_weight)] == 0.05


def test_a_class_of_one_cell_does_not_outweigh_the_rest():
    labels = torch.tensor([0] * 85 + [1] * 23 + [2])
    free, clipped = (class_balanced_weights(labels, 3, max_weight=limit) for limit in (1e6, 10.0))
    assert free[2] / free[0] > 80
    assert clipped[2] / clipped[0] == pytest.approx(10, rel=1e-5)
    assert clipped[1] / clipped[0] == pytest.approx(float(free[1] / free[0]), rel=1e-5)
    assert clipped[labels].mean() == pytest.approx(1, rel=1e-5)


def test_class_balanced_weights():
    labels = torch.tensor([0] * 90 + [1] * 10)
    weights = class_balanced_weights(labels, 3)
    assert weights[1] > weights[0] and float(weights[labels].mean()) == pytest.approx(1)
    assert float(weights[2]) == 1  # no cells
    same = class_balanced_weights(torch.tensor([0, 1, 2, 0, 1, 2]), 3)
    torch.testing.assert_close(same, torch.ones(3))


def test_class_weights_do_not_change_the_smoothed_target():
    # Whatever the class weights, the loss of an image of class 0 is minimal at its target, .9 + .1/4 and .1/4 elsewhere.
    target, weights = torch.tensor([0]), torch.tensor([0.4, 0.4, 0.4, 4.0])
    logits = torch.log(torch.tensor([[0.925, 0.025, 0.025, 0.025]])).requires_grad_()
    loss = weighted_cross_entropy(logits, target, weights, 0.1)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)
    assert float(loss.detach()) == pytest.approx(
        0.4 * float(weighted_cross_entropy(logits.detach(), target, None, 0.1))
    )


def test_loss_of_mixed_labels_is_weighed_by_their_parts():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0.5, 1.0, 3.0])
    one_hot = torch.nn.functional.one_hot(labels, 3).float()
    for smoothing in (0.0, 0.1):
        plain = weighted_cross_entropy(logits, labels, weights, smoothing)
        torch.testing.assert_close(weighted_cross_entropy(logits, one_hot, weights, smoothing), plain)
    by_hand = torch.nn.functional.cross_entropy(logits, labels, weight=weights, reduction="none").mean()
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights, 0.0), by_hand)


def test_an_odd_batch_for_mixing_and_a_diverged_loss_are_errors(tiny, tmp_path):
    odd = tiny.model_copy(update={"batch_size": 9, "mixup": 0.4})
    with pytest.raises(LeukError, match="batch_size 9 is not an even number"):
        _run(odd, tmp_path / "odd")
    with pytest.raises(LeukError, match=r"WPAT: the loss is .* at step \d+; lower lr"):
        _run(tiny.model_copy(update={"lr": 1e18, "muon": 0.0, "warmup": 0.0}), tmp_path / "diverged")


def test_selection_keeps_the_lowest_validation_loss():
    selection, model = ModelSelection(), torch.nn.Linear(1, 1)
    for step, loss in enumerate([3.0, 1.0, 2.0, 1.0]):
        torch.nn.init.constant_(model.weight, step)
        selection.update(step, {"val_loss": loss}, model)
    assert selection.best_step == 1 and float(selection.best["weight"]) == 1


def test_scores_leave_absent_classes_out():
    logits = torch.eye(3)[[0, 0, 1, 1]]
    scores = validation_scores(logits, torch.tensor([0, 0, 1, 0]), balanced=True)
    assert scores["val_accuracy"] == pytest.approx(0.75)
    assert scores["val_recall"] == pytest.approx((2 / 3 + 1) / 2)


def test_against_imbalance_every_class_counts_as_much_in_the_loss_that_selects():
    logits, labels = torch.tensor([[2.0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 3, 0]]), torch.tensor([0, 0, 0, 1])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    plain, balanced = (validation_scores(logits, labels, balanced)["val_loss"] for balanced in (False, True))
    assert plain == pytest.approx(float(losses.mean()))
    assert balanced == pytest.approx(float(losses[:3].mean() + losses[3]) / 2)


@pytest.mark.parametrize("balance", ["weights", "sampling", "none"])
def test_the_curve_has_the_loss_that_fits_the_training(balance, tiny, tmp_path):
    images, labels, _ = blobs(24)
    kept = torch.tensor([0, 1, 2, 3, 6, 9])  # four images of class 0, one of the others
    val_images, val_labels = images[kept], labels[kept]
    assert torch.bincount(val_labels).tolist() == [4, 1, 1]
    params = tiny.model_copy(update={"balance": balance})
    tuned = finetune(
        images, labels, val_images, val_labels, _small_network(), params, tmp_path, "id", make_fabric(params)
    )
    balanced, plain = (validation_scores(tuned.val_logits, val_labels, choice)["val_loss"] for choice in (True, False))
    found = tuned.curve.set_index("step")["val_loss"][tuned.best_step]
    assert balanced != pytest.approx(plain) and found == pytest.approx(plain if balance == "none" else balanced)


def _small_network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, 2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(16, 3),
    )  # fmt: skip


def test_it_learns_and_the_result_is_the_best_evaluation(tiny, tmp_path):
    params = tiny.model_copy(update={"steps": 80, "evaluations": 8, "batch_size": 16, "lr": 0.02})
    (images, labels, _), (val_images, val_labels, _) = blobs(48), blobs(24, seed=1)
    model = _small_network()
    result = finetune(images, labels, val_images, val_labels, model, params, tmp_path, "id", make_fabric(params))
    assert len(result.history) == 80 and result.curve["step"].tolist() == list(range(10, 90, 10))
    best = result.curve.set_index("step")["val_loss"]
    assert result.best_step == best.idxmin()
    again = validation_scores(predict_logits(result.model, val_images, torch.device("cpu")), val_labels, balanced=True)
    assert again["val_loss"] == pytest.approx(best.min(), rel=1e-4)
    assert again["val_accuracy"] > 0.8


def test_wpat_fits_a_batch(tiny):
    model = WPAT(build_encoder("zepto", 2), 3, tiny)
    images, labels, _ = blobs(24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(normalise(images)), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert float(loss.detach()) < 0.7  # log 3 = 1.1 at the start


def test_same_seed_same_bytes_and_another_seed_others(tiny, tmp_path):
    tiny = tiny.model_copy(update={"steps": 4})
    a, b = _run(tiny, tmp_path / "a"), _run(tiny, tmp_path / "b")
    c = _run(tiny.model_copy(update={"seed": 1}), tmp_path / "c")
    assert _digest(a.model) == _digest(b.model) != _digest(c.model)


def test_weights_count_the_synthetic_cells_in(tiny, tmp_path, monkeypatch):
    calls = []

    def recorded(labels, n_classes, **kwargs):
        calls.append(labels)
        return class_balanced_weights(labels, n_classes, **kwargs)

    monkeypatch.setattr(finetune_module, "class_balanced_weights", recorded)
    tiny = tiny.model_copy(update={"steps": 1, "evaluations": 1})
    real = blobs(36)[1]
    images, labels, _ = blobs(24, seed=3)
    rare = labels == 2
    _run(tiny, tmp_path / "real")
    _run(tiny, tmp_path / "both", extra_images=images[rare], extra_labels=labels[rare])
    assert torch.equal(calls[0], real) and torch.equal(calls[1], torch.cat([real, labels[rare]]))
    # A class with synthetic cells gets a smaller weight than without; the others keep their ratio.
    without, filled = (class_balanced_weights(labels, 3) for labels in calls)
    assert filled[2] / filled[0] < without[2] / without[0]
    assert float(filled[0] / filled[1]) == pytest.approx(float(without[0] / without[1]))
    for other in ("sampling", "none"):
        _run(tiny.model_copy(update={"balance": other}), tmp_path / other)
    assert len(calls) == 2


def test_weights_change_what_is_learned(tiny, tmp_path):
    tiny = tiny.model_copy(update={"steps": 1, "evaluations": 1})
    images, labels, _ = blobs(6, seed=3)
    rare = {"extra_images": images[labels == 2].repeat(9, 1, 1, 1), "extra_labels": torch.full((18,), 2)}
    weighted = _run(tiny, tmp_path / "a", **rare)
    plain = _run(tiny.model_copy(update={"balance": "none"}), tmp_path / "b", **rare)
    assert weighted.history["loss"][0] != plain.history["loss"][0]


def test_synthetic_cells_balanced_sampling_and_any_network(tiny, tmp_path):
    tiny = tiny.model_copy(update={"steps": 3, "evaluations": 1})
    images, labels, _ = blobs(6, seed=3)
    extra = {"extra_images": images, "extra_labels": labels}
    with_extra = _run(tiny, tmp_path / "a", **extra)
    assert _digest(with_extra.model) != _digest(_run(tiny, tmp_path / "b").model)
    sampled = _run(tiny.model_copy(update={"balance": "sampling"}), tmp_path / "c", n_classes=5)
    assert sampled.val_logits.shape == (12, 5)
    result = finetune(*blobs(36)[:2], *blobs(12)[:2], _small_network(), tiny, tmp_path / "d", "id", make_fabric(tiny))
    assert result.val_logits.shape == (12, 3)


def test_an_empty_part_is_an_error(tiny, tmp_path):
    images, labels, _ = blobs(12)
    with pytest.raises(LeukError, match="0 validation cells"):
        finetune(
            images, labels, images[:0], labels[:0], build_encoder("zepto", 2), tiny, tmp_path, "x", make_fabric(tiny)
        )


def test_an_interrupted_training_ends_with_the_same_weights(tiny, tmp_path, monkeypatch):
    # kill -9 and two processes: tests/training
    whole = _run(tiny, tmp_path / "whole")
    record = TrainingLoop.record

    def interrupted(self, *arguments):
        if self.step == 8:
            raise KeyboardInterrupt
        record(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _run(tiny, tmp_path / "cut")
    continued = _run(tiny, tmp_path / "cut")
    assert _digest(continued.model) == _digest(whole.model)
    assert continued.curve.equals(whole.curve) and continued.history.equals(whole.history)


def test_every_parameter_has_one_optimiser_and_muon_takes_inner_matrices_only(tiny):
    model = WPAT(build_encoder("zepto", 2), 3, tiny)
    rule = 0.05, tiny.muon, lambda _, layer: layer.out_features == 3
    optimisers = build_optimisers(model, *rule)
    grouped = [p for optimiser in optimisers.values() for group in optimiser.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == sum(p.requires_grad for p in model.parameters())
    by_muon = {id(p) for group in optimisers["muon"].param_groups for p in group["params"]}
    assert id(model.encoder.stages[0][0].pwconv1.weight) in by_muon
    assert id(model.window_blocks[0].attention.q.weight) in by_muon
    for outside in (
        model.linear_head.linear.weight,
        model.head_weight,
        model.latents,
        model.encoder.stages[0][0].dwconv.weight,
    ):
        assert id(outside) not in by_muon
    assert set(build_optimisers(model, 0.05, 0.0, rule[2])) == {"optimizer"}
    assert set(build_optimisers(_small_network(), *rule)) == {"optimizer"}  # no linear layer but the last


def test_patience_ends_training_and_a_second_call_trains_nothing(tiny, tmp_path, monkeypatch):
    # With this learning rate no evaluation is better than the first.
    params = tiny.model_copy(
        update={"steps": 40, "evaluations": 20, "lr": 1e-12, "patience": 3, "muon": 0.0, "linear_head": False}
    )
    (images, labels, _), (val_images, val_labels, _) = blobs(16), blobs(9, seed=1)

    def run():
        return finetune(
            images, labels, val_images, val_labels, _small_network().eval(), params, tmp_path, "id", make_fabric(params)
        )

    monkeypatch.setattr("leuk_lib.wpat.finetune.validation_scores", lambda logits, truth, balanced: {"val_loss": 1.0})
    stopped = run()
    assert (
        len(stopped.curve) == 4 and stopped.best_step == 2 and len(stopped.history) == 8
    )  # the best evaluation, and three more
    monkeypatch.setattr(TrainingLoop, "record", lambda *_: pytest.fail("trained again"))
    again = run()
    assert _digest(again.model) == _digest(stopped.model) and again.curve.equals(stopped.curve)


def test_patience_survives_an_interruption():
    selection, model = ModelSelection(), torch.nn.Linear(1, 1)
    for step, loss in enumerate([1.0, 2.0, 2.0]):
        selection.update(step, {"val_loss": loss}, model)
    continued = ModelSelection()
    continued.load_state_dict(selection.state_dict())
    continued.update(3, {"val_loss": 3.0}, model)
    assert continued.since_best == 3 and continued.best_step == 0
    continued.update(4, {"val_loss": 0.5}, model)
    assert continued.since_best == 0 and continued.best_step == 4


def test_light_moves_training_only_if_it_is_on(tiny, tmp_path):
    images, labels, _ = blobs(16)

    def losses(folder, **values):
        params = tiny.model_copy(update={"steps": 2, "evaluations": 1, **values})
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        tuned = finetune(images, labels, images, labels, network, params, tmp_path / folder, "id", make_fabric(params))
        return tuned.history["loss"].tolist()

    assert losses("a", light=0.0) == losses("b", light=0.0) != losses("c", light=0.3)


def test_mixing_is_part_of_training_and_repeatable(tiny, tmp_path):
    tiny = tiny.model_copy(update={"steps": 3, "evaluations": 1})
    mixing = tiny.model_copy(update={"mixup": 0.4, "cutmix": 1.0})
    a, b = _run(mixing, tmp_path / "a"), _run(mixing, tmp_path / "b")
    assert _digest(a.model) == _digest(b.model) != _digest(_run(tiny, tmp_path / "c").model)
