//! Registries of containers as a place for published files.
//!
//! A publisher's directory becomes one artifact by the CNCF ModelPack specification: each file is
//! a layer that is neither packed nor compressed, so that the digest of the layer is that of the
//! file, and an annotation of the layer has its path. What is signed is the same `index.json` as
//! on a web server: a registry needs to be trusted no more than a mirror.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use oci_client::client::{
    BlobResponse, Client, ClientConfig, ClientProtocol, Config, ImageLayer, SizedStream,
};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciImageManifest, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::transport::{Request, Response, Transport};
use super::{FetchError, SIGNATURE_SUFFIX, publish, url};

/// How an address of a registry starts: `oci://HOST[:PORT]/REPOSITORY[:TAG]`.
pub const SCHEME: &str = "oci://";

const MANIFEST_TYPE: &str = "application/vnd.cncf.model.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.cncf.model.config.v1+json";
const WEIGHT_TYPE: &str = "application/vnd.cncf.model.weight.v1.raw";
const DOC_TYPE: &str = "application/vnd.cncf.model.doc.v1.raw";
/// The annotations that have a layer's path: of ModelPack, and of the image specification.
const PATHS: [&str; 2] = ["org.cncf.model.filepath", "org.opencontainers.image.title"];

/// Files of a registry.
pub struct Oci {
    allow_http: bool,
    timeout: Duration,
    auth: RegistryAuth,
    runtime: Arc<Runtime>,
    /// By address of the artifact. One pull sees one state of it.
    artifacts: Mutex<HashMap<String, Arc<Artifact>>>,
}

impl fmt::Debug for Oci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oci").field("auth", &self.auth).finish_non_exhaustive()
    }
}

struct Artifact {
    client: Client,
    reference: Reference,
    layers: HashMap<String, OciDescriptor>,
}

impl Oci {
    /// A client that gives up where nothing comes for `timeout`. `login` is a user name and a
    /// password. Registries on other machines are asked over HTTPS, unless `allow_http`.
    ///
    /// # Errors
    /// If the operating system refuses what the client needs.
    pub fn new(
        timeout: Duration,
        allow_http: bool,
        login: Option<(String, String)>,
    ) -> Result<Oci, FetchError> {
        // Another part of the program may have chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| FetchError::Io {
            path: "registry client".into(),
            action: "start",
            source,
        })?;
        let auth = login.map_or(RegistryAuth::Anonymous, |(u, p)| RegistryAuth::Basic(u, p));
        let artifacts = Mutex::default();
        Ok(Oci { allow_http, timeout, auth, runtime: Arc::new(runtime), artifacts })
    }

    /// Uploads the index in the directory `site`, its signatures, the roots and every delta and
    /// patch that the index names, as one artifact. Layers that the registry has are not sent
    /// again. Returns the digest of the artifact's manifest.
    ///
    /// # Errors
    /// If the index or a file that it names is missing or is not what the index says, or the
    /// registry refuses.
    pub fn push(&self, site: &Path, to: &str) -> Result<String, FetchError> {
        let (client, reference) = self.client(to)?;
        let files = publish::files(site)?;
        let mut layers = Vec::new();
        for (path, bytes) in files {
            let document = path.ends_with(".json") || path.ends_with(SIGNATURE_SUFFIX);
            let kind = if document { DOC_TYPE } else { WEIGHT_TYPE };
            let named = PATHS.map(|key| (key.to_string(), path.clone()));
            layers.push(ImageLayer::new(bytes, kind.into(), Some(BTreeMap::from(named))));
        }
        let digests: Vec<String> = layers.iter().map(ImageLayer::sha256_digest).collect();
        let config = json!({
            "descriptor": { "name": reference.repository() },
            "config": { "format": "safetensors" },
            "modelfs": { "type": "layers", "diffIds": digests },
        });
        let config = Config::new(config.to_string().into_bytes(), CONFIG_TYPE.into(), None);
        let mut manifest = OciImageManifest::build(&layers, &config, None);
        manifest.artifact_type = Some(MANIFEST_TYPE.into());
        manifest.media_type = Some("application/vnd.oci.image.manifest.v1+json".into());
        let upload = async {
            client.auth(&reference, &self.auth, RegistryOperation::Push).await?;
            for (layer, digest) in layers.iter().zip(&digests) {
                if !client.blob_exists(&reference, digest).await? {
                    client.push_blob(&reference, layer.data.clone(), digest).await?;
                }
            }
            client.push_blob(&reference, config.data.clone(), &manifest.config.digest).await?;
            client.push_manifest(&reference, &OciManifest::Image(manifest.clone())).await?;
            client.fetch_manifest_digest(&reference, &self.auth).await
        };
        self.runtime.block_on(upload).map_err(|e| failed(to, &e))
    }

    fn client(&self, address: &str) -> Result<(Client, Reference), FetchError> {
        url::check(address, self.allow_http)?;
        let bad = |reason: String| FetchError::Url {
            url: address.into(),
            reason: format!("{reason}; write oci://HOST/REPOSITORY:TAG"),
        };
        // No registry and no tag are meant unless they are named.
        let name = address.strip_prefix(SCHEME).filter(|_| split(&format!("{address}/")).is_some());
        let name = name.ok_or_else(|| bad("it names no repository and tag".into()))?;
        let reference: Reference = name.parse().map_err(|e| bad(format!("{e}")))?;
        let plain = self.allow_http || url::on_loopback(address);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(self.timeout),
            connect_timeout: Some(self.timeout),
            user_agent: concat!("edge-tune/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Ok((Client::new(config), reference))
    }

    /// The artifact at an address, asked for once.
    fn artifact(&self, address: &str) -> Result<Arc<Artifact>, FetchError> {
        let mut known = self.artifacts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(address) {
            return Ok(found.clone());
        }
        let (client, reference) = self.client(address)?;
        let (manifest, _) = self
            .within(client.pull_image_manifest(&reference, &self.auth))
            .ok_or_else(|| FetchError::Stalled { url: address.into(), bytes: 0 })?
            .map_err(|e| failed(address, &e))?;
        let mut layers = HashMap::new();
        for layer in manifest.layers {
            let path =
                layer.annotations.as_ref().and_then(|a| PATHS.iter().find_map(|p| a.get(*p)));
            if let Some(path) = path.cloned() {
                // Only the registry's own bytes, under their digest.
                layers.insert(path, OciDescriptor { urls: None, ..layer });
            }
        }
        let artifact = Arc::new(Artifact { client, reference, layers });
        known.insert(address.into(), artifact.clone());
        Ok(artifact)
    }

    /// The result of `work`; `None` if it takes longer than the timeout in all.
    fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.runtime.block_on(async { tokio::time::timeout(self.timeout, work).await.ok() })
    }
}

impl Transport for Oci {
    fn get(&self, request: &Request<'_>) -> Result<Response, FetchError> {
        let (address, path) = split(request.url).ok_or_else(|| FetchError::Url {
            url: request.url.into(),
            reason: "no file is named below oci://HOST/REPOSITORY:TAG".into(),
        })?;
        let artifact = self.artifact(address)?;
        let nothing = |status| Response {
            status,
            etag: None,
            length: None,
            from: None,
            body: Box::new(io::empty()),
        };
        let Some(layer) = artifact.layers.get(path) else { return Ok(nothing(404)) };
        if request.if_none_match == Some(&layer.digest) {
            return Ok(nothing(304));
        }
        // A layer is named by what it holds: another version is another layer.
        let same = request.if_range.is_none_or(|tag| tag == layer.digest);
        let from = if same { request.from } else { 0 };
        let (client, reference) = (&artifact.client, &artifact.reference);
        let answer = self.within(async {
            match from {
                0 => client.pull_blob_stream(reference, layer).await.map(BlobResponse::Full),
                n => client.pull_blob_stream_partial(reference, layer, n, None).await,
            }
        });
        let answer = answer
            .ok_or_else(|| FetchError::Stalled { url: request.url.into(), bytes: 0 })?
            .map_err(|e| failed(request.url, &e))?;
        let (status, from, stream) = match answer {
            BlobResponse::Full(stream) => (200, None, stream),
            BlobResponse::Partial(stream) => (206, Some(from), stream),
        };
        let runtime = self.runtime.clone();
        Ok(Response {
            status,
            etag: Some(layer.digest.clone()),
            length: stream.content_length,
            from,
            body: Box::new(Body { runtime, stream, rest: Default::default() }),
        })
    }
}

/// A body that is read outside of the runtime.
struct Body {
    runtime: Arc<Runtime>,
    stream: SizedStream,
    rest: bytes::Bytes,
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                None => return Ok(0),
                Some(chunk) => self.rest = chunk?,
            }
        }
        let n = buf.len().min(self.rest.len());
        buf[..n].copy_from_slice(&self.rest.split_to(n));
        Ok(n)
    }
}

/// The artifact and the path in it: both may have slashes, only the first part has a tag.
fn split(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix(SCHEME)?;
    // The first colon may be that of a port.
    let repository = rest.find('/')?;
    let tag = repository + rest[repository..].find(':')?;
    let slash = SCHEME.len() + tag + rest[tag..].find('/')?;
    Some((&url[..slash], &url[slash + 1..]))
}

fn failed(url: &str, error: &OciDistributionError) -> FetchError {
    let url = url.to_owned();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => FetchError::NotFound { url },
        OciDistributionError::ServerError { code: 404, .. } => FetchError::NotFound { url },
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|e| {
                use OciErrorCode::{BlobUnknown, ManifestUnknown, NameUnknown};
                matches!(e.code, BlobUnknown | ManifestUnknown | NameUnknown)
            }) =>
        {
            FetchError::NotFound { url }
        }
        OciDistributionError::ServerError { code, .. } => FetchError::Status { url, status: *code },
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => FetchError::Status { url, status: 401 },
        other => FetchError::Unreachable { url, reason: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifact_and_path() {
        for (url, want) in [
            ("oci://h:1/a/b:v1/root/2.json", Some(("oci://h:1/a/b:v1", "root/2.json"))),
            ("oci://h/a:latest/x", Some(("oci://h/a:latest", "x"))),
            ("oci://h/a:latest", None),
            ("oci://h:1", None),
            ("https://h/a:1/x", None),
        ] {
            assert_eq!(split(url), want, "{url}");
        }
    }
}
