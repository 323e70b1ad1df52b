//! The model file: compact, versioned, checksummed, written atomically.
//!
//! ```text
//! "CNN"  version u8  purpose u8                        5 bytes
//! shared byte strings   count, then length + bytes each
//! preprocessing         0, or channels + mean and std in f32
//! nodes                 count, then each: head varint = 4 * kind + 2 * named + wired, [name], [inputs], layer's bytes
//! output                0 when it is the last node, else its position + 1
//! crc32 of all the above                               4 bytes
//! ```
//! Integers are varints. A node that reads its predecessor does not say so (`wired` = 0); other inputs are
//! written as distances back. Names are written to checkpoints always, and to deployed files on request.

mod codec;

pub use codec::{Decoder, Encoder, Purpose};

use crate::data::Preprocess;
use crate::error::FormatError;
use crate::graph::Graph;
use crate::registry::Registry;
use crate::{Error, Result};
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

const MAGIC: &[u8; 3] = b"CNN";
const VERSION: u8 = 1;
const CHECKSUM: usize = 4;

/// Decoded elements a file may ask for, unless the caller says otherwise: 512 M values, 2 GiB.
pub const DEFAULT_LIMIT: u64 = 1 << 29;

/// The bytes of a file that can be run. Without names the nodes are called by kind and position when read back.
///
/// # Errors
/// [`Error::Constrained`] if a parameter still carries a constraint.
pub fn deploy_bytes(graph: &Graph, names: bool) -> Result<Vec<u8>> {
    let mut out = Encoder::new(Purpose::Deploy);
    encode_graph(graph, names, &mut out)?;
    frame(out)
}

/// Reads a deployable model.
///
/// # Errors
/// [`Error::Format`] for alien, damaged, truncated or oversized bytes; [`Error::Unregistered`] for an unknown kind.
pub fn from_bytes(bytes: &[u8], registry: &Registry) -> Result<Graph> {
    from_bytes_limited(bytes, registry, DEFAULT_LIMIT)
}

/// As [`from_bytes`], with a limit on decoded elements.
///
/// # Errors
/// As [`from_bytes`].
pub fn from_bytes_limited(bytes: &[u8], registry: &Registry, limit: u64) -> Result<Graph> {
    let mut from = unframe(bytes, Purpose::Deploy, registry, limit)?;
    let graph = decode_graph(&mut from)?;
    from.finish()?;
    Ok(graph)
}

/// Writes a deployable model, without names, and returns the file's length in bytes.
///
/// # Errors
/// As [`deploy_bytes`], and if the file cannot be written; the old file is then still there.
pub fn save(graph: &Graph, path: &Path) -> Result<u64> {
    let bytes = deploy_bytes(graph, false)?;
    write_atomically(path, &bytes)?;
    Ok(bytes.len() as u64)
}

/// Reads a deployable model from a file.
///
/// # Errors
/// As [`from_bytes`], and if the file cannot be read.
pub fn load(path: &Path, registry: &Registry) -> Result<Graph> {
    from_bytes(&std::fs::read(path).map_err(Error::io(path))?, registry)
}

/// Writes bytes next to `path` and renames: a reader sees the old file or the new one, never half of one.
///
/// # Errors
/// If the file cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // as for any other file: all may read it, less what the umask says
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(directory).map_err(Error::io(directory))?;
    file.write_all(bytes).map_err(Error::io(path))?;
    file.as_file().sync_all().map_err(Error::io(path))?;
    file.persist(path).map_err(|e| Error::io(path)(e.error))?;
    Ok(())
}

/// Writes a network that is still trained, with constraints, optimizer state and names, so that work on it can go on in
/// another process. No size is reported from such a file. See [`load_checkpoint`].
///
/// # Errors
/// If the file cannot be written; the old file is then still there.
pub fn save_checkpoint(graph: &Graph, path: &Path) -> Result<()> {
    write_atomically(path, &checkpoint_bytes(graph)?)
}

/// What [`save_checkpoint`] writes.
pub(crate) fn checkpoint_bytes(graph: &Graph) -> Result<Vec<u8>> {
    let mut out = Encoder::new(Purpose::Checkpoint);
    encode_graph(graph, true, &mut out)?;
    frame(out)
}

/// Reads what [`save_checkpoint`] wrote.
///
/// # Errors
/// As [`load`].
pub fn load_checkpoint(path: &Path, registry: &Registry) -> Result<Graph> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let mut from = unframe(&bytes, Purpose::Checkpoint, registry, DEFAULT_LIMIT)?;
    let graph = decode_graph(&mut from)?;
    from.finish()?;
    Ok(graph)
}

/// Puts magic number, shared strings and checksum around the body.
pub(crate) fn frame(out: Encoder) -> Result<Vec<u8>> {
    let purpose = out.purpose();
    let (body, shared) = out.finish();
    let mut head = Encoder::new(purpose);
    head.raw(MAGIC);
    head.byte(VERSION);
    head.byte(purpose as u8);
    head.uint(shared.len())?;
    shared.iter().try_for_each(|table| head.blob(table))?;
    head.raw(&body);
    let (mut bytes, _) = head.finish();
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// Checks magic number, version, purpose and checksum, and reads the shared strings.
pub(crate) fn unframe<'a>(
    bytes: &'a [u8],
    wanted: Purpose,
    registry: &'a Registry,
    limit: u64,
) -> Result<Decoder<'a>> {
    if !bytes.starts_with(MAGIC) {
        return Err(FormatError::NotAModel.into());
    }
    let header = MAGIC.len() + 2;
    if bytes.len() < header + CHECKSUM {
        return Err(FormatError::Truncated(bytes.len()).into());
    }
    let version = bytes[MAGIC.len()];
    if version != VERSION {
        return Err(FormatError::Version { found: version, supported: VERSION }.into());
    }
    let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
    if crc32fast::hash(content).to_le_bytes() != checksum {
        return Err(FormatError::Checksum.into());
    }
    let found = content[MAGIC.len() + 1];
    if found != wanted as u8 {
        let name = |p: u8| if p == Purpose::Deploy as u8 { "deployable model" } else { "checkpoint" };
        return Err(FormatError::Purpose { found: name(found), wanted: name(wanted as u8) }.into());
    }
    let mut from = Decoder::new(&content[header..], wanted, registry, limit);
    from.read_shared()?;
    Ok(from)
}

/// Writes a graph.
pub(crate) fn encode_graph(graph: &Graph, names: bool, out: &mut Encoder) -> Result<()> {
    match &graph.preprocess {
        None => out.uint(0)?,
        Some(p) => {
            if p.mean.len() != p.std.len() {
                return Err(Error::invalid("preprocessing", "one mean and one std for each channel"));
            }
            out.uint(p.mean.len())?;
            out.floats(&p.mean);
            out.floats(&p.std);
        }
    }
    out.uint(graph.nodes().len())?;
    for (at, node) in graph.nodes().iter().enumerate() {
        let wired = node.inputs != default_inputs(at);
        let head = 4 * out.kind_id(node.layer().kind()) + 2 * usize::from(names) + usize::from(wired);
        out.uint(head)?;
        if names {
            out.text(&node.name)?;
        }
        if wired {
            out.uint(node.inputs.len())?;
            node.inputs.iter().try_for_each(|&input| out.uint(at - input))?;
        }
        node.layer().encode(out).map_err(|e| e.at(&node.name))?;
    }
    let last = graph.output() + 1 == graph.nodes().len();
    out.uint(if last { 0 } else { graph.output() + 1 })
}

/// Reads a graph and validates it.
pub(crate) fn decode_graph(from: &mut Decoder<'_>) -> Result<Graph> {
    let preprocess = match from.count(1 << 16)? {
        0 => None,
        channels => Some(Preprocess { mean: from.floats(channels)?, std: from.floats(channels)? }),
    };
    let count = from.count(1 << 20)?;
    let mut graph = Graph::empty();
    let mut names = HashSet::new();
    for at in 0..count {
        let head = from.uint()?;
        let kind = from.kind(head / 4)?;
        let name = match head & 2 {
            0 if at == 0 => kind.clone(),
            0 => format!("{kind}_{at}"),
            _ => from.text()?,
        };
        if !names.insert(name.clone()) {
            return Err(Error::DuplicateNode(name));
        }
        let mut inputs = default_inputs(at);
        if head & 1 != 0 {
            let fan_in = from.count(1 << 16)?;
            inputs = (0..fan_in).map(|_| Ok(at - from.count(at)?)).collect::<Result<Vec<_>>>()?;
            if inputs.contains(&at) {
                return Err(Error::malformed(format!("node `{name}` reads itself")));
            }
        }
        let layer = from.layer(&kind).map_err(|e| e.at(&name))?;
        graph.append_unchecked(name, layer, inputs);
    }
    let output = match from.uint()? {
        0 => count.checked_sub(1).ok_or_else(|| Error::malformed("the graph is empty"))?,
        at => at - 1,
    };
    graph.preprocess = preprocess;
    graph.set_output(output)?;
    for (node, shape) in graph.nodes().iter().zip(graph.shapes(1)?) {
        // running the network must not take more memory than the file may
        from.claim_activation(&shape).map_err(|e| e.at(&node.name))?;
    }
    Ok(graph)
}

/// What a node reads when nothing is said: the node before it; the first one reads nothing.
fn default_inputs(at: usize) -> Vec<usize> {
    at.checked_sub(1).into_iter().collect()
}
