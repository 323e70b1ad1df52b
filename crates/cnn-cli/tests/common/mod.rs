//! A small set of images and runs of the program, for the tests.
// each test file uses a part of this, and all of it is for tests
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder that goes away after the test.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).unwrap();
        self.text(name)
    }

    /// `images/train` and `images/test`: three classes of 8 x 8 pictures that a small network learns.
    pub fn images(&self) -> String {
        for (part, count, seed) in [("train", 20, 1), ("test", 8, 7)] {
            for (class, name) in ["across", "down", "flat"].iter().enumerate() {
                let folder = self.path("images").join(part).join(name);
                std::fs::create_dir_all(&folder).unwrap();
                for at in 0..count {
                    picture(class, seed * 1000 + at).save(folder.join(format!("{at:02}.png"))).unwrap();
                }
            }
        }
        self.text("images")
    }
}

/// Bright and dark lines across or down, or none, with noise.
fn picture(class: usize, seed: u32) -> image::RgbImage {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    image::RgbImage::from_fn(8, 8, |x, y| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let line = match class {
            0 => (y + seed) % 2,
            1 => (x + seed) % 2,
            _ => 0,
        };
        let base = if class == 2 { 90 } else { 40 + 120 * line };
        image::Rgb([0, 20, 40].map(|tint| (base + tint + state % 50) as u8))
    })
}

/// What the program said.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cnn"));
    command.args(arguments);
    command
}

/// Runs the program.
pub fn cnn(arguments: &[&str]) -> Said {
    let Output { status, stdout, stderr } = command(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Runs the program, which has to succeed.
pub fn done(arguments: &[&str]) -> Said {
    let said = cnn(arguments);
    assert_eq!(said.code, Some(0), "{arguments:?}\n{}\n{}", said.out, said.err);
    said
}

/// Runs the program, which has to end with an error that holds all of `parts`.
pub fn fails(arguments: &[&str], parts: &[&str]) -> Said {
    let said = cnn(arguments);
    assert_eq!(said.code, Some(1), "{arguments:?}\n{}\n{}", said.out, said.err);
    for part in parts {
        assert!(said.err.contains(part), "{arguments:?}: no `{part}` in: {}", said.err);
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

/// A trained network of the images in a place.
pub fn trained(place: &Place, images: &str) -> String {
    let net = place.text("net.cnn");
    let epochs = ["--epochs", "6", "--batch", "10", "--lr", "0.05", "--validation", "0.2"];
    let line = ["train", "resnet20", "--width", "0.25", "--data", images, "-o", &net, "--quiet"];
    done(&line.into_iter().chain(epochs).collect::<Vec<_>>());
    net
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
