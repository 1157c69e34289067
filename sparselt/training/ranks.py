"""What the processes that train one network together exchange. Each is a rank of torch.distributed's default group."""

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, distributed, nn

from sparselt.errors import UnequalRanksError
from sparselt.masks import Mask
from sparselt.training.recipe import Sent

_ALIGNED = 16  # bytes: the optimizer's kernels read whole vectors
_BUCKET = 2**23  # numbers that are sent at once, while the next ones are packed


class Ranks:
    """This process among those that train one network. Every method must be called by all of them.

    A batch is divided among the ranks (`sparselt.data.Shard`). Each computes the gradient of its share, and `add_up`
    gives all of them the gradient of the whole batch. Then each makes the same step, so weights and optimizer states
    stay equal without being sent.

    Args:
        model: the network, on its device.
        batch_size: images of a whole step, of all ranks together.
        mask: of the network; only for `sent`.
        sent: `all` gradients, or only those of `live` weights. The sums may then be taken in another order, so with
            three ranks or more the last bits can differ.
    """

    def __init__(self, model: nn.Module, batch_size: int, mask: Mask | None = None, sent: Sent = "all"):
        self.rank, self.count = distributed.get_rank(), distributed.get_world_size()
        self._model, self._batch_size, self._mask, self._sent = model, batch_size, mask, sent
        self._flat = torch.zeros(0)
        self._places: Tensor | None = None
        self._views: list[Tensor] = []

    @property
    def writes(self) -> bool:
        """Whether this rank writes the files."""
        return self.rank == 0

    @property
    def bytes_a_step(self) -> int:
        """What a step sends, once `add_up` has been called: gradients, and the loss."""
        return self._flat.element_size() * (self._flat.numel() if self._places is None else len(self._places))

    def share(self, images: int) -> float:
        """The factor for the mean loss of a rank with `images` of the batch. Multiply before the backward pass."""
        return images / self._batch_size

    def add_up(self, loss: Tensor) -> Tensor:
        """Replaces every gradient by its sum over the ranks, and returns the sum of the losses.

        With losses multiplied by `share` these are the gradients and the mean loss of the whole batch, also where the
        shares are unequal. The gradients become views of one flat tensor, laid out like their parameters.
        """
        named = [(name, p) for name, p in self._model.named_parameters() if p.grad is not None]
        if not self._views:
            self._lay_out(named, loss)
        for (_, parameter), view in zip(named, self._views[:-1], strict=True):
            view.copy_(parameter.grad)  # type: ignore[arg-type]  # it has a gradient
        self._views[-1].copy_(loss)
        if self._places is None:
            waits = [distributed.all_reduce(part, async_op=True) for part in self._flat.split(_BUCKET)]
            for wait in waits:
                wait.wait()
        else:
            sent = self._flat[self._places]
            distributed.all_reduce(sent)
            self._flat.zero_()[self._places] = sent
        for (_, parameter), view in zip(named, self._views[:-1], strict=True):
            parameter.grad = view
        return self._views[-1].clone()

    def _lay_out(self, named: Sequence[tuple[str, nn.Parameter]], loss: Tensor) -> None:
        dtype, device = (named[0][1].dtype, named[0][1].device) if named else (loss.dtype, loss.device)
        step = _ALIGNED // dtype.itemsize
        starts = [0]
        for _, parameter in named:
            starts.append(starts[-1] + -(-parameter.numel() // step) * step)
        self._flat = torch.zeros(starts[-1] + 1, dtype=dtype, device=device)
        shapes = [(p.shape, p.stride()) for _, p in named]
        self._views = [self._flat.as_strided(*shape, start) for shape, start in zip(shapes, starts, strict=False)]
        self._views.append(self._flat[-1])
        if self._sent == "live" and self._mask is not None:
            live = torch.zeros_like(self._flat, dtype=torch.bool)
            for (name, _), shape, start in zip(named, shapes, starts, strict=False):
                part = live.as_strided(*shape, start)
                part.copy_(self._mask[name]) if name in self._mask else part.fill_(True)
            live[-1] = True
            self._places = live.nonzero().view(-1)

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def sums(self, numbers: Iterable[float]) -> list[float]:
        """The sum of each number over the ranks."""
        found = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
        distributed.all_reduce(found)
        return found.tolist()

    def share_buffers(self) -> None:
        """Gives every rank the buffers of rank 0, such as the running statistics of batch norm."""
        for buffer in self._model.buffers():
            distributed.broadcast(buffer, 0)

    def check_equal(self, step: int) -> None:
        """Compares the weights of all ranks by checksums.

        Raises:
            UnequalRanksError: on every rank; it names the rank and the parameter.
        """
        names = [name for name, _ in self._model.named_parameters()]
        own = torch.tensor([_checksum(parameter) for parameter in self._model.parameters()])
        found = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(found, own)
        for rank, sums in enumerate(found):
            if not torch.equal(sums, found[0]):
                name = names[int((sums != found[0]).nonzero()[0])]
                raise UnequalRanksError(
                    f"the ranks' networks are not equal: {name} of rank {rank} differs from that of rank 0 at step "
                    f"{step}. The same steps must give the same bits: are the machines alike?"
                )


def _checksum(tensor: Tensor) -> int:
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return int.from_bytes(hashlib.sha256(data.data).digest()[:8], "little", signed=True)
