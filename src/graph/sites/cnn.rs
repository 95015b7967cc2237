//! Sites of convolutional networks.

use std::collections::{HashMap, HashSet};

use super::{BlockSite, CnnSites, ConvSite, Modality, SiteError, Sites, TokenSite};
use crate::graph::{Dim, Graph, Index, Node, ValueId};

/// A real network takes a few thousand.
const MAX_STEPS: usize = 1 << 22;

/// All sites of a canonical convolutional network.
pub(super) fn discover(graph: &Graph, index: &Index) -> Result<Sites, SiteError> {
    let picture = |v: &&ValueId| graph.rank(**v) == 4 && graph.value(**v).dtype.is_float();
    let input = graph.inputs.iter().find(picture).copied();
    let input = input.ok_or_else(|| SiteError::new("the input", "no pixels [B, C, H, W]"))?;
    let net = Net { graph, index, input, data: graph.descendants(&[input]) };
    let (pooled, hidden) = net.feature()?;
    let width = net.channels(hidden);
    let width = width.ok_or_else(|| SiteError::new("the width of the feature", "it varies"))?;
    let convs = net.convs(pooled.unwrap_or(hidden));
    if convs.is_empty() {
        return Err(SiteError::new("the convolutions", "none leads from the input to the feature"));
    }
    let blocks = net.blocks(&convs, hidden);
    let inside: Vec<HashSet<usize>> =
        blocks.iter().map(|b| net.between(b.input, b.output)).collect();
    let stages = net.stages(&blocks);
    let cnn = CnnSites {
        convs: convs
            .iter()
            .filter_map(|&n| net.conv(n, inside.iter().position(|nodes| nodes.contains(&n))))
            .collect(),
        blocks: blocks
            .iter()
            .zip(stages)
            .filter_map(|(b, stage)| {
                Some(BlockSite {
                    input: net.name(b.input),
                    branch: net.name(b.branch),
                    output: net.name(b.output),
                    inputs: net.channels(b.input)?,
                    outputs: net.channels(b.output)?,
                    adds: b.adds,
                    size: net.size(b.input),
                    stride: net.height(b.input)? / net.height(b.output)?.max(1),
                    stage,
                })
            })
            .collect(),
    };
    let pooled_width = pooled.and_then(|p| graph.width(p)).filter(|&w| w != width);
    Ok(Sites {
        modality: Modality::Image,
        width,
        heads: 0,
        pre_norm: false,
        tokens: TokenSite::default(),
        positions: None,
        layers: vec![],
        linears: vec![],
        norms: vec![],
        hidden: net.name(hidden),
        pooled: pooled.map(|p| net.name(p)),
        input: net.name(input),
        mask: None,
        types: None,
        pooled_width,
        cnn: Some(cnn),
    })
}

/// True if pixels go through a convolution: with no attention in it, the graph is one of ours.
pub(super) fn is_one(graph: &Graph) -> bool {
    let convolves = |n: &Node| n.op == "Conv" && n.input(0).is_ok_and(|x| graph.rank(x) == 4);
    graph.nodes.iter().any(convolves)
}

struct Net<'a> {
    graph: &'a Graph,
    index: &'a Index,
    input: ValueId,
    /// Values that depend on the pixels.
    data: HashSet<ValueId>,
}

struct Block {
    input: ValueId,
    branch: ValueId,
    output: ValueId,
    adds: bool,
}

impl Net<'_> {
    fn name(&self, v: ValueId) -> String {
        self.graph.value(v).name.clone()
    }

    fn made_by(&self, v: ValueId) -> Option<&Node> {
        self.index.producer(v).map(|n| &self.graph.nodes[n])
    }

    fn channels(&self, v: ValueId) -> Option<usize> {
        self.graph.shape(v).get(1)?.constant()
    }

    fn size(&self, v: ValueId) -> Option<[usize; 2]> {
        let shape = self.graph.shape(v);
        Some([shape.get(2)?.constant()?, shape.get(3)?.constant()?])
    }

    fn height(&self, v: ValueId) -> Option<usize> {
        self.graph.shape(v).get(2)?.constant()
    }

    /// The inputs of `node` that depend on the pixels.
    fn moving<'n>(&'n self, node: &'n Node) -> impl Iterator<Item = ValueId> + 'n {
        node.inputs.iter().flatten().copied().filter(|v| self.data.contains(v))
    }

    /// The pooled feature `[B, d]` and the last feature map.
    ///
    /// The feature is what the classifier reads; without a classifier it is an output itself.
    fn feature(&self) -> Result<(Option<ValueId>, ValueId), SiteError> {
        let g = self.graph;
        let outputs = || g.outputs.iter().copied();
        let flat = || outputs().filter(|&o| g.rank(o) == 2 && g.shape(o)[0] == Dim::BATCH);
        let pooled = flat().find_map(|o| self.classified(o)).or_else(|| flat().next());
        let start = pooled.or_else(|| outputs().rfind(|&o| g.rank(o) == 4));
        let start = start
            .ok_or_else(|| SiteError::new("the feature", "no output [B, d] or [B, d, H, W]"))?;
        let large = |v: ValueId| {
            g.rank(v) == 4 && g.shape(v)[2..].iter().any(|d| d.constant().is_some_and(|n| n > 1))
        };
        let mut v = start;
        while !large(v) {
            let node = self.made_by(v);
            let from = node.and_then(|n| self.moving(n).next());
            let (Some(node), Some(from)) = (node, from) else {
                return Err(SiteError::new("the last feature map", "the feature is not pooled"));
            };
            v = from;
            let pools = matches!(
                node.op.as_str(),
                "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "AveragePool"
            );
            if pools && g.rank(v) == 4 {
                break;
            }
        }
        if v == self.input {
            return Err(SiteError::new(
                "the last feature map",
                "the feature is the picture itself",
            ));
        }
        Ok((pooled, v))
    }

    /// What the linear layer that makes `v` reads.
    fn classified(&self, mut v: ValueId) -> Option<ValueId> {
        let g = self.graph;
        loop {
            let node = self.made_by(v)?;
            match node.op.as_str() {
                "MatMul" if g.constant(node.input(1).ok()?).is_some() => {
                    return node.input(0).ok().filter(|&x| g.rank(x) == 2);
                }
                "Add" | "Softmax" | "LogSoftmax" | "Identity" | "Sigmoid" => {
                    v = self.moving(node).next()?;
                }
                _ => return None,
            }
        }
    }

    /// Convolutions with constant weights on the way to `end`, in order.
    fn convs(&self, end: ValueId) -> Vec<usize> {
        let needed = self.graph.ancestors(&[end]);
        let frozen = |n: &usize| {
            let node = &self.graph.nodes[*n];
            node.op == "Conv"
                && node.input(1).is_ok_and(|w| self.graph.constant(w).is_some())
                && node.input(0).is_ok_and(|x| self.data.contains(&x))
        };
        (0..self.graph.nodes.len()).filter(|n| needed.contains(n)).filter(frozen).collect()
    }

    fn conv(&self, n: usize, block: Option<usize>) -> Option<ConvSite> {
        let node = &self.graph.nodes[n];
        let (x, y) = (node.input(0).ok()?, node.output().ok()?);
        let [outputs, _, kernel @ ..] = self.graph.constant(node.input(1).ok()?)?.shape() else {
            return None;
        };
        Some(ConvSite {
            input: self.name(x),
            output: self.name(y),
            inputs: self.channels(x)?,
            outputs: *outputs,
            kernel: kernel.to_vec(),
            groups: usize::try_from(node.attrs.int("group").unwrap_or(1)).ok()?,
            block,
        })
    }

    /// Nodes between two values, where all data of the second passes the first.
    fn between(&self, from: ValueId, to: ValueId) -> HashSet<usize> {
        let mut nodes = HashSet::new();
        let mut stack = vec![to];
        while let Some(v) = stack.pop() {
            if let Some(n) = self.index.producer(v).filter(|_| v != from)
                && nodes.insert(n)
            {
                stack.extend(self.moving(&self.graph.nodes[n]));
            }
        }
        nodes
    }

    /// Residual blocks, and inverted bottlenecks that change the size and so add nothing.
    fn blocks(&self, convs: &[usize], hidden: ValueId) -> Vec<Block> {
        let needed = self.graph.ancestors(&[hidden]);
        let entry = self.dominators();
        let mut blocks: Vec<Block> = Vec::new();
        let mut covered: HashSet<usize> = HashSet::new();
        for (n, node) in self.graph.nodes.iter().enumerate().filter(|(n, _)| needed.contains(n)) {
            let ends: Vec<ValueId> = self.moving(node).collect();
            let (&[a, b], "Add", Ok(sum)) = (&ends[..], node.op.as_str(), node.output()) else {
                continue;
            };
            let Some(&input) = entry.get(&sum) else { continue };
            let maps = [a, b].iter().all(|&v| self.graph.shape(v) == self.graph.shape(sum));
            if !maps || covered.contains(&n) || self.graph.rank(input) != 4 {
                continue;
            }
            // The shortcut has fewer convolutions, mostly none.
            let work = |v| self.between(input, v).iter().filter(|n| convs.contains(n)).count();
            let branch = if work(a) > work(b) { a } else { b };
            if work(branch) > 0 {
                let output = self.activated(sum);
                covered.extend(self.between(input, output));
                blocks.push(Block { input, branch, output, adds: true });
            }
        }
        for &n in convs {
            if covered.contains(&n) || !needed.contains(&n) {
                continue;
            }
            if let Some(block) = self.bottleneck(n) {
                covered.extend(self.between(block.input, block.output));
                blocks.push(block);
            }
        }
        blocks.sort_by_key(|b| self.index.producer(b.output));
        blocks
    }

    /// The value that every path from the pixels to a value passes last. Nothing for a graph so
    /// tangled that looking would take long.
    fn dominators(&self) -> HashMap<ValueId, ValueId> {
        let mut entry: HashMap<ValueId, ValueId> = HashMap::new();
        let mut depth: HashMap<ValueId, usize> = HashMap::from([(self.input, 0)]);
        let mut steps = 0;
        for node in &self.graph.nodes {
            let mut meet: Option<ValueId> = None;
            for v in self.moving(node) {
                let mut a = v;
                let Some(mut b) = meet else {
                    meet = Some(v);
                    continue;
                };
                while a != b {
                    steps += 1;
                    if steps > MAX_STEPS {
                        return HashMap::new();
                    }
                    let of = |v: &ValueId| depth.get(v).copied().unwrap_or(0);
                    let deeper = if of(&a) >= of(&b) { &mut a } else { &mut b };
                    match entry.get(deeper) {
                        Some(&up) => *deeper = up,
                        None => break,
                    }
                }
                meet = Some(a);
            }
            let Some(meet) = meet else { continue };
            let d = depth.get(&meet).copied().unwrap_or(0) + 1;
            for &o in node.outputs.iter().flatten() {
                entry.insert(o, meet);
                depth.insert(o, d);
            }
        }
        entry
    }

    /// The activation of `v`, if that is all that reads it.
    fn activated(&self, v: ValueId) -> ValueId {
        match self.index.consumers(v) {
            &[(n, 0)] if is_activation(&self.graph.nodes[n]) => {
                self.graph.nodes[n].output().unwrap_or(v)
            }
            _ => v,
        }
    }

    /// The block around the depthwise convolution `n`: a pointwise convolution behind it, and
    /// perhaps one in front that widens.
    fn bottleneck(&self, n: usize) -> Option<Block> {
        let node = &self.graph.nodes[n];
        let x = node.input(0).ok()?;
        let groups = usize::try_from(node.attrs.int("group").unwrap_or(1)).ok()?;
        if groups < 2 || self.channels(x) != Some(groups) {
            return None;
        }
        let mut input = x;
        if let Some(pad) = self.made_by(x).filter(|n| n.op == "Pad") {
            input = pad.input(0).ok()?;
        }
        if let Some(before) = self.before_activations(x)
            && let Some(site) = self.conv(before, None)
            && site.groups == 1
            && site.kernel.iter().all(|&k| k == 1)
            && site.outputs > site.inputs
        {
            input = self.graph.nodes[before].input(0).ok()?;
        }
        let mut v = node.output().ok()?;
        loop {
            let readers = self.index.consumers(v);
            let pointwise = readers.iter().map(|r| r.0).find(|&r| self.graph.nodes[r].op == "Conv");
            match pointwise {
                Some(p) if readers.len() == 1 => {
                    let branch = self.graph.nodes[p].output().ok()?;
                    let output = self.activated(branch);
                    return Some(Block { input, branch, output, adds: false });
                }
                // A gate multiplies v by what a small network makes of it.
                _ => {
                    let mut next = readers.iter().map(|r| &self.graph.nodes[r.0]);
                    let next = next.rfind(|n| passes(n))?;
                    v = next.output().ok()?;
                }
            }
        }
    }

    /// The convolution that makes `v`, looking through activations.
    fn before_activations(&self, mut v: ValueId) -> Option<usize> {
        loop {
            let n = self.index.producer(v)?;
            let node = &self.graph.nodes[n];
            match node.op.as_str() {
                "Conv" => return Some(n),
                _ if passes(node) => v = self.moving(node).next()?,
                _ => return None,
            }
        }
    }

    /// A stage ends where the size of the feature map changes.
    fn stages(&self, blocks: &[Block]) -> Vec<usize> {
        let mut stage = 0;
        let mut last = None;
        blocks
            .iter()
            .map(|b| {
                let size = &self.graph.shape(b.output)[2..];
                stage += usize::from(last.is_some_and(|l| l != size));
                last = Some(size);
                stage
            })
            .collect()
    }
}

/// Leaves the channels where they are. `Mul` is a gate or a scaling, `Pad` an uneven padding in
/// front of a convolution.
fn passes(node: &Node) -> bool {
    is_activation(node) || matches!(node.op.as_str(), "Mul" | "Pad")
}

fn is_activation(node: &Node) -> bool {
    matches!(
        node.op.as_str(),
        "Relu" | "Clip" | "HardSwish" | "LeakyRelu" | "Gelu" | "Elu" | "Sigmoid" | "HardSigmoid"
    )
}
