//! Inner loops over packed scratch memory.
//!
//! Everything here works on one thread; `ops` decides who does what.

pub mod channels;
pub mod flat;
pub mod layout;
pub mod phases;
pub mod scratch;
pub mod tiles;
pub mod winograd;
pub mod winograd_small;
