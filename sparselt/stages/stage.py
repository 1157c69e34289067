"""A stage: a pure function from files to files, identified by what decides its result."""

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Generic,
    Self,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from sparselt.files import replacing
from sparselt.own import source_digest
from sparselt.stages.resources import Resources
from sparselt.stopping import Signals

if TYPE_CHECKING:
    from torch import Tensor

    from sparselt.masks import Mask

T = TypeVar("T")


@dataclass(frozen=True)
class StageFile:
    """A file that a stage makes, as an input of another stage."""

    stage: "Stage"
    name: str

    def __reduce__(self):
        # A worker only needs to find an input. A whole chain of levels would be too deep for pickle.
        return type(self), (Made(self.stage.kind, self.stage.key), *self.__getstate__()[1:])

    def __getstate__(self):
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self))


@dataclass(frozen=True)
class Made:
    """A finished stage, as far as a worker process needs it to find its files."""

    kind: str
    key: str


@dataclass(frozen=True)
class Result(StageFile, Generic[T]):
    """A JSON file that a stage makes. `type` is the dataclass that it reads back as."""

    type: type[T]

    def decode(self, content: Mapping[str, Any]) -> T:
        """The dataclass from the JSON object. A key that is not one of its fields is ignored."""
        names = {f.name for f in dataclasses.fields(self.type)}  # type: ignore[arg-type]  # T is a dataclass
        return self.type(**{name: value for name, value in content.items() if name in names})


@dataclass(frozen=True, slots=True)
class Value:
    """One number that a stage measured. The experiment adds the other columns of its row in the results.

    None: the experiment gives the value, or the column is empty. `condition` is `name=value`, several with spaces
    between.
    """

    metric: str
    value: float
    level: int | None = None
    to_level: int | None = None
    density: float | None = None
    position: float | None = None
    position_2: float | None = None
    condition: str | None = None


@dataclass(frozen=True)
class Values:
    """The content of `values.json`: the numbers, and other notes of the stage."""

    values: Sequence[Mapping[str, Any]]
    density: float = 1.0

    def __iter__(self) -> Iterator[Value]:
        return (Value(**value) for value in self.values)


@dataclass(frozen=True)
class Task:
    """The arguments of a stage's `run`.

    Args:
        paths: every input's path, its checksum compared.
        outputs: names of the files wanted.
        folder: where to write them.
        report: to be called with the units of work done so far.
        signals: what signals have asked of this process. A stage that heeds them counts in `trainings`.
        save_seconds: how often a long stage saves its progress in `folder`, in files that begin with `files.PROGRESS`.
            A later run of the stage finds them there.
        written: SHA-256 of the files written by the methods of the task. They are compared when the stage is done.
    """

    paths: Mapping[StageFile, Path]
    outputs: frozenset[str]
    folder: Path
    report: Callable[[int], None]
    signals: Signals = field(default_factory=Signals)
    save_seconds: float = math.inf
    written: dict[str, str] = field(default_factory=dict)

    def path(self, file: StageFile) -> Path:
        """The path of an input."""
        return self.paths[file]

    def read(self, result: Result[T]) -> T:
        """Reads an input that is a JSON file."""
        return result.decode(json.loads(self.path(result).read_text()))

    def mask(self, file: StageFile) -> "Mask":
        """Reads an input that is a mask."""
        from sparselt.masks import Mask

        return Mask.load(self.path(file))

    def weights(self, file: StageFile) -> "dict[str, Tensor]":
        """Reads an input that is a checkpoint, onto the CPU."""
        from sparselt.training.checkpoint import load_tensors

        return load_tensors(self.path(file))

    def write(self, result: StageFile, content: object) -> None:
        """Writes a JSON output: a dataclass, or a JSON object."""
        self.write_bytes(result.name, json.dumps(plain(content), indent=1).encode())

    def write_values(self, values: Sequence[Value], **notes: Any) -> None:
        """Writes `values.json`, with `notes` beside the numbers."""
        listed = [{name: item for name, item in plain(value).items() if item is not None} for value in values]
        self.write_bytes("values.json", json.dumps({"values": listed, **notes}, indent=1).encode())

    def write_weights(self, name: str, tensors: "Mapping[str, Tensor]") -> None:
        """Writes a safetensors output."""
        from sparselt.training.checkpoint import packed

        self.write_bytes(name, packed(tensors))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes an output, whole or not at all, and notes its checksum."""
        with replacing(self.folder / name) as temporary:
            temporary.write_bytes(data)
        self.written[name] = hashlib.sha256(data).hexdigest()


Read = Callable[[Result[Any]], Any]
"""Returns what a JSON file of a finished stage holds."""


@dataclass(frozen=True)
class _Named:
    name: str
    first: int | None = None


def named(name: str) -> _Named:
    """In `Annotated[…]`: the name of a field in the stage's identity, where it is not the field's own."""
    return _Named(name)


def numbered(name: str, first: int = 0) -> _Named:
    """In `Annotated[tuple[StageFile, …], …]`: the inputs are `name_0`, `name_1`, …, counted from `first`."""
    return _Named(name, first)


_ASIDE = {"aside": True}


def aside(default: Any) -> Any:
    """A field that does not change the result. It is not part of the stage's identity."""
    return field(default=default, metadata=_ASIDE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One step of a plan. A kind of stage is a subclass: its values, its inputs and `run`, which makes its files.

    Fields annotated with `StageFile` are inputs; all others are values, which must turn into JSON (`plain`). Values and
    inputs decide the result and form the stage's identity, without those that are None. Fields that do not decide the
    result are `aside`. A stage with a field `threads` runs on so many CPU threads of torch.

    Class attributes: `kind` names the stage's folder in a store; `version` rises when equal values and inputs would
    give another result, so that old results are not found; `title` names the work in a plan; `unit` is the unit of
    `work`; `cost_follows` names the values that decide the cost of a unit.

    Args:
        outputs: names of the wanted files. If two experiments want different checkpoints of one training, they share
            it, and the plan wants both.
        label: the name for a person.
        work: optimizer steps, evaluated points or the like; for estimates.
        local: runs in every plan, because it depends on this machine (the user's data folder). Such a stage is cheap.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    unit: ClassVar[str]
    cost_follows: ClassVar[tuple[str, ...]] = ()

    outputs: frozenset[str] = aside(frozenset())
    label: str = aside("")
    work: int = aside(1)

    def run(self, task: Task) -> int:
        """Makes the files; returns the units of work done. Heavy imports are inside, so that planning is fast."""
        raise NotImplementedError

    @property
    def local(self) -> bool:
        """Whether it runs in every plan."""
        return False

    @property
    def name(self) -> str:
        """The name to show to a person."""
        return self.label or self.title

    @property
    def gradients_besides(self) -> float:
        """What the stage costs beside its units: forward and backward passes of an image. For estimates."""
        return 0.0

    @property
    def networks_besides(self) -> float:
        """How often it passes over the weights beside its units and files, each as long as to write and read them."""
        return 0.0

    @property
    def resources(self) -> Resources:
        """What it takes while it runs; a training's recipe says it for the training."""
        told = getattr(self, "recipe", self)
        gpus = 0.0 if getattr(self, "device", "cpu") == "cpu" else 1.0
        return Resources(getattr(told, "threads", 1), gpus, getattr(told, "ranks", 1))

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The values that decide the result, by their names in the identity, as JSON knows them."""
        found = {}
        kind: type = type(self)
        for f, name, _ in _fields(kind)[0]:
            value = getattr(self, f)
            if value is not None:
                found[name] = plain(value)
        return found

    @cached_property
    def needs(self) -> dict[str, StageFile]:
        """The inputs by name."""
        found: dict[str, StageFile] = {}
        kind: type = type(self)
        for f, name, first in _fields(kind)[1]:
            value = getattr(self, f)
            if first is not None:
                found |= {f"{name}_{place}": file for place, file in enumerate(value, first)}
            elif value is not None:
                found[name] = value
        return found

    @cached_property
    def key(self) -> str:
        """Hex digest of kind, version, values, and inputs by their keys."""
        identity = {
            "kind": self.kind,
            "version": self.version,
            "spec": self.spec,
            "needs": {name: [file.stage.key, file.name] for name, file in self.needs.items()},
        }
        if not type(self).__module__.startswith("sparselt."):
            identity["source"] = source_digest(type(self))  # so that an edited stage of the user's has another key
        return _digest_of_json(identity)

    def want(self, *files: StageFile | str) -> Self:
        """The same stage, with `files` among its wanted outputs."""
        names = {file if isinstance(file, str) else file.name for file in files}
        if names <= self.outputs:
            return self
        wanted = dataclasses.replace(self, outputs=self.outputs | names)
        # Neither depends on the outputs, and plans read both thousands of times.
        wanted.__dict__.update(key=self.key, needs=self.needs)
        return wanted

    def file(self, name: str) -> StageFile:
        """The file `name` of this stage, wanted."""
        return StageFile(self.want(name), name)

    def result(self, name: str, kind: type[T]) -> Result[T]:
        """The JSON file `name` of this stage, wanted."""
        return Result(self.want(name), name, kind)

    @property
    def measured(self) -> Result[Any]:
        """The numbers of this stage."""
        return self.result("values.json", Values)

    def values(self, read: Read) -> Iterator[Value]:
        """The numbers of this stage, once it has run."""
        yield from read(self.measured)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key and self.outputs == other.outputs

    def __hash__(self) -> int:
        return hash(self.key)


def plain(value: Any) -> Any:
    """`value` in types of JSON: dataclasses as dictionaries, tuples as lists.

    A dataclass field with the metadata `omit_default` is left out if it has its default value, so that a new field does
    not change earlier digests.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if not _omitted(f, getattr(value, f.name))]
        return {f.name: plain(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def _omitted(f: dataclasses.Field, value: Any) -> bool:
    return bool(f.metadata.get("omit_default")) and value == f.default


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    return _digest_of_json(plain(value))


def _digest_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@functools.cache
def _fields(kind: type) -> tuple[list[tuple[str, str, int | None]], list[tuple[str, str, int | None]]]:
    """Values and inputs of a kind of stage, each as field, name in the identity, and first number if numbered."""
    hints = get_type_hints(kind, include_extras=True)
    found: tuple[list, list] = ([], [])
    for f in dataclasses.fields(kind):
        if f.metadata.get("aside"):
            continue
        hint, mark = hints[f.name], _Named(f.name)
        if get_origin(hint) is Annotated:
            hint, mark = get_args(hint)
        found[_is_input(hint)].append((f.name, mark.name, mark.first))
    return found


def _is_input(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return any(_is_input(part) for part in get_args(hint))
    origin = get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, StageFile)
