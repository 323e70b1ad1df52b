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
            ActivationFn::Tanh,
            ActivationFn::Elu(1.3),
            ActivationFn::Clip(-0.35, 0.45),
            ActivationFn::Clip(f32::NEG_INFINITY, 0.0),
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
    fn axes(x in image(1usize..4).prop_flat_map(|s| strategies::tensor(&s)), keep: bool) {
        let [_, c, h, w] = [0, 1, 2, 3].map(|i| x.shape()[i]);
        for order in [[0, 1, 2, 3], [0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]] {
            check(&Transpose::new(order.to_vec()).unwrap(), &x);
        }
        for axes in [vec![2, 3], vec![1], vec![3], vec![1, 3, 2]] {
            check(&Mean::new(axes, keep).unwrap(), &x);
        }
        check(&AxisMap::new(2, h, (0..h).step_by(2).map(Some).collect()).unwrap(), &x);
        check(&AxisMap::new(3, w, vec![Some(1), None, Some(1), Some(w - 1)]).unwrap(), &x);
        check(&Reshape { shape: vec![c, h * w] }, &x);
    }

    #[test]
    fn resizes(
        x in image(1usize..3).prop_flat_map(|s| strategies::tensor(&s)),
        size in prop::array::uniform2(1usize..12), coordinates in 0usize..4, mode in 0usize..6,
    ) {
        use {NearestRounding::*, ResizeCoordinates::*, ResizeMode::*};
        let modes = [Linear, Cubic(-0.75), Nearest(PreferFloor), Nearest(PreferCeil), Nearest(Floor), Nearest(Ceil)];
        let scale = [size[0] as f32 / x.shape()[2] as f32, size[1] as f32 / x.shape()[3] as f32];
        let coordinates = [HalfPixel, PytorchHalfPixel, AlignCorners, Asymmetric][coordinates];
        check(&Resize { mode: modes[mode], coordinates, size, scale }, &x);
    }

    #[test]
    fn arithmetic(
        (a, b) in image(1usize..4).prop_flat_map(|s| (strategies::tensor(&s), strategies::tensor(&s))),
        swapped: bool, axis in 1usize..4,
    ) {
        use ArithmeticOperator::*;
        // away from zero, where a quotient has no derivative
        let far = |t: &Tensor| t.mapv(|v| v.signum() * (0.7 + v.abs()));
        let narrow = far(&b).slice_axis(ndarray::Axis(axis), (..1).into()).as_standard_layout().into_owned();
        let one_image = narrow.index_axis(ndarray::Axis(0), 0).to_owned();
        for operator in [Add, Sub, Mul, Div] {
            let layer = Arithmetic { operator };
            check_gradients(&layer, &[far(&a), narrow.clone()], 2e-2).unwrap();
            check_gradients(&layer, &[narrow.clone(), far(&a)], 2e-2).unwrap();
            let full = one_image.clone().insert_axis(ndarray::Axis(0));
            for constant in [full, one_image.clone(), Tensor::from_elem(vec![], 1.5)] {
                check(&ArithmeticConstant::new(operator, constant, swapped).unwrap(), &far(&a));
            }
        }
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
fn a_grid_rounds_halves_to_even_and_lets_the_gradient_pass_inside() {
    use cnn_core::train::{Backward, Pool, Saved, Step};
    let x = Tensor::from_shape_vec(vec![1, 2, 3], vec![0.25, 0.75, -9.0, 3.0, 300.0, 0.9]).unwrap();
    let mut layer = FakeQuantize::new(vec![0.5, 1.0], vec![1, 0], 1, 0, 255).unwrap();
    check_layer(&layer, &x, &Registry::core()).unwrap();
    let y = layer.infer(&[&x]).unwrap();
    assert_eq!(y.as_slice().unwrap(), [0.0, 1.0, -0.5, 3.0, 255.0, 1.0]);
    let mut pool = Pool::default();
    let mut saved = Saved::default();
    let mut step = Step { seed: 0, pool: &mut pool, saved: &mut saved };
    let grad = Tensor::from_elem(vec![1, 2, 3], 2.0);
    let (shapes, wanted, inputs) = ([x.shape()], [true], [Some(&x)]);
    let at = Backward { grad, inputs: &inputs, output: None, shapes: &shapes, wanted: &wanted };
    let dx = layer.trainable().unwrap().backward(at, &mut step).unwrap().remove(0).unwrap();
    assert_eq!(dx.as_slice().unwrap(), [2.0, 2.0, 0.0, 2.0, 0.0, 2.0]);
    assert!(FakeQuantize::new(vec![0.0], vec![0], 1, 0, 255).is_err());
    assert!(FakeQuantize::new(vec![1.0], vec![256], 1, 0, 255).is_err());
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
    assert!(Transpose::new(vec![1, 0]).is_err());
    assert!(Transpose::new(vec![0, 1, 1]).is_err());
    assert!(Mean::new(vec![0], true).is_err());
    assert!(AxisMap::new(1, 3, vec![Some(0)]).is_err());
    assert!(AxisMap::new(2, 3, vec![Some(3)]).is_err());
    let constant =
        ArithmeticConstant::new(ArithmeticOperator::Add, Tensor::zeros(vec![3, 1]), false).unwrap();
    assert!(constant.output_shape(&[&[3, 5]]).is_err(), "the batch is not broadcast");
    assert!(Reshape { shape: vec![usize::MAX, 2] }.output_shape(&[&[1, 4]]).is_err());
}
