//! The bytes of a JPEG or PNG file to a picture. The format is told by the contents, not by the name.
//!
//! - Alpha is dropped, not blended; 16 bits a channel become the upper 8; palettes and CMYK become RGB: what
//!   Pillow's
//!   `convert("RGB")` does. The orientation in EXIF data is not applied, as Pillow and torchvision do not.
//! - A JPEG without its end is broken, although decoders would fill it with grey.
//! - Before pixels are decoded the header must announce at most [`MAX_PIXELS`] of them, so that a small file
//!   cannot fill the memory.

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

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, LumaA, Rgb, RgbImage, Rgba};
    use proptest::prelude::*;

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.into().write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    fn rgb(channels: Channels, image: impl Into<DynamicImage>) -> (([usize; 3], Vec<u8>), [usize; 2]) {
        let image = image.into();
        let size = [image.height() as usize, image.width() as usize];
        let Picture { shape, pixels } = bytes(&encoded(image, ImageFormat::Png), channels).unwrap();
        ((shape, pixels), size)
    }

    #[test]
    fn all_kinds_of_png_become_bytes() {
        use image::ImageBuffer;
        let (picture, _) = rgb(Channels::Rgb, RgbImage::from_raw(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap());
        assert_eq!(picture, ([3, 2, 1], vec![1, 4, 2, 5, 3, 6]));
        let grey = GrayImage::from_raw(2, 1, vec![7, 9]).unwrap();
        assert_eq!(rgb(Channels::Rgb, grey.clone()).0, ([3, 1, 2], vec![7, 9, 7, 9, 7, 9]));
        assert_eq!(rgb(Channels::Gray, grey).0, ([1, 1, 2], vec![7, 9]));
        // alpha is dropped
        let clear = image::RgbaImage::from_pixel(1, 1, Rgba([1, 2, 3, 0]));
        assert_eq!(rgb(Channels::Rgb, clear).0.1, [1, 2, 3]);
        let clear = ImageBuffer::from_pixel(1, 1, LumaA([9u8, 0]));
        assert_eq!(rgb(Channels::Gray, clear).0.1, [9]);
        // the upper of two bytes
        let deep = ImageBuffer::from_pixel(1, 1, Rgb([0x01ffu16, 0xff00, 0x8080]));
        assert_eq!(rgb(Channels::Rgb, deep).0.1, [1, 255, 128]);
        let deep = ImageBuffer::from_pixel(1, 1, Luma([0x12ffu16]));
        assert_eq!(rgb(Channels::Gray, deep).0.1, [0x12]);
        let deep = ImageBuffer::from_pixel(1, 1, Rgba([0x0100u16, 0x0200, 0x0300, 0]));
        assert_eq!(rgb(Channels::Rgb, deep).0.1, [1, 2, 3]);
        let deep = ImageBuffer::from_pixel(1, 1, LumaA([0x0400u16, 0]));
        assert_eq!(rgb(Channels::Gray, deep).0.1, [4]);
    }

    fn jpeg() -> Vec<u8> {
        let image = RgbImage::from_fn(24, 17, |x, y| Rgb([(x * 10) as u8, (y * 14) as u8, 128]));
        encoded(image, ImageFormat::Jpeg)
    }

    #[test]
    fn a_jpeg_is_near_its_picture() {
        let picture = bytes(&jpeg(), Channels::Rgb).unwrap();
        assert_eq!(picture.shape, [3, 17, 24]);
        for y in 0..17 {
            for x in 0..24 {
                let at = |c: usize| i32::from(picture.pixels[(c * 17 + y) * 24 + x]);
                let distance = [at(0) - x as i32 * 10, at(1) - y as i32 * 14, at(2) - 128];
                assert!(distance.iter().all(|d| d.abs() < 25), "{y} {x} {distance:?}");
            }
        }
    }

    /// A CMYK JPEG of 8 x 8 equal pixels (10, 200, 60, 30), made by Pillow; its own `convert("RGB")` says
    /// (216, 49, 172).
    const CMYK: &str = include_str!("../tests/cmyk.hex");

    #[test]
    fn cmyk_becomes_rgb() {
        let digits: Vec<u8> = CMYK.bytes().filter(u8::is_ascii_hexdigit).collect();
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let data: Vec<u8> = digits.chunks(2).map(hex).collect();
        let picture = bytes(&data, Channels::Rgb).unwrap();
        for (value, expected) in picture.pixels.iter().step_by(64).zip([216, 49, 172]) {
            assert!(value.abs_diff(expected) <= 3, "{value} {expected}");
        }
    }

    #[test]
    fn what_is_no_picture_says_so() {
        let gif = bytes(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", Channels::Rgb).unwrap_err();
        assert!(gif.contains("neither JPEG nor PNG"), "{gif}");
        assert!(bytes(b"", Channels::Rgb).is_err());
        assert!(file(Path::new("no/such.png"), Channels::Rgb).is_err());
    }

    #[test]
    fn a_header_that_claims_too_much_is_refused() {
        // the size in a PNG is at bytes 16 to 24, its checksum behind the chunk at 29
        let mut png = encoded(GrayImage::new(1, 1), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let crc = crc32fast::hash(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        assert!(bytes(&png, Channels::Rgb).unwrap_err().contains("16384 x 16384"));
        // and that of a JPEG in its frame header
        let mut jpeg = jpeg();
        let frame = jpeg.windows(2).position(|m| m == [0xff, 0xc0]).unwrap();
        jpeg[frame + 5..frame + 9].fill(0xff);
        assert!(bytes(&jpeg, Channels::Rgb).unwrap_err().contains("65535 x 65535"));
    }

    proptest! {
        #[test]
        fn a_cut_file_is_broken(at in 0usize..100_000, png: bool) {
            let data = if png { encoded(RgbImage::new(9, 9), ImageFormat::Png) } else { jpeg() };
            // the last 12 bytes of a PNG say nothing but that it ends
            let end = data.len() - if png { 12 } else { 0 };
            prop_assert!(bytes(&data[..at % end], Channels::Rgb).is_err());
        }

        #[test]
        fn changed_bytes_never_panic(
            changes in proptest::collection::vec((0usize..100_000, any::<u8>()), 1..6), png: bool,
        ) {
            let noise = RgbImage::from_fn(9, 9, |x, y| Rgb([(x * y) as u8, x as u8 * 28, y as u8]));
            let mut data = if png { encoded(noise, ImageFormat::Png) } else { jpeg() };
            for (at, value) in changes {
                let at = at % data.len();
                data[at] = value;
            }
            if let Ok(picture) = bytes(&data, Channels::Rgb) {
                prop_assert_eq!(picture.pixels.len(), picture.shape.iter().product::<usize>());
            }
        }
    }
}
