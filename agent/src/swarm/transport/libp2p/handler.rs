//! One connection's streams: opens ours, accepts theirs, hands over the four together.
//!
//! A connection that has not got all of them within the handshake timeout, or opens one twice, is
//! of no use and is reported so. What is said on the streams is the session's.

use std::collections::VecDeque;
use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::libp2p::Stream;
use ::libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};
use ::libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use ::libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::swarm::transport::DownReason;
use crate::swarm::transport::session::Streams;

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Control,
    Bulk,
}

impl Kind {
    const BOTH: [Self; 2] = [Self::Control, Self::Bulk];

    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Control => "/longshore/control/1",
            Self::Bulk => "/longshore/bulk/1",
        }
    }
}

/// The streams of one peer's connection, or why there are none.
pub(super) type Opened = Result<Streams<Stream>, DownReason>;

type Event = ConnectionHandlerEvent<OneOf, (), Opened>;

/// See the module.
#[derive(Debug)]
pub(super) struct Handler {
    to_open: VecDeque<Kind>,
    timeout: Duration,
    deadline: Option<Pin<Box<Sleep>>>,
    ours: Slots,
    theirs: Slots,
    report: Option<DownReason>,
}

#[derive(Debug, Default)]
struct Slots {
    control: Option<Stream>,
    bulk: Option<Stream>,
    taken: Vec<Kind>,
}

impl Slots {
    /// False when such a stream had been there before.
    fn put(&mut self, kind: Kind, stream: Stream) -> bool {
        if self.taken.contains(&kind) {
            return false;
        }
        self.taken.push(kind);
        match kind {
            Kind::Control => self.control = Some(stream),
            Kind::Bulk => self.bulk = Some(stream),
        }
        true
    }

    fn is_full(&self) -> bool {
        self.control.is_some() && self.bulk.is_some()
    }
}

impl Handler {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            to_open: Kind::BOTH.into(),
            timeout,
            deadline: Some(Box::pin(sleep_until(Instant::now() + timeout))),
            ours: Slots::default(),
            theirs: Slots::default(),
            report: None,
        }
    }

    fn put(&mut self, (kind, stream): (Kind, Stream), is_theirs: bool) {
        let slots = if is_theirs { &mut self.theirs } else { &mut self.ours };
        if !slots.put(kind, stream) {
            let what = format!("a second stream of {}", kind.protocol());
            self.report = Some(DownReason::Malformed(what));
        }
    }

    fn streams(&mut self) -> Option<Streams<Stream>> {
        if !self.ours.is_full() || !self.theirs.is_full() {
            return None;
        }
        Some(Streams {
            control_out: self.ours.control.take()?,
            control_in: self.theirs.control.take()?,
            bulk_out: self.ours.bulk.take()?,
            bulk_in: self.theirs.bulk.take()?,
        })
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = std::convert::Infallible;
    type ToBehaviour = Opened;
    type InboundProtocol = OneOf;
    type OutboundProtocol = OneOf;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<OneOf> {
        SubstreamProtocol::new(OneOf(Kind::BOTH.into()), ()).with_timeout(self.timeout)
    }

    /// An idle connection stays: the next image may come any moment.
    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, OneOf, OneOf>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol, ..
            }) => self.put(protocol, true),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.put(protocol, false),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.report = Some(DownReason::Unreachable(format!("no stream: {error}")));
            }
            _ => {}
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(kind) = self.to_open.pop_front() {
            let protocol = SubstreamProtocol::new(OneOf(vec![kind]), ()).with_timeout(self.timeout);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        if let Some(reason) = self.report.take() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Err(reason)));
        }
        if let Some(streams) = self.streams() {
            self.deadline = None;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Ok(streams)));
        }
        let is_late =
            self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if is_late {
            self.deadline = None;
            let reason = DownReason::Unreachable("no streams in time".into());
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Err(reason)));
        }
        Poll::Pending
    }
}

/// Agrees on one of these protocols and gives the bare stream.
#[derive(Clone, Debug)]
pub(super) struct OneOf(Vec<Kind>);

impl UpgradeInfo for OneOf {
    type Info = &'static str;
    type InfoIter = std::vec::IntoIter<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.iter().map(|kind| kind.protocol()).collect::<Vec<_>>().into_iter()
    }
}

impl OneOf {
    fn agreed(self, stream: Stream, protocol: &str) -> Ready<Result<(Kind, Stream), io::Error>> {
        let kind = self.0.into_iter().find(|kind| kind.protocol() == protocol);
        ready(kind.map(|kind| (kind, stream)).ok_or_else(|| io::ErrorKind::Unsupported.into()))
    }
}

impl InboundUpgrade<Stream> for OneOf {
    type Output = (Kind, Stream);
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        self.agreed(stream, protocol)
    }
}

impl OutboundUpgrade<Stream> for OneOf {
    type Output = (Kind, Stream);
    type Error = io::Error;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, protocol: &'static str) -> Self::Future {
        self.agreed(stream, protocol)
    }
}
