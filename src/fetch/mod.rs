//! Published deltas: a signed index, downloads that resume, patches, and whom to trust.
//!
//! A publisher puts deltas on any web server, with an `index.json` that lists them and signatures
//! of that index in minisign's format. A device trusts a [`Root`]: a few keys, and how many of
//! them must sign. [`Pull`] fetches the index, refuses what is not signed, older than what it saw
//! before or expired, downloads what it was asked for and hands the bytes to
//! [`Store::install`](crate::store::Store::install). No byte reaches the store that was not named
//! by its digest in a signed index; `docs/security.md` goes through the attacks one by one,
//! `docs/formats.md` through the files.
//!
//! ```no_run
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use edge_tune::fetch::{Http, Options, Pull};
//! use edge_tune::store::Store;
//!
//! let dir = Path::new("store");
//! let store = Store::open(dir)?;
//! let http = Http::new(Duration::from_secs(30), false);
//! let mut options = Options::new(["https://example.org/deltas"]);
//! options.trust = Some("root.json".into());
//! let pull = Pull::open(&store, dir, &http, options)?;
//! let index = pull.index()?;
//! # let backbone = "";
//! for offer in pull.choose(&index, backbone, &["intents".to_string()])? {
//!     pull.update(offer, |_| Ok::<_, String>(()), &mut |_, _| ())?;
//! }
//! # Ok::<(), edge_tune::Error>(())
//! ```

mod download;
mod error;
mod http;
mod index;
mod keys;
#[cfg(feature = "oci")]
pub mod oci;
pub mod patch;
pub mod publish;
mod pull;
mod root;
mod site;
mod time;
mod transport;
mod trust;
mod url;

pub use self::error::FetchError;
pub use self::http::Http;
pub use self::index::{
    INDEX_FORMAT, Index, MAX_DELTAS, MAX_INDEX_BYTES, MAX_PATCHES, Offer, PatchOffer,
};
pub use self::keys::{Key, MAX_KEYS, MAX_SIGNATURE_BYTES, Signatures, verify};
pub use self::pull::{Options, Outcome, Pull};
pub use self::root::{MAX_ROOT_BYTES, ROOT_FORMAT, Root};
pub use self::site::Retry;
pub use self::transport::{Request, Response, Transport};

/// Name of the index, below a publisher's address.
pub const INDEX_FILE: &str = "index.json";
/// What the name of a signature file has more than that of the file it signs.
pub const SIGNATURE_SUFFIX: &str = ".minisig";
/// Largest version of a root or an index: what every JSON reader keeps exactly.
pub const MAX_VERSION: u64 = (1 << 53) - 1;

/// Directory inside a store of what it trusts.
const TRUST: &str = "trust";
