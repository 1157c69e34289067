"""LeNet-300-100 on Fashion-MNIST, in the protocol that Frankle et al. 2019 use on MNIST."""

import dataclasses

from sparselt.data import FashionMNIST
from sparselt.experiments.setting import Setting
from sparselt.reproduce import mnist_lenet


def setting(scale: str) -> Setting:
    """`mnist_lenet` with the images of Fashion-MNIST, which have the same shape and count."""
    base = mnist_lenet.setting(scale)
    changes = {} if scale == "smoke" else {"source": FashionMNIST()}
    return dataclasses.replace(
        base, name="fashion_mnist_lenet", title=base.title.replace("MNIST", "Fashion-MNIST"), **changes
    )
