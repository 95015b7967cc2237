//! Where backbone and store are when no option says so.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use edge_tune::Error;
use edge_tune::backbone::{Backbone, MANIFEST_FILE};
use edge_tune::runtime::{Change, Follower, Model, Task};
use edge_tune::store::Store;

use crate::output::{Output, usage};

/// The bundled backbone.
const BUNDLED: &str = "models/minilm-l6";

#[derive(Args)]
pub struct BackboneArg {
    /// Backbone directory; $EDGE_TUNE_BACKBONE or the bundled models/minilm-l6 by default.
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
}

impl BackboneArg {
    pub fn dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.backbone {
            return Ok(dir.clone());
        }
        if let Some(dir) = env::var_os("EDGE_TUNE_BACKBONE").filter(|d| !d.is_empty()) {
            return Ok(dir.into());
        }
        let program = env::current_exe().ok();
        let program = program.as_deref().and_then(Path::parent);
        let here = env::current_dir().ok();
        let around = |dir: Option<&Path>| -> Vec<PathBuf> {
            dir.into_iter().flat_map(Path::ancestors).map(Path::to_owned).collect()
        };
        let mut places = around(here.as_deref());
        places.extend(around(program));
        places.extend(program.map(|p| p.join("../share/edge-tune")));
        places.push(env!("CARGO_MANIFEST_DIR").into());
        let found = places.into_iter().map(|p| p.join(BUNDLED));
        found.into_iter().find(|p| p.join(MANIFEST_FILE).is_file()).ok_or_else(|| {
            usage(format!("the bundled backbone {BUNDLED} was not found; name one with --backbone"))
        })
    }

    pub fn open(&self, out: &Output) -> anyhow::Result<Model> {
        let dir = self.dir()?;
        let backbone = Backbone::load(&dir).map_err(Error::from)?;
        let engine = out.engine.engine(Some(&backbone))?;
        Ok(Model::new(backbone, engine)?)
    }
}

#[derive(Args)]
pub struct StoreArg {
    /// Directory of installed deltas; $EDGE_TUNE_STORE or the user's data directory by default.
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreArg {
    pub fn dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.store {
            return Ok(dir.clone());
        }
        let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || var("HOME").or_else(|| var("USERPROFILE"));
        let data = || {
            var("XDG_DATA_HOME").or_else(|| var("LOCALAPPDATA")).or_else(|| {
                let sub = match cfg!(target_os = "macos") {
                    true => "Library/Application Support",
                    false => ".local/share",
                };
                home().map(|h| h.join(sub))
            })
        };
        var("EDGE_TUNE_STORE")
            .or_else(|| data().map(|d| d.join("edge-tune/store")))
            .ok_or_else(|| usage("no home directory is known; name a store with --store"))
    }

    pub fn open(&self) -> anyhow::Result<Store> {
        Ok(Store::open(&self.dir()?).map_err(Error::from)?)
    }
}

/// A delta from a file or from the store.
#[derive(Args)]
pub struct DeltaArg {
    /// Delta file to use instead of an installed one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["store", "task"])]
    delta: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArg,
    /// Installed task to use; may be left out if there is only one.
    #[arg(long, value_name = "NAME")]
    task: Option<String>,
}

impl DeltaArg {
    /// Loads the delta: (task, generation in the store, 0 for a file).
    pub fn load(&self, model: &Model, out: &Output) -> anyhow::Result<(Arc<Task>, u64)> {
        match self.file(model)? {
            Some(task) => Ok((task, 0)),
            None => {
                let store = self.open_store()?;
                catch_up(&mut self.follow(model, &store)?, out)
            }
        }
    }

    /// Loads the delta if it is a file.
    pub fn file(&self, model: &Model) -> anyhow::Result<Option<Arc<Task>>> {
        let Some(path) = &self.delta else { return Ok(None) };
        Ok(Some(model.load(&model.budget().read(path)?)?))
    }

    pub fn open_store(&self) -> anyhow::Result<Store> {
        self.store.open()
    }

    /// Follows the installed task that was asked for.
    pub fn follow<'a>(&self, model: &'a Model, store: &'a Store) -> anyhow::Result<Follower<'a>> {
        Ok(Follower::new(model, store, &self.name(store)?)?)
    }

    /// Loads every installed delta that is for the backbone of `model`.
    pub fn load_all(&self, model: &Model, out: &Output) -> anyhow::Result<Vec<(Arc<Task>, u64)>> {
        let store = self.store.open()?;
        let mut loaded = Vec::new();
        for task in store.list().map_err(Error::from)? {
            let found = store.load_active(&task.task).map_err(Error::from)?;
            let Some((entry, delta)) = found else { continue };
            if delta.check_backbone(model.backbone().digest()).is_err() {
                continue;
            }
            // Only a trial has runs to count; the delta of another task is read already.
            let resident = match entry.on_trial() {
                true => catch_up(&mut Follower::new(model, &store, &task.task)?, out),
                false => match model.load(&delta) {
                    Ok(resident) => Ok((resident, entry.generation)),
                    Err(e) => Err(e.into()),
                },
            };
            loaded.push(resident.with_context(|| format!("task `{}`", task.task))?);
        }
        if loaded.is_empty() {
            let dir = self.store.dir()?;
            let dir = dir.display();
            return Err(usage(format!("{dir}: nothing is installed for this backbone")));
        }
        Ok(loaded)
    }

    fn name(&self, store: &Store) -> anyhow::Result<String> {
        if let Some(name) = &self.task {
            return Ok(store.known(name).map_err(Error::from)?.task);
        }
        let dir = self.store.dir()?;
        let tasks = store.list().map_err(Error::from)?;
        let names: Vec<&str> = tasks.iter().map(|t| t.task.as_str()).collect();
        match (names.as_slice(), dir.display()) {
            ([one], _) => Ok(one.to_string()),
            ([], dir) => Err(usage(format!(
                "{dir}: nothing is installed; name a delta file with --delta or install one with `edge-tune apply`"
            ))),
            (_, dir) => Err(usage(format!(
                "{dir}: several tasks are installed, choose one with --task: {}",
                names.join(", ")
            ))),
        }
    }
}

/// Loads what is active now: the task and its generation in the store. If its trial fails, that is
/// what was active before.
pub fn catch_up(follower: &mut Follower<'_>, out: &Output) -> anyhow::Result<(Arc<Task>, u64)> {
    loop {
        match follower.poll() {
            Ok(None) => break,
            Ok(Some(Change::Swapped { reverted: Some(failed), entry, .. })) => {
                out.note(format_args!(
                    "generation {} failed its trial, generation {} is active again",
                    failed.generation, entry.generation
                ))
            }
            Ok(Some(Change::Kept { reverted })) => out.note(format_args!(
                "generation {} failed its trial, the one before it stays active",
                reverted.generation
            )),
            Ok(Some(_)) => {}
            Err(e) if follower.trial_failed() => out.note(format_args!("warning: {e}")),
            Err(e) => return Err(e.into()),
        }
    }
    let loaded = follower.loaded().map(|(entry, task)| (task.clone(), entry.generation));
    loaded.context("no delta of the task is active; install one with `edge-tune apply`")
}
