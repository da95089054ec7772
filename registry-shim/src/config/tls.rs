//! `[tls]`: the main port's certificate, and what clients show.

use std::path::{Path, PathBuf};

use longshore_settings::{Kind, Setting};
use serde::Deserialize;

use super::optional_path;
use crate::serve::TlsError;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "tls.certificate_file",
        kind: Kind::Text,
        help: "chain in PEM, leaf first; turns TLS on [default: none, clear]",
    },
    Setting { key: "tls.key_file", kind: Kind::Text, help: "its private key in PEM" },
    Setting {
        key: "tls.client_ca_file",
        kind: Kind::Text,
        help: "authorities in PEM whose client certificates are taken [default: none]",
    },
    Setting {
        key: "tls.client_certificates",
        kind: Kind::Text,
        help: "optional or required, with tls.client_ca_file [default: optional]",
    },
];

/// `[tls]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Chain in PEM, leaf first.
    #[serde(deserialize_with = "optional_path")]
    pub certificate_file: Option<PathBuf>,
    /// The leaf's private key in PEM.
    #[serde(deserialize_with = "optional_path")]
    pub key_file: Option<PathBuf>,
    /// Who may issue clients' certificates.
    #[serde(deserialize_with = "optional_path")]
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client has to show one.
    pub client_certificates: ClientCertificates,
}

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Whoever shows none is known in another way, or is anonymous.
    #[default]
    Optional,
    /// No connection without.
    Required,
}

impl Tls {
    /// Whether there is TLS, if the settings agree about it.
    pub fn is_on(&self) -> Result<bool, TlsError> {
        let wrong = |key, message: &str| Err(TlsError { key, message: message.to_owned() });
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => wrong("tls.key_file", "is missing beside tls.certificate_file"),
            (None, Some(_)) => wrong("tls.certificate_file", "is missing beside tls.key_file"),
            (None, None) if self.client_ca_file.is_some() => {
                wrong("tls.certificate_file", "is missing beside tls.client_ca_file")
            }
            _ if self.client_ca_file.is_none()
                && self.client_certificates == ClientCertificates::Required =>
            {
                wrong("tls.client_ca_file", "is missing: client certificates are required")
            }
            (certificate, _) => Ok(certificate.is_some()),
        }
    }

    /// The files that are named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.certificate_file, &self.key_file, &self.client_ca_file]
            .into_iter()
            .filter_map(|path| path.as_deref())
    }
}
