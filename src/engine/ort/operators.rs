//! Operators of ours inside ONNX Runtime, over weights that it never sees.

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;
use tract_linalg::multithread::{Executor, multithread_tract_scope};

use super::lower::{FUSED, INDEX};
use crate::engine::kernels::{Fused, Linear, Table, View};
use crate::graph::DOMAIN;

/// What the operators of one program read.
pub(super) struct Frozen {
    pub(super) linears: Vec<Linear>,
    pub(super) tables: Vec<Table>,
    /// With the number of their inputs.
    pub(super) fused: Vec<(Fused, usize)>,
    pub(super) executor: Executor,
}

/// The operators of one program.
pub(super) fn domain(frozen: Arc<Frozen>) -> ort::Result<OperatorDomain> {
    OperatorDomain::new(DOMAIN)?
        .add(FrozenLinear(frozen.clone()))?
        .add(FrozenGather(frozen.clone()))?
        .add(FusedOperator(frozen))
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
        let mut output = output(context, 0, shape)?;
        let (_, y) = output.try_extract_tensor_mut::<f32>()?;
        multithread_tract_scope(self.0.executor.clone(), || linear.multiply(x, y))
            .map_err(|e| ort::Error::new(format!("{e:#}")))
    }
}

fn output(
    context: &ComputeContext,
    i: usize,
    shape: Vec<i64>,
) -> ort::Result<ort::value::ValueRefMut<'_>> {
    context.output(i, shape)?.ok_or_else(|| ort::Error::new("there is no output"))
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
        let mut output = output(context, 0, shape)?;
        let (_, out) = output.try_extract_tensor_mut::<f32>()?;
        table.rows(ids, out).map_err(|e| ort::Error::new(format!("{e:#}")))
    }
}

struct FusedOperator(Arc<Frozen>);

struct FusedKernel(Arc<Frozen>, usize);

impl Operator for FusedOperator {
    type Kernel<'a> = FusedKernel;

    fn name(&self) -> &str {
        FUSED
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(1).homogenous(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::variadic(1).homogenous(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, context: &KernelContext<'a>) -> ort::Result<FusedKernel> {
        let index = index(context)?;
        if index >= self.0.fused.len() {
            return Err(ort::Error::new("there is no such operator"));
        }
        Ok(FusedKernel(self.0.clone(), index))
    }
}

impl Kernel for FusedKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (fused, inputs) = &self.0.fused[self.1];
        let missing = || ort::Error::new("there is no input");
        let values = (0..*inputs).map(|i| context.input(i)?.ok_or_else(missing));
        let values = values.collect::<ort::Result<Vec<_>>>()?;
        let tensors = values.iter().map(|v| v.try_extract_tensor::<f32>());
        let tensors = tensors.collect::<ort::Result<Vec<_>>>()?;
        let sizes = |shape: &[i64]| shape.iter().map(|&d| d as usize).collect();
        let shapes: Vec<Vec<usize>> = tensors.iter().map(|(shape, _)| sizes(shape)).collect();
        let views: Vec<View<'_>> =
            tensors.iter().zip(&shapes).map(|((_, data), shape)| View { shape, data }).collect();
        let like = |(i, &input): (usize, &usize)| {
            let (shape, _) = tensors.get(input).ok_or_else(missing)?;
            output(context, i, shape.to_vec())
        };
        let outputs = fused.outputs().iter().enumerate().map(like);
        let mut outputs = outputs.collect::<ort::Result<Vec<_>>>()?;
        let slices = outputs.iter_mut().map(|y| Ok(y.try_extract_tensor_mut::<f32>()?.1));
        let mut slices = slices.collect::<ort::Result<Vec<_>>>()?;
        multithread_tract_scope(self.0.executor.clone(), || fused.run(&views, &mut slices))
            .map_err(|e| ort::Error::new(format!("{e:#}")))
    }
}
