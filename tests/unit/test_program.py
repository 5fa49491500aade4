"""A program file is data: what is not an ATen operator on tensors is refused, and nothing is ever unpickled."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedder.model.artifact import default_artifact_path, load_artifact
from embedder.model.program import load_program
from pinstream.errors import CorruptStateError

ARTIFACT = load_artifact(default_artifact_path())
GRAPH = "models/model.json"


def changed(edit: Callable[[dict[str, Any]], None], extra: dict[str, bytes] | None = None) -> bytes:
    """The default's program with its graph edited and members added."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(ARTIFACT.program)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith(GRAPH):
                model = json.loads(content)
                edit(model["graph_module"])
                content = json.dumps(model).encode()
            new.writestr(info.filename, content)
        for name, content in (extra or {}).items():
            new.writestr(f"program/{name}", content)
    return buffer.getvalue()


def first_node(graph_module: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = graph_module["graph"]["nodes"][0]
    return node


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.add.Tensor.__globals__",
        "torch.ops.aten.as_strided.default",
        "_operator.attrgetter",
    ],
)
def test_other_operators_are_refused(target: str) -> None:
    with pytest.raises(CorruptStateError, match="calls"):
        load_program(changed(lambda graph: first_node(graph).update(target=target)), ARTIFACT.tensors)


@pytest.mark.parametrize(
    "argument",
    [
        {"as_graph": {"name": "g", "graph": {}}},
        {"as_custom_obj": {"name": "x", "class_fqn": "y"}},
        {"as_operator": "os.system"},
        {"as_string": "/etc/passwd"},
    ],
)
def test_other_arguments_are_refused(argument: dict[str, Any]) -> None:
    def edit(graph: dict[str, Any]) -> None:
        first_node(graph)["inputs"][0]["arg"] = argument

    with pytest.raises(CorruptStateError):
        load_program(changed(edit), ARTIFACT.tensors)


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def test_pickles_in_the_archive_are_never_opened(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(mark))
    members = {"data/constants/tensor_99": bomb, "data/weights/model.pt": bomb, "data/constants/model.pt": bomb}
    load_program(changed(lambda graph: None, members), ARTIFACT.tensors)

    def use_constant(graph: dict[str, Any]) -> None:
        spec = {"tensor_constant": {"arg": {"name": "c"}, "tensor_constant_name": "c"}}
        graph["signature"]["input_specs"].append(spec)

    with pytest.raises(CorruptStateError):
        load_program(changed(use_constant, members), ARTIFACT.tensors)
    assert not mark.exists()


@pytest.mark.parametrize("program", [b"", b"PK", ARTIFACT.program[:-100], ARTIFACT.program[100:], bytes(1000)])
def test_a_broken_archive_is_refused(program: bytes) -> None:
    with pytest.raises(CorruptStateError):
        load_program(program, ARTIFACT.tensors)


def test_weights_must_fit() -> None:
    name = next(iter(ARTIFACT.tensors))
    with pytest.raises(CorruptStateError, match="lacks"):
        load_program(ARTIFACT.program, {key: value for key, value in ARTIFACT.tensors.items() if key != name})
    with pytest.raises(CorruptStateError, match="expects"):
        load_program(ARTIFACT.program, {**ARTIFACT.tensors, name: ARTIFACT.tensors[name][:1]})
