//! `cnn networks`: the networks that can be built by name.

use crate::recipe::nearest;
use crate::session::Session;
use crate::table::grouped;
use anyhow::{Result, bail};
use cnn_core::NetworkOptions;
use serde::Serialize;
use std::fmt::{Display, Formatter};

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Build this one and say what it costs
    pub name: Option<String>,
    /// How the network is built
    #[command(flatten)]
    pub build: BuildOptions,
}

/// How a network is built.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct BuildOptions {
    /// Input C,H,W; that of the images, or the network's own, by default
    #[arg(long, value_name = "C,H,W", value_delimiter = ',')]
    pub input: Option<Vec<usize>>,
    /// Number of classes; that of the images, or the network's own, by default
    #[arg(long, value_name = "N")]
    pub classes: Option<usize>,
    /// Width multiplier on the number of channels
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0)]
    pub width: f64,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions { input: None, classes: None, width: 1.0 }
    }
}

impl BuildOptions {
    /// The input's shape.
    ///
    /// # Errors
    /// If there are not three numbers.
    pub fn shape(&self) -> Result<Option<[usize; 3]>> {
        match self.input.as_deref() {
            None => Ok(None),
            Some(&[c, h, w]) if c * h * w > 0 => Ok(Some([c, h, w])),
            Some(other) => bail!("--input: three positive numbers C,H,W, got {other:?}"),
        }
    }
}

/// Names, or one network.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Report {
    /// All of them.
    Names {
        /// By name.
        networks: Vec<&'static str>,
    },
    /// One as it was built.
    One {
        /// Its name.
        name: String,
        /// Input of one image.
        input: Vec<usize>,
        /// Number of classes.
        classes: usize,
        /// Layers.
        layers: usize,
        /// Parameters.
        params: u64,
        /// Multiply-adds for one image.
        macs: u64,
    },
}

/// Lists the networks, or builds one.
///
/// # Errors
/// If there is no network of that name, or it cannot be built so.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let Some(name) = &options.name else {
        return Ok(Report::Names { networks: session.registry.network_names().collect() });
    };
    check_name(name, session)?;
    let build = NetworkOptions {
        input: options.build.shape()?,
        classes: options.build.classes,
        width: options.build.width,
        seed: 0,
    };
    let graph = session.registry.build_network(name, &build)?;
    let cost = graph.cost()?;
    Ok(Report::One {
        name: name.clone(),
        input: graph.input_shape().to_vec(),
        classes: crate::images::outputs(&graph)?,
        layers: graph.nodes().len() - 1,
        params: cost.params,
        macs: cost.macs.total(),
    })
}

/// Checks that there is a network of a name.
///
/// # Errors
/// With the names there are.
pub fn check_name(name: &str, session: &Session) -> Result<()> {
    let names: Vec<&str> = session.registry.network_names().collect();
    if names.contains(&name) {
        return Ok(());
    }
    let near = nearest(name, names.iter().copied());
    bail!("no network is called `{name}`{near}\nthere are: {}", names.join(", "))
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Report::Names { networks } => {
                writeln!(f, "{}", networks.join("\n"))?;
                write!(f, "`cnn networks NAME` says what one costs; `cnn train NAME` trains it")
            }
            Report::One { name, input, classes, layers, params, macs } => {
                let input = input.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
                writeln!(f, "{name}: {layers} layers, input {input}, {classes} classes")?;
                write!(f, "{} parameters, {} multiply-adds for an image", grouped(*params), grouped(*macs))
            }
        }
    }
}
