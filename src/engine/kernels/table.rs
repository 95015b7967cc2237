//! Rows of a frozen table, read from the mapped file.

use tract_onnx::tract_hir::internal::*;

use super::stored::Stored;
use crate::graph::{Graph, Node};

/// Row `id` of a table `[V, D]`, as f32, for each of the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Table {
    /// i8 or f32 `[V, D]`.
    pub(in crate::engine) table: Stored,
    /// f32 `[V]`, for an i8 table.
    pub(in crate::engine) scale: Option<Stored>,
}

impl Table {
    /// The table that `node`, a `FrozenGather`, reads.
    pub(in crate::engine) fn of(graph: &Graph, node: &Node) -> TractResult<Table> {
        let (table, scale) = (Stored::of(graph, node, 0)?, Stored::maybe(graph, node, 1)?);
        Table { table, scale }.checked()
    }

    /// Checks types and sizes, so that running can trust them.
    fn checked(self) -> TractResult<Table> {
        let &[rows, _] = self.table.shape() else {
            bail!("the table has shape {:?}, not [V, D]", self.table.shape())
        };
        match &self.scale {
            Some(scale) => {
                self.table.as_slice::<i8>()?;
                scale.as_slice::<f32>()?;
                ensure!(scale.shape() == [rows], "the scale has shape {:?}", scale.shape());
            }
            None => drop(self.table.as_slice::<f32>()?),
        }
        Ok(self)
    }

    /// Width of a row.
    pub(in crate::engine) fn width(&self) -> usize {
        self.table.shape()[1]
    }

    /// The position of `id`; negative ids count from the end.
    fn row(&self, id: i64) -> TractResult<usize> {
        let rows = self.table.shape()[0];
        let row = if id < 0 { id.checked_add(rows as i64) } else { Some(id) };
        row.and_then(|row| usize::try_from(row).ok())
            .filter(|&row| row < rows)
            .with_context(|| format!("id {id} is outside the table of {rows} rows"))
    }

    /// The rows of `ids`, one after another, into `out`.
    pub(in crate::engine) fn rows(&self, ids: &[i64], out: &mut [f32]) -> TractResult<()> {
        let width = self.width();
        if width == 0 {
            return Ok(());
        }
        for (out, &id) in out.chunks_exact_mut(width).zip(ids) {
            let row = self.row(id)?;
            let at = row * width..(row + 1) * width;
            match &self.scale {
                Some(scale) => {
                    let scale = scale.as_slice::<f32>()?[row];
                    for (o, &w) in out.iter_mut().zip(&self.table.as_slice::<i8>()?[at]) {
                        *o = f32::from(w) * scale;
                    }
                }
                None => out.copy_from_slice(&self.table.as_slice::<f32>()?[at]),
            }
        }
        Ok(())
    }
}
