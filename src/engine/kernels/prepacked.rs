//! Weights in the order in which the integer kernel of this machine reads them, in mapped files: runs
//! need not put them in order again. As many bytes as the weights themselves, once for forward and
//! once for backward products.
//!
//! A file is a header and the panels of every weight, each at a multiple of 64. The header says all
//! that the panels depend on, and a file with another one is written anew; so nothing that a file says
//! is ever trusted.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::Mmap;
use serde_json::json;
use tract_onnx::tract_hir::internal::*;

use super::int8::{self, BEYOND, Kernel};
use super::level::Level;
use super::linear::Linear;
use super::panels::Direction;
use super::stored::Stored;
use crate::engine::{Compute, EngineError, Products};
use crate::fs::write_atomic_by;
use crate::graph::Graph;
use crate::tensor::{DType, Tensor as Ours};

const FORMAT: u32 = 1;
/// A cache line, and a row of an AMX tile.
const ALIGNMENT: usize = 64;

/// The int8 and int4 weights of a backbone as the processor multiplies them in int8, in a folder of the
/// device. Cloning shares the files.
#[derive(Clone)]
pub struct Prepacked(Arc<Cache>);

struct Cache {
    folder: PathBuf,
    digest: String,
    kernel: &'static Kernel,
    /// By the name of the weight.
    products: Vec<(String, Linear)>,
    forward: Mutex<Option<File>>,
    backward: Mutex<Option<File>>,
}

#[derive(Clone)]
struct File {
    map: Arc<Mmap>,
    /// Where the panels of a weight start, by the address of the weight.
    starts: Arc<HashMap<usize, usize>>,
}

/// What a file holds.
struct Plan {
    header: Vec<u8>,
    /// Of each product.
    starts: Vec<usize>,
    len: usize,
}

impl Prepacked {
    /// Maps the weights of `graph` that lie in `folder`; they are written there the first time, those of
    /// backward products when one is first compiled. `digest` tells the backbone from others. `None` if
    /// this processor does not multiply bytes, or there are no such weights.
    ///
    /// # Errors
    /// [`EngineError::Prepacked`] if a file cannot be written or mapped.
    pub fn open(
        folder: &Path,
        graph: &Graph,
        digest: &str,
    ) -> Result<Option<Prepacked>, EngineError> {
        let Some(kernel) = Kernel::kept() else { return Ok(None) };
        let failed = |reason: String| EngineError::Prepacked { path: folder.to_owned(), reason };
        let products = products(graph).map_err(|e| failed(format!("{e:#}")))?;
        if products.is_empty() {
            return Ok(None);
        }
        let cache = Cache {
            folder: folder.to_owned(),
            digest: digest.to_owned(),
            kernel,
            products,
            forward: Mutex::default(),
            backward: Mutex::default(),
        };
        cache.file(Direction::Forward)?;
        Ok(Some(Prepacked(Arc::new(cache))))
    }

    /// The panels of all of `op`, if its weights are of this backbone.
    pub(super) fn of(&self, op: &Linear) -> Result<Option<Stored>, EngineError> {
        let cache = &self.0;
        let file = cache.file(op.direction)?;
        let Some(&start) = file.starts.get(&address(op)) else { return Ok(None) };
        let len = cache.bytes(op) + BEYOND * cache.kernel.weights.r;
        let panels = Ours::mapped(DType::U8, &[len], file.map, start);
        Ok(panels.ok().map(Stored))
    }
}

impl fmt::Debug for Prepacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepacked({})", self.0.folder.display())
    }
}

/// The products of `graph` with weights that may be packed, each weight once.
fn products(graph: &Graph) -> TractResult<Vec<(String, Linear)>> {
    let as_int8 = Products { compute: Compute::Int8, prepacked: None };
    let mut found: Vec<(String, Linear)> = vec![];
    for node in graph.nodes.iter().filter(|n| n.op == "FrozenLinear") {
        let op = Linear::of(graph, node, None, &as_int8)?;
        let new = found.iter().all(|(_, other)| other.weight != op.weight);
        if new && op.bytes()?.is_some() {
            found.push((graph.value(node.input(1)?).name.clone(), op));
        }
    }
    Ok(found)
}

fn address(op: &Linear) -> usize {
    op.weight.bytes().as_ptr().addr()
}

impl Cache {
    /// Bytes of the panels of `op`.
    fn bytes(&self, op: &Linear) -> usize {
        let (from, to) = op.widths();
        self.kernel.weights.len(from, to)
    }

    fn file(&self, direction: Direction) -> Result<File, EngineError> {
        let (kept, name) = match direction {
            Direction::Forward => (&self.forward, "forward"),
            Direction::Backward => (&self.backward, "backward"),
        };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*kept {
            return Ok(file.clone());
        }
        let digest = self.digest.get(..16).unwrap_or(&self.digest);
        let r = self.kernel.weights.r;
        let path = self.folder.join(format!("{digest}-i8k4x{r}-{name}.panels"));
        let file = self.map(&path, direction, name);
        let file =
            file.map_err(|e| EngineError::Prepacked { path: path.clone(), reason: e.to_string() })?;
        Ok(kept.insert(file).clone())
    }

    /// Maps the file at `path`; writes it before, if it is not what it should be.
    fn map(&self, path: &Path, direction: Direction, name: &str) -> io::Result<File> {
        let products: Vec<Linear> =
            self.products.iter().map(|(_, op)| Linear { direction, ..op.clone() }).collect();
        let plan = self.plan(&products, name);
        let there = crate::fs::map(path);
        let map = match there {
            Ok(map) if map.len() == plan.len && map.starts_with(&plan.header) => map,
            _ => {
                std::fs::create_dir_all(&self.folder)?;
                write_atomic_by(path, |file| self.write(file, &products, &plan))?;
                crate::fs::map(path)?
            }
        };
        if map.len() != plan.len {
            return Err(io::Error::other("its length is not what was written"));
        }
        let starts = products.iter().map(address).zip(plan.starts).collect();
        Ok(File { map: Arc::new(map), starts: Arc::new(starts) })
    }

    fn plan(&self, products: &[Linear], direction: &str) -> Plan {
        let named = self.products.iter().zip(products);
        let weights: Vec<_> = named.map(|((name, _), op)| json!([name, op.widths()])).collect();
        let header = json!({
            "edge-tune panels": FORMAT,
            "backbone": self.digest,
            "layout": self.kernel.weights.to_string(),
            "direction": direction,
            "weights": weights,
        });
        let mut header = header.to_string().into_bytes();
        header.push(b'\n');
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        let mut len = header.len();
        let mut start = |op: &Linear| {
            let start = len;
            len = (len + self.bytes(op)).next_multiple_of(ALIGNMENT);
            start
        };
        let starts = products.iter().map(&mut start).collect();
        Plan { header, starts, len: len + BEYOND * self.kernel.weights.r }
    }

    fn write(&self, file: &mut dyn Write, products: &[Linear], plan: &Plan) -> io::Result<()> {
        let level = Level::detect();
        file.write_all(&plan.header)?;
        for op in products {
            let mut panels = vec![0; self.bytes(op).next_multiple_of(ALIGNMENT)];
            if let Some(weights) = op.bytes().map_err(io::Error::other)? {
                let all = 0..op.widths().1;
                let to = &mut panels[..self.bytes(op)];
                int8::pack(op, weights, &self.kernel.weights, level, all, to);
            }
            file.write_all(&panels)?;
        }
        file.write_all(&vec![0; BEYOND * self.kernel.weights.r])
    }
}
