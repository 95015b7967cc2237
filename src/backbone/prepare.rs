use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::compare::{Closeness, compare};
use super::manifest::{FORMAT, MAX_TOKENS};
use super::{
    BackboneError, FRONTEND_FILE, FileEntry, MANIFEST_FILE, MODEL_FILE, Manifest, Pooling, Report,
    TOKENIZER_FILE, WEIGHTS_FILE, Weights, quantize, site,
};
use crate::data::{AudioSpec, ImageSpec, MediaSpec, Place, TextEncoder};
use crate::engine::{Compute, Engine};
use crate::graph::canonical::{MaskReport, canonicalise, padding_masks};
use crate::graph::sites::{Modality, Sites, discover};
use crate::graph::{Graph, GraphError, onnx};

/// An int8 model whose hidden states point elsewhere than this is refused.
const MIN_COSINE: f64 = 0.98;
/// The same for an int4 model.
const MIN_COSINE_OF_INT4: f64 = 0.9;
/// Samples per second of sounds: that of nearly all speech models.
const SAMPLE_RATE: u32 = 16_000;
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
    /// ONNX graph that turns sound into the features that an audio model reads.
    pub frontend: Option<PathBuf>,
    /// `preprocessor_config.json` of Hugging Face or an image specification of ours; by default
    /// pictures are stretched and their values lie in -1..1.
    pub preprocess: Option<PathBuf>,
    /// Height and width of pictures where the model leaves them free; 224 by default.
    pub image_size: Option<usize>,
    /// How to store weights.
    pub weights: Weights,
    /// How devices are to compute products with them; left open by default.
    pub compute: Option<Compute>,
    /// How to pool. By default the mean for text, the model's own output for CLIP and convolutional
    /// networks, and the class row for other pictures and sounds.
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
            frontend: None,
            preprocess: None,
            image_size: None,
            weights: Weights::default(),
            compute: None,
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
    let mut graph = onnx::read_export(path, options.image_size.unwrap_or(onnx::PICTURE))?;
    let export = graph.clone();
    step("finding sites");
    canonicalise(&mut graph).map_err(in_graph)?;
    let mask = padding_masks(&mut graph).map_err(in_graph)?;
    let sites = discover(&graph)
        .map_err(|source| BackboneError::Structure { path: path.clone(), source })?;
    check_mask(path, &sites, mask)?;
    let pooling = pooling(options, &sites, family(&sites, &graph))?;
    keep_outputs(&mut graph, &sites).map_err(in_graph)?;
    let quantized = match options.weights {
        Weights::F32 => 0,
        weights => {
            quantize::quantize(&mut graph, weights, sites.cnn.is_some()).map_err(in_graph)?
        }
    };
    step("comparing with the export");
    let repaired = mask == MaskReport::Repaired;
    let Closeness { cosine, difference: max_difference } =
        compare(path, &export, &graph, (&sites, pooling), repaired, engine)?;
    let too_far = match options.weights {
        _ if repaired => cosine.is_nan(),
        Weights::Int8 => cosine < MIN_COSINE,
        Weights::Int4 => cosine < MIN_COSINE_OF_INT4,
        Weights::F32 => max_difference > MAX_DIFFERENCE,
    };
    if too_far || cosine.is_nan() {
        let reason = format!("cosine {cosine:.6}, largest difference {max_difference:.2e}");
        return Err(BackboneError::Differs { path: path.clone(), reason });
    }
    step("writing");
    let report = Report { cosine, max_difference, attentions: sites.layers.len(), mask, quantized };
    write(options, &graph, sites, pooling, report)
}

/// The pooling that was asked for, or the family's.
fn pooling(options: &Prepare, sites: &Sites, family: &str) -> Result<Pooling, BackboneError> {
    let own = sites.pooled.is_some();
    let usual = match sites.modality {
        Modality::Text => Pooling::Mean,
        Modality::Image if own && matches!(family, "cnn" | "clip-vision") => Pooling::Output,
        Modality::Image if sites.cnn.is_some() => Pooling::Mean,
        Modality::Image | Modality::Audio => Pooling::Cls,
    };
    let chosen = options.pooling.unwrap_or(usual);
    match sites.lacks(chosen) {
        None => Ok(chosen),
        Some(reason) => Err(BackboneError::Pooling { path: options.model.clone(), reason }),
    }
}

fn check_mask(path: &Path, sites: &Sites, mask: MaskReport) -> Result<(), BackboneError> {
    let bad = |reason: &str| {
        Err(BackboneError::Mask { path: path.to_owned(), reason: reason.to_owned() })
    };
    match (sites.modality, mask) {
        (Modality::Image | Modality::Audio, _)
        | (_, MaskReport::Padding | MaskReport::Repaired) => Ok(()),
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

fn family(sites: &Sites, graph: &Graph) -> &'static str {
    // RoBERTa's positions depend on which tokens are padding; BERT's on the length alone.
    let counted = sites.positions.as_ref().and_then(|p| graph.find(&p.indices)).is_some_and(|v| {
        let value = graph.value(v);
        value.known.is_none() && value.constant.is_none()
    });
    // The image tower of CLIP normalises before its first block, no other picture model does.
    let normalised = graph.find(&sites.tokens.value).is_some_and(|v| {
        let index = graph.index();
        index.producer(v).is_some_and(|n| graph.nodes[n].op == "LayerNormalization")
    });
    match sites.modality {
        Modality::Image if sites.cnn.is_some() => "cnn",
        Modality::Image if sites.pre_norm && normalised => "clip-vision",
        Modality::Image => "vit",
        Modality::Audio => "kwt",
        Modality::Text if counted => "roberta",
        Modality::Text => "bert",
    }
}

fn write(
    options: &Prepare,
    graph: &Graph,
    sites: Sites,
    pooling: Pooling,
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
    let result = write_files(options, graph, sites, pooling, report, &temp).and_then(|manifest| {
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

/// How files become inputs of the model.
fn preprocess(
    options: &Prepare,
    graph: &Graph,
    sites: &Sites,
) -> Result<Option<MediaSpec>, BackboneError> {
    let in_graph = |source| BackboneError::Graph { path: options.model.clone(), source };
    let fixed = |graph: &Graph, v| -> Vec<usize> {
        graph.shape(v).iter().skip(1).filter_map(|d| d.constant()).collect()
    };
    if let (Modality::Audio, Some(path)) = (sites.modality, &options.frontend) {
        let frontend = onnx::read_export(path, onnx::PICTURE)?;
        let shape = frontend.inputs.first().map(|&v| fixed(&frontend, v)).unwrap_or_default();
        let &[samples] = shape.as_slice() else {
            let reason = format!("its input is [batch, {shape:?}], not [batch, samples]");
            return Err(BackboneError::Preprocess { path: path.clone(), reason });
        };
        let sample_rate = SAMPLE_RATE;
        return Ok(Some(MediaSpec::Audio(AudioSpec { sample_rate, samples, place: Place::Start })));
    }
    if sites.modality != Modality::Image {
        return Ok(None);
    }
    let input = super::site(graph, &sites.input).map_err(in_graph)?;
    let shape = fixed(graph, input);
    let spec = match &options.preprocess {
        Some(path) => {
            let bytes = fs::read(path)
                .map_err(|source| BackboneError::Io { path: path.clone(), source })?;
            ImageSpec::from_json(&bytes, path)?
        }
        None => ImageSpec {
            size: [shape.get(1).copied().unwrap_or(1), shape.get(2).copied().unwrap_or(1)],
            ..ImageSpec::square(1, [0.5; 3], [0.5; 3])
        },
    };
    let made = [spec.channels, spec.size[0], spec.size[1]];
    if shape != made {
        let path = options.preprocess.clone().unwrap_or_else(|| options.model.clone());
        let reason = format!("it makes pictures of {made:?}, the model takes {shape:?}");
        return Err(BackboneError::Preprocess { path, reason });
    }
    Ok(Some(MediaSpec::Image(spec)))
}

fn write_files(
    options: &Prepare,
    graph: &Graph,
    sites: Sites,
    pooling: Pooling,
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
    for (from, to) in [(&options.tokenizer, TOKENIZER_FILE), (&options.frontend, FRONTEND_FILE)] {
        let Some(from) = from else { continue };
        let bytes =
            fs::read(from).map_err(|source| BackboneError::Io { path: from.clone(), source })?;
        save(to, &|f| f.write_all(&bytes))?;
        names.push(to);
    }
    let files: Vec<FileEntry> =
        names.iter().map(|n| FileEntry::of(dir, n)).collect::<Result<_, _>>()?;
    let family = family(&sites, graph);
    let pad_id = i64::from(family == "roberta");
    let offset = if family == "roberta" { 2 } else { 0 };
    let learned = sites.positions.as_ref().map(|p| p.rows.saturating_sub(offset));
    let rows = graph.find(&sites.tokens.value).and_then(|v| graph.shape(v).get(1)?.constant());
    let limit = learned.or(rows).unwrap_or(if sites.cnn.is_some() { 1 } else { 512 });
    let limit = limit.clamp(1, MAX_TOKENS);
    let plain = |text: &String| text.chars().filter(|c| !c.is_control()).collect::<String>();
    let stem = options.model.parent().and_then(Path::file_name);
    let name = options.name.clone().or_else(|| stem.map(|s| s.to_string_lossy().into_owned()));
    let mut manifest = Manifest {
        format: FORMAT,
        name: name.as_ref().map_or_else(|| family.to_owned(), plain),
        family: family.to_owned(),
        weights: options.weights,
        compute: options.compute,
        pooling,
        frontend: options.frontend.as_ref().map(|_| FRONTEND_FILE.to_owned()),
        preprocess: preprocess(options, graph, &sites)?,
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
