//! Writes LeNet-5 as an ONNX file: `cargo run -p cnn-onnx --example export -- lenet5.onnx`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = PathBuf::from(std::env::args().nth(1).ok_or("name the file to write")?);
    let graph = cnn_core::testing::lenet5(0)?;
    let bytes = cnn_onnx::save(&graph, &path, &cnn_onnx::ExportOptions::default())?;
    println!("{}: {bytes} bytes for {} parameters", path.display(), graph.cost()?.params);
    Ok(())
}
