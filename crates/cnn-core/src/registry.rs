//! The explicit table of everything that is reached by name: layers, constraints, methods and networks.

use crate::compress::{Compressor, Config};
use crate::graph::Graph;
use crate::layer::Layer;
use crate::model_file::Decoder;
use crate::param::Constraint;
use crate::{Error, Result, layers};
use std::collections::BTreeMap;

/// Reads a layer that [`Layer::encode`] wrote.
pub type LayerDecoder = fn(&mut Decoder<'_>) -> Result<Box<dyn Layer>>;
/// Reads a constraint that [`Constraint::encode`] wrote.
pub type ConstraintDecoder = fn(&mut Decoder<'_>) -> Result<Box<dyn Constraint>>;
/// Makes a method from its configuration; missing keys take their defaults, unknown ones are errors.
pub type MethodBuilder = fn(Config) -> Result<Box<dyn Compressor>>;
/// Builds a network.
pub type NetworkBuilder = fn(&NetworkOptions) -> Result<Graph>;

/// What a network can be built for.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkOptions {
    /// Input shape `[c, h, w]`; `None` takes the network's own.
    pub input: Option<[usize; 3]>,
    /// Number of classes; `None` takes the network's own.
    pub classes: Option<usize>,
    /// Width multiplier on the number of channels.
    pub width: f64,
    /// Seed of the random initial weights.
    pub seed: u64,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions { input: None, classes: None, width: 1.0, seed: 0 }
    }
}

/// Names to decoders, methods and builders. Starts from [`Registry::core`]; each crate's `register` adds its own.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    layers: BTreeMap<&'static str, LayerDecoder>,
    constraints: BTreeMap<&'static str, ConstraintDecoder>,
    methods: BTreeMap<&'static str, MethodBuilder>,
    networks: BTreeMap<&'static str, NetworkBuilder>,
}

impl Registry {
    /// The layers of the core.
    pub fn core() -> Registry {
        let mut registry = Registry::default();
        layers::register(&mut registry);
        registry
    }

    /// Adds a kind of layer.
    pub fn layer(&mut self, kind: &'static str, decode: LayerDecoder) {
        self.layers.insert(kind, decode);
    }

    /// Adds a kind of constraint.
    pub fn constraint(&mut self, kind: &'static str, decode: ConstraintDecoder) {
        self.constraints.insert(kind, decode);
    }

    /// Adds a method.
    pub fn method(&mut self, name: &'static str, build: MethodBuilder) {
        self.methods.insert(name, build);
    }

    /// Adds a network.
    pub fn network(&mut self, name: &'static str, build: NetworkBuilder) {
        self.networks.insert(name, build);
    }

    /// The names of all methods.
    pub fn method_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.methods.keys().copied()
    }

    /// The names of all networks.
    pub fn network_names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.networks.keys().copied()
    }

    /// Reads a layer of the given kind.
    ///
    /// # Errors
    /// If the kind is not registered or the bytes are not such a layer.
    pub fn decode_layer(&self, kind: &str, from: &mut Decoder<'_>) -> Result<Box<dyn Layer>> {
        find(&self.layers, "layer", kind)?(from)
    }

    /// Reads a constraint of the given kind.
    ///
    /// # Errors
    /// If the kind is not registered or the bytes are not such a constraint.
    pub fn decode_constraint(&self, kind: &str, from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
        find(&self.constraints, "constraint", kind)?(from)
    }

    /// Makes a method by name.
    ///
    /// # Errors
    /// If the name is not registered or the configuration is not valid.
    pub fn build_method(&self, name: &str, config: Config) -> Result<Box<dyn Compressor>> {
        find(&self.methods, "method", name)?(config)
    }

    /// Builds a network by name.
    ///
    /// # Errors
    /// If the name is not registered or the options do not suit the network.
    pub fn build_network(&self, name: &str, options: &NetworkOptions) -> Result<Graph> {
        find(&self.networks, "network", name)?(options)
    }
}

fn find<T: Copy>(map: &BTreeMap<&'static str, T>, what: &'static str, name: &str) -> Result<T> {
    map.get(name).copied().ok_or_else(|| Error::Unregistered {
        what,
        name: name.to_string(),
        known: map.keys().copied().collect::<Vec<_>>().join(", "),
    })
}
