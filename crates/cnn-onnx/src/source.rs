//! The file that is read. What is large in it stays there until it is needed, so that memory holds it once.

use crate::{Error, Result};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where the bytes of a file are.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// In memory.
    Bytes(Cow<'a, [u8]>),
    /// On disk.
    File {
        /// The file, opened.
        file: File,
        /// Its name, for messages.
        path: PathBuf,
        /// Its length when it was opened.
        length: u64,
    },
}

/// Something that is read from any place in it.
pub(crate) trait ReadSeek: Read + Seek {}
impl<T: Read + Seek> ReadSeek for T {}

impl<'a> Source<'a> {
    pub fn bytes(bytes: &'a [u8]) -> Source<'a> {
        Source::Bytes(Cow::Borrowed(bytes))
    }

    /// A file, or a pipe, all of which is read.
    pub fn open(path: &Path) -> Result<Source<'a>> {
        let io = |source| Error::Io { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if metadata.is_file() {
            return Ok(Source::File { file, path: path.to_path_buf(), length: metadata.len() });
        }
        // a pipe gives its bytes once and in order
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        Ok(Source::Bytes(Cow::Owned(bytes)))
    }

    pub fn length(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::File { length, .. } => *length,
        }
    }

    /// Reads from an offset on. An error of the kind `InvalidData` is about the bytes, not about the system.
    pub fn read<T>(&self, offset: u64, read: impl FnOnce(&mut dyn ReadSeek) -> io::Result<T>) -> Result<T> {
        let (done, path) = match self {
            Source::Bytes(bytes) => {
                let mut cursor = Cursor::new(&bytes[..]);
                cursor.set_position(offset);
                (read(&mut cursor), None)
            }
            Source::File { file, path, .. } => {
                let mut reader = BufReader::new(file);
                (reader.seek(SeekFrom::Start(offset)).and_then(|_| read(&mut reader)), Some(path))
            }
        };
        done.map_err(|source| match (source.kind(), path) {
            (ErrorKind::UnexpectedEof, None) => Error::Damaged("it ends early".to_string()),
            (ErrorKind::UnexpectedEof, Some(path)) => {
                Error::Damaged(format!("`{}` ends early", path.display()))
            }
            (ErrorKind::InvalidData, _) | (_, None) => Error::Damaged(source.to_string()),
            (_, Some(path)) => Error::Io { path: path.to_path_buf(), source },
        })
    }
}
