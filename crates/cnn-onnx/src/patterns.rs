//! What exporters write in several operators, recognized as the one layer that it is.

use crate::draft::{Draft, Drafts};
use crate::op::Refusal;
use cnn_core::Tensor;
use cnn_core::layers::{
    Activation, ActivationFn, AdaptiveAvgPool, Arithmetic, ArithmeticConstant, ArithmeticOperator, AvgPool2d,
    AxisMap, BatchNorm, ChannelMap, Conv2d, ConvOptions, Dropout, Flatten, Identity, Linear, MaxPool2d, Mul,
    Pad, Reshape, Transpose, Window,
};
use cnn_core::tensor::tensor;

/// A rule that may replace one draft; it says whether it did.
type Rule = fn(&mut Drafts, usize, &[usize]) -> Result<bool, Refusal>;

const RULES: [Rule; 12] = [
    reshape_of_reshape,
    transpose_of_transpose,
    shuffle,
    strided_slice,
    pool_of_pool,
    adaptive_of_adaptive,
    hard_sigmoid,
    hard_swish,
    gate,
    bias,
    padding,
    excitation,
];

/// Rounds of all rules; each makes the network smaller, and they seldom feed each other more than twice.
const ROUNDS: usize = 16;

/// Applies all rules until none applies.
pub(crate) fn simplify(drafts: &mut Drafts, output: usize) -> Result<(), Refusal> {
    for _ in 0..ROUNDS {
        drafts.skip_identities();
        let mut changed = false;
        let mut readers = drafts.readers(output);
        for at in 1..=output {
            for rule in RULES {
                if readers[at] > 0 && rule(drafts, at, &readers)? {
                    changed = true;
                    // others may be read less now, or not at all
                    readers = drafts.readers(output);
                    break;
                }
            }
        }
        if !changed {
            break;
        }
    }
    drafts.skip_identities();
    Ok(())
}

fn source(draft: &Draft) -> Option<usize> {
    match draft.inputs[..] {
        [only] => Some(only),
        _ => None,
    }
}

fn is_reshape(draft: &Draft) -> bool {
    draft.layer::<Reshape>().is_some() || draft.layer::<Flatten>().is_some()
}

/// The function of an activation.
fn function(draft: &Draft) -> Option<ActivationFn> {
    draft.layer::<Activation>().map(|a| a.function)
}

/// The constant of `x op c`, or of either order for a commutative operator.
fn constant_of(draft: &Draft, operator: ArithmeticOperator) -> Option<&Tensor> {
    let layer = draft.layer::<ArithmeticConstant>()?;
    let is = |swapped| {
        ArithmeticConstant::new(operator, layer.constant().clone(), swapped).is_ok_and(|same| same == *layer)
    };
    let commutes = matches!(operator, ArithmeticOperator::Add | ArithmeticOperator::Mul);
    (is(false) || commutes && is(true)).then(|| layer.constant())
}

/// The number of `x op c`.
fn number_of(draft: &Draft, operator: ArithmeticOperator) -> Option<f32> {
    let constant = draft.layer::<ArithmeticConstant>().map(ArithmeticConstant::constant);
    constant.filter(|c| c.len() == 1)?;
    constant_of(draft, operator)?.iter().next().copied()
}

/// One change of shape after another is one.
fn reshape_of_reshape(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(first) = source(draft).filter(|&i| is_reshape(draft) && is_reshape(drafts.get(i))) else {
        return Ok(false);
    };
    let (name, shape) = (draft.name.clone(), draft.shape.clone());
    let Some(from) = source(drafts.get(first)) else { return Ok(false) };
    if drafts.shape(from) == shape {
        drafts.replace(at, &name, Identity, &[from])?;
    } else if shape.len() == 2 {
        drafts.replace(at, &name, Flatten, &[from])?;
    } else {
        drafts.replace(at, &name, Reshape { shape: shape[1..].to_vec() }, &[from])?;
    }
    Ok(true)
}

/// One order of axes after another is one.
fn transpose_of_transpose(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(first) = source(draft) else { return Ok(false) };
    let orders = draft.layer::<Transpose>().zip(drafts.get(first).layer::<Transpose>());
    let (Some((second, before)), Some(from)) = (orders, source(drafts.get(first))) else { return Ok(false) };
    let order: Vec<usize> = second.order().iter().map(|&axis| before.order()[axis]).collect();
    let name = draft.name.clone();
    match order.iter().copied().eq(0..order.len()) {
        true => drafts.replace(at, &name, Identity, &[from])?,
        false => drafts.replace(at, &name, Transpose::new(order)?, &[from])?,
    }
    Ok(true)
}

/// Channel shuffle: `[c, ..]` as `[g, c / g, ..]`, the two axes exchanged, and back.
fn shuffle(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let back = drafts.get(at);
    let Some(middle) = source(back).filter(|_| is_reshape(back)) else { return Ok(false) };
    let Some(order) = drafts.get(middle).layer::<Transpose>().map(Transpose::order) else { return Ok(false) };
    let exchanged =
        order.len() >= 3 && order[1..3] == [2, 1] && order[3..].iter().copied().eq(3..order.len());
    let Some(split) = source(drafts.get(middle)).filter(|_| exchanged) else { return Ok(false) };
    let Some(from) = source(drafts.get(split)).filter(|_| is_reshape(drafts.get(split))) else {
        return Ok(false);
    };
    let (shape, parts) = (drafts.shape(from), drafts.shape(split));
    let fits = shape.len() >= 2 && shape == back.shape && parts[1].checked_mul(parts[2]) == Some(shape[1]);
    if !fits {
        return Ok(false);
    }
    let map = ChannelMap::shuffle(shape[1], parts[1])?;
    let name = back.name.clone();
    drafts.replace(at, &name, map, &[from])?;
    Ok(true)
}

/// `x[:, :, ::s, :]` is a pool that looks at one position.
fn strided_slice(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let (Some(map), Some(from)) = (draft.layer::<AxisMap>(), source(draft)) else { return Ok(false) };
    let shape = drafts.shape(from);
    if shape.len() != 4 {
        return Ok(false);
    }
    let (axis, size) = (map.axis(), shape[map.axis()]);
    let step = match map.map() {
        [Some(0), Some(step), ..] if *step > 1 => *step,
        _ => return Ok(false),
    };
    if !map.map().iter().copied().eq((0..size).step_by(step).map(Some)) {
        return Ok(false);
    }
    let mut window = Window::square(1);
    window.stride[axis - 2] = step;
    let name = draft.name.clone();
    drafts.replace(at, &name, MaxPool2d { window }, &[from])?;
    Ok(true)
}

fn is_one_position(window: &Window) -> bool {
    *window == Window { stride: window.stride, ..Window::square(1) }
}

/// A pool that looks at one position, after another such one.
fn pool_of_pool(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(first) = source(draft) else { return Ok(false) };
    let pools = draft.layer::<MaxPool2d>().zip(drafts.get(first).layer::<MaxPool2d>());
    let Some((second, before)) =
        pools.filter(|(a, b)| is_one_position(&a.window) && is_one_position(&b.window))
    else {
        return Ok(false);
    };
    let Some(from) = source(drafts.get(first)) else { return Ok(false) };
    let mut window = Window::square(1);
    window.stride = [0, 1].map(|i| second.window.stride[i].saturating_mul(before.window.stride[i]));
    let name = draft.name.clone();
    drafts.replace(at, &name, MaxPool2d { window }, &[from])?;
    Ok(true)
}

/// Means of rows of bins, then of columns of bins.
fn adaptive_of_adaptive(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(first) = source(draft) else { return Ok(false) };
    let pools = draft.layer::<AdaptiveAvgPool>().zip(drafts.get(first).layer::<AdaptiveAvgPool>());
    let (Some((second, before)), Some(from)) = (pools, source(drafts.get(first))) else { return Ok(false) };
    let shape = drafts.shape(from);
    // each of the two leaves one axis as it is
    let rows_first = before.size[1] == shape[3] && second.size[0] == before.size[0];
    let columns_first = before.size[0] == shape[2] && second.size[1] == before.size[1];
    if !rows_first && !columns_first {
        return Ok(false);
    }
    let (name, size) = (draft.name.clone(), second.size);
    drafts.replace(at, &name, AdaptiveAvgPool { size }, &[from])?;
    Ok(true)
}

/// `x` of `relu6(x + 3)`.
fn shifted_relu6(drafts: &Drafts, at: usize) -> Option<usize> {
    let draft = drafts.get(at);
    matches!(function(draft), Some(ActivationFn::Relu6)).then_some(())?;
    let shift = drafts.get(source(draft)?);
    (number_of(shift, ArithmeticOperator::Add)? == 3.0).then_some(())?;
    source(shift)
}

/// The operand of a division by six.
fn sixth(draft: &Draft) -> Option<usize> {
    let divided = number_of(draft, ArithmeticOperator::Div) == Some(6.0);
    let multiplied = number_of(draft, ArithmeticOperator::Mul).is_some_and(|n| (n * 6.0 - 1.0).abs() < 1e-6);
    source(draft).filter(|_| divided || multiplied)
}

/// The two operands of a product of equal shapes.
fn product(drafts: &Drafts, at: usize) -> Option<[usize; 2]> {
    let draft = drafts.get(at);
    let is_product = draft.layer::<Mul>().is_some()
        || draft.layer::<Arithmetic>().is_some_and(|a| a.operator == ArithmeticOperator::Mul);
    let &[a, b] = &draft.inputs[..] else { return None };
    (is_product && drafts.shape(a) == drafts.shape(b)).then_some([a, b])
}

fn activate(drafts: &mut Drafts, at: usize, function: ActivationFn, from: usize) -> Result<bool, Refusal> {
    let name = drafts.get(at).name.clone();
    drafts.replace(at, &name, Activation { function }, &[from])?;
    Ok(true)
}

/// `relu6(x + 3) / 6`.
fn hard_sigmoid(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    match sixth(drafts.get(at)).and_then(|inner| shifted_relu6(drafts, inner)) {
        Some(x) => activate(drafts, at, ActivationFn::HardSigmoid, x),
        None => Ok(false),
    }
}

/// `x relu6(x + 3) / 6`, divided at the end.
fn hard_swish(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let Some([a, b]) = sixth(drafts.get(at)).and_then(|inner| product(drafts, inner)) else {
        return Ok(false);
    };
    for (x, other) in [(a, b), (b, a)] {
        if shifted_relu6(drafts, other) == Some(x) {
            return activate(drafts, at, ActivationFn::HardSwish, x);
        }
    }
    Ok(false)
}

/// `x sigmoid(x)` and `x hard_sigmoid(x)`.
fn gate(drafts: &mut Drafts, at: usize, _readers: &[usize]) -> Result<bool, Refusal> {
    let Some([a, b]) = product(drafts, at) else { return Ok(false) };
    for (x, other) in [(a, b), (b, a)] {
        let whole = match function(drafts.get(other)) {
            Some(ActivationFn::Sigmoid) => ActivationFn::Silu,
            Some(ActivationFn::HardSigmoid) => ActivationFn::HardSwish,
            _ => continue,
        };
        if source(drafts.get(other)) == Some(x) {
            return activate(drafts, at, whole, x);
        }
    }
    Ok(false)
}

/// One number for each channel, of a constant that is the same at all positions.
fn per_channel(constant: &Tensor, shape: &[usize]) -> Option<Vec<f32>> {
    let count = *shape.get(1)?;
    if constant.len() == 1 {
        return Some(vec![constant.iter().next().copied()?; count]);
    }
    let channels = constant.ndim() == shape.len() && constant.len() == count && constant.shape()[1] == count;
    channels.then(|| constant.iter().copied().collect())
}

/// A constant added to what a convolution or linear layer makes is its bias.
fn bias(drafts: &mut Drafts, at: usize, readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(from) = source(draft).filter(|&i| readers[i] == 1) else { return Ok(false) };
    let constant = draft.layer::<ArithmeticConstant>().map(ArithmeticConstant::constant);
    let Some(mut added) = constant.and_then(|c| per_channel(c, &draft.shape)) else { return Ok(false) };
    if constant_of(draft, ArithmeticOperator::Sub).is_some() {
        added.iter_mut().for_each(|v| *v = -*v);
    } else if constant_of(draft, ArithmeticOperator::Add).is_none() {
        return Ok(false);
    }
    let layer = drafts.get(from);
    let (name, inputs) = (layer.name.clone(), layer.inputs.clone());
    let old = match (layer.layer::<Conv2d>(), layer.layer::<Linear>()) {
        (Some(conv), _) => conv.bias(),
        (_, Some(linear)) => linear.bias(),
        _ => return Ok(false),
    };
    if let Some(old) = old {
        added.iter_mut().zip(old.value()).for_each(|(a, b)| *a += b);
    }
    let bias = Some(tensor(&[added.len()], added)?);
    if let Some(conv) = layer.layer::<Conv2d>() {
        let conv = Conv2d::new(conv.weight().value().clone(), bias, conv.options)?;
        drafts.replace(at, &name, conv, &inputs)?;
    } else if let Some(linear) = layer.layer::<Linear>() {
        let linear = Linear::new(linear.weight().value().clone(), bias)?;
        drafts.replace(at, &name, linear, &inputs)?;
    }
    Ok(true)
}

/// Zeros around an image in front of a convolution are its padding; in front of an average pool, if those
/// count.
fn padding(drafts: &mut Drafts, at: usize, readers: &[usize]) -> Result<bool, Refusal> {
    let draft = drafts.get(at);
    let Some(first) = source(draft).filter(|&i| readers[i] == 1) else { return Ok(false) };
    let frame = drafts.get(first).layer::<Pad>().filter(|p| p.value == 0.0).map(|p| p.pad);
    let (Some(frame), Some(from)) = (frame, source(drafts.get(first))) else { return Ok(false) };
    let wider = |pad: [usize; 4]| [0, 1, 2, 3].map(|side| frame[side] + pad[side]);
    let name = draft.name.clone();
    if let Some(conv) = draft.layer::<Conv2d>() {
        let options = ConvOptions { pad: wider(conv.options.pad), ..conv.options };
        let bias = conv.bias().map(|b| b.value().clone());
        let conv = Conv2d::new(conv.weight().value().clone(), bias, options)?;
        drafts.replace(at, &name, conv, &[from])?;
        return Ok(true);
    }
    let Some(pool) = draft.layer::<AvgPool2d>() else { return Ok(false) };
    let mut window = pool.window;
    let counts = pool.count_include_pad || window.pad == [0; 4];
    window.pad = wider(window.pad);
    // a pool is padded by less than its window
    if !counts || window.ceil_mode || (0..4).any(|side| window.pad[side] >= window.kernel[side % 2]) {
        return Ok(false);
    }
    drafts.replace(at, &name, AvgPool2d { window, count_include_pad: true }, &[from])?;
    Ok(true)
}

/// Squeeze-and-excitation in the form with linear layers: `[c, 1, 1]` flattened, linear layers and
/// activations, and back to
/// `[c, 1, 1]`. The linear layers are convolutions with 1 x 1 kernels, and nothing has to change its shape.
fn excitation(drafts: &mut Drafts, at: usize, readers: &[usize]) -> Result<bool, Refusal> {
    let back = drafts.get(at);
    if !is_reshape(back) || !matches!(back.shape[..], [1, _, 1, 1]) {
        return Ok(false);
    }
    let Some(last) = source(back) else { return Ok(false) };
    let mut chain = Vec::new();
    let mut next = last;
    let from = loop {
        let draft = drafts.get(next);
        let Some(before) = source(draft) else { return Ok(false) };
        if is_reshape(draft) {
            break before;
        }
        let carries = draft.layer::<Linear>().is_some()
            || draft.layer::<Activation>().is_some()
            || draft.layer::<BatchNorm>().is_some()
            || draft.layer::<Dropout>().is_some();
        if !carries || readers[next] != 1 {
            return Ok(false);
        }
        chain.push(next);
        next = before;
    };
    let linear = chain.iter().any(|&i| drafts.get(i).layer::<Linear>().is_some());
    if !linear || !matches!(drafts.shape(from)[..], [1, _, 1, 1]) || drafts.shape(last)[1] != back.shape[1] {
        return Ok(false);
    }
    let mut input = from;
    for &i in chain.iter().rev() {
        let draft = drafts.get(i);
        if let Some(linear) = draft.layer::<Linear>() {
            let shape = [linear.outputs(), linear.inputs(), 1, 1];
            let weight = tensor(&shape, linear.weight().value().iter().copied().collect())?;
            let bias = linear.bias().map(|b| b.value().clone());
            let name = draft.name.clone();
            drafts.put(i, &name, Conv2d::new(weight, bias, ConvOptions::default())?, &[input])?;
        } else {
            drafts.rewire(i, input)?;
        }
        input = i;
    }
    let name = drafts.get(at).name.clone();
    drafts.replace(at, &name, Identity, &[last])?;
    Ok(true)
}
