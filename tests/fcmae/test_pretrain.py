import numpy as np
import pytest
import torch

from fcmae.toys import cells, small_params
from leuk_lib.fcmae.pretrain import build_autoencoder, pretrain
from leuk_lib.fcmae.probe import Probe
from leuk_lib.runs.errors import LeukError
from leuk_lib.training.fabric import make_fabric
from leuk_lib.training.optimisers import build_optimisers, parameter_groups


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.autoencoder.parameters()])


def run(folder, monitor=None, images=None, **values):
    params = small_params(**values)
    return pretrain(cells() if images is None else images, params, folder, "id", make_fabric(params), monitor)


class Stop(Exception):
    pass


class Interrupter:
    """A monitor that raises at a given step."""

    def __init__(self, steps, stop_at=None):
        self.steps, self.stop_at, self.called_at = steps, stop_at, []

    def __call__(self, step, encoder):
        if step == self.stop_at:
            raise Stop
        self.called_at.append(step)

    def state_dict(self):
        return {"called_at": list(self.called_at)}

    def load_state_dict(self, state):
        self.called_at = list(state["called_at"])


@pytest.mark.parametrize(
    ("stop_at", "values"),
    [(1, {}), (2, {"muon": 0.0}), (3, {"ema_decay": 0.9}), (5, {"contrast": 0.0}), (4, {"contrast": 0.0, "muon": 0.0})],
)
def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path, stop_at, values):
    whole = run(tmp_path / "whole", Interrupter(range(7)), **values)
    with pytest.raises(Stop):
        run(tmp_path / "cut", Interrupter(range(7), stop_at), **values)
    resumed_monitor = Interrupter(range(7))
    resumed = run(tmp_path / "cut", resumed_monitor, **values)
    assert torch.equal(weights(whole), weights(resumed))
    assert whole.history == resumed.history and [row["step"] for row in whole.history] == list(range(6))
    assert resumed_monitor.called_at == list(range(7))


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(tmp_path):
    a, b, c = (run(tmp_path / n, seed=s) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(weights(a), weights(b)) and not torch.equal(weights(a), weights(c))


def test_accumulation_is_the_large_batch(tmp_path):
    whole, parts = run(tmp_path / "a", contrast=0.0), run(tmp_path / "b", accumulate=4, contrast=0.0)
    for expected, row in zip(whole.history, parts.history, strict=True):
        for key in expected:
            assert row[key] == pytest.approx(expected[key], abs=1e-5, rel=1e-5)


def test_a_few_steps_lower_the_loss_and_everything_is_trainable_again(tmp_path):
    result = run(tmp_path, steps=40, base_lr=0.1, checkpoint_every=40, crop_min=0.8)
    losses = [row["loss"] for row in result.history]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert all(np.isfinite(v) for row in result.history for v in row.values())
    assert all(p.requires_grad for p in result.encoder.parameters())


def test_the_average_is_monitored_and_returned(tmp_path):
    class Weights(Interrupter):
        def __call__(self, step, encoder):
            super().__call__(step, encoder)
            self.last = torch.cat([p.detach().flatten().clone() for p in encoder.parameters()])

    plain, monitor = run(tmp_path / "plain"), Weights(range(7))
    averaged = run(tmp_path / "ema", monitor, ema_decay=0.5)
    assert [row["loss"] for row in plain.history] == [row["loss"] for row in averaged.history]
    assert not torch.equal(weights(plain), weights(averaged))
    assert torch.equal(monitor.last, torch.cat([p.detach().flatten() for p in averaged.encoder.parameters()]))
    assert all(p.requires_grad for p in averaged.autoencoder.parameters())


def test_fewer_images_than_the_batch(tmp_path):
    assert len(run(tmp_path, images=cells(3), steps=2).history) == 2


def test_muon_gets_the_matrices_inside_and_adamw_the_rest():
    model = build_autoencoder(small_params())
    optimisers = build_optimisers(model, 0.1, 10.0, lambda name, _: name == "pred")
    names = {id(p): n for n, p in model.named_parameters()}
    muon, adamw = (
        {names[id(p)] for group in optimisers[k].param_groups for p in group["params"]} for k in ("muon", "optimizer")
    )
    assert muon | adamw == set(names.values())
    assert muon == {n for n, p in model.named_parameters() if p.ndim == 2 and n != "pred.weight"}


def test_the_contrastive_term_is_logged_and_trains_the_head_norm(tmp_path):
    result = run(tmp_path)
    assert all(row["contrast"] > 0 for row in result.history)
    assert not torch.equal(result.encoder.norm.weight, torch.ones_like(result.encoder.norm.weight))
    plain = run(tmp_path / "plain", contrast=0.0)
    assert "contrast" not in plain.history[0]
    assert torch.equal(plain.encoder.norm.weight, torch.ones_like(plain.encoder.norm.weight))


def test_initial_weights_have_the_scale_of_their_rule():
    published, fan_in = (build_autoencoder(small_params(init=i)) for i in ("published", "fan_in"))
    name = "encoder.stages.2.0.pwconv1.weight"
    assert 0.015 < float(published.get_parameter(name).std()) < 0.02
    assert float(fan_in.get_parameter(name).std()) == pytest.approx(128**-0.5, rel=0.05)
    assert float(fan_in.get_parameter("encoder.stages.2.0.pwconv2.weight").std()) == pytest.approx(
        0.5 * 512**-0.5, rel=0.05
    )
    assert float(fan_in.pred.weight.std()) < 0.02


def test_only_matrices_and_kernels_decay():
    model = build_autoencoder(small_params())
    names = {id(p): n for n, p in model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in parameter_groups(model, 0.1) for p in g["params"]}
    assert set(decay) == set(names.values())
    assert all(name.endswith("weight") for name, value in decay.items() if value)
    assert decay["mask_token"] == decay["encoder.stages.0.0.grn.gamma"] == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"stem_stride": 4}, "choose stem_stride 1"),
        ({"batch_size": 9, "accumulate": 2, "contrast": 0.0}, "batch_size 9"),
        ({"accumulate": 2}, "accumulate 2 with contrast 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, values, words):
    with pytest.raises(LeukError, match=words):
        run(tmp_path, **values)


def test_bfloat16_runs(tmp_path):
    result = run(tmp_path, steps=2, precision="bf16-mixed")
    assert all(np.isfinite(row["loss"]) for row in result.history)
    assert all(p.dtype == torch.float32 for p in result.encoder.parameters())


def test_probe_as_monitor_survives_a_restart(tmp_path):
    images = cells(30)
    labels = torch.arange(30) % 3

    def probe():
        return Probe(images, labels, np.arange(30).astype(str), torch.arange(20), torch.arange(20, 30), (0, 3, 6), k=3)

    first, second = probe(), probe()
    run(tmp_path, first, images=images[:20])
    run(tmp_path, second, images=images[:20])  # already finished, so only the last probe is repeated
    assert first.table().equals(second.table())
