import torch
from torch import nn
from torch.nn import functional as F

from sparselt import Mask
from sparselt.models import build_model
from sparselt.models.blurpool import Blur, BlurredConv2d, apply_blurpool_, joined_border


def test_blur_keeps_constants_and_takes_every_second_pixel_of_the_binomial_filter():
    assert torch.allclose(Blur(2)(torch.full((1, 3, 6, 6), 5.0)), torch.full((1, 3, 3, 3), 5.0))
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 16.0
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(Blur()(image)[0, 0, 1:4, 1:4], expected)
    assert torch.equal(Blur(2)(image)[0, 0], torch.tensor([[0.0, 0, 0], [0, 4, 0], [0, 0, 0]]))


def test_the_border_for_gpus_is_the_reflected_one_and_keeps_the_layout():
    images = torch.randn(2, 3, 5, 4, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    padded, expected = joined_border(images), F.pad(images, (1, 1, 1, 1), mode="reflect")
    assert torch.equal(padded, expected) and padded.is_contiguous(memory_format=torch.channels_last)
    given = torch.randn_like(padded)
    found, answer = (torch.autograd.grad(out, images, given)[0] for out in (padded, expected))
    torch.testing.assert_close(found, answer)


def test_blurpool_changes_six_convolutions_and_one_pooling_of_resnet50_and_no_name():
    model = build_model("resnet50", classes=10, channels=3, seed=0)
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    before = model.eval()(images)
    apply_blurpool_(model)
    assert sum(isinstance(m, BlurredConv2d) for m in model.modules()) == 6
    assert isinstance(model.maxpool[1], Blur) and model.maxpool[0].stride == 1
    model.load_state_dict(plain, strict=True)
    assert list(Mask.ones_like(model)) == list(Mask.ones_like(build_model("resnet50", classes=10, channels=3, seed=0)))
    after = model(images)
    assert after.shape == before.shape and not torch.allclose(after, before)


def test_a_blurred_convolution_equals_blur_then_convolution():
    model = nn.Sequential(nn.Conv2d(16, 4, 3, stride=2, padding=1))
    images = torch.randn(2, 16, 8, 8)
    expected = model(Blur()(images))
    apply_blurpool_(model)
    torch.testing.assert_close(model(images), expected)
