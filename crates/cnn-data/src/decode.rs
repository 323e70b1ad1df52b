//! The bytes of a JPEG or PNG file to a picture. The format is told by the contents, not by the name.
//!
//! - Alpha is dropped, not blended; 16 bits a channel become the upper 8; palettes and CMYK become RGB: what Pillow's
//!   `convert("RGB")` does. The orientation in EXIF data is not applied, as Pillow and torchvision do not.
//! - A JPEG without its end is broken, although decoders would fill it with grey.
//! - Before pixels are decoded the header must announce at most [`MAX_PIXELS`] of them, so that a small file cannot
//!   fill the memory.

use crate::picture::{MAX_PIXELS, Picture};
use crate::{Channels, jpeg};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

/// The longest file that is read: 256 MiB.
const MAX_FILE: u64 = 1 << 28;
/// What a decoder may take besides the picture itself.
const MAX_ALLOC: u64 = 1 << 29;

/// Reads and decodes a file.
pub(crate) fn file(path: &Path, channels: Channels) -> Result<Picture, String> {
    let mut data = Vec::new();
    let source = File::open(path).map_err(|e| e.to_string())?;
    source.take(MAX_FILE + 1).read_to_end(&mut data).map_err(|e| e.to_string())?;
    if data.len() as u64 > MAX_FILE {
        return Err(format!("longer than {MAX_FILE} bytes"));
    }
    bytes(&data, channels)
}

/// Decodes the bytes of a file.
pub(crate) fn bytes(data: &[u8], channels: Channels) -> Result<Picture, String> {
    let guess = image::guess_format(data).map_err(|_| "neither JPEG nor PNG".to_string())?;
    match guess {
        ImageFormat::Jpeg if !jpeg::is_whole(data) => return Err("the JPEG file ends too early".into()),
        ImageFormat::Jpeg | ImageFormat::Png => {}
        other => return Err(format!("{other:?} is neither JPEG nor PNG")),
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::with_format(Cursor::new(data), guess);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| e.to_string())?;
    let (w, h) = decoder.dimensions();
    if !(1..=MAX_PIXELS).contains(&(u64::from(w) * u64::from(h))) {
        return Err(format!("{h} x {w} pixels are not between 1 and {MAX_PIXELS}"));
    }
    let decoded = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
    Ok(to_picture(&decoded)?.with_channels(channels))
}

/// One channel, or red, green and blue.
fn to_picture(image: &DynamicImage) -> Result<Picture, String> {
    let (count, keep) = match image.color() {
        ColorType::L8 | ColorType::L16 => (1, 1),
        ColorType::La8 | ColorType::La16 => (2, 1),
        ColorType::Rgb8 | ColorType::Rgb16 => (3, 3),
        ColorType::Rgba8 | ColorType::Rgba16 => (4, 3),
        other => return Err(format!("pixels of type {other:?} are not supported")),
    };
    let shape = [count, image.height() as usize, image.width() as usize];
    let upper: Vec<u8>;
    let bytes = match image {
        DynamicImage::ImageLuma16(i) => {
            upper = upper_bytes(i);
            &upper
        }
        DynamicImage::ImageLumaA16(i) => {
            upper = upper_bytes(i);
            &upper
        }
        DynamicImage::ImageRgb16(i) => {
            upper = upper_bytes(i);
            &upper
        }
        DynamicImage::ImageRgba16(i) => {
            upper = upper_bytes(i);
            &upper
        }
        _ => image.as_bytes(),
    };
    Ok(Picture::from_interleaved(bytes, shape, keep))
}

fn upper_bytes(values: &[u16]) -> Vec<u8> {
    values.iter().map(|v| (v >> 8) as u8).collect()
}
