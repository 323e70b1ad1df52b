//! The networks whose training is measured. scripts/bench_train.py has the same ones in PyTorch.

use anyhow::{Result, bail};
use cnn_core::init::Init;
use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear};
use cnn_core::tensor::zeros;
use cnn_core::{Graph, NetworkOptions, Registry};

/// Width of MobileNetV1.
pub const WIDTH: f64 = 0.5;

/// A network and how it is trained.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name, here and in the script.
    pub name: &'static str,
    /// Images in a step.
    pub batch: usize,
    /// How many times as many steps as asked for: small networks have short ones.
    pub more: usize,
    /// Builds it.
    pub build: fn() -> Result<Graph>,
}

/// All of them.
pub fn all() -> Vec<Network> {
    vec![
        Network { name: "lenet5", batch: 64, more: 4, build: || named("lenet5", NetworkOptions::default()) },
        Network {
            name: "resnet20",
            batch: 128,
            more: 1,
            build: || named("resnet20", NetworkOptions::default()),
        },
        Network { name: "mobilenet_v1", batch: 64, more: 1, build: mobilenet },
        Network { name: "depthwise", batch: 64, more: 1, build: depthwise },
    ]
}

/// A network by name.
///
/// # Errors
/// If there is none; the message lists the names.
pub fn find<'a>(networks: &'a [Network], name: &str) -> Result<&'a Network> {
    match networks.iter().find(|n| n.name == name) {
        Some(network) => Ok(network),
        None => {
            let names: Vec<&str> = networks.iter().map(|n| n.name).collect();
            bail!("no network is named {name}; there are: {}", names.join(", "))
        }
    }
}

fn mobilenet() -> Result<Graph> {
    named(
        "mobilenet_v1",
        NetworkOptions { input: Some([3, 32, 32]), classes: Some(10), width: WIDTH, seed: 0 },
    )
}

fn named(name: &str, options: NetworkOptions) -> Result<Graph> {
    let mut registry = Registry::core();
    cnn_lightweight::register(&mut registry);
    Ok(registry.build_network(name, &options)?)
}

/// A stem of 32 filters on 32 x 32 and six blocks of a depthwise 3 x 3 and a pointwise convolution (Howard et al. 2017,
/// figure 3, right), each followed by batch normalization and ReLU.
fn depthwise() -> Result<Graph> {
    let mut init = Init::new(0);
    let mut graph = Graph::new(&[3, 32, 32]);
    let mut unit = |name: &str, shape: [usize; 4], options: ConvOptions| {
        graph.push(name, Conv2d::new(init.he(&shape)?, None, options)?)?;
        graph.push(&format!("{name}_bn"), BatchNorm::new(shape[0]))?;
        graph.push(&format!("{name}_relu"), Activation::relu())
    };
    let same = ConvOptions::default().pad(1);
    unit("stem", [32, 3, 3, 3], same)?;
    let mut channels = 32;
    for (i, (out, stride)) in
        [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 1)].into_iter().enumerate()
    {
        unit(&format!("dw{i}"), [channels, 1, 3, 3], same.stride(stride).groups(channels))?;
        unit(&format!("pw{i}"), [out, channels, 1, 1], ConvOptions::default())?;
        channels = out;
    }
    graph.push("pool", GlobalAvgPool)?;
    graph.push("flatten", Flatten)?;
    graph.push("fc", Linear::new(init.glorot(&[10, channels])?, Some(zeros(&[10])))?)?;
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_networks_are_built_and_take_ten_classes() {
        for network in all() {
            let graph = (network.build)().unwrap();
            let shapes = graph.shapes(network.batch).unwrap();
            assert_eq!(shapes[graph.output()], [network.batch, 10], "{}", network.name);
        }
    }

    #[test]
    fn unknown_networks_are_errors_that_list_the_names() {
        let message = find(&all(), "resnet50").unwrap_err().to_string();
        assert!(message.contains("resnet50") && message.contains("resnet20"));
    }

    #[test]
    fn the_depthwise_stack_by_hand() {
        let pairs = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)];
        let blocks: u64 = pairs.iter().map(|(i, o)| i * 9 + 2 * i + i * o + 2 * o).sum();
        assert_eq!(depthwise().unwrap().cost().unwrap().params, 3 * 32 * 9 + 64 + blocks + 2570);
    }
}
