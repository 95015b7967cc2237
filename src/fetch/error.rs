use std::io;
use std::path::PathBuf;

use crate::delta::DeltaError;

/// Something published could not be fetched, or was refused. What is installed stays as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The operating system refused to read or write a local file.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, such as `write`.
        action: &'static str,
        /// The reason of the operating system.
        source: io::Error,
    },
    /// Another process is pulling into the same store.
    #[error("{}: another pull is running in this store; wait for it, or end it", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// An address that cannot be used.
    #[error("{url}: {reason}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it, and what to write instead.
        reason: String,
    },
    /// Plain HTTP to another machine.
    #[error(
        "{url}: http:// lets everybody on the way read and hold back what is fetched; use \
         https://, or --allow-http where the network is trusted"
    )]
    PlainHttp {
        /// The address.
        url: String,
    },
    /// No connection, or one that broke too often. Nobody in particular is at fault.
    #[error("{url}: {reason}; check the network and the address, and run it again")]
    Unreachable {
        /// The address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The server sends nothing, or too slowly.
    #[error("{url}: the server stalls ({bytes} bytes came); try again later, or another mirror")]
    Stalled {
        /// The address.
        url: String,
        /// Bytes that came.
        bytes: u64,
    },
    /// The server has no such file.
    #[error("{url}: not found; check the address, and what was published there")]
    NotFound {
        /// The address.
        url: String,
    },
    /// The server refused or failed.
    #[error("{url}: the server answers with status {status}; try again later, or another mirror")]
    Status {
        /// The address.
        url: String,
        /// The status code.
        status: u16,
    },
    /// The connection ended early.
    #[error("{url}: cut off after {have} of {want} bytes; run it again, it goes on from there")]
    Truncated {
        /// The address.
        url: String,
        /// Bytes that came.
        have: u64,
        /// Bytes expected.
        want: u64,
    },
    /// The server sends more than was signed, or than any such file may have. Read no further.
    #[error(
        "{url}: larger than the {limit} bytes allowed; the server is broken or hostile, use \
         another mirror"
    )]
    TooLarge {
        /// The address.
        url: String,
        /// Most bytes allowed.
        limit: u64,
    },
    /// What came is not what was signed.
    #[error(
        "{url}: digest {have}, {want} was promised; the server is broken or hostile, use another \
         mirror"
    )]
    WrongDigest {
        /// The address.
        url: String,
        /// Digest in the index.
        want: String,
        /// Digest of what came.
        have: String,
    },
    /// The store has no root keys yet.
    #[error(
        "{}: no publisher is trusted yet; name the root file that you got from the publisher with \
         --trust, or fetch without signatures with --unsigned",
        store.display()
    )]
    NoTrust {
        /// The store.
        store: PathBuf,
    },
    /// The store trusts somebody else.
    #[error(
        "{file}: the store trusts another root already; leave --trust out, use another --store, or \
         remove {} to start over",
        trust.display()
    )]
    TrustDiffers {
        /// The root file that was given.
        file: String,
        /// Directory of what the store trusts.
        trust: PathBuf,
    },
    /// What the store remembers about its publisher is damaged.
    #[error(
        "{}: damaged: {reason}; remove its directory and pull with --trust again",
        path.display()
    )]
    TrustDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a minisign public key.
    #[error("{name}: not a minisign public key: {reason}")]
    Key {
        /// The file or the list that has it.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a minisign signature.
    #[error("{name}: not a minisign signature: {reason}")]
    SignatureFormat {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not signed by enough of the trusted keys.
    #[error(
        "{name}: {valid} of the {keys} trusted keys signed exactly this, {threshold} must; the \
         file was changed, or it is not from the publisher that this store trusts"
    )]
    Signatures {
        /// What was to be verified.
        name: String,
        /// Keys with a valid signature.
        valid: usize,
        /// Keys that are trusted.
        keys: usize,
        /// How many of them must sign.
        threshold: usize,
    },
    /// A root file that breaks the rules of the format.
    #[error("{name}: bad root: {reason}")]
    Root {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The trusted root is out of date.
    #[error(
        "{name}: version {version} expired at {expires}, it is {now}; the publisher must publish a \
         newer root, or this device's clock is wrong"
    )]
    RootExpired {
        /// The root.
        name: String,
        /// Its version.
        version: u64,
        /// When it expired.
        expires: String,
        /// The time that counts here.
        now: String,
    },
    /// An index that breaks the rules of the format.
    #[error("{name}: bad index: {reason}")]
    Index {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An index older than one that was accepted before.
    #[error(
        "{name}: version {found} is older than version {known}, which was accepted before; the \
         server is out of date or hostile, use another mirror"
    )]
    Rollback {
        /// The file.
        name: String,
        /// Its version.
        found: u64,
        /// The version accepted before.
        known: u64,
    },
    /// Two different indexes with one version.
    #[error(
        "{name}: version {version} was accepted before with other content; the publisher must \
         raise the version with every change"
    )]
    IndexChanged {
        /// The file.
        name: String,
        /// The version.
        version: u64,
    },
    /// An index that is out of date.
    #[error(
        "{name}: version {version} expired at {expires}, it is {now}; the server holds newer ones \
         back, the publisher stopped publishing, or this device's clock is wrong"
    )]
    Expired {
        /// The file.
        name: String,
        /// Its version.
        version: u64,
        /// When it expired.
        expires: String,
        /// The time that counts here.
        now: String,
    },
    /// The index has nothing of that name.
    #[error("task `{task}` is not published; published for this backbone: {published}")]
    UnknownTask {
        /// The task asked for.
        task: String,
        /// Names of the tasks for the backbone.
        published: String,
    },
    /// The task is published for other backbones only.
    #[error(
        "task `{task}` is published for other backbones ({backbones}), this one is {have}; use one \
         of those with --backbone"
    )]
    OtherBackbone {
        /// The task asked for.
        task: String,
        /// Beginnings of the digests of the backbones.
        backbones: String,
        /// Digest of the backbone in use.
        have: String,
    },
    /// No task was asked for and none is installed.
    #[error(
        "no task is installed that could be updated; name one with --task, or take all with --all: \
         {published}"
    )]
    NoTask {
        /// Names of the tasks for the backbone.
        published: String,
    },
    /// The file says other things about itself than the signed index does.
    #[error(
        "{url}: the file is a delta of {field} {have}, the index says {want}; the publisher must \
         make a new index"
    )]
    Mismatch {
        /// The address.
        url: String,
        /// What differs.
        field: &'static str,
        /// What the file says.
        have: String,
        /// What the index says.
        want: String,
    },
    /// Too much for a metered network.
    #[error(
        "task `{task}`: {bytes} bytes to download, --metered allows {limit}; allow more, or pull \
         again on another network"
    )]
    Metered {
        /// The task.
        task: String,
        /// Bytes to download.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A patch that is damaged, or for other files.
    #[error("{name}: bad patch: {reason}")]
    Patch {
        /// The patch.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What lies in the directory cannot be published.
    #[error("{name}: cannot be published: {reason}")]
    Publish {
        /// The file or directory.
        name: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file to publish is not a delta.
    #[error(transparent)]
    Delta(#[from] DeltaError),
}

impl FetchError {
    /// A stable short code, such as `fetch.rollback`.
    pub fn code(&self) -> &'static str {
        match self {
            FetchError::Io { .. } => "fetch.io",
            FetchError::Busy { .. } => "fetch.busy",
            FetchError::Url { .. } => "fetch.url",
            FetchError::PlainHttp { .. } => "fetch.plain-http",
            FetchError::Unreachable { .. } => "fetch.unreachable",
            FetchError::Stalled { .. } => "fetch.stalled",
            FetchError::NotFound { .. } => "fetch.not-found",
            FetchError::Status { .. } => "fetch.status",
            FetchError::Truncated { .. } => "fetch.truncated",
            FetchError::TooLarge { .. } => "fetch.too-large",
            FetchError::WrongDigest { .. } => "fetch.wrong-digest",
            FetchError::NoTrust { .. } => "fetch.no-trust",
            FetchError::TrustDiffers { .. } => "fetch.trust-differs",
            FetchError::TrustDamaged { .. } => "fetch.trust-damaged",
            FetchError::Key { .. } => "fetch.key",
            FetchError::SignatureFormat { .. } => "fetch.signature-format",
            FetchError::Signatures { .. } => "fetch.signatures",
            FetchError::Root { .. } => "fetch.root",
            FetchError::RootExpired { .. } => "fetch.root-expired",
            FetchError::Index { .. } => "fetch.index",
            FetchError::Rollback { .. } => "fetch.rollback",
            FetchError::IndexChanged { .. } => "fetch.index-changed",
            FetchError::Expired { .. } => "fetch.expired",
            FetchError::UnknownTask { .. } => "fetch.unknown-task",
            FetchError::OtherBackbone { .. } => "fetch.other-backbone",
            FetchError::NoTask { .. } => "fetch.no-task",
            FetchError::Mismatch { .. } => "fetch.mismatch",
            FetchError::Metered { .. } => "fetch.metered",
            FetchError::Patch { .. } => "fetch.patch",
            FetchError::Publish { .. } => "fetch.publish",
            FetchError::Delta(e) => e.code(),
        }
    }

    /// True where the same request may work a moment later.
    pub(super) fn transient(&self) -> bool {
        match self {
            FetchError::Unreachable { .. }
            | FetchError::Stalled { .. }
            | FetchError::Truncated { .. } => true,
            FetchError::Status { status, .. } => {
                *status >= 500 || matches!(*status, 408 | 425 | 429)
            }
            _ => false,
        }
    }
}
