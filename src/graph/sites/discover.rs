use super::walk::{Linear, Walk};
use super::{LayerSite, LinearSite, Modality, NormSite, PositionSite, Role, Sites, TokenSite};
use super::{attention, cnn};
use crate::graph::{Dim, Graph, ValueId};

/// The graph does not look like a backbone that edge-tune knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot find {what}: {reason}")]
pub struct SiteError {
    what: &'static str,
    reason: String,
}

impl SiteError {
    pub(super) fn new(what: &'static str, reason: impl Into<String>) -> SiteError {
        SiteError { what, reason: reason.into() }
    }
}

/// Finds all sites of a canonical transformer encoder or convolutional network.
///
/// # Errors
/// [`SiteError`] saying what was looked for and what was found instead.
pub fn discover(graph: &Graph) -> Result<Sites, SiteError> {
    let index = graph.index();
    let found = attention::find(graph, &index);
    let softmaxes = graph.nodes.iter().filter(|n| n.op == "Softmax").count();
    if found.is_empty() && cnn::is_one(graph) {
        return cnn::discover(graph, &index);
    }
    if found.is_empty() || found.len() != softmaxes {
        let reason = format!("{} of {softmaxes} softmax nodes belong to one", found.len());
        return Err(SiteError::new("every attention", reason));
    }
    Walk { graph, index: &index, found: &found }.sites()
}

impl Walk<'_> {
    fn sites(&self) -> Result<Sites, SiteError> {
        let g = self.graph;
        let heads = self.found[0].heads[1];
        let count = g.shape(heads)[2].constant();
        let heads = count.ok_or_else(|| SiteError::new("the number of heads", "it varies"))?;
        let (modality, input) = self.input()?;
        let (mut layers, mut linears, mut norms) = (Vec::new(), Vec::new(), Vec::new());
        let mut pre_norm = false;
        for (i, a) in self.found.iter().enumerate() {
            let mut add = |role, l: Linear| {
                linears.push(LinearSite {
                    layer: i,
                    role,
                    input: self.name(l.input),
                    output: self.name(l.output),
                    inputs: l.inputs,
                    outputs: l.outputs,
                });
            };
            let projections = [Role::Query, Role::Key, Role::Value];
            for (role, flat) in projections.into_iter().zip(a.flat) {
                let l = self.linear_of(flat).ok_or_else(|| {
                    SiteError::new(
                        "the projections of an attention",
                        format!("layer {i} has no separate {}", role.name()),
                    )
                })?;
                add(role, l);
            }
            let query = self.linear_of(a.flat[0]).map(|l| l.input);
            let normed =
                query.ok_or_else(|| SiteError::new("a layer input", format!("layer {i}")))?;
            let out = self.next_linear(self.output(a.mix), false);
            let out =
                out.ok_or_else(|| SiteError::new("an attention output", format!("layer {i}")))?;
            add(Role::AttentionOutput, out);
            let (residual, is_pre) = self.layer_input(normed);
            pre_norm |= is_pre;
            if is_pre {
                norms.push((format!("{i}.attention_norm"), normed));
            }
            let sum = self.residual_sum(out.output).ok_or_else(|| {
                SiteError::new("the residual addition", format!("after the attention of layer {i}"))
            })?;
            let after = self.norm_after(sum);
            let up = self.next_linear(after.unwrap_or(sum), true);
            let down = up.and_then(|u| self.next_linear(u.output, false));
            let (Some(up), Some(down)) = (up, down) else {
                return Err(SiteError::new("a feed-forward block", format!("layer {i}")));
            };
            add(Role::FfnUp, up);
            add(Role::FfnDown, down);
            norms.extend(after.map(|n| {
                let kind = if is_pre { "ffn_norm" } else { "attention_norm" };
                (format!("{i}.{kind}"), n)
            }));
            if !is_pre
                && let Some(end) = self.residual_sum(down.output).and_then(|s| self.norm_after(s))
            {
                norms.push((format!("{i}.ffn_norm"), end));
            }
            layers.push(LayerSite {
                input: self.name(residual),
                keys: self.name(a.heads[1]),
                values: self.name(a.heads[2]),
                masks: a.masks.iter().map(|&(n, i)| (self.name(self.output(n)), i)).collect(),
                attention_output: self.name(out.output),
                ffn_output: self.name(down.output),
            });
        }
        let hidden = self.hidden(layers.last().map(|l| l.ffn_output.as_str()), &mut norms)?;
        let first = layers.first().map(|l| l.input.clone()).unwrap_or_default();
        let embedded = g.find(&first).filter(|&v| self.is_norm(v));
        norms.extend(embedded.map(|v| ("embedding_norm".to_owned(), v)));
        let width = g.width(hidden).ok_or_else(|| SiteError::new("the width", "it varies"))?;
        let words = self.words(input);
        let tokens = match (modality, words) {
            (Modality::Text, Some(words)) => TokenSite { value: self.name(words), after: 0 },
            (Modality::Text, None) => {
                return Err(SiteError::new(
                    "the word embedding",
                    "no table is read by the token ids",
                ));
            }
            (Modality::Image | Modality::Audio, _) => TokenSite { value: first, after: 1 },
        };
        let types = self.ids_inputs().into_iter().find(|&v| v != input && self.words(v).is_some());
        let mask = self.ids_inputs().into_iter().find(|&v| v != input && Some(v) != types);
        let positions =
            if modality == Modality::Text { self.positions(input, types, width) } else { None };
        let pooled = self.pooled(width, modality);
        norms.extend(self.class_norm(hidden, pooled).map(|v| ("final_norm".to_owned(), v)));
        let pooled_width = pooled.and_then(|p| g.width(p)).filter(|&w| w != width);
        let sites = Sites {
            modality,
            width,
            heads,
            pre_norm,
            tokens,
            positions,
            layers,
            linears,
            norms: norms
                .into_iter()
                .map(|(name, v)| NormSite { name, output: self.name(v) })
                .collect(),
            hidden: self.name(hidden),
            pooled: pooled.map(|v| self.name(v)),
            input: self.name(input),
            mask: mask.map(|v| self.name(v)),
            types: types.map(|v| self.name(v)),
            pooled_width,
            cnn: None,
        };
        match sites.check(g) {
            Ok(()) => Ok(sites),
            Err((site, reason)) => {
                Err(SiteError::new("usable sites", format!("`{site}`: {reason}")))
            }
        }
    }

    fn input(&self) -> Result<(Modality, ValueId), SiteError> {
        let g = self.graph;
        let picture = g.inputs.iter().find(|&&v| g.rank(v) == 4 && g.value(v).dtype.is_float());
        if let Some(&v) = picture {
            return Ok((Modality::Image, v));
        }
        let sound = g.inputs.iter().find(|&&v| g.rank(v) == 3 && g.value(v).dtype.is_float());
        if let Some(&v) = sound {
            return Ok((Modality::Audio, v));
        }
        // The token ids read the table with the most rows.
        let rows = |v: ValueId| self.table_read_by(v).and_then(|t| g.shape(t)[0].constant());
        let ids = self.ids_inputs().into_iter().filter(|&v| rows(v).is_some());
        ids.max_by_key(|&v| rows(v)).map(|v| (Modality::Text, v)).ok_or_else(|| {
            SiteError::new(
                "the input",
                "neither pixels [B, C, H, W], sound features [B, T, F] nor token ids [B, S] that read a table",
            )
        })
    }

    /// The model's own pooled output: as wide as the hidden state, or a projection of that, which
    /// has no bias.
    fn pooled(&self, width: usize, modality: Modality) -> Option<ValueId> {
        let g = self.graph;
        let flat = || g.outputs.iter().copied().filter(|&o| g.rank(o) == 2);
        let projection = |o: &ValueId| {
            let linear = self.index.producer(*o).and_then(|n| self.linear_at(n));
            linear.is_some_and(|l| l.output == *o && l.inputs == width && g.rank(l.input) == 2)
        };
        let same = flat().find(|&o| g.width(o) == Some(width));
        same.or_else(|| flat().find(projection).filter(|_| modality == Modality::Image))
    }

    /// The normalisation of the class row alone, on the way from the hidden state to the pooled
    /// output.
    fn class_norm(&self, hidden: ValueId, pooled: Option<ValueId>) -> Option<ValueId> {
        let mut v = pooled?;
        while !self.is_norm(v) {
            let node = self.made_by(v)?;
            v = match node.op.as_str() {
                "MatMul" | "Squeeze" | "Reshape" | "Flatten" => node.input(0).ok()?,
                _ => return None,
            };
        }
        let mut row = self.made_by(v)?.input(0).ok()?;
        while row != hidden {
            let node = self.made_by(row)?;
            let selects = matches!(node.op.as_str(), "Gather" | "Slice" | "Squeeze" | "Reshape");
            row = node.input(0).ok().filter(|_| selects)?;
        }
        Some(v)
    }

    fn positions(
        &self,
        ids: ValueId,
        types: Option<ValueId>,
        width: usize,
    ) -> Option<PositionSite> {
        let g = self.graph;
        let rows = |n: usize| {
            let node = &g.nodes[n];
            let other = node.input(1).is_ok_and(|i| i != ids && Some(i) != types);
            let fits = other && self.is_table_gather(n) && g.width(self.output(n)) == Some(width);
            fits.then(|| g.shape(node.input(0).ok()?)[0].constant()).flatten()
        };
        // RoBERTa also has a table of token types, which no input reads: it has one row.
        let tables = (0..g.nodes.len()).filter_map(|n| Some((rows(n)?, n)));
        let (rows, n) = tables.filter(|t| t.0 > 1).max_by_key(|t| t.0)?;
        let node = &g.nodes[n];
        let indices = node.input(1).ok()?;
        Some(PositionSite { value: self.name(self.output(n)), indices: self.name(indices), rows })
    }

    /// The last hidden state: an output `[B, S, d]`, else what follows the last block.
    fn hidden(
        &self,
        last: Option<&str>,
        norms: &mut Vec<(String, ValueId)>,
    ) -> Result<ValueId, SiteError> {
        let g = self.graph;
        let end = last.and_then(|l| g.find(l)).and_then(|v| self.residual_sum(v));
        let after = end.map(|e| self.norm_after(e).unwrap_or(e));
        if let Some(n) = after.filter(|&n| self.is_norm(n) && !norms.iter().any(|k| k.1 == n)) {
            norms.push(("final_norm".to_owned(), n));
        }
        let output =
            g.outputs.iter().copied().find(|&o| g.rank(o) == 3 && g.shape(o)[0] == Dim::BATCH);
        output
            .or(after)
            .ok_or_else(|| SiteError::new("the last hidden state", "no output [B, S, d]"))
    }
}
