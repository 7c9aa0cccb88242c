"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch

from leuk_lib.training.ema import WeightAverage
from leuk_lib.training.schedules import warming_decay


def test_average_of_a_constant_is_the_constant_and_buffers_follow():
    model = torch.nn.BatchNorm1d(3)
    average = WeightAverage(model)
    model(torch.randn(8, 3) + 4)
    for step in range(200):
        average.update(model, warming_decay(0.9, step))
    torch.testing.assert_close(average.model.running_mean, model.running_mean)
    assert int(average.model.num_batches_tracked) == 1


def test_one_update_by_hand_leaves_the_model_alone():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 2.0)
    average = WeightAverage(model)
    torch.nn.init.constant_(model.weight, 10.0)
    average.update(model, 0.75)
    assert average.model.weight.item() == pytest.approx(4.0)
    assert model.weight.item() == 10 and model.weight.requires_grad and not average.model.weight.requires_grad


def test_state_is_restored_and_a_foreign_one_refused():
    average, other = WeightAverage(torch.nn.Linear(2, 2)), WeightAverage(torch.nn.Linear(2, 2))
    other.load_state_dict(average.state_dict())
    assert torch.equal(other.model.weight, average.model.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(WeightAverage(torch.nn.Linear(3, 2)).state_dict())


def test_averaging_all_weights_at_once_is_averaging_each_to_the_bit():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 7, 3), torch.nn.BatchNorm2d(7)).to(memory_format=torch.channels_last)
    average = WeightAverage(model)
    expected = {name: value.clone() for name, value in average.state_dict().items()}
    for step in range(5):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        average.update(model, decay := warming_decay(0.99, step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name].lerp_(value, 1 - decay)
    for name, value in average.state_dict().items():
        assert torch.equal(value, expected[name]), name
