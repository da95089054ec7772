//! Client certificates: the names that a verified leaf gives its bearer.
//!
//! The connection has verified the chain. `certificate:uri:…` and `certificate:dns:…` of the
//! subject's alternative names; the common name only where there are none (RFC 6125, section 6.4.4).

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of one certificate that count.
const NAMES_MAX: usize = 16;
const NAME_CHARS_MAX: usize = 256;

/// Whom the certificate names, until when (Unix seconds); `None` if it names nobody.
pub(super) fn read(der: &[u8]) -> Option<(Vec<String>, u64)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let alternative = certificate.subject_alternative_name().ok()?;
    let subjects: Vec<String> = match &alternative {
        Some(names) => {
            names.value.general_names.iter().filter_map(subject).take(NAMES_MAX).collect()
        }
        None => {
            let common = certificate.subject().iter_common_name().next()?.as_str().ok()?;
            plain(common).map(|name| format!("certificate:cn:{name}")).into_iter().collect()
        }
    };
    let expires_at_s = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    (!subjects.is_empty()).then_some((subjects, expires_at_s))
}

fn subject(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri) => plain(uri).map(|uri| format!("certificate:uri:{uri}")),
        GeneralName::DNSName(name) => plain(name).map(|name| format!("certificate:dns:{name}")),
        _ => None,
    }
}

/// It stands in logs and in history.
fn plain(name: &str) -> Option<&str> {
    let fits = name.chars().all(|c| !c.is_control() && !c.is_whitespace());
    (fits && !name.is_empty() && name.len() <= NAME_CHARS_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>, common: &str) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn names(names: Vec<SanType>, common: &str) -> Option<Vec<String>> {
        read(&certificate(names, common)).map(|(subjects, _)| subjects)
    }

    #[test]
    fn alternative_names_outrank_the_common_name() {
        let uri = || SanType::URI("spiffe://here/ci".try_into().unwrap());
        let dns = || SanType::DnsName("ci.here".try_into().unwrap());
        let both =
            vec!["certificate:uri:spiffe://here/ci".into(), "certificate:dns:ci.here".into()];
        assert_eq!(names(vec![uri(), dns()], "somebody"), Some(both));
        assert_eq!(names(vec![], "somebody"), Some(vec!["certificate:cn:somebody".into()]));
        let address = SanType::IpAddress([10, 0, 0, 1].into());
        assert_eq!(names(vec![address], "somebody"), None);
        assert_eq!(names(vec![], "some body"), None);
        assert_eq!(names(vec![], ""), None);
        let (_, expires_at_s) = read(&certificate(vec![uri()], "x")).unwrap();
        assert_eq!(expires_at_s, 2_208_988_800);
    }

    proptest! {
        #[test]
        fn survives_any_bytes(at in 0_usize..400, byte in any::<u8>(), cut in 0_usize..400) {
            let mut der = certificate(vec![], "somebody");
            let (at, cut) = (at % der.len(), cut % der.len());
            der[at] = byte;
            let _ = read(&der);
            let _ = read(&der[..cut]);
        }
    }
}
