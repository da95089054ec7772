//! The codec against whole, cut, grown and random bytes.

use longshore_proto::rpc::swarm::{
    BlobHave, Busy, Cancel, Forget, Have, Hello, PieceRun, Refused, Request, Want,
    control_message::Message as Kind,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Feeds `bytes` to a decoder in the pieces that `cuts` asks for, as a network would.
fn feed<T, E>(
    mut bytes: &[u8],
    cuts: &[usize],
    mut take: impl FnMut(&[u8]) -> (usize, Result<Option<T>, E>),
) -> Result<Vec<T>, E> {
    let mut out = Vec::new();
    let mut cuts = cuts.iter().copied().cycle();
    while !bytes.is_empty() {
        let offered = cuts.next().unwrap_or(1).clamp(1, bytes.len());
        let (taken, result) = take(&bytes[..offered]);
        out.extend(result?);
        bytes = &bytes[taken..];
    }
    Ok(out)
}

fn control(bytes: &[u8], cuts: &[usize]) -> Result<Vec<ControlMessage>, FrameError> {
    let mut decoder = ControlDecoder::new();
    feed(bytes, cuts, |offered| {
        let space = decoder.space();
        assert!(!space.is_empty() && space.len() <= CONTROL_BYTES_MAX);
        let taken = offered.len().min(space.len());
        space[..taken].copy_from_slice(&offered[..taken]);
        (taken, decoder.filled(taken))
    })
}

fn bulk(bytes: &[u8], cuts: &[usize]) -> Result<Vec<(u64, Bytes)>, FrameError> {
    let mut decoder = BulkDecoder::new();
    feed(bytes, cuts, |offered| {
        let space = decoder.space();
        assert!(!space.is_empty() && space.len() <= PAYLOAD_BYTES_MAX);
        let taken = offered.len().min(space.len());
        space[..taken].copy_from_slice(&offered[..taken]);
        (taken, decoder.filled(taken).map(|step| step.complete))
    })
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..40).prop_map(|chars| chars.into_iter().collect())
}

fn message() -> impl Strategy<Value = ControlMessage> {
    let run = (any::<u32>(), any::<u32>()).prop_map(|(first, pieces)| PieceRun { first, pieces });
    let blob = (text(), text(), any::<u64>(), any::<u64>(), vec(run, 0..4)).prop_map(
        |(repository, digest, size, piece_length, runs)| BlobHave {
            repository,
            digest,
            size,
            piece_length,
            runs,
        },
    );
    let request =
        (any::<u64>(), text(), text(), any::<u64>(), any::<u32>(), vec(any::<u8>(), 0..9))
            .prop_map(|(id, repository, digest, piece_length, piece, grant)| Request {
                id,
                repository,
                digest,
                piece_length,
                piece,
                grant: grant.into(),
            });
    let hello = (any::<u32>(), text(), text()).prop_map(|(swarm_version, pool, zone)| Hello {
        swarm_version,
        pool,
        zone,
    });
    prop_oneof![
        hello.prop_map(Kind::Hello),
        vec(blob, 0..4).prop_map(|blobs| Kind::Have(Have { blobs })),
        request.prop_map(Kind::Request),
        any::<u64>().prop_map(|id| Kind::Cancel(Cancel { id })),
        any::<u64>().prop_map(|id| Kind::Busy(Busy { id })),
        (any::<u64>(), any::<i32>()).prop_map(|(id, reason)| Kind::Refused(Refused { id, reason })),
        vec(text(), 0..4).prop_map(|digests| Kind::Forget(Forget { digests })),
        vec(text(), 0..4).prop_map(|digests| Kind::Want(Want { digests })),
    ]
    .prop_map(|kind| ControlMessage { message: Some(kind) })
}

proptest! {
    #[test]
    fn messages_survive_any_cutting_of_the_stream(
        messages in vec(message(), 0..6),
        cuts in vec(1_usize..300, 1..8),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            put_control(message, &mut bytes).unwrap();
        }
        prop_assert_eq!(control(&bytes, &cuts).unwrap(), messages);
    }

    #[test]
    fn payloads_survive_any_cutting_of_the_stream(
        payloads in vec((any::<u64>(), vec(any::<u8>(), 0..3000)), 0..6),
        cuts in vec(1_usize..2000, 1..8),
    ) {
        let mut bytes = Vec::new();
        for (id, payload) in &payloads {
            bytes.extend(bulk_head(*id, payload.len()).unwrap());
            bytes.extend(payload);
        }
        let payloads: Vec<_> = payloads.into_iter().map(|(id, p)| (id, p.into())).collect();
        prop_assert_eq!(bulk(&bytes, &cuts).unwrap(), payloads);
    }

    #[test]
    fn any_bytes_are_messages_or_an_error(
        bytes in vec(any::<u8>(), 0..2000),
        cuts in vec(1_usize..300, 1..4),
    ) {
        let _ = control(&bytes, &cuts);
        let _ = bulk(&bytes, &cuts);
    }

    #[test]
    fn a_damaged_stream_is_messages_or_an_error(
        messages in vec(message(), 1..4),
        at in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            put_control(message, &mut bytes).unwrap();
        }
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        let _ = control(&bytes, &[64]);
    }

    #[test]
    fn a_frame_over_the_bound_is_refused_by_its_length_alone(
        over in 1..u32::MAX - u32::try_from(CONTROL_BYTES_MAX).unwrap(),
    ) {
        let claim = u32::try_from(CONTROL_BYTES_MAX).unwrap() + over;
        let refused = control(&claim.to_be_bytes(), &[1]);
        let is_too_long = matches!(refused, Err(FrameError::MessageTooLong { .. }));
        prop_assert!(is_too_long);
        prop_assert!(bulk(&claim.to_be_bytes(), &[1]).is_err());
    }
}

#[test]
fn a_payload_over_the_bound_is_refused_by_its_header_alone() {
    let mut bytes = Vec::new();
    let header = BulkHeader { id: 1, payload_bytes: u32::MAX };
    put(&header, HEADER_BYTES_MAX, &mut bytes).unwrap();
    assert_eq!(bulk(&bytes, &[1000]), Err(FrameError::PayloadTooLong(u32::MAX as usize)));
    assert!(bulk_head(1, PAYLOAD_BYTES_MAX + 1).is_err());
}

#[test]
fn a_message_over_the_bound_is_not_encoded() {
    let digests = vec!["x".repeat(CONTROL_BYTES_MAX)];
    let message = ControlMessage { message: Some(Kind::Want(Want { digests })) };
    let mut out = Vec::new();
    assert!(matches!(put_control(&message, &mut out), Err(FrameError::MessageTooLong { .. })));
    assert!(out.is_empty());
}

#[test]
fn a_message_of_a_later_version_is_an_empty_one() {
    // Field 200 of the oneof, length-delimited and empty.
    let unknown = [0, 0, 0, 3, 0xc2, 0x0c, 0];
    assert_eq!(control(&unknown, &[7]), Ok(vec![ControlMessage { message: None }]));
    assert_eq!(control(&[0; 4], &[4]), Ok(vec![ControlMessage { message: None }]));
}
