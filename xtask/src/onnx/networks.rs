//! Networks to compare on: random weights, and batch normalization that does something.

use anyhow::Result;
use cnn_core::layers::BatchNorm;
use cnn_core::{Graph, NetworkOptions, Registry, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A registered network with random weights. Every batch normalization gets statistics and an affine part
/// that differ from channel to channel: with the fresh ones (mean 0, variance 1, gamma 1, beta 0) a wrong
/// folding would not show.
///
/// # Errors
/// If the network cannot be built so.
pub fn random(registry: &Registry, name: &str, options: &NetworkOptions) -> Result<Graph> {
    let mut graph = registry.build_network(name, options)?;
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    for at in 0..graph.nodes().len() {
        if !graph.nodes()[at].layer().is::<BatchNorm>() {
            continue;
        }
        if let Some(norm) = graph.layer_at_mut(at).downcast_mut::<BatchNorm>() {
            let mut draw = |low, high| {
                (0..norm.gamma().len()).map(|_| random.random_range(low..high)).collect::<Vec<f32>>()
            };
            let (gamma, beta) = (draw(0.5, 1.5), draw(-0.3, 0.3));
            let (mean, var) = (draw(-0.3, 0.3), draw(0.5, 2.0));
            *norm = BatchNorm::trained(gamma, beta, mean, var, norm.epsilon)?;
        }
    }
    Ok(graph)
}

/// A batch of images of a network's input shape: in each channel of each image another level, another slope
/// and noise. Noise alone would look the same to a network that averages over the pixels.
///
/// # Errors
/// If the shape is absurd.
pub fn images(graph: &Graph, count: usize, seed: u64) -> Result<Tensor> {
    let shape: Vec<usize> = std::iter::once(count).chain(graph.input_shape().iter().copied()).collect();
    let mut init = cnn_core::init::Init::new(seed);
    let mut images = init.normal(&shape, 0.5)?;
    let mut plane = |pixels: &mut [f32], width: usize| -> Result<()> {
        let drawn = init.normal(&[3], 1.0)?;
        let height = pixels.len() / width;
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let (y, x) = (i / width, i % width);
            let from_center = |at: usize, size: usize| 2.0 * at as f32 / size as f32 - 1.0;
            *pixel += drawn[0] + drawn[1] * from_center(y, height) + drawn[2] * from_center(x, width);
        }
        Ok(())
    };
    let width = shape.last().copied().unwrap_or(1);
    let pixels = shape.iter().rev().take(2).product();
    cnn_core::tensor::slice_mut(&mut images)?.chunks_mut(pixels).try_for_each(|p| plane(p, width))?;
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_normalization_is_not_trivial() {
        let registry = cnn_cli::registry();
        let options = NetworkOptions { seed: 3, ..NetworkOptions::default() };
        let graph = random(&registry, "resnet20", &options).unwrap();
        let names = graph.names_of::<BatchNorm>();
        assert_eq!(names.len(), 19);
        for name in names {
            let norm = graph.layer::<BatchNorm>(&name).unwrap().unwrap();
            let (scale, shift) = norm.scale_shift().unwrap();
            assert!(scale.windows(2).all(|p| p[0] != p[1]) && shift.iter().all(|&s| s != 0.0), "{name}");
        }
        let again = random(&registry, "resnet20", &options).unwrap();
        let images = images(&graph, 2, 0).unwrap();
        assert_eq!(graph.infer(&images).unwrap(), again.infer(&images).unwrap());
    }
}
