//! What is compared: operators that the project's own nets do not have, and unusual ways to ask for those that
//! they have.

use tract_onnx::pb;

use super::{Case, With as _, floats, ints, list, node, weight};

/// Every operator that is supported beside those of the project's own nets, and unusual ways to ask.
pub fn cases() -> Vec<Case> {
    [windows(), elementwise(), products(), reductions(), shapes(), indexing()].into_iter().flatten().collect()
}

const MAP: &[i64] = &[2, 4, 9, 7];
const ROWS: &[i64] = &[3, 8];

fn case(
    what: &'static str,
    nodes: Vec<pb::NodeProto>,
    weights: Vec<pb::TensorProto>,
    input: &'static [i64],
) -> Case {
    Case { what, nodes, weights, input }
}

fn windows() -> Vec<Case> {
    let conv = || node("Conv", &["input", "w", "b"], "output");
    let of = |out: i64, of_group: i64| vec![weight("w", &[out, of_group, 3, 3]), weight("b", &[out])];
    let pool = |op: &str| node(op, &["input"], "output").ints("kernel_shape", &[3, 2]);
    vec![
        case("Conv, groups", vec![conv().int("group", 2)], of(6, 2), MAP),
        case("Conv, depthwise", vec![conv().int("group", 4).ints("pads", &[1, 1, 1, 1])], of(4, 1), MAP),
        case("Conv, dilated", vec![conv().ints("dilations", &[2, 3])], of(5, 4), MAP),
        case("Conv, uneven pads", vec![conv().ints("pads", &[0, 1, 2, 1])], of(5, 4), MAP),
        case(
            "Conv, the same size",
            vec![conv().word("auto_pad", "SAME_UPPER").ints("strides", &[2, 2])],
            of(5, 4),
            MAP,
        ),
        case(
            "Conv, one side",
            vec![node("Conv", &["input", "w"], "output").ints("pads", &[1, 1])],
            vec![weight("w", &[3, 5, 3])],
            &[2, 5, 11],
        ),
        case(
            "MaxPool",
            vec![pool("MaxPool").ints("strides", &[2, 2]).ints("pads", &[1, 0, 1, 0])],
            vec![],
            MAP,
        ),
        case("MaxPool, uneven pads", vec![pool("MaxPool").ints("pads", &[0, 0, 1, 1])], vec![], MAP),
        case(
            "AveragePool, pads left out",
            vec![pool("AveragePool").ints("strides", &[2, 1]).ints("pads", &[1, 1, 1, 1])],
            vec![],
            MAP,
        ),
        case(
            "AveragePool, pads counted",
            vec![pool("AveragePool").ints("pads", &[1, 1, 1, 1]).int("count_include_pad", 1)],
            vec![],
            MAP,
        ),
        case("GlobalMaxPool", vec![node("GlobalMaxPool", &["input"], "output")], vec![], MAP),
        case("GlobalAveragePool", vec![node("GlobalAveragePool", &["input"], "output")], vec![], MAP),
    ]
}

fn elementwise() -> Vec<Case> {
    let alone = |what: &'static str| case(what, vec![node(what, &["input"], "output")], vec![], ROWS);
    let chain = |what: &'static str, first: &str| {
        case(what, vec![node(first, &["input"], "a"), node(what, &["a"], "output")], vec![], ROWS)
    };
    let with =
        |what: &'static str, node: pb::NodeProto| case(what, vec![node], vec![weight("w", &[8])], ROWS);
    let unary = |op: &str| node(op, &["input"], "output");
    let binary = |op: &str| node(op, &["input", "w"], "output");
    let mut all: Vec<Case> = [
        "Relu",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "HardSwish",
        "Exp",
        "Neg",
        "Abs",
        "Erf",
        "Identity",
        "Dropout",
    ]
    .into_iter()
    .map(alone)
    .collect();
    all.extend([chain("Log", "Exp"), chain("Sqrt", "Abs"), chain("Reciprocal", "Exp")]);
    all.extend(["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"].map(|op| with(op, binary(op))));
    all.push(with("HardSigmoid", unary("HardSigmoid").float("alpha", 0.3)));
    all.push(with("HardSigmoid, PyTorch's", unary("HardSigmoid").float("alpha", 1.0 / 6.0)));
    all.push(with("LeakyRelu", unary("LeakyRelu").float("alpha", 0.2)));
    all.push(with("Elu", unary("Elu").float("alpha", 0.7)));
    all.push(case(
        "Pow",
        vec![node("Pow", &["input", "two"], "output")],
        vec![floats("two", &[], &[2.0])],
        ROWS,
    ));
    all.push(case(
        "Clip from below",
        vec![node("Clip", &["input", "low"], "output")],
        vec![floats("low", &[], &[-0.25])],
        ROWS,
    ));
    all.push(case(
        "comparisons",
        vec![
            node("Greater", &["input", "w"], "above"),
            node("Not", &["above"], "below"),
            node("Where", &["below", "input", "w"], "a"),
            node("Less", &["a", "input"], "less"),
            node("Cast", &["less"], "number").int("to", 1),
            node("Add", &["a", "number"], "output"),
        ],
        vec![weight("w", &[8])],
        ROWS,
    ));
    all
}

fn products() -> Vec<Case> {
    let gemm = |b: &str| node("Gemm", &["input", b, "c"], "output");
    let of_channels = ["scale", "shift", "mean", "variance"].map(|name| weight(name, &[4])).to_vec();
    vec![
        case(
            "Gemm, turned and scaled",
            vec![gemm("w").int("transA", 1).float("alpha", 0.5).float("beta", 2.0)],
            vec![weight("w", &[3, 5]), weight("c", &[5])],
            ROWS,
        ),
        case(
            "Gemm, no bias",
            vec![node("Gemm", &["input", "w"], "output")],
            vec![weight("w", &[8, 5])],
            ROWS,
        ),
        case(
            "MatMul, stacked",
            vec![node("MatMul", &["input", "w"], "output")],
            vec![weight("w", &[7, 6])],
            MAP,
        ),
        case(
            "BatchNormalization",
            vec![node("BatchNormalization", &["input", "scale", "shift", "mean", "variance"], "output")],
            of_channels,
            MAP,
        ),
        case(
            "LayerNormalization",
            vec![node("LayerNormalization", &["input", "w", "b"], "output")],
            vec![weight("w", &[8]), weight("b", &[8])],
            ROWS,
        ),
    ]
}

fn reductions() -> Vec<Case> {
    let over = |what: &'static str, axes: &[i64], keep: i64| {
        let reduced = node(what, &["input", "axes"], "output").int("keepdims", keep);
        case(what, vec![reduced], vec![list("axes", axes)], MAP)
    };
    vec![
        over("ReduceSum", &[1, -1], 0),
        over("ReduceMean", &[2, 3], 1),
        case(
            "ReduceMax",
            vec![node("ReduceMax", &["input", "axes"], "output")],
            vec![list("axes", &[1])],
            MAP,
        ),
        over("ReduceMin", &[-2], 0),
        case("ReduceSum, of all", vec![node("ReduceSum", &["input"], "output")], vec![], ROWS),
        case("Softmax", vec![node("Softmax", &["input"], "output").int("axis", 1)], vec![], MAP),
        case("LogSoftmax", vec![node("LogSoftmax", &["input"], "output")], vec![], ROWS),
    ]
}

fn shapes() -> Vec<Case> {
    let pad = |mode: &str| node("Pad", &["input", "pads"], "output").word("mode", mode);
    let cut = "a b c";
    vec![
        case(
            "Transpose",
            vec![node("Transpose", &["input"], "output").ints("perm", &[0, 2, 3, 1])],
            vec![],
            MAP,
        ),
        case("Flatten", vec![node("Flatten", &["input"], "output").int("axis", 2)], vec![], MAP),
        case(
            "Unsqueeze, Squeeze",
            vec![node("Unsqueeze", &["input", "ends"], "a"), node("Squeeze", &["a", "front"], "output")],
            vec![list("ends", &[0, -1]), list("front", &[0])],
            ROWS,
        ),
        case("Expand", vec![node("Expand", &["input", "to"], "output")], vec![list("to", &[2, 1, 8])], ROWS),
        case(
            "Split, the last smaller",
            vec![node("Split", &["input"], cut).int("axis", 1).int("num_outputs", 3), sum_of_two()],
            vec![],
            ROWS,
        ),
        case(
            "Split by sizes",
            vec![node("Split", &["input", "sizes"], cut).int("axis", 1), sum_of_two()],
            vec![list("sizes", &[2, 2, 4])],
            ROWS,
        ),
        case(
            "Pad with a value",
            vec![node("Pad", &["input", "pads", "value"], "output")],
            vec![list("pads", &[0, 0, 1, 2, 0, 0, 0, 1]), floats("value", &[], &[0.5])],
            MAP,
        ),
        case("Pad, reflected", vec![pad("reflect")], vec![list("pads", &[0, 0, 1, 2, 0, 0, 2, 1])], MAP),
        case("Pad, its edge", vec![pad("edge")], vec![list("pads", &[0, 0, 1, 2, 0, 0, 2, 1])], MAP),
        case(
            "a shape computed from a shape",
            vec![
                node("Relu", &["input"], "a"),
                node("Shape", &["a"], "shape"),
                node("Gather", &["shape", "first"], "batch").int("axis", 0),
                node("Constant", &[], "rest").ints("value_ints", &[-1]),
                node("Concat", &["batch", "rest"], "to").int("axis", 0),
                node("Reshape", &["a", "to"], "output"),
            ],
            vec![list("first", &[0])],
            MAP,
        ),
        case(
            "ConstantOfShape",
            vec![
                node("ConstantOfShape", &["shape"], "a").tensor("value", floats("", &[1], &[1.5])),
                node("Mul", &["input", "a"], "output"),
            ],
            vec![list("shape", &[8])],
            ROWS,
        ),
    ]
}

fn sum_of_two() -> pb::NodeProto {
    node("Concat", &["a", "c"], "output").int("axis", 1)
}

fn indexing() -> Vec<Case> {
    let scatter = |reduction: &str| {
        node("ScatterND", &["input", "rows", "updates"], "output").word("reduction", reduction)
    };
    let of_scatter =
        || vec![ints("rows", &[4, 1], &[0, 2, 2, 0]), floats("updates", &[4, 8], &crate::parity::input(32))];
    vec![
        case(
            "Gather, from the end",
            vec![node("Gather", &["input", "places"], "output").int("axis", 1)],
            vec![ints("places", &[2, 2], &[0, -1, 3, -8])],
            ROWS,
        ),
        case(
            "Gather, one place",
            vec![node("Gather", &["input", "place"], "output").int("axis", 1)],
            vec![ints("place", &[], &[2])],
            ROWS,
        ),
        case(
            "Gather by computed places",
            vec![
                node("ReduceMax", &["input"], "most").int("keepdims", 0),
                node("Cast", &["most"], "place").int("to", 7),
                node("Gather", &["input", "place"], "output").int("axis", 0),
            ],
            vec![],
            ROWS,
        ),
        case(
            "Slice",
            vec![node("Slice", &["input", "starts", "ends", "axes", "steps"], "output")],
            vec![
                list("starts", &[1, -7]),
                list("ends", &[i64::MAX, -1]),
                list("axes", &[0, -1]),
                list("steps", &[1, 2]),
            ],
            ROWS,
        ),
        case("ScatterND, added", vec![scatter("add")], of_scatter(), ROWS),
        case("ScatterND, the largest", vec![scatter("max")], of_scatter(), ROWS),
        case(
            "ScatterND, single values",
            vec![node("ScatterND", &["input", "places", "updates"], "output")],
            vec![ints("places", &[2, 2], &[0, 1, 2, 7]), floats("updates", &[2], &[5.0, 7.0])],
            ROWS,
        ),
    ]
}
