use std::collections::HashMap;

use super::{
    Hyperparameters, Init, Method, MethodError, Plan, Reparameterisation, Setting, Settings,
    TensorSpec, Training, head, need_blocks,
};
use crate::attach::Attachment;
use crate::backbone::Manifest;
use crate::graph::{Attrs, Graph, GraphError, ValueId};

/// Prefix-tuning (Li and Liang 2021, arXiv 2101.00190): P keys and values in front of those of
/// every layer, trained directly from real activations, or through a two-layer network that is
/// dropped afterwards.
pub(super) struct PrefixTuning;

pub(super) const POSITION: Setting = Setting {
    name: "position",
    default: "shifted",
    help: "positions of real tokens: shifted (they start at P, as in PEFT) or unshifted",
};

impl Method for PrefixTuning {
    fn name(&self) -> &'static str {
        "prefix-tuning"
    }

    fn summary(&self) -> &'static str {
        "trained keys and values in every layer, optionally through an MLP (arXiv 2101.00190)"
    }

    fn settings(&self) -> &'static [Setting] {
        &[
            Setting { name: "rows", default: "20", help: "rows P per layer" },
            POSITION,
            Setting {
                name: "projection",
                default: "false",
                help: "train through an embedding and an MLP: true or false",
            },
            Setting { name: "hidden", default: "512", help: "width of that MLP" },
        ]
    }

    fn hyperparameters(&self) -> Hyperparameters {
        Hyperparameters { learning_rate: 1e-2, weight_decay: 0.0, epochs: 30 }
    }

    fn plan(
        &self,
        backbone: &Manifest,
        classes: usize,
        settings: &Settings,
    ) -> Result<Plan, MethodError> {
        need_blocks(backbone, self.name())?;
        let mut plan = kv_plan(backbone, classes, settings)?;
        if settings.flag("projection")? {
            plan.training = Training::Through(Box::new(Projection {
                rows: settings.count("rows", 1..=1024)?,
                hidden: settings.count("hidden", 1..=8192)?,
                width: backbone.sites.width,
                heads: backbone.sites.heads,
                layers: backbone.sites.layers.len(),
            }));
        }
        Ok(plan)
    }
}

pub(super) fn key_name(layer: usize) -> String {
    format!("prefix.{layer}.key")
}

pub(super) fn value_name(layer: usize) -> String {
    format!("prefix.{layer}.value")
}

/// Key and value rows in every layer, and a head.
pub(super) fn kv_plan(
    backbone: &Manifest,
    classes: usize,
    settings: &Settings,
) -> Result<Plan, MethodError> {
    let sites = &backbone.sites;
    let shifted = settings.choice("position", &["shifted", "unshifted"])? == "shifted"
        && sites.positions.is_some();
    let room = if shifted { backbone.max_length.saturating_sub(8).max(1) } else { 1024 };
    let count = settings.count("rows", 1..=room)?;
    let (mut tensors, head) = head(backbone, classes, settings)?;
    let mut attachments = Vec::new();
    let shape = [count, sites.heads, sites.width / sites.heads];
    for layer in 0..sites.layers.len() {
        let (keys, values) = (key_name(layer), value_name(layer));
        // Rows are no weights: decay would pull them away from where real activations lie.
        for (name, init) in [(&keys, Init::Keys(layer)), (&values, Init::Values(layer))] {
            tensors.push(TensorSpec::new(name, &shape, init).no_decay());
        }
        attachments.push(Attachment::KvRows { layer, keys, values, count });
    }
    if shifted {
        attachments.push(Attachment::ShiftPositions { count });
    }
    attachments.push(head);
    let position_rows = if shifted { count } else { 0 };
    Ok(Plan { position_rows, ..Plan::new(tensors, attachments) })
}

/// `Linear2(tanh(Linear1(E)))`, `[P, 2Ld]` split into slots of keys and values: slot 2i holds the
/// keys of layer i, slot 2i+1 its values.
struct Projection {
    rows: usize,
    hidden: usize,
    width: usize,
    heads: usize,
    layers: usize,
}

impl Reparameterisation for Projection {
    fn tensors(&self) -> Vec<TensorSpec> {
        let (p, m, d) = (self.rows, self.hidden, self.width);
        let out = 2 * self.layers * d;
        vec![
            TensorSpec::new("prefix.embedding", &[p, d], Init::Normal),
            TensorSpec::new("prefix.mlp.0.weight", &[m, d], Init::FanIn(d)),
            TensorSpec::new("prefix.mlp.0.bias", &[m], Init::FanIn(d)),
            TensorSpec::new("prefix.mlp.2.weight", &[out, m], Init::FanIn(m)),
            TensorSpec::new("prefix.mlp.2.bias", &[out], Init::FanIn(m)),
        ]
    }

    fn expand(
        &self,
        g: &mut Graph,
        trained: &HashMap<String, ValueId>,
    ) -> Result<HashMap<String, ValueId>, GraphError> {
        let get =
            |n: &str| trained.get(n).copied().ok_or_else(|| GraphError::Undefined(n.to_owned()));
        let linear = |g: &mut Graph, x, layer: &str| -> Result<ValueId, GraphError> {
            let weight = get(&format!("{layer}.weight"))?;
            let perm = Attrs::none().with("perm", [1i64, 0].as_slice());
            let weight = g.op("Transpose", &[weight], perm)?;
            let y = g.op("MatMul", &[x, weight], Attrs::none())?;
            g.op("Add", &[y, get(&format!("{layer}.bias"))?], Attrs::none())
        };
        let hidden = linear(g, get("prefix.embedding")?, "prefix.mlp.0")?;
        let hidden = g.op("Tanh", &[hidden], Attrs::none())?;
        let flat = linear(g, hidden, "prefix.mlp.2")?;
        let (h, dh) = (self.heads as i64, (self.width / self.heads) as i64);
        let mut served = HashMap::new();
        for slot in 0..2 * self.layers {
            let d = self.width as i64;
            let (from, to) = (g.ints(&[slot as i64 * d]), g.ints(&[(slot as i64 + 1) * d]));
            let axis = g.ints(&[1]);
            let rows = g.op("Slice", &[flat, from, to, axis], Attrs::none())?;
            let shape = g.ints(&[self.rows as i64, h, dh]);
            let rows = g.op("Reshape", &[rows, shape], Attrs::none())?;
            let name = if slot % 2 == 0 { key_name(slot / 2) } else { value_name(slot / 2) };
            served.insert(name, rows);
        }
        Ok(served)
    }
}
