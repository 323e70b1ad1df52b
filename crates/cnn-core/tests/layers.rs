//! The contract and the gradients of every core layer, over generated shapes.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::layers::*;
use cnn_core::testing::{check_gradients, check_layer, strategies};
use cnn_core::{Layer, Registry, Tensor};
use proptest::prelude::*;

/// An image batch shape of small sizes.
fn image(channels: impl Strategy<Value = usize> + 'static) -> BoxedStrategy<Vec<usize>> {
    (1usize..3, channels, 3usize..8, 3usize..8).prop_map(|(n, c, h, w)| vec![n, c, h, w]).boxed()
}

fn check(layer: &dyn Layer, input: &Tensor) {
    check_layer(layer, input, &Registry::core()).unwrap();
    check_gradients(layer, std::slice::from_ref(input), 1e-2).unwrap();
}

fn conv() -> BoxedStrategy<(Conv2d, Tensor)> {
    let options = (1usize..3, 1usize..3, 1usize..3, prop::array::uniform4(0usize..3), any::<bool>());
    (options, 1usize..3, 1usize..3, 1usize..4, 1usize..4, 1usize..3, 5usize..8, 5usize..8)
        .prop_flat_map(|((s1, s2, d, pad, bias), groups, c, m, k1, k2, h, w)| {
            let weight = strategies::tensor(&[m * groups, c, k1, k2]);
            let bias = if bias {
                strategies::tensor(&[m * groups]).prop_map(Some).boxed()
            } else {
                Just(None).boxed()
            };
            let input = strategies::tensor(&[2, c * groups, h, w]);
            let options = ConvOptions { stride: [s1, s2], pad, dilation: [d, 1], groups };
            (weight, bias, input).prop_map(move |(w, b, x)| (Conv2d::new(w, b, options).unwrap(), x))
        })
        .boxed()
}

fn window() -> BoxedStrategy<Window> {
    (1usize..4, 1usize..4, 1usize..3, 1usize..3, any::<bool>(), prop::array::uniform4(0usize..3))
        .prop_map(|(k1, k2, s1, s2, ceil_mode, p)| {
            let pad = [p[0].min(k1 - 1), p[1].min(k2 - 1), p[2].min(k1 - 1), p[3].min(k2 - 1)];
            Window { kernel: [k1, k2], stride: [s1, s2], pad, ceil_mode }
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn convolution((layer, x) in conv()) {
        check(&layer, &x);
    }

    #[test]
    fn depthwise_convolution(
        (w, x) in (1usize..6, 1usize..4).prop_flat_map(|(c, k)| {
            (strategies::tensor(&[c, 1, k, k]), strategies::tensor(&[2, c, 6, 5]))
        }),
        stride in 1usize..3, pad in 0usize..2,
    ) {
        let options = ConvOptions::default().stride(stride).pad(pad).groups(w.shape()[0]);
        check(&Conv2d::new(w, None, options).unwrap(), &x);
    }

    #[test]
    fn linear(
        (w, b, x) in (1usize..6, 1usize..6).prop_flat_map(|(o, i)| {
            (strategies::tensor(&[o, i]), strategies::tensor(&[o]), strategies::tensor(&[3, i]))
        }),
    ) {
        check(&Linear::new(w, Some(b)).unwrap(), &x);
    }

    #[test]
    fn max_pool(window in window(), x in image(1usize..3).prop_flat_map(|s| strategies::distinct(&s))) {
        check(&MaxPool2d { window }, &x);
    }

    #[test]
    fn avg_pool(
        window in window(), count_include_pad: bool,
        x in image(1usize..3).prop_flat_map(|s| strategies::tensor(&s)),
    ) {
        check(&AvgPool2d { window, count_include_pad }, &x);
    }

    #[test]
    fn other_pools(
        size in prop::array::uniform2(1usize..5),
        x in image(1usize..3).prop_flat_map(|s| strategies::tensor(&s)),
    ) {
        check(&GlobalAvgPool, &x);
        check(&AdaptiveAvgPool { size }, &x);
    }

    #[test]
    fn activations(x in image(1usize..3).prop_flat_map(|s| strategies::distinct(&s))) {
        for function in [
            ActivationFn::Relu,
            ActivationFn::Relu6,
            ActivationFn::LeakyRelu(0.1),
            ActivationFn::LeakyRelu(-0.1),
            ActivationFn::Sigmoid,
            ActivationFn::HardSigmoid,
            ActivationFn::HardSwish,
            ActivationFn::Silu,
        ] {
            check(&Activation { function }, &x.mapv(|v| v * 0.9));
        }
    }

    #[test]
    fn shapes_and_maps(x in image(Just(6)).prop_flat_map(|s| strategies::tensor(&s)), pad in prop::array::uniform4(0usize..3)) {
        let [_, c, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
        check(&Flatten, &x);
        check(&Identity, &x);
        check(&Softmax, &x);
        check(&Reshape { shape: vec![c * h, w] }, &x);
        check(&Pad { pad, value: 0.5 }, &x);
        check(&ChannelMap::shuffle(6, 2).unwrap(), &x);
        check(&ChannelMap::pad(6, 1, 2).unwrap(), &x);
        check(&ChannelMap::slice(6, 2, 3).unwrap(), &x);
        check(&ChannelMap::new(6, vec![Some(0), None, Some(0), Some(5)]).unwrap(), &x);
    }

    #[test]
    fn batch_norm_and_dropout(x in image(1usize..4).prop_flat_map(|s| strategies::tensor(&s))) {
        let c = x.shape()[1];
        let values = |f: fn(usize) -> f32| (0..c).map(f).collect::<Vec<_>>();
        let (gamma, beta) = (values(|i| 0.5 + i as f32), values(|i| 0.1 * i as f32));
        let (mean, var) = (values(|i| 0.2 - i as f32), values(|i| 0.3 + i as f32));
        check(&BatchNorm::trained(gamma, beta, mean, var, 1e-3).unwrap(), &x);
        check(&Dropout::new(0.4).unwrap(), &x);
    }

    #[test]
    fn merges(
        (a, b) in image(1usize..4).prop_flat_map(|s| (strategies::tensor(&s), strategies::tensor(&s))),
    ) {
        let (n, c) = (a.shape()[0], a.shape()[1]);
        let scale = b.clone().into_shape_with_order(b.len()).unwrap();
        let scale = scale.slice(ndarray::s![..n * c]).to_owned().into_shape_with_order(vec![n, c, 1, 1]).unwrap();
        for layer in [&Add as &dyn Layer, &Mul, &Concat] {
            check_gradients(layer, &[a.clone(), b.clone()], 1e-2).unwrap();
        }
        check_gradients(&Mul, &[a.clone(), scale.clone()], 2e-2).unwrap();
        check_gradients(&Mul, &[scale, a], 2e-2).unwrap();
    }
}

#[test]
fn impossible_shapes_are_errors() {
    let weight = || Tensor::zeros(vec![4, 2, 3, 3]);
    let conv = Conv2d::new(weight(), None, ConvOptions::default()).unwrap();
    for shape in [vec![1, 2, 2, 2], vec![1, 3, 5, 5], vec![1, 2, 5], vec![]] {
        assert!(conv.output_shape(&[&shape]).is_err(), "{shape:?}");
        assert!(conv.infer(&[&Tensor::zeros(shape)]).is_err());
    }
    assert!(Conv2d::new(weight(), Some(Tensor::zeros(vec![3])), ConvOptions::default()).is_err());
    assert!(Conv2d::new(weight(), None, ConvOptions::default().groups(3)).is_err());
    assert!(Conv2d::new(weight(), None, ConvOptions::default().groups(0)).is_err());
    assert!(Dropout::new(f32::NAN).is_err());
    assert!(ChannelMap::shuffle(6, 4).is_err());
    assert!(Reshape { shape: vec![usize::MAX, 2] }.output_shape(&[&[1, 4]]).is_err());
}
