//! Manifests, as a push brings them and an upstream answers with them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use longshore_proto::{Manifest, Platform, media_type};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, content)) = data.split_first() else { return };
    let came_as = match kind % 4 {
        0 => "",
        1 => media_type::OCI_MANIFEST,
        2 => media_type::OCI_INDEX,
        _ => "application/octet-stream",
    };
    let Ok(manifest) = Manifest::parse(content, came_as) else { return };
    let references = manifest.references();
    if let Some(subject) = manifest.subject() {
        assert_eq!(subject.digest.to_string().parse(), Ok(subject.digest));
    }
    // What is named is looked for in the store: it has to be a digest, each of them.
    for digest in references {
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
    let platform = Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        ..Platform::default()
    };
    let _ = manifest.for_platform(&platform);
});
