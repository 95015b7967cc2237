//! Operators of ours inside ONNX Runtime, over weights that it never sees.

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;
use tract_linalg::multithread::{Executor, multithread_tract_scope};

use super::lower::INDEX;
use crate::engine::kernels::{Linear, Table};
use crate::graph::DOMAIN;

/// What the operators of one program read.
pub(super) struct Frozen {
    pub(super) linears: Vec<Linear>,
    pub(super) tables: Vec<Table>,
    pub(super) executor: Executor,
}

/// The operators of one program.
pub(super) fn domain(frozen: Arc<Frozen>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?.add(FrozenLinear(frozen.clone()))?.add(FrozenGather(frozen))
}

/// Position among the products or tables of the node that a kernel is for.
fn index(context: &KernelContext<'_>) -> ort::Result<usize> {
    let index = context.get::<i64>(INDEX).and_then(|i| usize::try_from(i).ok());
    index.ok_or_else(|| ort::Error::new("the index is missing"))
}

struct FrozenLinear(Arc<Frozen>);

struct LinearKernel(Arc<Frozen>, usize);

impl Operator for FrozenLinear {
    type Kernel<'a> = LinearKernel;

    fn name(&self) -> &str {
        "FrozenLinear"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<LinearKernel> {
        let index = index(context)?;
        if index >= self.0.linears.len() {
            return Err(ort::Error::new("there is no such product"));
        }
        Ok(LinearKernel(self.0.clone(), index))
    }
}

impl Kernel for LinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = context.input(0)?.ok_or_else(|| ort::Error::new("there is no input"))?;
        let (shape, x) = input.try_extract_tensor::<f32>()?;
        let linear = &self.0.linears[self.1];
        let (from, to) = linear.widths();
        let mut shape = shape.to_vec();
        match shape.last_mut() {
            Some(last) if *last == from as i64 => *last = to as i64,
            _ => return Err(ort::Error::new(format!("the input is {shape:?}, not [.., {from}]"))),
        }
        let mut output = output(context, shape)?;
        let (_, y) = output.try_extract_tensor_mut::<f32>()?;
        multithread_tract_scope(self.0.executor.clone(), || linear.multiply(x, y))
            .map_err(|e| ort::Error::new(format!("{e:#}")))
    }
}

fn output(context: &ComputeContext, shape: Vec<i64>) -> ort::Result<ort::value::ValueRefMut<'_>> {
    context.output(0, shape)?.ok_or_else(|| ort::Error::new("there is no output"))
}

struct FrozenGather(Arc<Frozen>);

struct TableKernel(Arc<Frozen>, usize);

impl Operator for FrozenGather {
    type Kernel<'a> = TableKernel;

    fn name(&self) -> &str {
        "FrozenGather"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<TableKernel> {
        let index = index(context)?;
        if index >= self.0.tables.len() {
            return Err(ort::Error::new("there is no such table"));
        }
        Ok(TableKernel(self.0.clone(), index))
    }
}

impl Kernel for TableKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let table = &self.0.tables[self.1];
        let input = context.input(0)?.ok_or_else(|| ort::Error::new("there is no input"))?;
        let (shape, ids) = input.try_extract_tensor::<i64>()?;
        let shape = shape.iter().copied().chain([table.width() as i64]).collect();
        let mut output = output(context, shape)?;
        let (_, out) = output.try_extract_tensor_mut::<f32>()?;
        table.rows(ids, out).map_err(|e| ort::Error::new(format!("{e:#}")))
    }
}
