"""A model that is cut, as files: plan.json, a .onnx for each segment, and the matrices of the products."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from delegate.errors import ModelError
from delegate.onnx.cut import Plan, Segment
from delegate.onnx.model import Array, NodeArg, first_line
from delegate.onnx.nodes import ProductNode

PLAN, ARRAYS, FORMAT = "plan.json", "products.npz", 1


def write_folder(plan: Plan, folder: Path) -> None:
    """Writes a plan; what the folder holds otherwise stays. Raises ModelError where that is not possible."""
    arrays: dict[str, Array] = {f"constant.{name}": value for name, value in plan.constants.items()}
    steps: list[dict[str, Any]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, step in enumerate(plan.steps):
            if isinstance(step, Segment):
                name = f"segment-{index}.onnx"
                onnx.save(step.proto, folder / name)
                steps.append({"segment": name})
                continue
            arrays |= {f"{index}.matrix.{group}": matrix for group, matrix in enumerate(step.matrices)}
            if step.bias is not None:
                arrays[f"{index}.bias"] = step.bias
            described = {"name": step.name, "op": step.op, "inputs": step.inputs, "output": step.output}
            steps.append({"product": described | {"attributes": step.attributes, "groups": step.groups}})
        np.savez(folder / ARRAYS, **arrays)
        content = {
            "format": FORMAT,
            "name": plan.name,
            "inputs": [asdict(argument) for argument in plan.inputs],
            "outputs": [asdict(argument) for argument in plan.outputs],
            "constants": sorted(plan.constants),
            "steps": steps,
        }
        (folder / PLAN).write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{folder} cannot be written: {error.strerror or error}") from error


def read_folder(folder: Path) -> Plan:
    """The plan that ``write_folder`` wrote; raises ModelError for anything else."""
    try:
        content = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ModelError(f"{folder} has format {content['format']}, not {FORMAT}; write it again with split-onnx")
        with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
            return Plan(
                content["name"],
                tuple(read_argument(argument) for argument in content["inputs"]),
                tuple(read_argument(argument) for argument in content["outputs"]),
                tuple(read_step(step, index, folder, arrays) for index, step in enumerate(content["steps"])),
                {name: arrays[f"constant.{name}"] for name in content["constants"]},
            )
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{folder} is not a folder of split-onnx: {error.strerror or error}") from error
    except Exception as error:  # of JSON, of zip archives, of protobuf, or a field that is missing
        raise ModelError(f"{folder} is not a folder of split-onnx, or damaged: {first_line(error)}") from error


def read_argument(given: dict[str, Any]) -> NodeArg:
    shape = given["shape"]
    return NodeArg(given["name"], None if shape is None else tuple(shape), given["type"])


def read_step(given: dict[str, Any], index: int, folder: Path, arrays: Any) -> Segment | ProductNode:
    """A step of plan.json with its files."""
    if "segment" in given:
        return Segment(onnx.load(folder / Path(given["segment"]).name))
    product = given["product"]
    bias = f"{index}.bias"
    return ProductNode(
        name=product["name"],
        op=product["op"],
        inputs=tuple(product["inputs"]),
        output=product["output"],
        matrices=tuple(arrays[f"{index}.matrix.{group}"] for group in range(product["groups"])),
        bias=arrays.get(bias),
        attributes=product["attributes"],
    )
