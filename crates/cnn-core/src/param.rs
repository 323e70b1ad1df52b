//! A trainable parameter and the constraints it is trained under.
//!
//! *Train dense, deploy packed*: while a network is trained, its layers are ordinary dense layers. A pruning
//! mask, tied centroids or fake quantization is a [`Constraint`] on the [`Param`]; the layer does not know it,
//! and constraints stack. Packing then reads [`Param::value`].

use crate::model_file::Encoder;
use crate::tensor::{Tensor, zeros};
use crate::{Error, Result};
use ndarray::Axis;
use std::any::Any;
use std::fmt::Debug;

/// A map from free ("base") values to the values that a layer computes with, and the way back for gradients.
///
/// With constraints `f1, f2, ...` on a parameter, `value = ...f2(f1(base))`. Every constraint is applied again
/// after each optimizer step, so that what it demands holds exactly at all times.
pub trait Constraint: Any + Debug + Send + Sync {
    /// The key in checkpoints, as `"prune.mask"`.
    fn kind(&self) -> &'static str;
    /// `w <- f(w)`.
    fn materialize(&self, w: &mut Tensor);
    /// `grad <- (df/dw)^T grad` at `input`, the values this constraint was given. May gather gradients for the
    /// constraint's own parameters.
    fn pull_back(&mut self, input: &Tensor, grad: &mut Tensor);
    /// Called on the base values after each optimizer step, before they are materialized again.
    fn project(&mut self, _base: &mut Tensor) {}
    /// Parameters the constraint learns itself, such as centroids or step sizes.
    fn params_mut(&mut self) -> Vec<&mut Param> {
        Vec::new()
    }
    /// Keeps the given indices of one axis: channels were removed.
    ///
    /// # Errors
    /// If the constraint cannot be sliced.
    fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()>;
    /// Writes the constraint's state into a checkpoint.
    ///
    /// # Errors
    /// If the state cannot be written.
    fn encode(&self, out: &mut Encoder) -> Result<()>;
    /// A copy behind a box.
    fn clone_box(&self) -> Box<dyn Constraint>;
}

impl dyn Constraint {
    /// The constraint as a concrete type.
    pub fn downcast_ref<T: Constraint>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// The constraint as a concrete type, mutable. Call [`Param::refresh`] after a change.
    pub fn downcast_mut<T: Constraint>(&mut self) -> Option<&mut T> {
        (self as &mut dyn Any).downcast_mut()
    }
}

impl Clone for Box<dyn Constraint> {
    fn clone(&self) -> Self {
        self.as_ref().clone_box()
    }
}

/// What a parameter is for; optimizers and methods treat the roles differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The weights of a convolution or a linear layer: what compression methods work on.
    Weight,
    /// An additive bias.
    Bias,
    /// The scale or shift of a normalisation.
    Norm,
    /// A number that belongs to a constraint, such as a centroid or a step size.
    Constraint,
}

/// What an optimizer does to one parameter: role and number of the update (from 1), base values, gradient, state.
pub type UpdateRule<'a> = dyn FnMut((Role, u64), &mut Tensor, &Tensor, &mut Vec<Tensor>) + 'a;

/// A parameter: base values, the constrained values derived from them, gradient and optimizer state.
#[derive(Debug, Clone)]
pub struct Param {
    role: Role,
    base: Tensor,
    /// `None` when there is no constraint: the value is the base.
    value: Option<Tensor>,
    /// Memory of the gradient; its values count when `has_grad`.
    grad: Option<Tensor>,
    has_grad: bool,
    /// Optimizer state, each of the shape of `base`, so that it can be sliced with it.
    slots: Vec<Tensor>,
    /// Updates that the slots have seen.
    steps: u64,
    constraints: Vec<Box<dyn Constraint>>,
}

impl Param {
    /// An unconstrained parameter.
    pub fn new(role: Role, base: Tensor) -> Param {
        Param {
            role,
            base: standard(base),
            value: None,
            grad: None,
            has_grad: false,
            slots: Vec::new(),
            steps: 0,
            constraints: Vec::new(),
        }
    }

    /// A parameter read back from a checkpoint.
    pub(crate) fn restore(
        role: Role,
        base: Tensor,
        slots: Vec<Tensor>,
        steps: u64,
        constraints: Vec<Box<dyn Constraint>>,
    ) -> Param {
        let mut param =
            Param { role, base, value: None, grad: None, has_grad: false, slots, steps, constraints };
        param.refresh();
        param
    }

    /// What the parameter is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The shape of the values.
    pub fn shape(&self) -> &[usize] {
        self.base.shape()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.base.len()
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.base.is_empty()
    }

    /// Refuses a parameter under constraints: what is deployed or exported must hold what it claims.
    ///
    /// # Errors
    /// [`Error::Constrained`] naming the first constraint.
    pub fn refuse_constraints(&self) -> Result<()> {
        match self.constraints.first() {
            None => Ok(()),
            Some(constraint) => Err(Error::Constrained {
                constraint: constraint.kind().to_string(),
                shape: self.shape().to_vec(),
            }),
        }
    }

    /// The values a layer computes with: the base under all constraints.
    pub fn value(&self) -> &Tensor {
        self.value.as_ref().unwrap_or(&self.base)
    }

    /// The free values that the optimizer moves.
    pub fn base(&self) -> &Tensor {
        &self.base
    }

    /// Number of values that are not zero.
    pub fn nonzeros(&self) -> u64 {
        self.value().iter().filter(|&&v| v != 0.0).count() as u64
    }

    /// Gradient with respect to the value (after [`Param::pull_back`]: to the base), if one was written since
    /// [`Param::zero_grad`].
    pub fn grad(&self) -> Option<&Tensor> {
        self.grad.as_ref().filter(|_| self.has_grad)
    }

    /// Adds to the gradient: `write` overwrites a slice of the parameter's length with the addend.
    pub fn write_grad(&mut self, write: impl FnOnce(&mut [f32])) {
        let shape = self.base.shape();
        let first = !std::mem::replace(&mut self.has_grad, true);
        let grad = self.grad.get_or_insert_with(|| zeros(shape));
        if first {
            write(values(grad));
        } else {
            let mut addend = zeros(shape);
            write(values(&mut addend));
            *grad += &addend;
        }
    }

    /// Sum of the squared gradients, here and in the constraints.
    pub fn grad_square(&mut self) -> f64 {
        let own = self.grad().map_or(0.0, |g| g.iter().map(|&g| f64::from(g) * f64::from(g)).sum());
        let inner = self.constraints.iter_mut().flat_map(|c| c.params_mut());
        own + inner.map(Param::grad_square).sum::<f64>()
    }

    /// Multiplies the gradient by a factor, here and in the constraints.
    pub fn scale_grad(&mut self, factor: f32) {
        if let Some(grad) = self.grad.as_mut().filter(|_| self.has_grad) {
            grad.mapv_inplace(|g| g * factor);
        }
        for constraint in &mut self.constraints {
            constraint.params_mut().into_iter().for_each(|p| p.scale_grad(factor));
        }
    }

    /// Forgets the gradient, keeping its memory, here and in the constraints.
    pub fn zero_grad(&mut self) {
        self.has_grad = false;
        for constraint in &mut self.constraints {
            constraint.params_mut().into_iter().for_each(Param::zero_grad);
        }
    }

    /// True if there is nothing but the values: no constraint, and no memory of training.
    pub(crate) fn is_bare(&self) -> bool {
        self.constraints.is_empty() && self.grad.is_none() && self.slots.is_empty()
    }

    /// Updates since the optimizer's state was last dropped.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Optimizer state.
    pub fn slots(&self) -> &[Tensor] {
        &self.slots
    }

    /// Forgets the optimizer's state, here and in the constraints: a new training starts without momentum.
    pub fn reset_slots(&mut self) {
        self.slots.clear();
        self.steps = 0;
        for constraint in &mut self.constraints {
            constraint.params_mut().into_iter().for_each(Param::reset_slots);
        }
    }

    /// The constraints, in the order in which they are applied.
    pub fn constraints(&self) -> &[Box<dyn Constraint>] {
        &self.constraints
    }

    /// The constraints, mutable. Call [`Param::refresh`] after a change.
    pub fn constraints_mut(&mut self) -> &mut [Box<dyn Constraint>] {
        &mut self.constraints
    }

    /// Puts one more constraint on top and applies it.
    pub fn constrain(&mut self, constraint: Box<dyn Constraint>) {
        self.constraints.push(constraint);
        self.refresh();
    }

    /// Removes all constraints of a kind; the base stays as it is.
    pub fn release(&mut self, kind: &str) {
        self.constraints.retain(|c| c.kind() != kind);
        self.refresh();
    }

    /// Makes the constrained values the base and drops all constraints: for packing.
    pub fn bake(&mut self) {
        if let Some(value) = self.value.take() {
            self.base = value;
        }
        self.constraints.clear();
    }

    /// Replaces the base (the shape may change); gradient and optimizer state are dropped, constraints stay.
    pub fn set_base(&mut self, base: Tensor) {
        self.base = standard(base);
        self.grad = None;
        self.has_grad = false;
        self.slots.clear();
        self.steps = 0;
        self.refresh();
    }

    /// Applies the constraints to the base again.
    pub fn refresh(&mut self) {
        if self.constraints.is_empty() {
            self.value = None;
            return;
        }
        let mut value =
            self.value.take().filter(|v| v.shape() == self.base.shape()).unwrap_or_else(|| self.base.clone());
        value.assign(&self.base);
        for constraint in &self.constraints {
            constraint.materialize(&mut value);
        }
        self.value = Some(value);
    }

    /// Turns the gradient with respect to the value into the one with respect to the base, by the chain rule
    /// through the constraints.
    pub fn pull_back(&mut self) {
        let Some(grad) = self.grad.as_mut().filter(|_| self.has_grad && !self.constraints.is_empty()) else {
            return;
        };
        // inputs[i] is what constraint i was given
        let mut inputs = Vec::with_capacity(self.constraints.len());
        let mut w = self.base.clone();
        for constraint in &self.constraints {
            inputs.push(w.clone());
            constraint.materialize(&mut w);
        }
        for (constraint, input) in self.constraints.iter_mut().zip(&inputs).rev() {
            constraint.pull_back(input, grad);
        }
    }

    /// Lets an optimizer change the base, given the gradient and its state, then projects and materializes.
    /// Parameters of the constraints are visited first. Does nothing without a gradient.
    pub fn update(&mut self, rule: &mut UpdateRule<'_>) {
        for constraint in &mut self.constraints {
            for param in constraint.params_mut() {
                param.update(rule);
            }
        }
        if let Some(grad) = self.grad.as_ref().filter(|_| self.has_grad) {
            self.steps += 1;
            rule((self.role, self.steps), &mut self.base, grad, &mut self.slots);
        }
        for constraint in &mut self.constraints {
            constraint.project(&mut self.base);
        }
        if !self.constraints.is_empty() {
            self.refresh();
        }
    }

    /// Keeps the given indices of one axis, in base, gradient, optimizer state and constraints.
    ///
    /// # Errors
    /// If an index is out of range or a constraint cannot be sliced.
    pub fn select(&mut self, axis: usize, keep: &[usize]) -> Result<()> {
        let Some(&len) = self.base.shape().get(axis) else {
            return Err(Error::Edit(format!("axis {axis} of a parameter of shape {:?}", self.base.shape())));
        };
        if let Some(&bad) = keep.iter().find(|&&i| i >= len) {
            return Err(Error::Edit(format!("index {bad} of axis {axis} is out of range (size {len})")));
        }
        for constraint in &mut self.constraints {
            constraint.select(axis, keep)?;
        }
        self.base = standard(self.base.select(Axis(axis), keep));
        for slot in &mut self.slots {
            *slot = standard(slot.select(Axis(axis), keep));
        }
        self.grad = None;
        self.has_grad = false;
        self.refresh();
        Ok(())
    }
}

/// The same values in standard layout, which `select` along an inner axis does not keep.
fn standard(t: Tensor) -> Tensor {
    if t.is_standard_layout() { t } else { t.as_standard_layout().into_owned() }
}

/// A parameter's own tensors are made here, in standard layout.
fn values(t: &mut Tensor) -> &mut [f32] {
    t.as_slice_mut().unwrap_or_else(|| unreachable!("gradients are in standard layout"))
}
