//! Frames of a peer, in whatever pieces they arrive.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "the agent uses the rest")]
#[path = "../../agent/src/swarm/wire.rs"]
mod wire;

use wire::{BulkDecoder, CONTROL_BYTES_MAX, ControlDecoder, PAYLOAD_BYTES_MAX, put_control};

fuzz_target!(|data: &[u8]| {
    let Some((&at_once, stream)) = data.split_first() else { return };
    let at_once = usize::from(at_once) + 1;
    control(stream, at_once);
    bulk(stream, at_once);
});

/// What is understood can be said again, within the bound.
fn control(mut stream: &[u8], at_once: usize) {
    let mut decoder = ControlDecoder::new();
    while !stream.is_empty() {
        let space = decoder.space();
        assert!(!space.is_empty() && space.len() <= CONTROL_BYTES_MAX);
        let bytes = take(&mut stream, space, at_once);
        match decoder.filled(bytes) {
            Ok(Some(message)) => {
                let mut again = Vec::new();
                put_control(&message, &mut again).expect("it came within the bound");
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

fn bulk(mut stream: &[u8], at_once: usize) {
    let (mut decoder, sent, mut counted) = (BulkDecoder::new(), stream.len(), 0);
    while !stream.is_empty() {
        let space = decoder.space();
        assert!(!space.is_empty() && space.len() <= PAYLOAD_BYTES_MAX);
        let bytes = take(&mut stream, space, at_once);
        let Ok(step) = decoder.filled(bytes) else { return };
        counted += step.payload_bytes;
        assert!(counted <= sent, "payload is part of the stream");
        if let Some((_, payload)) = step.complete {
            assert!(payload.len() <= counted);
        }
    }
}

fn take(stream: &mut &[u8], space: &mut [u8], at_once: usize) -> usize {
    let bytes = space.len().min(stream.len()).min(at_once);
    let (now, later) = stream.split_at(bytes);
    space[..bytes].copy_from_slice(now);
    *stream = later;
    bytes
}
