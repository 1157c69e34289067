"""A stage: a pure function from files to files, identified by what decides its result."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class Need:
    """One input of a stage: a file that another stage makes."""

    stage: "Stage"
    file: str


@dataclass(frozen=True)
class Stage:
    """What to do (`kind`, `spec`), from which files (`needs`), to get which files (`outputs`).

    Args:
        kind: a name of `sparselt.runs.kinds.KINDS`.
        spec: JSON-able values that decide the result, together with the needs.
        needs: input name to the file of another stage.
        outputs: files wanted. Not part of the identity: two experiments that want different checkpoints of one
            training share it, and the plan asks for the union.
        label: what to call it in front of a person; not part of the identity.
        steps: optimizer steps (or evaluated points) it takes; for estimates, not part of the identity.
        local: values that say where on this machine, not what (the user's data folder); not part of the identity. A
            stage that has any is cheap and runs every time, so that what it noted is never out of date.
    """

    kind: str
    spec: Mapping[str, Any]
    needs: Mapping[str, Need] = field(default_factory=dict)
    outputs: frozenset[str] = frozenset()
    label: str = ""
    steps: int = 0
    local: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hex digest of kind, version of the kind, spec and needs (by their keys)."""
        from sparselt.runs.kinds import KINDS

        identity = {
            "kind": self.kind,
            "version": KINDS[self.kind].version,
            "spec": self.spec,
            "needs": {name: [need.stage.key, need.file] for name, need in self.needs.items()},
        }
        return digest(identity)

    def want(self, *files: str) -> "Stage":
        """The same stage, with `files` among its wanted outputs."""
        wanted = dataclasses.replace(self, outputs=self.outputs | set(files))
        wanted.__dict__["key"] = self.key  # which does not depend on the outputs, and plans ask for by the thousand
        return wanted

    def file(self, name: str) -> Need:
        """Output `name` of this stage, as an input of another."""
        return Need(self.want(name), name)

    def __hash__(self) -> int:
        return hash(self.key)


def check_stages(taker: str, *found: object) -> None:
    """Raises a TypeError that names `taker` unless all are stages: a mask or a checkpoint is a file of one."""
    for value in found:
        if not isinstance(value, Stage):
            raise TypeError(
                f"{taker} takes a Stage and got a {type(value).__name__}; lab.dense, ticket, rewound, training "
                "and path give one, while lab.mask, checkpoint, pruned, random_mask and shuffled give a Need, one file "
                "of a stage: its .stage is what made it"
            )


def plain(value: Any) -> Any:
    """`value` as JSON knows it: dataclasses as dictionaries, tuples as lists.

    A dataclass field whose metadata says "omit_default" is left out where it has its default, so that adding the field
    changes no key of a stage.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not (f.metadata.get("omit_default") and getattr(value, f.name) == f.default)
        }
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def digest(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
