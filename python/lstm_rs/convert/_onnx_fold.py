"""The values that follow from an ONNX model's constants, computed within bounds.

Each node is run alone, by ``onnx.reference``, once ``onnx.shape_inference`` has said how large its outputs are: a file
of 300 bytes can ask for an array of any size, or for the same array doubled thirty times over. Only operators whose
work is known from those sizes are run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

# The protobuf classes of ``onnx``, which is imported only where it is needed.
Proto: TypeAlias = Any

FOLDED = frozenset(
    """Abs Add And Cast CastLike Ceil Clip Concat Constant ConstantOfShape DequantizeLinear Div Equal Exp Expand Flatten
    Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log MatMul Max Mean Min Mod
    Mul Neg Not Or Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare Relu Reshape Round Shape Sigmoid Sign Size Slice Softplus Split Sqrt Squeeze Sub Sum Tanh
    Tile Transpose Trilu Unsqueeze Where Xor""".split()
)
# How many numbers may be made of nothing, and of each number among the constants: a chain of exporters leaves a handful
# of nodes between a weight and its LSTM.
FREE, EACH = 1 << 22, 64
# Numbers that shape inference has to know, and not only their shape: those of shapes, axes and the like.
_KNOWN = 4096
_MULTIPLICATIONS = 1 << 32


def tensor_value(tensor: Proto, called: str) -> np.ndarray:
    """The numbers of a tensor, which are in the model itself."""
    from onnx import numpy_helper

    if tensor.data_location == tensor.EXTERNAL:
        files = [entry.value for entry in tensor.external_data if entry.key == "location"]
        raise ValueError(f"{called}: its values are in another file, {files}: give the path of the model")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except MemoryError:
        raise
    except Exception as error:
        # A damaged tensor shows as anything.
        raise ValueError(f"{called}: expected a whole tensor, got one that cannot be read: {error}") from error


def run_node(node: Proto, given: Mapping[str, np.ndarray], opsets: Sequence[Proto], room: int) -> list[np.ndarray]:
    """Run a node; an error if its outputs have more than `room` numbers."""
    from onnx import helper, numpy_helper, shape_inference
    from onnx.reference import ReferenceEvaluator

    if node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
        # Large, as weights are: not to be copied for what its shape says already.
        return [tensor_value(node.attribute[0].t, "value")]
    for attribute in node.attribute:
        for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
            tensor_value(tensor, attribute.name)
    infos = {name: _info(name, array) for name, array in given.items()}
    small = [numpy_helper.from_array(array, name) for name, array in given.items() if array.size <= _KNOWN]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]

    def model(constants: Sequence[Proto]) -> Proto:
        graph = helper.make_graph([node], "node", list(infos.values()), outputs, constants)
        return helper.make_model(graph, opset_imports=opsets)

    inferred = shape_inference.infer_shapes(model(small), strict_mode=True)
    size = 0
    for output in inferred.graph.output:
        dims = output.type.tensor_type.shape.dim
        if not output.type.tensor_type.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
            raise ValueError("the size of what it makes does not follow from its inputs")
        size += math.prod(dim.dim_value for dim in dims)
    if size > room:
        raise ValueError(f"it makes {size} numbers, more than the model's constants are reason for")
    if node.op_type == "MatMul" and size * next(iter(given.values())).shape[-1] > _MULTIPLICATIONS:
        raise ValueError(f"it takes more than {_MULTIPLICATIONS} multiplications")
    old = any(one.domain in ("", "ai.onnx") and one.version < 19 for one in opsets)
    with np.errstate(all="ignore"):
        values = ReferenceEvaluator(model([]), new_ops=[_old_dequantize()] if old else None).run(None, dict(given))
    return [np.asarray(value) for value in values]


def _info(name: str, array: np.ndarray) -> Proto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _old_dequantize() -> Any:
    """DequantizeLinear as of the opsets 10 to 18, which the evaluator lacks."""
    from onnx.reference.op_run import OpRun

    def run(_: Any, x: Any, scale: Any, zero: Any = None, **attributes: Any) -> tuple[np.ndarray]:
        if np.ndim(scale) == 1 and x.ndim > 1:
            axis = attributes.get("axis", 1) % x.ndim
            shape = tuple(-1 if k == axis else 1 for k in range(x.ndim))
            scale, zero = np.reshape(scale, shape), None if zero is None else np.reshape(zero, shape)
        steps = x.astype(np.int32) - (0 if zero is None else zero.astype(np.int32))
        return (steps.astype(np.float32) * scale,)

    return type("DequantizeLinear", (OpRun,), {"op_domain": "", "_run": run})
