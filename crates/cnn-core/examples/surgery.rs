//! Halves the channels of LeNet-5's first convolution and shows both networks, and their files.
//!
//! `cargo run -p cnn-core --features testing --example surgery`

use cnn_core::model_file::deploy_bytes;
use cnn_core::testing::lenet5;

fn main() -> cnn_core::Result<()> {
    let mut graph = lenet5(0)?;
    println!("{graph}\n{} bytes\n", deploy_bytes(&graph, false)?.len());
    graph.keep_channels("conv1", &[0, 2, 4, 6, 8, 10, 12, 14, 16, 18])?;
    println!("{graph}\n{} bytes", deploy_bytes(&graph, false)?.len());
    Ok(())
}
