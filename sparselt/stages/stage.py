"""A stage: a pure function from files to files, identified by what decides its result."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Self,
    TypeVar,
)

from sparselt.files import replacing
from sparselt.own import source_digest
from sparselt.stages.identity import digest_of_json, fields_in_key, not_in_key, to_json
from sparselt.stages.resources import Resources
from sparselt.stages.values import MeasuredValues, Value
from sparselt.stopping import Signals

if TYPE_CHECKING:
    from torch import Tensor

    from sparselt.masks import Mask

T = TypeVar("T")


@dataclass(frozen=True)
class StageFile:
    """A file that a stage makes, as an input of another stage."""

    stage: "Stage"  # in a worker process a StageReference
    name: str

    def __reduce__(self):
        # A worker only needs to find an input. A whole chain of levels would be too deep for pickle. So the first
        # field, `stage`, is replaced by a reference.
        others = [getattr(self, f.name) for f in dataclasses.fields(self)[1:]]
        return type(self), (StageReference(self.stage.kind, self.stage.key), *others)


@dataclass(frozen=True)
class StageReference:
    """Kind and key of a finished stage: all that a worker process needs to find its files."""

    kind: str
    key: str


@dataclass(frozen=True)
class JsonFile(StageFile, Generic[T]):
    """A JSON file that a stage makes. `type` is the dataclass that it reads back as."""

    type: type[T]

    def decode(self, content: Mapping[str, Any]) -> T:
        """The dataclass from the JSON object. A key that is not one of its fields is ignored."""
        names = {f.name for f in dataclasses.fields(self.type)}  # type: ignore[arg-type]  # T is a dataclass
        return self.type(**{name: value for name, value in content.items() if name in names})


@dataclass(frozen=True)
class Task:
    """The arguments of a stage's `run`.

    Args:
        paths: the path of each input. Its checksum has been compared.
        outputs: names of the files wanted.
        folder: where to write them.
        report: the stage calls it with the units of work done so far.
        signals: what signals have asked of this process. A stage that obeys them must count itself in
            `signals.trainings` while it runs.
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

    def read(self, file: JsonFile[T]) -> T:
        """Reads an input that is a JSON file."""
        return file.decode(json.loads(self.path(file).read_text()))

    def mask(self, file: StageFile) -> "Mask":
        """Reads an input that is a mask."""
        from sparselt.masks import Mask

        return Mask.load(self.path(file))

    def weights(self, file: StageFile) -> "dict[str, Tensor]":
        """Reads an input that is a checkpoint, onto the CPU."""
        from sparselt.training.checkpoint import load_tensors

        return load_tensors(self.path(file))

    def write(self, file: StageFile, content: object) -> None:
        """Writes a JSON output: a dataclass, or a JSON object."""
        self.write_bytes(file.name, json.dumps(to_json(content), indent=1).encode())

    def write_values(self, values: Sequence[Value], **notes: Any) -> None:
        """Writes `values.json`: the numbers, and `notes` for whoever opens the file.

        Of the notes, only `density` is read back (`MeasuredValues`).
        """
        listed = [{name: item for name, item in to_json(value).items() if item is not None} for value in values]
        self.write_bytes("values.json", json.dumps({"values": listed, **notes}, indent=1).encode())

    def write_weights(self, name: str, tensors: "Mapping[str, Tensor]") -> None:
        """Writes a safetensors output."""
        from sparselt.training.checkpoint import packed

        self.write_bytes(name, packed(tensors))

    @contextlib.contextmanager
    def writing_weights(self, name: str, tensors: "Mapping[str, Tensor]") -> Iterator[None]:
        """Writes a safetensors output on another thread while the block runs, because a disk can be slow."""
        from sparselt.training.checkpoint import packed

        data = packed(tensors)  # in this thread: CUDA refuses copies by other threads during a capture
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(self.write_bytes, name, data)
            yield
            written.result()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes an output, whole or not at all, and notes its checksum."""
        with ThreadPoolExecutor(1) as pool:  # hashes while the disk writes
            checksum = pool.submit(hashlib.sha256, data)
            with replacing(self.folder / name) as temporary:
                temporary.write_bytes(data)
        self.written[name] = checksum.result().hexdigest()


ReadJson = Callable[[JsonFile[Any]], Any]
"""Returns the content of a JSON file of a finished stage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
    """One step of a plan. Each kind of stage is a subclass: its values, its inputs and `run`, which makes its files.

    A field annotated with `StageFile` is an input. Every other field is a value, which must turn into JSON (`to_json`).
    The values and inputs that are not None decide the result and form the stage's identity. A field that does not
    decide the result is declared with `not_in_key`.

    Some field names have a meaning for every stage. `threads` is the number of torch's CPU threads that it runs on.
    `device` other than `cpu` takes a GPU. `recipe`, of a training, says `threads` and `ranks` for it (`resources`).

    Class attributes:
        kind: the name of the stage's folder in a store.
        version: raise it when equal values and inputs would give another result, so that old results are not found.
        title: the name of the work in a plan.
        unit: the unit of `work`.
        cost_depends_on: the values that decide the cost of a unit, by their names in the identity.
        quick: whether it takes so little time that it runs before all other stages that are ready. Trainings that wait
            for such stages then become ready together.

    Args:
        outputs: names of the wanted files. If two experiments want different checkpoints of one training, they share
            it, and the plan wants both.
        label: the name for a person.
        work: optimizer steps, evaluated points or the like; for estimates.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    unit: ClassVar[str]
    cost_depends_on: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = False

    outputs: frozenset[str] = not_in_key(frozenset())
    label: str = not_in_key("")
    work: int = not_in_key(1)

    def run(self, task: Task) -> int:
        """Makes the files; returns the units of work done. Imports heavy libraries inside, so that planning is fast."""
        raise NotImplementedError

    @property
    def runs_in_every_plan(self) -> bool:
        """Whether it runs in every plan, because it depends on this machine (the user's data folder).

        Such a stage must be cheap.
        """
        return False

    @property
    def name(self) -> str:
        """The name to show to a person."""
        return self.label or self.title

    @property
    def extra_image_passes(self) -> float:
        """The cost beside the units of work, in forward and backward passes of one image. For estimates."""
        return 0.0

    @property
    def extra_weight_passes(self) -> float:
        """The cost beside the units of work and the files, in passes over all weights. For estimates.

        One pass costs as much as writing and reading a checkpoint.
        """
        return 0.0

    @property
    def resources(self) -> Resources:
        """CPU threads, GPUs and processes that the stage occupies. A training's recipe gives the threads and ranks."""
        owner = getattr(self, "recipe", self)
        gpus = 0.0 if getattr(self, "device", "cpu") == "cpu" else 1.0
        return Resources(getattr(owner, "threads", 1), gpus, getattr(owner, "ranks", 1))

    @cached_property
    def identity_values(self) -> dict[str, Any]:
        """The values that decide the result, by their names in the identity, in types of JSON."""
        stage_type: type = type(self)
        values = {name: getattr(self, field_name) for field_name, name, _ in fields_in_key(stage_type, StageFile)[0]}
        return {name: to_json(value) for name, value in values.items() if value is not None}

    @cached_property
    def inputs(self) -> dict[str, StageFile]:
        """The inputs by their names in the identity."""
        inputs: dict[str, StageFile] = {}
        stage_type: type = type(self)
        for field_name, name, first in fields_in_key(stage_type, StageFile)[1]:
            value = getattr(self, field_name)
            if first is not None:
                inputs |= {f"{name}_{number}": file for number, file in enumerate(value, first)}
            elif value is not None:
                inputs[name] = value
        return inputs

    @cached_property
    def key(self) -> str:
        """Hex digest of kind, version, values, and inputs by their keys."""
        identity = {
            "kind": self.kind,
            "version": self.version,
            "spec": self.identity_values,
            "needs": {name: [file.stage.key, file.name] for name, file in self.inputs.items()},
        }
        if not type(self).__module__.startswith("sparselt."):
            # A stage of the user's gets another key when its source is edited.
            identity["source"] = source_digest(type(self))
        return digest_of_json(identity)

    def want(self, *files: StageFile | str) -> Self:
        """The same stage, with `files` among its wanted outputs."""
        names = {file if isinstance(file, str) else file.name for file in files}
        if names <= self.outputs:
            return self
        # The copy keeps the cached properties, which do not depend on the outputs. Plans read them thousands of times.
        stage = copy.copy(self)
        stage.__dict__.update(outputs=self.outputs | names, key=self.key, inputs=self.inputs)
        return stage

    def file(self, name: str) -> StageFile:
        """The file `name` of this stage, wanted."""
        return StageFile(self.want(name), name)

    def json_file(self, name: str, type: type[T]) -> JsonFile[T]:
        """The JSON file `name` of this stage, wanted. `type` is the dataclass that it reads back as."""
        return JsonFile(self.want(name), name, type)

    @property
    def measured(self) -> JsonFile[Any]:
        """The JSON file with the numbers of this stage."""
        return self.json_file("values.json", MeasuredValues)

    def values(self, read: ReadJson) -> Iterator[Value]:
        """The numbers of this stage, once it has run."""
        yield from read(self.measured)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stage) and self.key == other.key and self.outputs == other.outputs

    def __hash__(self) -> int:
        return hash(self.key)
