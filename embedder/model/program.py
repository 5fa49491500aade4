"""Run a `torch.export` program without `torch.export.load`.

That loader unpickles (sample inputs, custom objects), evaluates expressions of the file with sympy and loads shared
libraries from it; it also needs 10 s of imports. Here the graph in `models/model.json` is read as data: a list of
ATen operators from a fixed set of argument kinds, called one after the other. A graph that needs more is refused.
Everything else in the archive but tensor constants is ignored; weights come from the artifact's safetensors.

The file stays an ordinary `.pt2` (see `export.py`): `torch.export.load` opens it, with every weight zero.
"""

from __future__ import annotations

import io
import json
import operator
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pinstream.errors import CorruptStateError

MAX_GRAPH_BYTES: Final = 32 << 20
MAX_NODES: Final = 20_000

_ATEN: Final = re.compile(r"torch\.ops\.aten\.([a-zA-Z_][a-zA-Z0-9_]*)\.([a-zA-Z_][a-zA-Z0-9_]*)\Z")
_REFUSED_ATEN: Final = frozenset(
    {"from_file", "save", "set_", "resize_", "as_strided", "as_strided_", "as_strided_copy"}
)
"""ATen operators that reach files, or memory outside a tensor."""
_OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
}
_TEXT: Final = re.compile(r"[a-z_]{0,24}\Z")
_DTYPES: Final = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16,
}  # fmt: skip
"""`torch._export.serde.schema.ScalarType`."""
_MEMORY_FORMATS: Final = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_PLAIN: Final = {"as_int": int, "as_float": float, "as_bool": bool}
_PLAIN_LISTS: Final = {"as_ints": int, "as_floats": float, "as_bools": bool}


@dataclass(frozen=True, slots=True)
class _Name:
    """A value computed by an earlier step."""

    name: str


@dataclass(frozen=True, slots=True)
class _Step:
    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[str, ...]
    unpack: bool
    """Whether the call returns a tuple of the outputs."""
    last_use: tuple[str, ...]
    """Values that no later step needs."""


class ProgramNetwork(nn.Module):
    """float [B, 3, S, S] → float [B, D], by the steps of a program. Weights are buffers, so `.to(device)` works."""

    def __init__(self, steps: list[_Step], image: str, output: str, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._steps = steps
        self._image = image
        self._output = output
        self._attributes = {name: f"value_{number}" for number, name in enumerate(values)}
        for name, attribute in self._attributes.items():
            self.register_buffer(attribute, values[name], persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, attribute) for name, attribute in self._attributes.items()}
        values[self._image] = x_BCHW
        for step in self._steps:
            args = [_resolve(arg, values) for arg in step.args]
            kwargs = {key: _resolve(arg, values) for key, arg in step.kwargs.items()}
            result = step.call(*args, **kwargs)
            if step.unpack:
                values.update(zip(step.outputs, result, strict=True))
            else:
                values[step.outputs[0]] = result
            for name in step.last_use:
                del values[name]
        embedding_BD: Tensor = values[self._output]
        return embedding_BD


def load_program(program: bytes, tensors: Mapping[str, npt.NDArray[Any]]) -> ProgramNetwork:
    """The bytes of a `.pt2` file and its weights → the network, on the CPU. Nothing of the file is executed but ATen
    operators on tensors.

    Raises:
        CorruptStateError: not a program, or one that needs more than this reader allows; the message says what.
    """
    try:
        files = read_members(program)
        graph_module = json.loads(files["models/model.json"])["graph_module"]
        constants = json.loads(files["data/constants/model_constants_config.json"])["config"]
        return _build(graph_module, constants, files, tensors)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise CorruptStateError(
            f"program.pt2 is not a torch.export program that can be read: {type(error).__name__} {error}"
        ) from error


def read_members(program: bytes) -> dict[str, bytes]:
    """The members of a `.pt2` archive that we use, by name below its root folder.

    Raises:
        CorruptStateError: not an archive of stored (uncompressed) members, or one that is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(program)) as archive:
            members: dict[str, bytes] = {}
            if program[:4] != b"PK\x03\x04":
                raise CorruptStateError("program.pt2 is not an archive: it does not begin as one")
            for info in archive.infolist():
                name = info.filename.partition("/")[2]
                if info.compress_type != zipfile.ZIP_STORED or name in members:
                    raise CorruptStateError(f"program.pt2 has member {name[:80]!r} compressed or twice")
                if name == "models/model.json" and info.file_size > MAX_GRAPH_BYTES:
                    raise CorruptStateError(f"program.pt2's graph has more than {MAX_GRAPH_BYTES} bytes")
                if name.startswith(("models/model.json", "data/constants/", "data/weights/")):
                    members[name] = archive.read(info)
            return members
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CorruptStateError(f"program.pt2 is not an archive: {error}") from error


def read_payload(name: str, entry: dict[str, Any], folder: str, files: Mapping[str, bytes]) -> npt.NDArray[Any]:
    """One tensor of a `.pt2`'s weights or constants, from its raw bytes.

    Raises:
        CorruptStateError: it is pickled, or its description and its bytes disagree.
    """
    if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d{1,6}", entry["path_name"]):
        raise CorruptStateError(f"program.pt2 has {name!r} pickled, expected plain tensors only")
    meta = entry["tensor_meta"]
    sizes = [int(size["as_int"]) for size in meta["sizes"]]
    strides = [int(stride["as_int"]) for stride in meta["strides"]]
    offset = int(meta["storage_offset"]["as_int"])
    raw = files[f"data/{folder}/{entry['path_name']}"]
    dtype = _DTYPES[meta["dtype"]]
    if min([*sizes, *strides, offset]) < 0:
        raise CorruptStateError(f"program.pt2 describes {name!r} with negative sizes")
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 not in sizes and last >= len(flat):
        raise CorruptStateError(f"program.pt2 has {len(flat)} values for {name!r}, expected at least {last + 1}")
    array: npt.NDArray[Any] = torch.as_strided(flat, sizes, strides, offset).contiguous().numpy()
    return array


def _build(
    graph_module: dict[str, Any],
    constants: dict[str, Any],
    files: Mapping[str, bytes],
    tensors: Mapping[str, npt.NDArray[Any]],
) -> ProgramNetwork:
    graph, signature = graph_module["graph"], graph_module["signature"]
    values: dict[str, Tensor] = {}
    images: list[str] = []
    for spec in signature["input_specs"]:
        ((kind, body),) = spec.items()
        if kind == "user_input":
            images.append(body["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer"):
            values[body["arg"]["name"]] = _weight(body[f"{kind}_name"], body["arg"]["name"], graph, tensors)
        elif kind == "tensor_constant":
            name = body["tensor_constant_name"]
            values[body["arg"]["name"]] = torch.from_numpy(read_payload(name, constants[name], "constants", files))
        else:
            raise CorruptStateError(f"program.pt2 takes a {kind!r} input, expected one image tensor and weights")
    outputs = [spec["user_output"]["arg"]["as_tensor"]["name"] for spec in signature["output_specs"]]
    if len(images) != 1 or len(outputs) != 1:
        raise CorruptStateError(f"program.pt2 has {len(images)} inputs and {len(outputs)} outputs, expected 1 and 1")
    if len(graph["nodes"]) > MAX_NODES:
        raise CorruptStateError(f"program.pt2 has {len(graph['nodes'])} steps, expected at most {MAX_NODES}")
    steps = _steps(graph["nodes"], {*values, *images}, outputs[0])
    return ProgramNetwork(steps, images[0], outputs[0], values)


def _weight(name: str, argument: str, graph: dict[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Tensor:
    if name not in tensors:
        raise CorruptStateError(f"program.pt2 needs weight {name!r} and model.safetensors lacks it")
    meta = graph["tensor_values"][argument]
    expected = [size["as_int"] for size in meta["sizes"]]
    tensor = torch.from_numpy(np.array(tensors[name]))
    if list(tensor.shape) != expected or tensor.dtype != _DTYPES[meta["dtype"]]:
        raise CorruptStateError(
            f"model.safetensors has {name!r} as {tensor.dtype} {list(tensor.shape)}, program.pt2 expects "
            f"{_DTYPES[meta['dtype']]} {expected}"
        )
    return tensor


def _steps(nodes: list[dict[str, Any]], given: set[str], output: str) -> list[_Step]:
    steps: list[_Step] = []
    needed_later = {output} | given
    for node in reversed(nodes):
        if not node["outputs"]:  # an assertion about shapes, for compilers
            continue
        call = _operator(node["target"])
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for argument in node["inputs"]:
            value = _argument(argument["arg"])
            if argument.get("kind") == 2:
                kwargs[argument["name"]] = value
            else:
                args.append(value)
        outputs, unpack = _outputs(node["outputs"])
        used = {name.name for name in _names([*args, *kwargs.values()])}
        dead = tuple(sorted((used | set(outputs)) - needed_later))
        needed_later |= used
        steps.append(_Step(call, tuple(args), kwargs, outputs, unpack, dead))
    return steps[::-1]


def _operator(target: str) -> Callable[..., Any]:
    if target in _OPERATORS:
        return _OPERATORS[target]
    match = _ATEN.match(target)
    if match is None or match[1] in _REFUSED_ATEN:
        raise CorruptStateError(f"program.pt2 calls {target[:80]!r}, expected operators of torch.ops.aten")
    operation: Callable[..., Any] = getattr(getattr(torch.ops.aten, match[1]), match[2])
    return operation


def _outputs(outputs: list[dict[str, Any]]) -> tuple[tuple[str, ...], bool]:
    """Names of what a node returns, and whether they come as a tuple."""
    if len(outputs) == 1:
        ((kind, body),) = outputs[0].items()
        if kind == "as_tensors":
            return tuple(part["name"] for part in body), True
    names = []
    for part in outputs:
        ((kind, body),) = part.items()
        if kind not in ("as_tensor", "as_sym_int", "as_sym_bool"):
            raise CorruptStateError(f"program.pt2 has a step that returns {kind!r}, expected tensors and sizes")
        names.append(body["name"] if kind == "as_tensor" else body["as_name"])
    return tuple(names), len(names) > 1


def _argument(argument: dict[str, Any]) -> Any:
    """One argument of the graph's JSON → the value, or the name of one."""
    ((kind, body),) = argument.items()
    if kind in _PLAIN:
        return _PLAIN[kind](body)
    if kind in _PLAIN_LISTS:
        return [_PLAIN_LISTS[kind](item) for item in body]
    readers: dict[str, Callable[[Any], Any]] = {
        "as_none": lambda _: None,
        "as_tensor": lambda tensor: _Name(tensor["name"]),
        "as_tensors": lambda parts: [_Name(part["name"]) for part in parts],
        "as_optional_tensors": lambda parts: [_argument(part) for part in parts],
        "as_optional_tensor": _argument,
        "as_sym_int": _size,
        "as_sym_ints": lambda parts: [_size(part) for part in parts],
        "as_string": _text,
        "as_scalar_type": _DTYPES.__getitem__,
        "as_memory_format": _MEMORY_FORMATS.__getitem__,
        "as_layout": {7: torch.strided}.__getitem__,
        "as_device": lambda _: None,
    }
    if kind not in readers:
        raise CorruptStateError(f"program.pt2 has a {kind[:40]!r} argument, which this reader does not allow")
    return readers[kind](body)


def _size(size: dict[str, Any]) -> Any:
    return int(size["as_int"]) if "as_int" in size else _Name(size["as_name"])


def _text(text: str) -> str:
    if not _TEXT.match(text):
        raise CorruptStateError(f"program.pt2 has the text {text[:40]!r} as an argument, expected an option's name")
    return text


def _names(value: Any) -> list[_Name]:
    if isinstance(value, _Name):
        return [value]
    return [name for item in value for name in _names(item)] if isinstance(value, list) else []


def _resolve(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, _Name):
        return values[value.name]
    return [_resolve(item, values) for item in value] if isinstance(value, list) else value
