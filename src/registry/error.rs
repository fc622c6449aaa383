//! What can go wrong with a registry.

use crate::render::cut;

/// Why a registry did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The address is none.
    #[error("{0}")]
    Address(String),
    /// TLS material or a proxy that cannot be used.
    #[error("{0}")]
    Access(String),
    /// No answer, or none that can be used: worth another try.
    #[error("registry {registry}: {cause}")]
    Failed {
        /// Host and port.
        registry: String,
        /// What happened.
        cause: String,
    },
    /// The registry refuses our credentials, or wants some.
    #[error("registry {registry}: {cause}; check {hint}")]
    Denied {
        /// Host and port.
        registry: String,
        /// What it said.
        cause: String,
        /// Where credentials come from.
        hint: &'static str,
    },
    /// There is no such thing.
    #[error("{what}: not found in {repository}")]
    NotFound {
        /// Tag or digest.
        what: String,
        /// Where.
        repository: String,
    },
    /// The registry sends us, or our credentials, where they must not go.
    #[error("registry {registry}: {cause}")]
    Elsewhere {
        /// Host and port.
        registry: String,
        /// Where to, and what would allow it.
        cause: String,
    },
    /// The bytes are not those the digest names.
    #[error("digest mismatch: expected {expected}, got {found} (registry {registry}); nothing was applied")]
    Digest {
        /// Asked for.
        expected: String,
        /// Received.
        found: String,
        /// From where.
        registry: String,
    },
    /// The answer is what was asked for, but cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl RegistryError {
    /// Whether waiting may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }

    /// A word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Address(_) => "InvalidSpec",
            Self::Access(_) => "SecretFailed",
            Self::Failed { .. } => "ArtifactFailed",
            Self::Denied { .. } => "ArtifactAccessDenied",
            Self::NotFound { .. } => "VersionNotFound",
            Self::Elsewhere { .. } => "RealmNotAllowed",
            Self::Digest { .. } => "ArtifactDigestMismatch",
            Self::Unusable(_) => "ArtifactRejected",
        }
    }
}

/// The innermost cause is what tells something; where it speaks of the protocol, what can be done is said instead.
pub(super) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let text = cause.to_string();
    let says = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if says(&["UnknownIssuer", "BadSignature"]) {
        "the certificate is of an unknown authority; give its CA with certSecretRef (key ca.crt), or --ca-file"
            .to_owned()
    } else if says(&["CertificateRequired"]) {
        "the registry wants a client certificate; give one with certSecretRef (keys tls.crt and tls.key), or --cert-file and --key-file"
            .to_owned()
    } else if says(&["fatal alert: UnknownCA", "fatal alert: BadCertificate", "fatal alert: CertificateUnknown"]) {
        "the registry does not accept the client certificate; it may be of another authority".to_owned()
    } else if says(&["InvalidContentType"]) {
        "does not speak TLS; plain HTTP has to be allowed with insecure: true (--insecure)".to_owned()
    } else if says(&["proxy authorization required"]) {
        "it does not accept the user name and password, or wants some (407)".to_owned()
    } else {
        cut(&text, 240)
    }
}
