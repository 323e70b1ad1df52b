//! Shows embedded digits as text, and what a random shift does to one.
//!
//! `cargo run -p cnn-data --example digits`

use cnn_core::{Augment, Dataset};
use cnn_data::{Shift, augment::black, mnist};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn show(image: &[f32]) {
    for row in image.chunks(mnist::SIDE) {
        let line: String = row
            .iter()
            .map(|&v| {
                if v > 1.5 {
                    '#'
                } else if v > 0.0 {
                    '+'
                } else {
                    '.'
                }
            })
            .collect();
        println!("{line}");
    }
}

fn main() -> Result<(), cnn_core::Error> {
    let digits = mnist::embedded()?;
    let mut image = vec![0.0; mnist::SIDE * mnist::SIDE];
    digits.train.image(0, &mut image)?;
    println!("a {}:", digits.train.label(0));
    show(&image);
    let shift = Shift { max: 4, fill: black(&mnist::preprocess()) };
    shift.apply(&mut image, digits.train.shape(), &mut ChaCha8Rng::seed_from_u64(1));
    println!("moved:");
    show(&image);
    Ok(())
}
