//! What every layer of every crate has to keep.

use crate::graph::Graph;
use crate::layer::Layer;
use crate::model_file::{deploy_bytes, from_bytes};
use crate::registry::Registry;
use crate::session::{Choices, Session, SessionOptions};
use crate::tensor::Tensor;
use crate::testing::difference;
use crate::{Error, Result};
use ndarray::Axis;

/// Checks a layer of one input on a batch:
/// - the shape it announces is the shape it makes, and the output is in standard layout;
/// - written and read back, it gives the same bits;
/// - a batch gives the same bits as its images one by one;
/// - it refuses no inputs with an error, not a panic;
/// - its clone gives the same bits;
/// - a session, where it may run by a kernel of its own, gives the same values up to rounding ([`difference`] 1e-5), and so does every
///   other algorithm that the layer offers (Winograd's, 1e-3).
///
/// # Errors
/// What was violated.
pub fn check_layer(layer: &dyn Layer, input: &Tensor, registry: &Registry) -> Result<()> {
    let output = layer.infer(&[input])?;
    let announced = layer.output_shape(&[input.shape()])?;
    require(output.shape() == announced, format!("announced {announced:?}, made {:?}", output.shape()))?;
    require(output.is_standard_layout(), "the output is not in standard layout".into())?;
    require(layer.clone_box().infer(&[input])? == output, "a clone gives other values".into())?;
    require(layer.output_shape(&[]).is_err(), "no inputs must be an error".into())?;
    layer.cost(&[input.shape()])?;

    let mut graph = Graph::new(&input.shape()[1..]);
    graph.append("layer".into(), layer.clone_box(), vec![0])?;
    graph.set_output(1)?;
    let bytes = deploy_bytes(&graph, true)?;
    let back = from_bytes(&bytes, registry)?;
    require(back.infer(input)? == output, "written and read back, it gives other values".into())?;
    require(deploy_bytes(&back, true)? == bytes, "written again, it gives other bytes".into())?;

    let shapes = vec![input.shape().to_vec()];
    let exact = SessionOptions { shapes, exact: true, ..SessionOptions::default() };
    check_session(&graph, &exact, 1e-5, input, &output)?;
    check_session(&graph, &SessionOptions { exact: false, ..exact }, 1e-3, input, &output)?;

    for (at, image) in input.axis_chunks_iter(Axis(0), 1).enumerate() {
        let alone = layer.infer(&[&image.to_owned()])?;
        let in_batch = output.slice_axis(Axis(0), ndarray::Slice::from(at..at + 1));
        require(alone == in_batch, format!("image {at} alone gives other values than in the batch"))?;
    }
    Ok(())
}

/// Every algorithm of a layer in a session.
fn check_session(
    graph: &Graph,
    options: &SessionOptions,
    most: f32,
    input: &Tensor,
    expected: &Tensor,
) -> Result<()> {
    let check = |session: &mut Session| -> Result<()> {
        let output = session.run(input)?;
        let (error, choices) = (difference(&output, expected), session.choices());
        require(
            output == expected || error <= most,
            format!("in a session it is off by {error} ({choices:?})"),
        )
    };
    let mut session = Session::new(graph.clone(), options)?;
    check(&mut session)?;
    for (key, names) in session.alternatives() {
        for name in names {
            let choices = Some(Choices([(key.clone(), name.to_string())].into()));
            check(&mut Session::new(graph.clone(), &SessionOptions { choices, ..options.clone() })?)?;
        }
    }
    Ok(())
}

fn require(holds: bool, what: String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::Edit(format!("layer contract: {what}"))) }
}
