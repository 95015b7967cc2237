use super::Concrete;
use super::values::LIMIT;
use crate::graph::{Attr, GraphError, Node};
use crate::tensor::DType;

/// What a rule returns: the facts of every output.
pub(super) type Facts = Result<Vec<Concrete>, GraphError>;

/// One node with what is known of its inputs.
pub(super) struct Call<'a> {
    pub node: &'a Node,
    pub inputs: &'a [Option<Concrete>],
    pub outputs: usize,
}

impl<'a> Call<'a> {
    pub fn invalid(&self, reason: impl Into<String>) -> GraphError {
        self.node.invalid(reason.into())
    }

    /// The error for a shape that follows from fed data: an input whose elements are not known.
    fn data_dependent(&self, what: &str) -> GraphError {
        self.node.unsupported(&format!("{what} that depends on data"))
    }

    pub fn input(&self, i: usize) -> Result<&'a Concrete, GraphError> {
        self.optional(i).ok_or_else(|| self.invalid(format!("input {i} is missing")))
    }

    pub fn optional(&self, i: usize) -> Option<&'a Concrete> {
        self.inputs.get(i).and_then(Option::as_ref)
    }

    /// All inputs of a variadic operator.
    pub fn all(&self) -> Result<Vec<&'a Concrete>, GraphError> {
        (0..self.inputs.len()).map(|i| self.input(i)).collect()
    }

    /// The elements of an optional integer input that a shape follows from; `None` if it is left
    /// out. `what` names it in errors.
    pub fn ints(&self, i: usize, what: &str) -> Result<Option<Vec<i64>>, GraphError> {
        let Some(input) = self.optional(i) else { return Ok(None) };
        let value = input.value.as_ref().ok_or_else(|| self.data_dependent(what))?;
        if value.len() > LIMIT {
            return Err(self.invalid(format!("{what}: {} elements are too many", value.len())));
        }
        match value.to_i64() {
            Some(v) => Ok(Some(v)),
            None => Err(self.invalid(format!("{what}: integers are needed, not {}", input.dtype))),
        }
    }

    /// The elements of an integer input that must be there.
    pub fn need_ints(&self, i: usize, what: &str) -> Result<Vec<i64>, GraphError> {
        self.ints(i, what)?.ok_or_else(|| self.invalid(format!("{what} (input {i}) is missing")))
    }

    /// The only element of an optional integer input.
    pub fn int_input(&self, i: usize, what: &str) -> Result<Option<i64>, GraphError> {
        match self.ints(i, what)?.as_deref() {
            None => Ok(None),
            Some(&[v]) => Ok(Some(v)),
            Some(v) => Err(self.invalid(format!("{what}: one element is needed, not {}", v.len()))),
        }
    }

    /// The input as sizes: integers of which none is negative.
    pub fn need_sizes(&self, i: usize, what: &str) -> Result<Vec<usize>, GraphError> {
        self.need_ints(i, what)?.into_iter().map(|v| self.size(v, what)).collect()
    }

    /// `v` as a size.
    pub fn size(&self, v: i64, what: &str) -> Result<usize, GraphError> {
        usize::try_from(v).map_err(|_| self.invalid(format!("{what}: {v} is negative")))
    }

    fn wrong_attr(&self, name: &str) -> GraphError {
        self.invalid(format!("attribute `{name}` is of the wrong type"))
    }

    pub fn int_attr(&self, name: &str) -> Result<Option<i64>, GraphError> {
        match self.node.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Int(v)) => Ok(Some(*v)),
            Some(_) => Err(self.wrong_attr(name)),
        }
    }

    pub fn int_or(&self, name: &str, default: i64) -> Result<i64, GraphError> {
        Ok(self.int_attr(name)?.unwrap_or(default))
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, GraphError> {
        Ok(self.int_attr(name)?.map_or(default, |v| v != 0))
    }

    pub fn ints_attr(&self, name: &str) -> Result<Option<&'a [i64]>, GraphError> {
        match self.node.attrs.get(name) {
            None => Ok(None),
            Some(Attr::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(self.wrong_attr(name)),
        }
    }

    pub fn str_or(&self, name: &str, default: &'a str) -> Result<&'a str, GraphError> {
        match self.node.attrs.get(name) {
            None => Ok(default),
            Some(Attr::Str(v)) => Ok(v),
            Some(_) => Err(self.wrong_attr(name)),
        }
    }

    /// `axis`, counted from the end if negative, of a value with `rank` dimensions.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, GraphError> {
        let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
        from_start
            .and_then(|a| usize::try_from(a).ok())
            .filter(|&a| a < rank)
            .ok_or_else(|| self.invalid(format!("axis {axis} is out of range for rank {rank}")))
    }

    /// The attribute `axis` of a value with `rank` dimensions.
    pub fn axis_attr(&self, default: i64, rank: usize) -> Result<usize, GraphError> {
        self.axis(self.int_or("axis", default)?, rank)
    }

    /// Several axes, none twice, as one flag per dimension.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<bool>, GraphError> {
        let mut chosen = vec![false; rank];
        for &a in axes {
            let axis = self.axis(a, rank)?;
            if std::mem::replace(&mut chosen[axis], true) {
                return Err(self.invalid(format!("axis {a} is named twice")));
            }
        }
        Ok(chosen)
    }

    /// Axes from input `i` or, as in older operator sets, from the attribute.
    pub fn axes_input(&self, i: usize) -> Result<Option<Vec<i64>>, GraphError> {
        match self.ints(i, "axes")? {
            Some(v) => Ok(Some(v)),
            None => Ok(self.ints_attr("axes")?.map(<[i64]>::to_vec)),
        }
    }

    pub fn need_float(&self, input: &Concrete) -> Result<(), GraphError> {
        if input.dtype.is_float() {
            return Ok(());
        }
        Err(self.invalid(format!("a floating point input is needed, not {}", input.dtype)))
    }

    pub fn need_type(&self, input: &Concrete, dtype: DType) -> Result<(), GraphError> {
        if input.dtype == dtype {
            return Ok(());
        }
        Err(self.invalid(format!("an input of {dtype} is needed, not {}", input.dtype)))
    }

    /// Indices are i64 or i32.
    pub fn need_index(&self, input: &Concrete) -> Result<(), GraphError> {
        if matches!(input.dtype, DType::I64 | DType::I32) {
            return Ok(());
        }
        Err(self.invalid(format!("indices must be i64 or i32, not {}", input.dtype)))
    }

    pub fn need_same_type(&self, inputs: &[&Concrete]) -> Result<(), GraphError> {
        match inputs {
            [first, rest @ ..] => rest.iter().try_for_each(|x| self.need_type(x, first.dtype)),
            [] => Ok(()),
        }
    }

    pub fn need_shape(
        &self,
        what: &str,
        input: &Concrete,
        shape: &[usize],
    ) -> Result<(), GraphError> {
        if input.shape == shape {
            return Ok(());
        }
        Err(self.invalid(format!("{what} has shape {:?}, not {shape:?}", input.shape)))
    }

    pub fn need_rank(&self, what: &str, input: &Concrete, least: usize) -> Result<(), GraphError> {
        if input.shape.len() >= least {
            return Ok(());
        }
        let have = &input.shape;
        Err(self.invalid(format!("{what} has shape {have:?}, at least rank {least} is needed")))
    }
}

/// The product of `dims`, or `None` on overflow.
pub(super) fn elements(dims: impl IntoIterator<Item = usize>) -> Option<usize> {
    dims.into_iter().try_fold(1usize, |n, d| n.checked_mul(d))
}

/// A shape that keeps the type of `x`; its elements are not known.
pub(super) fn like(x: &Concrete, shape: impl Into<Vec<usize>>) -> Concrete {
    Concrete::unknown(x.dtype, shape)
}
