//! How much is under way at once. Over a limit a request is turned away at once: whoever waits in a
//! queue has gone by the time that it is served, and the queue is what collapses.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config::limits::Limits;

/// What one push holds in memory at most: two parts of 5 MiB on their way to the store, one filling.
pub(crate) const PUSH_BYTES_MAX: u64 = 3 * 5 * 1024 * 1024;

/// What kind of request; each has a limit of its own, so that one kind does not starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// GET and HEAD.
    Read,
    /// Everything else of the API.
    Write,
    /// gRPC.
    Call,
    /// A read whose answer streams a blob, beside its place as a read.
    Stream,
}

/// What was turned away for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ClassLabels {
    /// `read`, `write`, `call`, `stream`, `bytes`
    pub class: &'static str,
}

/// The counts that admission decides by, which are its metrics too.
#[derive(Clone, Debug, Default)]
pub struct AdmissionMetrics {
    /// GET and HEAD under way, until their bodies have gone.
    pub reads: Gauge,
    /// Writes under way.
    pub writes: Gauge,
    /// gRPC calls under way, streams until their end.
    pub calls: Gauge,
    /// Blobs that stream through this process.
    pub streams: Gauge,
    /// What bodies under way may hold.
    pub bytes: Gauge,
    /// Requests that were turned away, by the limit that they met.
    pub shed: Family<ClassLabels, Counter>,
}

/// Lets requests in.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    metrics: AdmissionMetrics,
}

/// A request that was let in; its drop makes room.
#[derive(Debug)]
pub(crate) struct Place {
    inner: Arc<Inner>,
    class: Class,
    bytes: i64,
    streams: bool,
}

/// The limit that a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too much is under way ({class}), try again")]
pub(crate) struct Shed {
    class: &'static str,
}

impl AdmissionMetrics {
    /// Enters them; `registry` gives the prefix.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("reads_in_flight", "GET and HEAD under way", &self.reads),
            ("writes_in_flight", "Writes under way", &self.writes),
            ("calls_in_flight", "gRPC calls under way", &self.calls),
            ("blob_streams", "Blobs that stream through this process", &self.streams),
            ("buffered_bytes", "Bytes that pushes under way may hold", &self.bytes),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let shed = "Requests turned away, by the limit that they met";
        registry.register("requests_shed", shed, self.shed.clone());
    }
}

impl Admission {
    /// Within these limits.
    pub(crate) fn new(limits: Limits, metrics: AdmissionMetrics) -> Self {
        Self(Arc::new(Inner { limits, metrics }))
    }

    /// Lets a request in whose body has `body_bytes`, or says which limit it meets.
    pub(crate) fn enter(&self, class: Class, body_bytes: u64) -> Result<Place, Shed> {
        let inner = &self.0;
        inner.take(class)?;
        let mut place = Place { inner: inner.clone(), class, bytes: 0, streams: false };
        if class == Class::Write && body_bytes > 0 {
            let bytes = i64::try_from(body_bytes.min(PUSH_BYTES_MAX)).unwrap_or(i64::MAX);
            let before = inner.metrics.bytes.inc_by(bytes);
            place.bytes = bytes;
            if before + bytes > i64::try_from(inner.limits.buffered_bytes_max).unwrap_or(i64::MAX) {
                return Err(inner.shed("bytes"));
            }
        }
        Ok(place)
    }
}

impl Place {
    /// The answer streams a blob.
    pub(crate) fn streams(&mut self) -> Result<(), Shed> {
        if !self.streams {
            self.inner.take(Class::Stream)?;
            self.streams = true;
        }
        Ok(())
    }
}

impl Inner {
    fn of(&self, class: Class) -> (&Gauge, u32, &'static str) {
        let (limits, metrics) = (&self.limits, &self.metrics);
        match class {
            Class::Read => (&metrics.reads, limits.reads_in_flight_max, "read"),
            Class::Write => (&metrics.writes, limits.writes_in_flight_max, "write"),
            Class::Call => (&metrics.calls, limits.calls_in_flight_max, "call"),
            Class::Stream => (&metrics.streams, limits.blob_streams_max, "stream"),
        }
    }

    fn take(&self, class: Class) -> Result<(), Shed> {
        let (gauge, max, label) = self.of(class);
        if gauge.inc() < i64::from(max) {
            return Ok(());
        }
        gauge.dec();
        Err(self.shed(label))
    }

    fn shed(&self, class: &'static str) -> Shed {
        self.metrics.shed.get_or_create(&ClassLabels { class }).inc();
        Shed { class }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.of(self.class).0.dec();
        if self.streams {
            self.inner.of(Class::Stream).0.dec();
        }
        if self.bytes > 0 {
            self.inner.metrics.bytes.dec_by(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let limits = Limits {
            reads_in_flight_max: 2,
            writes_in_flight_max: 2,
            blob_streams_max: 1,
            buffered_bytes_max: PUSH_BYTES_MAX + 10,
            ..Limits::default()
        };
        Admission::new(limits, AdmissionMetrics::default())
    }

    #[test]
    fn kinds_do_not_starve_each_other_and_a_drop_makes_room() {
        let admission = admission();
        let first = admission.enter(Class::Read, 0).unwrap();
        let second = admission.enter(Class::Read, 0).unwrap();
        assert_eq!(admission.enter(Class::Read, 0).unwrap_err(), Shed { class: "read" });
        let write = admission.enter(Class::Write, 0);
        assert!(write.is_ok());
        drop((first, write));
        assert!(admission.enter(Class::Read, 0).is_ok());
        drop(second);
        let metrics = &admission.0.metrics;
        assert_eq!((metrics.reads.get(), metrics.writes.get()), (0, 0));
        assert_eq!(metrics.shed.get_or_create(&ClassLabels { class: "read" }).get(), 1);
    }

    #[test]
    fn a_push_counts_with_what_it_may_hold_and_no_more() {
        let admission = admission();
        let large = admission.enter(Class::Write, u64::MAX).unwrap();
        assert_eq!(admission.enter(Class::Write, 11).unwrap_err(), Shed { class: "bytes" });
        assert_eq!(admission.0.metrics.bytes.get(), PUSH_BYTES_MAX as i64, "given back");
        assert!(admission.enter(Class::Write, 10).is_ok());
        drop(large);
        assert_eq!((admission.0.metrics.bytes.get(), admission.0.metrics.writes.get()), (0, 0));
    }

    #[test]
    fn a_stream_is_counted_once_beside_its_read() {
        let admission = admission();
        let mut first = admission.enter(Class::Read, 0).unwrap();
        assert_eq!((first.streams(), first.streams()), (Ok(()), Ok(())));
        let mut second = admission.enter(Class::Read, 0).unwrap();
        assert_eq!(second.streams(), Err(Shed { class: "stream" }));
        drop(first);
        assert_eq!(second.streams(), Ok(()));
        drop(second);
        assert_eq!(admission.0.metrics.streams.get(), 0);
    }
}
