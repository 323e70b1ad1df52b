//! Runs an ONNX file on images: `cargo run -p cnn-onnx --example infer -- model.onnx images.f32 outputs.f32`.
//!
//! The images are 32-bit little-endian floats, `[n, c, h, w]` in the shape that the file asks for; so are the
//! outputs.

use cnn_core::tensor::{elements, tensor};
use cnn_onnx::{ImportOptions, load};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, images, outputs] = &arguments[..] else {
        return Err("name the model, the images and the file to write".into());
    };
    let imported = load(model.as_ref(), &ImportOptions::default())?;
    println!("{} (opset {}): {:?}", imported.producer, imported.opset, imported.operators);
    println!("{}", imported.graph);
    let bytes = std::fs::read(images)?;
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let shape = imported.graph.input_shape();
    let n = values.len() / elements(shape);
    let x = tensor(&[&[n], shape].concat(), values)?;
    let y = imported.graph.infer(&x)?;
    println!("{} -> {}: {:?}", imported.input, imported.output, y.shape());
    std::fs::write(outputs, y.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
