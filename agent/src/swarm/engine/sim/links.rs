//! The simulated network: bytes on their way over links that flows share fairly.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

impl Sim {
    pub(super) fn serve(&mut self, node: usize, to: usize, request: RequestId) {
        let Some((digest, piece)) = self.nodes[node].serving.remove(&(to, request)) else { return };
        assert!(self.nodes[node].held[&digest].contains(piece), "asked for what it lacks");
        if self.setup.vices.get(&node) == Some(&Vice::Stalls) {
            return;
        }
        let what = What::Piece { request, digest, piece };
        let queue = self.nodes[node].queues.entry(to).or_default();
        queue.push_back(what.clone());
        if queue.len() == 1 {
            self.start_flow(node, to, what);
        }
    }

    pub(super) fn start_flow(&mut self, from: usize, to: usize, what: What) {
        let bytes = match &what {
            What::Piece { digest, piece, .. } => self.piece_bytes(digest, piece.0),
            What::Read { digest, pieces, .. } => self.piece_bytes(digest, pieces[0]),
        };
        self.next += 1;
        let name = self.next;
        let left = bytes as f64;
        let since = self.now;
        let flow = Flow { from, to, left, moved: 0.0, rate: 0.0, since, version: 0, what };
        self.flows.insert(name, flow);
        self.ends.entry((true, from)).or_default().insert(name);
        self.ends.entry((false, to)).or_default().insert(name);
        self.share_soon();
    }

    pub(super) fn piece_bytes(&self, digest: &Digest, piece: u32) -> u64 {
        let blob = self.digests.iter().position(|known| known == digest).unwrap();
        let offset = u64::from(piece) * self.setup.piece_bytes;
        (self.setup.blobs[blob] - offset).min(self.setup.piece_bytes)
    }

    pub(super) fn end_flow(&mut self, name: u64) -> Flow {
        self.settle(name);
        let flow = self.flows.remove(&name).unwrap();
        self.ends.get_mut(&(true, flow.from)).unwrap().remove(&name);
        self.ends.get_mut(&(false, flow.to)).unwrap().remove(&name);
        self.share_soon();
        flow
    }

    pub(super) fn settle(&mut self, name: u64) {
        let now = self.now;
        let Some(flow) = self.flows.get_mut(&name) else { return };
        let bytes = (flow.rate * (now - flow.since) as f64 / 1e6).min(flow.left);
        flow.left -= bytes;
        flow.moved += bytes;
        flow.since = now;
        if flow.from == STORE {
            self.outcome.store_bytes += bytes as u64;
        }
    }

    pub(super) fn share_soon(&mut self) {
        if !std::mem::replace(&mut self.unshared, true) {
            self.at(self.now + SHARE_DELAY, Event::Share);
        }
    }

    /// Max-min fair shares, as TCP flows tend to: the narrowest link is divided first, what its
    /// flows leave elsewhere goes to the others.
    pub(super) fn share(&mut self) {
        let mut ends: BTreeMap<(bool, usize), (f64, BTreeSet<u64>)> = BTreeMap::new();
        for (end, flows) in self.ends.iter().filter(|(_, flows)| !flows.is_empty()) {
            let link = if end.1 == STORE { self.setup.store_link } else { self.setup.link };
            ends.insert(*end, (link as f64, flows.clone()));
        }
        loop {
            let share = |(left, flows): &(f64, BTreeSet<u64>)| left / flows.len() as f64;
            let narrowest = ends.iter().filter(|(_, end)| !end.1.is_empty());
            let narrowest = narrowest.min_by(|a, b| share(a.1).total_cmp(&share(b.1)));
            let Some((end, of)) = narrowest else { break };
            let (end, rate) = (*end, share(of));
            let Some((_, flows)) = ends.remove(&end) else { break };
            for name in flows {
                let flow = &self.flows[&name];
                let other = if end.0 { (false, flow.to) } else { (true, flow.from) };
                if let Some((left, flows)) = ends.get_mut(&other) {
                    flows.remove(&name);
                    *left = (*left - rate).max(0.0);
                }
                self.set_rate(name, rate.max(1.0));
            }
        }
    }

    pub(super) fn set_rate(&mut self, name: u64, rate: f64) {
        if (self.flows[&name].rate - rate).abs() > 1.0 {
            self.settle(name);
            let flow = self.flows.get_mut(&name).unwrap();
            flow.rate = rate;
            flow.version += 1;
            let ends = self.now + (flow.left / rate * 1e6).ceil() as u64;
            let version = flow.version;
            self.at(ends, Event::FlowEnds(name, version));
        }
    }

    pub(super) fn flow_ends(&mut self, name: u64) {
        let flow = self.end_flow(name);
        self.report_progress(flow.to, flow.from, &flow.what, flow.moved);
        match flow.what {
            What::Piece { request, digest, piece } => {
                self.input(flow.from, Input::UploadProgress { peer: id(flow.to) });
                self.input(flow.from, Input::UploadEnded { peer: id(flow.to), request });
                let queue = self.nodes[flow.from].queues.entry(flow.to).or_default();
                queue.pop_front();
                if let Some(next) = queue.front().cloned() {
                    self.start_flow(flow.from, flow.to, next);
                }
                self.arrived(flow.to, flow.from, request, digest, piece);
            }
            What::Read { read, digest, mut pieces } => {
                let piece = pieces.pop_front().unwrap();
                if !pieces.is_empty() {
                    let what = What::Read { read, digest, pieces: pieces.clone() };
                    self.start_flow(STORE, flow.to, what);
                }
                self.verified(flow.to, digest, PieceIndex(piece), From::Store(read));
                if pieces.is_empty() {
                    self.input(flow.to, Input::ReadEnded { read, end: ReadEnd::Whole });
                }
            }
        }
    }

    pub(super) fn arrived(
        &mut self,
        node: usize,
        by: usize,
        request: u64,
        digest: Digest,
        piece: PieceIndex,
    ) {
        if self.nodes[node].asked.remove(&request).is_none() {
            return;
        }
        self.input(node, Input::Arrived(request));
        let from = From::Peer(id(by));
        if self.setup.vices.get(&by) == Some(&Vice::Lies) {
            self.outcome.bad += 1;
            self.input(node, Input::Bad { digest, piece, from });
        } else {
            self.verified(node, digest, piece, from);
        }
    }

    pub(super) fn verified(&mut self, node: usize, digest: Digest, piece: PieceIndex, from: From) {
        self.nodes[node].held.get_mut(&digest).unwrap().insert(piece);
        self.input(node, Input::Verified { digest, piece, from });
    }

    /// Tells a node what came for it since it last looked.
    pub(super) fn progress(&mut self, node: usize) {
        let its: Vec<u64> = self.ends.get(&(false, node)).into_iter().flatten().copied().collect();
        for name in its {
            self.settle(name);
            let flow = self.flows.get_mut(&name).unwrap();
            let moved = std::mem::take(&mut flow.moved);
            let (from, what) = (flow.from, flow.what.clone());
            self.report_progress(node, from, &what, moved);
        }
    }

    pub(super) fn report_progress(&mut self, node: usize, from: usize, what: &What, moved: f64) {
        let bytes = moved as u64;
        if let What::Read { read, .. } = what {
            self.input(node, Input::ReadProgress { read: *read, bytes });
        } else {
            self.input(node, Input::Progress { peer: id(from), bytes });
            self.input(from, Input::UploadProgress { peer: id(node) });
        }
    }
}
