//! How published files are reached.

use std::time::Duration;

use edge_tune::fetch::{FetchError, Http, Request, Response, Transport};

use crate::values::duration;

#[derive(clap::Args)]
pub struct NetworkArgs {
    /// Follow http:// to other machines too.
    #[arg(long)]
    pub allow_http: bool,
    /// Give up where the server sends nothing for this long.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub timeout: Duration,
}

impl NetworkArgs {
    pub fn open(&self) -> anyhow::Result<Network> {
        Ok(Network {
            http: Http::new(self.timeout, self.allow_http),
            #[cfg(feature = "oci")]
            oci: self.registry()?,
        })
    }

    /// Asks as whom $EDGE_TUNE_REGISTRY_USER and $EDGE_TUNE_REGISTRY_PASSWORD say.
    #[cfg(feature = "oci")]
    pub fn registry(&self) -> anyhow::Result<edge_tune::fetch::oci::Oci> {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let login = var("EDGE_TUNE_REGISTRY_USER").zip(var("EDGE_TUNE_REGISTRY_PASSWORD"));
        let oci = edge_tune::fetch::oci::Oci::new(self.timeout, self.allow_http, login);
        Ok(oci.map_err(edge_tune::Error::from)?)
    }
}

/// Web servers and, with feature `oci`, registries.
pub struct Network {
    http: Http,
    #[cfg(feature = "oci")]
    oci: edge_tune::fetch::oci::Oci,
}

impl Transport for Network {
    fn get(&self, request: &Request<'_>) -> Result<Response, FetchError> {
        if request.url.starts_with("oci://") {
            #[cfg(feature = "oci")]
            return self.oci.get(request);
            #[cfg(not(feature = "oci"))]
            return Err(FetchError::Url {
                url: request.url.into(),
                reason: "this program was built without feature `oci`".into(),
            });
        }
        self.http.get(request)
    }
}
