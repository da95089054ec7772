//! What the gate counts. The hot path counts nothing: every request is in the front's counters.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// All counters; clones share their values.
#[derive(Clone, Debug, Default)]
pub struct AuthMetrics {
    /// Tokens that were given out.
    pub tokens_issued: Counter,
    /// Requests for a token that were refused.
    pub tokens_refused: Counter,
    /// Passwords that were wrong, for known names and others.
    pub logins_failed: Counter,
    /// Logins that were sent away unseen: too many failures, or too many at once.
    pub logins_throttled: Counter,
    /// Issuers' keys that were fetched or read.
    pub issuer_keys_read: Counter,
    /// Tries to do so that failed.
    pub issuer_keys_failed: Counter,
    /// Entries of the audit log that its file did not take in time; they were logged all the same.
    pub audit_lost: Counter,
}

impl AuthMetrics {
    /// Enters them; `registry` gives the prefix.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("tokens_issued", "Tokens given out", &self.tokens_issued),
            ("tokens_refused", "Requests for a token refused", &self.tokens_refused),
            ("logins_failed", "Wrong passwords", &self.logins_failed),
            ("logins_throttled", "Logins sent away unseen", &self.logins_throttled),
            ("issuer_keys_read", "Issuers' keys fetched or read", &self.issuer_keys_read),
            ("issuer_keys_failed", "Issuers' keys not to be had", &self.issuer_keys_failed),
            ("audit_lost", "Audit entries that the file did not take", &self.audit_lost),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
