//! Opens a data set and says what it is.
//!
//! `cargo run --release -p cnn-data --example open -- PATH [CACHE]`

use cnn_data::{OpenOptions, open};
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("name a folder, an .npz or an .npy file")?;
    let options = OpenOptions { cache: arguments.next().map(PathBuf::from), ..OpenOptions::default() };
    let started = std::time::Instant::now();
    let opened = open(Path::new(&path), &options)?;
    println!("{} with {} named classes, in {:.2?}", opened.kind, opened.classes.len(), started.elapsed());
    for (part, data) in [("train", &opened.train), ("validation", &opened.validation), ("test", &opened.test)]
    {
        if let Some(data) = data {
            println!("{part}: {} images of shape {:?}, {} classes", data.len(), data.shape(), data.classes());
        }
    }
    opened.broken.iter().for_each(|b| println!("left out: {}: {}", b.path.display(), b.why));
    Ok(())
}
