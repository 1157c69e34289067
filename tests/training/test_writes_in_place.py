"""Networks that write in place to what something else reads: no operation of theirs may be moved or left out."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparselt.analysis import evaluate_path
from sparselt.errors import SettingError
from sparselt.training.folding import Folded
from sparselt.training.fused_norm import fused_forward


class Block(nn.Module):
    """A convolution, a norm, and what `rest` makes of its output."""

    def __init__(self, rest):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.relu, self.again = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 5)
        self.rest = rest

    def forward(self, x):
        return self.fc(self.rest(self, x).mean((2, 3)))


def dropped_module(net, x):
    y = net.bn(net.conv(x))
    net.relu(y)
    return y


def dropped_method(net, x):
    y = net.bn(net.conv(x))
    y.relu_()
    return y


def dropped_function(net, x):
    y = net.bn(net.conv(x))
    F.relu(y, inplace=True)
    return y


def of_a_view(net, x):
    y = net.bn(net.conv(x))
    y.view(-1).mul_(2)
    return F.relu(y)


def read_before(net, x):
    y = net.conv(x)
    z = y.clamp(min=0)
    y.mul_(2)
    return F.relu(net.bn(y)) + z


def alias_of_a_sum(net, x):
    y = net.conv(x) * 1
    z = y
    y += net.bn(net.conv(x))
    return F.relu(y) + z


def moved_read(net, x):
    r = net.conv(x) * 1
    y = net.bn(net.conv(x)) + r
    r2 = r.mul_(2)
    return F.relu(y) + r2


SHARED = [dropped_module, dropped_method, dropped_function, of_a_view, read_before, alias_of_a_sum, moved_read]


def weight_read_elsewhere(net, x):
    return F.relu(net.bn(net.conv(x))) * net.conv.weight.sum()


def norm_called_twice(net, x):
    return net.bn(F.relu(net.bn(net.conv(x))))


def usual(net, x):
    y = net.bn(net.conv(x))
    y += F.relu(net.conv(x))
    return net.relu(y)


def lived_in(rest) -> nn.Module:
    torch.manual_seed(0)
    net = Block(rest)
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 6, 6) + 0.3)
    return net.eval()


@pytest.mark.parametrize("rest", [*SHARED, weight_read_elsewhere, norm_called_twice, usual])
def test_folding_changes_no_output_whatever_is_written_in_place(rest):
    net, images = lived_in(rest), torch.randn(4, 3, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(Folded(net).load(net.state_dict())(images), net(images), rtol=1e-4, atol=1e-5)


def test_a_path_has_the_losses_of_the_network_as_it_is():
    net = lived_in(dropped_module)
    other = {name: tensor * 1.1 if tensor.is_floating_point() else tensor for name, tensor in net.state_dict().items()}
    batches = [(torch.randn(16, 3, 6, 6), torch.arange(16) % 5)]
    found, plain = (
        evaluate_path(net, net.state_dict(), other, batches, (0.0, 0.5, 1.0), folded=folded) for folded in (True, False)
    )
    assert found.errors == plain.errors and found.losses == pytest.approx(plain.losses, rel=1e-5)


@pytest.mark.parametrize("rest", SHARED)
def test_norms_of_such_a_network_are_not_fused(rest):
    with pytest.raises(SettingError, match="writes in place to a tensor that something else reads"):
        fused_forward(lived_in(rest))


def test_a_norm_that_is_called_twice_is_not_fused():
    with pytest.raises(SettingError, match="no batch norm that is called once"):
        fused_forward(lived_in(norm_called_twice))


def trained(net, forward, images):
    loss = forward(images).square().sum()
    loss.backward()
    return loss, [p.grad for p in net.parameters()], dict(net.named_buffers())


def broadcast_residual(net, x):
    y = net.bn(net.conv(x))
    return F.relu(y + y.new_ones(1, 4, 1, 1))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("rest", [usual, broadcast_residual])
def test_a_fused_network_gives_what_the_network_gives(rest, frozen):
    net = lived_in(rest).train().to(memory_format=torch.channels_last)
    if frozen:
        net.bn.eval()
    alike = copy.deepcopy(net)
    images = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    for found, expected in zip(trained(net, fused_forward(net), images), trained(alike, alike, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_modules_whose_names_collide_are_kept_apart():
    class Names(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential()
            self.a.add_module("b", nn.BatchNorm2d(3))
            self.a_b, self.bn, self.bn_fused = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.bn_fused(self.bn(F.relu(self.a.b(x))) - self.a_b(x))

    torch.manual_seed(0)
    net = Names()
    images = torch.randn(4, 3, 6, 6).to(memory_format=torch.channels_last)
    torch.testing.assert_close(fused_forward(net)(images), copy.deepcopy(net)(images), rtol=1e-4, atol=1e-5)
