//! The commands, one file each: their options, and a function that returns a report.

pub mod bench;
pub mod completions;
pub mod compress;
pub mod convert;
pub mod eval;
pub mod inspect;
pub mod methods;
pub mod networks;
pub mod train;
pub mod verify;
