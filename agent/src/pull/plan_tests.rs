//! Plans that hold, and every way in which one does not.

use futures::stream;
use longshore_proto::piece::PieceList;
use longshore_proto::sign::{PieceListStatement, SigningKey};
use longshore_proto::{Algorithm, media_type};

use super::*;
use crate::origin::OriginError;

/// An image of one layer, and the key that vouches for it.
struct Origin {
    key: SigningKey,
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Vec<u8>,
}

impl Origin {
    fn new() -> Self {
        let (key, _) = SigningKey::generate();
        let (config, layer) = (b"{}".to_vec(), vec![7; 1000]);
        let manifest = format!(
            r#"{{"config":{},"layers":[{}]}}"#,
            serde_json::to_string(&descriptor("c", &config)).unwrap(),
            serde_json::to_string(&descriptor("l", &layer)).unwrap(),
        );
        Self { key, manifest: manifest.into(), config, layer }
    }

    fn keys(&self) -> PublicKeys {
        PublicKeys::new([self.key.public().clone()])
    }

    fn root(&self) -> Digest {
        Digest::of(Algorithm::Sha256, &self.manifest)
    }

    /// manifest, configuration, layer, statement, end
    fn events(&self) -> Vec<rpc::PlanEvent> {
        let manifest = rpc::PlanManifest {
            descriptor: Some((&descriptor(media_type::OCI_MANIFEST, &self.manifest)).into()),
            content: self.manifest.clone().into(),
            fresh_ms: 7,
            ..Default::default()
        };
        let config = rpc::InlineBlob {
            descriptor: Some((&descriptor("c", &self.config)).into()),
            content: self.config.clone().into(),
        };
        [
            Event::Manifest(manifest),
            Event::Blob(config),
            Event::Layer(self.layer(&self.layer)),
            Event::Statement(self.statement("a/b")),
            Event::Finished(rpc::Finished {}),
        ]
        .map(|event| rpc::PlanEvent { item: 0, event: Some(event) })
        .to_vec()
    }

    fn layer(&self, content: &[u8]) -> rpc::PlanLayer {
        let list = PieceList::of(Algorithm::Sha256, content, 256).unwrap();
        let signature = self.key.sign(&PieceListStatement { list: &list, provisional: false });
        let list = SignedPieceList { list, provisional: false, signature };
        let form = rpc::LayerForm {
            kind: "blob".into(),
            descriptor: Some((&descriptor("l", content)).into()),
            list: Some(list.to_wire()),
        };
        let descriptor = Some((&descriptor("l", content)).into());
        rpc::PlanLayer { index: 0, descriptor, forms: vec![form] }
    }

    fn statement(&self, repository: &str) -> rpc::PlanStatement {
        let digest = |content: &[u8]| Digest::of(Algorithm::Sha256, content);
        let statement = PlanStatement {
            repository: repository.parse().unwrap(),
            manifest: self.root(),
            layers: vec![digest(&self.config), digest(&self.layer)],
            issued_at_s: 1,
            policy_epoch: 0,
        };
        rpc::PlanStatement::from_statement(&statement, &self.key.sign(&statement))
    }

    fn read(&self, events: Vec<rpc::PlanEvent>) -> Result<Plan, PullError> {
        let wanted = Wanted::Manifest(self.root());
        replay_plan(events, &"a/b".parse().unwrap(), &wanted, &self.keys())
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Descriptor {
    let digest = Digest::of(Algorithm::Sha256, content);
    Descriptor { media_type: media_type.into(), digest, size: content.len() as u64 }
}

fn event(event: Event) -> rpc::PlanEvent {
    rpc::PlanEvent { item: 0, event: Some(event) }
}

#[test]
fn a_plan_that_hangs_together_is_taken() {
    let origin = Origin::new();
    let plan = origin.read(origin.events()).unwrap();
    assert_eq!((plan.manifests.len(), plan.inline.len(), plan.layers.len()), (1, 1, 1));
    assert_eq!((plan.fresh_ms, plan.unchanged), (7, None));
    assert!(plan.layers[0].list.is_some());
}

#[test]
fn a_layer_without_a_list_spoils_nothing() {
    let origin = Origin::new();
    let mut events = origin.events();
    let mut layer = origin.layer(&origin.layer);
    layer.forms.clear();
    events[2] = event(Event::Layer(layer));
    assert!(origin.read(events).unwrap().layers[0].list.is_none());
}

#[test]
fn whatever_does_not_hold_is_refused_whole() {
    let (origin, other) = (Origin::new(), Origin::new());
    type Spoil<'a> = Box<dyn Fn(&mut Vec<rpc::PlanEvent>) + 'a>;
    let cases: Vec<(&str, Spoil<'_>)> = vec![
        ("no statement", Box::new(|events| drop(events.remove(3)))),
        (
            "a statement of another repository",
            Box::new(|events| events[3] = event(Event::Statement(origin.statement("a/c")))),
        ),
        (
            "a statement by another key",
            Box::new(|events| events[3] = event(Event::Statement(other.statement("a/b")))),
        ),
        (
            "a list by another key",
            Box::new(|events| events[2] = event(Event::Layer(other.layer(&other.layer)))),
        ),
        (
            "a layer that the manifest does not name",
            Box::new(|events| events[2] = event(Event::Layer(origin.layer(&[8; 1000])))),
        ),
        (
            "a list of another blob",
            Box::new(|events| {
                let mut layer = origin.layer(&origin.layer);
                layer.forms[0].list = origin.layer(&[9; 1000]).forms[0].list.clone();
                events[2] = event(Event::Layer(layer));
            }),
        ),
        (
            "other bytes than the manifest's",
            Box::new(|events| {
                if let Some(Event::Manifest(manifest)) = &mut events[0].event {
                    manifest.content = vec![b' '; manifest.content.len()].into();
                }
            }),
        ),
        (
            "other bytes than the configuration's",
            Box::new(|events| {
                if let Some(Event::Blob(blob)) = &mut events[1].event {
                    blob.content = Bytes::from_static(b"[]");
                }
            }),
        ),
        (
            "a manifest over 4 MiB",
            Box::new(|events| {
                let large = vec![b' '; MANIFEST_BYTES_MAX + 1];
                let manifest = rpc::PlanManifest {
                    descriptor: Some((&descriptor(media_type::OCI_MANIFEST, &large)).into()),
                    content: large.into(),
                    ..Default::default()
                };
                events[0] = event(Event::Manifest(manifest));
            }),
        ),
        (
            "a manifest of another image",
            Box::new(|events| {
                let stray = br#"{"config":null,"manifests":[]}"#;
                let manifest = rpc::PlanManifest {
                    descriptor: Some((&descriptor(media_type::OCI_INDEX, stray)).into()),
                    content: Bytes::from_static(stray),
                    ..Default::default()
                };
                events.insert(1, event(Event::Manifest(manifest)));
            }),
        ),
        ("no descriptor", Box::new(|events| events[1] = event(Event::Blob(Default::default())))),
    ];
    for (name, spoil) in cases {
        let mut events = origin.events();
        spoil(&mut events);
        assert!(matches!(origin.read(events), Err(PullError::Invalid(_))), "{name}");
    }
}

#[test]
fn only_a_tag_may_be_unchanged() {
    let origin = Origin::new();
    let mut events = origin.events();
    if let Some(Event::Manifest(manifest)) = &mut events[0].event {
        manifest.content = Bytes::new();
    }
    let events = vec![events[0].clone(), events[4].clone()];
    assert!(matches!(origin.read(events.clone()), Err(PullError::Invalid(_))));
    let wanted = Wanted::Tag("v1".parse().unwrap());
    let plan = replay_plan(events, &"a/b".parse().unwrap(), &wanted, &origin.keys()).unwrap();
    assert_eq!(plan.unchanged, Some(origin.root()));
}

#[tokio::test]
async fn an_error_is_told_as_what_it_means_and_a_broken_stream_as_an_outage() {
    let origin = Origin::new();
    let read = async |events: Vec<Result<rpc::PlanEvent, OriginError>>| {
        let wanted = Wanted::Manifest(origin.root());
        let stream = stream::iter(events).boxed();
        read_plan(stream, &"a/b".parse().unwrap(), &wanted, &origin.keys()).await.unwrap_err()
    };
    let failed = |code: &str| {
        let error = rpc::PlanError { code: code.into(), message: "m".into() };
        vec![Ok(event(Event::Error(error)))]
    };
    assert!(matches!(read(failed("MANIFEST_UNKNOWN")).await, PullError::NotFound { .. }));
    assert!(matches!(read(failed("DENIED")).await, PullError::Denied(_)));
    assert!(read(failed("UNAVAILABLE")).await.is_outage());
    assert!(read(Vec::new()).await.is_outage());
    assert!(read(origin.events().into_iter().take(3).map(Ok).collect()).await.is_outage());
}

#[tokio::test]
async fn a_plan_that_does_not_end_is_refused() {
    let origin = Origin::new();
    let layer = event(Event::Layer(origin.layer(&origin.layer)));
    let endless = stream::repeat_with(move || Ok(layer.clone())).boxed();
    let wanted = Wanted::Manifest(origin.root());
    let refused = read_plan(endless, &"a/b".parse().unwrap(), &wanted, &origin.keys()).await;
    assert!(matches!(refused, Err(PullError::Invalid(_))));
}
