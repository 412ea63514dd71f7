"""Which ONNX graphs a worker may run itself: those whose work depends on how many rows there are, and not on what is in them.

A graph of a stranger can be quick for zeros and make a tensor of a terabyte, or count to a billion, when a certain number comes. So the sizes of
all tensors must follow from the number of rows: nothing that is computed from the values of the inputs may decide a shape.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
SIZES = frozenset({"Shape", "Size"})
"""Operators whose results do not depend on values."""
_ANY = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr
BitwiseXor Cast CastLike Ceil Celu Clip Concat Conv ConvInteger ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Det Div Dropout
DynamicQuantizeLinear Einsum Elu Equal Erf Exp EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization
IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool
Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN
Reciprocal Relu ReverseSequence Round Scatter ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign
SpaceToDepth Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Transpose Trilu Where Xor ArrayFeatureExtractor Binarizer FeatureVectorizer Imputer
LabelEncoder LinearClassifier LinearRegressor Normalizer OneHotEncoder SVMClassifier SVMRegressor Scaler TreeEnsemble TreeEnsembleClassifier
TreeEnsembleRegressor
"""
ANY = frozenset(_ANY.split())
"""Operators whose results have shapes that follow from the shapes of what they take."""
_FIRST = """
Expand Pad ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Reshape Resize
Slice Split Squeeze Tile TopK Unsqueeze Upsample
"""
FIRST = frozenset(_FIRST.split())
"""The same, if all that they take beside the first tensor does not depend on values."""


def is_plain(path: Path) -> bool:
    """Whether an ONNX graph takes the same work for any values: it has operators that are known for that, no functions, and no other files."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in model.graph.node}
    inside = all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    return not model.functions and domains <= DOMAINS and inside and _steady(model.graph)


def _steady(graph: onnx.GraphProto) -> bool:
    """Whether no shape in a graph depends on the values of its inputs. Its nodes are in the order in which they run, as ONNX wants it."""
    fixed = {tensor.name for tensor in graph.initializer}
    values = {tensor.name for tensor in graph.input} - fixed
    for node in graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return False  # a loop or a branch
        if node.op_type in SIZES or values.isdisjoint(node.input):
            continue
        if not _keeps(node.op_type, values.isdisjoint(node.input[1:])):
            return False
        values.update(_names(node.output))
    return True


def _keeps(operator: str, rest_is_fixed: bool) -> bool:
    return operator in ANY or (operator in FIRST and rest_is_fixed)


def _names(outputs: Iterable[str]) -> list[str]:
    return [name for name in outputs if name]
