use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::manifest::{FORMAT, MAX_TOKENS};
use super::{
    BackboneError, FileEntry, MANIFEST_FILE, MODEL_FILE, Manifest, Pooling, Report, TOKENIZER_FILE,
    WEIGHTS_FILE, Weights, quantize, site,
};
use crate::data::TextEncoder;
use crate::engine::{Engine, Feed};
use crate::graph::canonical::{MaskReport, canonicalise, padding_masks};
use crate::graph::sites::{Modality, Sites, discover};
use crate::graph::{Dim, Graph, GraphError, ValueId, frozen, onnx};
use crate::tensor::{DType, Tensor};

/// An int8 model whose hidden states point elsewhere than this is refused.
const MIN_COSINE: f64 = 0.98;
/// Largest difference from the export with f32 weights.
const MAX_DIFFERENCE: f32 = 1e-4;

/// What to prepare, and how.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// The export.
    pub model: PathBuf,
    /// Directory to write; must be absent or empty.
    pub out: PathBuf,
    /// `tokenizer.json` of a text model.
    pub tokenizer: Option<PathBuf>,
    /// How to store weights.
    pub weights: Weights,
    /// How to pool; mean for text and the class row for pictures by default.
    pub pooling: Option<Pooling>,
    /// Longest input in tokens; all learned positions by default.
    pub max_length: Option<usize>,
    /// A name for people; the file's folder by default.
    pub name: Option<String>,
    /// SPDX expression of the weights' licence.
    pub licence: Option<String>,
    /// Where the weights come from.
    pub source: Option<String>,
}

impl Prepare {
    /// Defaults for `model`.
    pub fn new(model: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Prepare {
        Prepare {
            model: model.into(),
            out: out.into(),
            tokenizer: None,
            weights: Weights::default(),
            pooling: None,
            max_length: None,
            name: None,
            licence: None,
            source: None,
        }
    }
}

/// Reads a `torch.onnx` export, finds its sites, quantizes it and writes a backbone directory.
/// `step` is told what is being done.
///
/// The result is compared with the export on the engine; a wrong padding mask is repaired.
///
/// # Errors
/// [`BackboneError`] naming the file and what to do. Nothing is left in `out` then.
pub fn prepare(
    options: &Prepare,
    engine: &dyn Engine,
    mut step: impl FnMut(&str),
) -> Result<Manifest, BackboneError> {
    let path = &options.model;
    let in_graph = |source| BackboneError::Graph { path: path.clone(), source };
    if fs::read_dir(&options.out).is_ok_and(|mut d| d.next().is_some()) {
        return Err(BackboneError::Occupied(options.out.clone()));
    }
    if let Some(max_length @ 0) = options.max_length {
        return Err(BackboneError::MaxLength { max_length, most: MAX_TOKENS });
    }
    if let Some(tokenizer) = &options.tokenizer {
        // A backbone with a bad tokenizer could never be loaded.
        TextEncoder::from_file(tokenizer, options.max_length.unwrap_or(MAX_TOKENS))?;
    }
    step("reading the export");
    let mut graph = onnx::read(path)?;
    let export = graph.clone();
    step("finding sites");
    canonicalise(&mut graph).map_err(in_graph)?;
    let mask = padding_masks(&mut graph).map_err(in_graph)?;
    let sites = discover(&graph)
        .map_err(|source| BackboneError::Structure { path: path.clone(), source })?;
    check_mask(path, &sites, mask)?;
    keep_outputs(&mut graph, &sites).map_err(in_graph)?;
    let quantized = match options.weights {
        Weights::Int8 => quantize::quantize(&mut graph).map_err(in_graph)?,
        Weights::F32 => 0,
    };
    step("comparing with the export");
    let repaired = mask == MaskReport::Repaired;
    let (cosine, max_difference) = compare(path, &export, &graph, &sites, repaired, engine)?;
    let too_far = match options.weights {
        _ if repaired => cosine.is_nan(),
        Weights::Int8 => cosine < MIN_COSINE,
        Weights::F32 => max_difference > MAX_DIFFERENCE,
    };
    if too_far || cosine.is_nan() {
        let reason = format!("cosine {cosine:.6}, largest difference {max_difference:.2e}");
        return Err(BackboneError::Differs { path: path.clone(), reason });
    }
    step("writing");
    let report = Report { cosine, max_difference, attentions: sites.layers.len(), mask, quantized };
    write(options, &graph, sites, report)
}

fn check_mask(path: &Path, sites: &Sites, mask: MaskReport) -> Result<(), BackboneError> {
    let bad = |reason: &str| {
        Err(BackboneError::Mask { path: path.to_owned(), reason: reason.to_owned() })
    };
    match (sites.modality, mask) {
        (Modality::Image, _) | (_, MaskReport::Padding | MaskReport::Repaired) => Ok(()),
        (Modality::Text, MaskReport::None) if sites.mask.is_none() => {
            bad("the model has no padding mask; export with attention_mask as an input")
        }
        _ => bad("changing the padding mask does not hide the padded tokens"),
    }
}

/// The graph's outputs become the hidden state and, if there is one, the pooled output.
fn keep_outputs(graph: &mut Graph, sites: &Sites) -> Result<(), GraphError> {
    graph.outputs = vec![site(graph, &sites.hidden)?];
    if let Some(pooled) = &sites.pooled {
        let pooled = site(graph, pooled)?;
        graph.outputs.push(pooled);
    }
    let used = [Some(&sites.input), sites.mask.as_ref(), sites.types.as_ref()];
    graph.inputs = used.into_iter().flatten().map(|n| site(graph, n)).collect::<Result<_, _>>()?;
    graph.prune();
    graph.infer_all()
}

/// Runs the export and the prepared graph on the same input: (cosine, largest difference) of the
/// last hidden states over real tokens.
fn compare(
    path: &Path,
    export: &Graph,
    prepared: &Graph,
    sites: &Sites,
    repaired: bool,
    engine: &dyn Engine,
) -> Result<(f64, f32), BackboneError> {
    let in_graph = |source| BackboneError::Graph { path: path.to_owned(), source };
    let in_engine = |source| BackboneError::Engine { path: path.to_owned(), source };
    let (batch, length) = (2, 12);
    let pins = [(Dim::BATCH, batch), (Dim::SEQUENCE, length)];
    let mut reference = export.clone();
    if repaired {
        // The export itself is wrong; compare with its float form under the right mask.
        canonicalise(&mut reference).map_err(in_graph)?;
        padding_masks(&mut reference).map_err(in_graph)?;
    }
    reference.outputs = vec![site(&reference, &sites.hidden).map_err(in_graph)?];
    reference.prune();
    let mut lifted = prepared.clone();
    frozen::lift(&mut lifted).map_err(in_graph)?;
    let mut results = Vec::new();
    for graph in [&reference, &lifted] {
        let program = engine.compile(graph, &pins).map_err(in_engine)?;
        let feeds: Vec<Tensor> = graph
            .inputs
            .iter()
            .map(|&v| sample(graph, v, sites, batch, length))
            .collect::<Result<_, _>>()
            .map_err(in_graph)?;
        let feeds: Vec<Feed> = feeds.iter().map(Feed::Tensor).collect();
        let mut out = program.run(&feeds).map_err(in_engine)?;
        results.push(out.swap_remove(0));
    }
    let (a, b) = (results[0].to_f32(), results[1].to_f32());
    let real = |i: usize| {
        // Rows of padding may hold anything.
        sites.mask.is_none() || !is_padding(i / sites.width, length)
    };
    let (mut ab, mut aa, mut bb, mut worst) = (0f64, 0f64, 0f64, 0f32);
    for (_, (&x, &y)) in a.iter().zip(b.iter()).enumerate().filter(|(i, _)| real(*i)) {
        ab += f64::from(x) * f64::from(y);
        aa += f64::from(x) * f64::from(x);
        bb += f64::from(y) * f64::from(y);
        worst = worst.max((x - y).abs());
    }
    Ok((ab / (aa * bb).sqrt(), worst))
}

/// The last four tokens of every second row are padding.
fn is_padding(token: usize, length: usize) -> bool {
    (token / length) % 2 == 1 && token % length >= length - 4
}

/// A fixed input for graph input `v`.
fn sample(
    graph: &Graph,
    v: ValueId,
    sites: &Sites,
    batch: usize,
    length: usize,
) -> Result<Tensor, GraphError> {
    let value = graph.value(v);
    let shape: Vec<usize> = value
        .shape
        .iter()
        .map(|d| match d {
            d if *d == Dim::BATCH => batch,
            d => d.constant().unwrap_or(length),
        })
        .collect();
    let n = shape.iter().product::<usize>();
    // Knuth's multiplicative hash: spread out, and the same everywhere.
    let noise = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 8;
    let index = graph.index();
    let rows = index.consumers(v).iter().find_map(|&(c, i)| {
        let node = &graph.nodes[c];
        let table = match node.op.as_str() {
            "Gather" if i == 1 => node.input(0).ok()?,
            "FrozenGather" => node.input(0).ok()?,
            _ => return None,
        };
        // An int8 table is read through its DequantizeLinear, which has the table's shape.
        graph.shape(table).first()?.constant()
    });
    let whole = |i: usize| -> i64 {
        if sites.mask.as_deref() == Some(value.name.as_str()) {
            i64::from(!is_padding(i, length))
        } else if sites.types.as_deref() == Some(value.name.as_str()) {
            0
        } else {
            // Small ids are special tokens in most vocabularies.
            let rows = rows.unwrap_or(2);
            (rows / 10 + noise(i) as usize % (rows - rows / 10).max(1)) as i64
        }
    };
    Ok(match value.dtype {
        DType::F32 => {
            let x: Vec<f32> = (0..n).map(|i| noise(i) as f32 / 8_388_608.0 - 1.0).collect();
            Tensor::new(&shape, &x)?
        }
        DType::I32 => Tensor::new(&shape, &(0..n).map(|i| whole(i) as i32).collect::<Vec<_>>())?,
        DType::Bool => Tensor::bools(&shape, &(0..n).map(|i| whole(i) != 0).collect::<Vec<_>>())?,
        _ => Tensor::new(&shape, &(0..n).map(whole).collect::<Vec<_>>())?,
    })
}

fn family(sites: &Sites, graph: &Graph) -> &'static str {
    // RoBERTa's positions depend on which tokens are padding; BERT's on the length alone.
    let counted = sites.positions.as_ref().and_then(|p| graph.find(&p.indices)).is_some_and(|v| {
        let value = graph.value(v);
        value.known.is_none() && value.constant.is_none()
    });
    match sites.modality {
        Modality::Image => "vit",
        Modality::Text if counted => "roberta",
        Modality::Text => "bert",
    }
}

fn write(
    options: &Prepare,
    graph: &Graph,
    sites: Sites,
    report: Report,
) -> Result<Manifest, BackboneError> {
    let out = &options.out;
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temp = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| BackboneError::Io { path, source }
    };
    fs::create_dir_all(&temp).map_err(io(&temp))?;
    let result = write_files(options, graph, sites, report, &temp).and_then(|manifest| {
        crate::fs::sync_folder(&temp).map_err(io(&temp))?;
        // An empty directory may stand there already; rename replaces it.
        fs::rename(&temp, out).map_err(io(out))?;
        crate::fs::sync_folder(parent).map_err(io(parent))?;
        Ok(manifest)
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&temp);
    }
    result
}

fn write_files(
    options: &Prepare,
    graph: &Graph,
    sites: Sites,
    report: Report,
    dir: &Path,
) -> Result<Manifest, BackboneError> {
    let save = |name: &str, fill: &dyn Fn(&mut File) -> std::io::Result<()>| {
        let path = dir.join(name);
        File::create(&path)
            .and_then(|mut f| fill(&mut f).and_then(|()| f.sync_all()))
            .map_err(|source| BackboneError::Io { path, source })
    };
    let file = onnx::write(graph, Some(WEIGHTS_FILE));
    save(MODEL_FILE, &|f| f.write_all(&file.model))?;
    save(WEIGHTS_FILE, &|f| {
        for (offset, tensor) in &file.weights {
            f.seek(SeekFrom::Start(*offset as u64))?;
            f.write_all(tensor.bytes())?;
        }
        Ok(())
    })?;
    let mut names = vec![MODEL_FILE, WEIGHTS_FILE];
    if let Some(tokenizer) = &options.tokenizer {
        let bytes = fs::read(tokenizer)
            .map_err(|source| BackboneError::Io { path: tokenizer.clone(), source })?;
        save(TOKENIZER_FILE, &|f| f.write_all(&bytes))?;
        names.push(TOKENIZER_FILE);
    }
    let files: Vec<FileEntry> =
        names.iter().map(|n| FileEntry::of(dir, n)).collect::<Result<_, _>>()?;
    let family = family(&sites, graph);
    let pad_id = i64::from(family == "roberta");
    let offset = if family == "roberta" { 2 } else { 0 };
    let learned = sites.positions.as_ref().map(|p| p.rows.saturating_sub(offset));
    let rows = graph.find(&sites.tokens.value).and_then(|v| graph.shape(v).get(1)?.constant());
    let limit = learned.or(rows).unwrap_or(512).clamp(1, MAX_TOKENS);
    let plain = |text: &String| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let stem = options.model.parent().and_then(Path::file_name);
    let name = options.name.clone().or_else(|| stem.map(|s| s.to_string_lossy().into_owned()));
    let mut manifest = Manifest {
        format: FORMAT,
        name: name.as_ref().map_or_else(|| family.to_owned(), plain),
        family: family.to_owned(),
        weights: options.weights,
        pooling: options.pooling.unwrap_or(match sites.modality {
            Modality::Text => Pooling::Mean,
            Modality::Image => Pooling::Cls,
        }),
        max_length: options.max_length.map_or(limit, |m| m.min(limit)),
        pad_id,
        licence: options.licence.as_ref().map(plain),
        source: options.source.as_ref().map(plain),
        report,
        digest: String::new(),
        files,
        sites,
    };
    manifest.digest = manifest.digest_now();
    let text = serde_json::to_string_pretty(&manifest).map_err(|e| BackboneError::Manifest {
        path: dir.join(MANIFEST_FILE),
        reason: e.to_string(),
    })?;
    save(MANIFEST_FILE, &|f| writeln!(f, "{text}"))?;
    Ok(manifest)
}
