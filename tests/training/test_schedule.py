import math

import pytest
import torch

from sparselt.errors import SettingError
from sparselt.reproduce import load_setting
from sparselt.training.schedule import Schedule, parse_step


def test_step_schedule_divides_at_its_milestones():
    schedule = Schedule("step", 0.1, (300, 450), 10)
    assert [schedule.learning_rate(step, 600) for step in (0, 299, 300, 449, 450, 599)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_cosine_with_warm_up_equals_torchs_schedulers():
    steps, warmup = 40, 10
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warmup)
    expected = []
    for _ in range(warmup):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rise.step()
    expected += [2.0 * (1 + math.cos(math.pi * t / (steps - warmup))) / 2 for t in range(steps - warmup)]
    schedule = Schedule("cosine", 2.0, warmup_steps=warmup)
    assert [schedule.learning_rate(step, steps) for step in range(steps)] == pytest.approx(expected)


def test_linear_schedule_falls_evenly_to_its_last_rate_after_a_warm_up():
    schedule = Schedule("linear", 0.6, warmup_steps=2, last=0.1)
    rates = [schedule.learning_rate(step, 7) for step in range(8)]
    assert rates == pytest.approx([0.3, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("values", [{"last_lr": 0.01}, {"schedule": "linear", "last_lr": 0.5}])
def test_last_rate_of_another_schedule_or_above_the_peak_is_refused(values):
    with pytest.raises(SettingError, match="last_lr"):
        load_setting("digits_resnet8").changed(**values).checked()


@pytest.mark.parametrize(("text", "steps"), [("0", 0), (2000, 2000), ("2000it", 2000), ("4ep", 80), (" 7 ", 7)])
def test_steps_are_given_in_iterations_or_epochs(text, steps):
    assert parse_step(text, steps_per_epoch=20) == steps


@pytest.mark.parametrize("text", ["", "-1", "2.5", "4 epochs", "ep"])
def test_what_is_no_step_is_refused(text):
    with pytest.raises(SettingError, match="expected a number of steps"):
        parse_step(text, 20)
