//! Tools for tests, here and in method crates (feature `testing`): a small real network, gradient checks, a measure of
//! rounding errors, and the contract that every layer has to keep.

mod contract;
mod difference;
mod gradcheck;
mod network;
mod settings;
pub mod strategies;

pub use contract::check_layer;
pub use difference::difference;
pub use gradcheck::check_gradients;
pub use network::{lenet5, stripes};
pub use settings::check_settings;
