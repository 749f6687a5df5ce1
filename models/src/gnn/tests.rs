use super::*;

fn layer(text: &str) -> GnnLayer {
    text.parse().unwrap()
}

#[test]
fn tokens_have_the_names_of_the_field() {
    let names: Vec<String> = Attention::ALL.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["gat", "gcn", "cos", "const", "gat_sym", "linear", "generalized_linear"]);
    let sizes = (Attention::ALL.len(), Aggregator::ALL.len(), Activation::ALL.len());
    assert_eq!(sizes, (7, 4, 8));
    for &activation in Activation::ALL {
        assert_eq!(activation.name().parse(), Ok(activation));
    }
    let error = "gelu".parse::<Activation>().unwrap_err();
    assert!(error.to_string().contains("'gelu'") && error.to_string().contains("relu6"), "{error}");
}

#[test]
fn a_layer_reads_what_it_writes() {
    let text = "generalized_linear/mlp/leaky_relu/16x256";
    assert_eq!(layer(text).to_string(), text);
    for bad in ["", "gat/sum/elu", "gat/sum/elu/8", "gat/sum/elu/8x", "gat/sum/elu/-1x8", "gat/sum/elu/8x8/"]
    {
        assert!(bad.parse::<GnnLayer>().is_err(), "{bad}");
    }
}

#[test]
fn nets_that_differ_in_the_dead_token_are_one() {
    let of = |dim: u32| {
        GnnNet::new(10, 7, vec![layer("gat/sum/elu/8x8"), GnnLayer { dim, ..layer("gcn/max/tanh/4x1") }])
    };
    assert_eq!(of(4), of(256));
    assert_eq!(of(4).layers[1].dim, 7);
    assert!(of(4).check().is_ok());
}

#[test]
fn a_net_that_does_not_fit_says_why() {
    let good = GnnNet::reference(1_433, 7, 8, 8);
    assert_eq!(good.check(), Ok(()));
    let last = GnnNet { classes: 6, ..good.clone() };
    assert_eq!(last.check(), Err(GnnError::LastDim { dim: 7, classes: 6 }));
    assert_eq!(GnnNet::new(3, 2, vec![]).check(), Err(GnnError::Empty));
    assert!(matches!(GnnNet::reference(0, 7, 8, 8).check(), Err(GnnError::Size { .. })));
    assert!(matches!(GnnNet::reference(3, 7, 0, 8).check(), Err(GnnError::Size { .. })));
    let huge = GnnNet::reference(3, 7, 1 << 18, 1 << 18).check().unwrap_err();
    assert!(huge.to_string().contains("heads times dim of layer 1"), "{huge}");
}

#[test]
fn tensors_follow_the_widths() {
    let net = GnnNet::new(5, 3, vec![layer("gat/sum/elu/2x4"), layer("generalized_linear/mean/linear/6x3")]);
    let shapes: std::collections::BTreeMap<_, _> = net.tensors().into_iter().collect();
    assert_eq!(shapes["layer1.weight"], [5, 8]);
    assert_eq!(shapes["layer1.bias"], [8]);
    assert_eq!(shapes["layer2.weight"], [8, 18]);
    assert_eq!(shapes["layer2.attention.shared"], [3]);
    assert_eq!(shapes["layer2.pool.0.weight"], [3, POOL_WIDTH]);
    assert_eq!(shapes["layer2.bias"], [3]);
    assert_eq!(shapes.len(), 4 + 9);
}
