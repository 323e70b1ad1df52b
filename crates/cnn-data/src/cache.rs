//! Decoded pictures in one file, so that the next start need not decode them.
//!
//! ```text
//! magic                       "CNNPIX" 0 1
//! manifest, its length before it (u64)
//! for each of three parts: 0, or 1 and
//!     c h w (u64 each), number of broken (u64), for each: position (u64), length of the reason (u64), reason
//!     length of the pixels (u64), pixels
//! CRC-32 of all bytes before it
//! ```
//! All integers are little-endian. The manifest lists what the pixels depend on: the version of this crate,
//! the options for geometry and channels, and of each file its path in the data set, size and time of change.
//! It is compared as a whole, not by a hash. Mean and std are not in it, because pixels are kept as they are
//! before those. A cache that does not match, is damaged, or cannot be read counts as missing and is written
//! anew, whole or not at all. A picture that was changed while its size and time stayed the same goes
//! unnoticed.

use crate::listing::Item;
use crate::pictures::Decoded;
use crate::{Error, OpenOptions, Result};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

const MAGIC: &[u8; 8] = b"CNNPIX\0\x01";

/// The lists of files of the three parts.
pub(crate) type Lists = [Option<Vec<Item>>; 3];
/// Their pictures.
pub(crate) type Parts = [Option<Decoded>; 3];

/// What the pixels depend on.
pub(crate) fn manifest(root: &Path, lists: &Lists, options: &OpenOptions) -> Vec<u8> {
    let OpenOptions { size, resize, channels, .. } = options;
    let mut text = format!("{} {size:?} {resize:?} {channels:?}\n", env!("CARGO_PKG_VERSION"));
    for (part, list) in lists.iter().enumerate() {
        for item in list.iter().flatten() {
            let path = item.path.strip_prefix(root).unwrap_or(&item.path);
            let data = std::fs::metadata(&item.path);
            let changed = data.as_ref().ok().and_then(|d| d.modified().ok());
            // a String takes all
            let _ = writeln!(text, "{part} {path:?} {:?} {changed:?}", data.as_ref().ok().map(|d| d.len()));
        }
    }
    text.into_bytes()
}

/// Reads a cache; `None` if there is none that fits.
pub(crate) fn read(path: &Path, manifest: &[u8], lists: &Lists) -> Option<Parts> {
    let file = File::open(path).ok()?;
    let left = file.metadata().ok()?.len();
    let mut source = Source { file: BufReader::new(file), left, crc: crc32fast::Hasher::new() };
    if source.bytes(8)? != MAGIC || source.number()? != manifest.len() as u64 {
        return None;
    }
    if source.bytes(manifest.len() as u64)? != manifest {
        return None;
    }
    let mut parts = [None, None, None];
    for (part, list) in parts.iter_mut().zip(lists) {
        if (source.bytes(1)? == [1]) != list.is_some() {
            return None;
        }
        if let Some(list) = list {
            *part = Some(source.part(list.len())?);
        }
    }
    let crc = std::mem::take(&mut source.crc).finalize();
    (source.bytes(4)? == crc.to_le_bytes() && source.left == 0).then_some(parts)
}

struct Source {
    file: BufReader<File>,
    /// Bytes that the file has still got.
    left: u64,
    crc: crc32fast::Hasher,
}

impl Source {
    /// The next bytes, if the file has so many.
    fn bytes(&mut self, count: u64) -> Option<Vec<u8>> {
        self.left = self.left.checked_sub(count)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(count).ok()?).ok()?;
        self.file.by_ref().take(count).read_to_end(&mut bytes).ok()?;
        self.crc.update(&bytes);
        (bytes.len() as u64 == count).then_some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn size(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    /// The pictures of a part with so many files.
    fn part(&mut self, files: usize) -> Option<Decoded> {
        let shape = [self.size()?, self.size()?, self.size()?];
        let count = self.size()?;
        let good = files.checked_sub(count)?;
        let mut broken = Vec::new();
        for _ in 0..count {
            let position = self.size()?;
            let after = broken.last().is_none_or(|(last, _)| *last < position);
            if !after || position >= files {
                return None;
            }
            let length = self.number()?;
            broken.push((position, String::from_utf8(self.bytes(length)?).ok()?));
        }
        let length = self.number()?;
        let wanted = shape.iter().try_fold(good as u64, |p, &d| p.checked_mul(d as u64));
        if wanted != Some(length) {
            return None;
        }
        Some(Decoded { shape, pixels: self.bytes(length)?, broken })
    }
}

/// Writes a cache, whole or not at all.
pub(crate) fn write(path: &Path, manifest: &[u8], parts: &Parts) -> Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // as for any other file: all may read it, less what the umask says
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let file = builder.tempfile_in(directory).map_err(Error::read(directory))?;
    let mut sink = Sink { file: BufWriter::new(file), crc: crc32fast::Hasher::new() };
    sink.all(manifest, parts).map_err(Error::read(path))?;
    let file = sink.file.into_inner().map_err(|e| Error::read(path)(e.into_error()))?;
    file.persist(path).map_err(|e| Error::read(path)(e.error))?;
    Ok(())
}

struct Sink {
    file: BufWriter<tempfile::NamedTempFile>,
    crc: crc32fast::Hasher,
}

impl Sink {
    fn all(&mut self, manifest: &[u8], parts: &Parts) -> std::io::Result<()> {
        self.bytes(MAGIC)?;
        self.counted(manifest)?;
        for part in parts {
            self.bytes(&[u8::from(part.is_some())])?;
            let Some(Decoded { shape, pixels, broken }) = part else { continue };
            shape.iter().try_for_each(|&axis| self.number(axis))?;
            self.number(broken.len())?;
            for (position, why) in broken {
                self.number(*position)?;
                self.counted(why.as_bytes())?;
            }
            self.counted(pixels)?;
        }
        let crc = self.crc.clone().finalize();
        self.bytes(&crc.to_le_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc.update(bytes);
        self.file.write_all(bytes)
    }

    fn number(&mut self, number: usize) -> std::io::Result<()> {
        self.bytes(&(number as u64).to_le_bytes())
    }

    fn counted(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.number(bytes.len())?;
        self.bytes(bytes)
    }
}
