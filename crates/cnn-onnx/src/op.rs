//! One operator of a file: its attributes, read with their types checked, and why it may be refused.

use crate::model::label;
use crate::proto::{AttributeProto, NodeProto, TensorProto, attribute_type};
use crate::source::Source;

/// Why a node cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The standard allows it, this crate does not have it; collected over the whole network.
    Unsupported(String),
    /// It contradicts the standard; the import ends.
    Invalid(String),
}

impl Refusal {
    pub fn unsupported(why: impl Into<String>) -> Refusal {
        Refusal::Unsupported(why.into())
    }

    pub fn invalid(why: impl Into<String>) -> Refusal {
        Refusal::Invalid(why.into())
    }
}

impl From<cnn_core::Error> for Refusal {
    fn from(error: cnn_core::Error) -> Refusal {
        Refusal::Invalid(error.to_string())
    }
}

/// One operator with the version of the standard it is from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Op<'a> {
    pub node: &'a NodeProto,
    pub opset: i64,
    /// The file it is from.
    pub source: &'a Source<'a>,
}

impl<'a> Op<'a> {
    /// The operator's name in the standard.
    pub fn kind(&self) -> &'a str {
        &self.node.op_type
    }

    /// The node's name, or that of its first output.
    pub fn label(&self) -> String {
        label(self.node).to_string()
    }

    fn find(&self, name: &str, kind: i32) -> Result<Option<&'a AttributeProto>, Refusal> {
        let Some(attribute) = self.node.attribute.iter().find(|a| a.name == name) else { return Ok(None) };
        // files of the first versions do not say the type
        match attribute.r#type == kind || attribute.r#type == 0 {
            true => Ok(Some(attribute)),
            false => Err(Refusal::invalid(format!("the attribute `{name}` has the wrong type"))),
        }
    }

    /// True if there is such an attribute.
    pub fn has(&self, name: &str) -> bool {
        self.node.attribute.iter().any(|a| a.name == name)
    }

    pub fn int(&self, name: &str, default: i64) -> Result<i64, Refusal> {
        Ok(self.find(name, attribute_type::INT)?.map_or(default, |a| a.i.unwrap_or_default()))
    }

    /// An integer that is 0 or 1.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Refusal> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub fn float(&self, name: &str, default: f32) -> Result<f32, Refusal> {
        Ok(self.find(name, attribute_type::FLOAT)?.map_or(default, |a| a.f.unwrap_or_default()))
    }

    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Refusal> {
        Ok(self.find(name, attribute_type::INTS)?.map(|a| a.ints.as_slice()))
    }

    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, Refusal> {
        Ok(self.find(name, attribute_type::FLOATS)?.map(|a| a.floats.as_slice()))
    }

    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Refusal> {
        Ok(self.find(name, attribute_type::TENSOR)?.and_then(|a| a.t.as_ref()))
    }

    pub fn text(&self, name: &str, default: &'a str) -> Result<&'a str, Refusal> {
        match self.find(name, attribute_type::STRING)?.map(|a| a.s.as_deref().unwrap_or_default()) {
            None => Ok(default),
            Some(bytes) => std::str::from_utf8(bytes)
                .map_err(|_| Refusal::invalid(format!("the attribute `{name}` is not a text"))),
        }
    }
}
