//! Ends the process when its runtime no longer runs: a dead agent costs containerd one refused
//! connection, a wedged one whole pulls.
//!
//! Owns one OS thread outside the runtime and one task inside it that beats. The thread aborts
//! when no beat came for the timeout; it uses nothing that the runtime could hold: no lock, no
//! logger, no task. It ends when the [`Watchdog`] is dropped.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// How often the runtime must show that it runs.
pub const BEAT_PERIOD: Duration = Duration::from_millis(200);
/// How often the thread looks.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How long the last words may take: standard error may be a full pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Pulse {
    started: Instant,
    /// Milliseconds after `started`.
    beat: AtomicU64,
    stopped: AtomicBool,
}

/// The running thread; dropping it ends the watch.
#[derive(Debug)]
pub struct Watchdog {
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

/// What is done when no beat comes: aborts in the agent, something milder in tests.
type Bark = Box<dyn Fn(Duration) + Send>;

impl Watchdog {
    /// Starts the thread; from now on [`Watchdog::beat`] must run in the runtime.
    pub fn start(timeout: Duration) -> std::io::Result<Self> {
        let stderr = std::fs::File::from(std::io::stderr().as_fd().try_clone_to_owned()?);
        let stderr = Arc::new(stderr);
        Self::start_with(timeout, Box::new(move |silent| abort(&stderr, silent)))
    }

    fn start_with(timeout: Duration, bark: Bark) -> std::io::Result<Self> {
        let pulse = Arc::new(Pulse {
            started: Instant::now(),
            beat: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        });
        let watched = Arc::clone(&pulse);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(&watched, timeout, &bark))?;
        Ok(Self { pulse, thread: Some(thread) })
    }

    /// Beats until `shutdown`, which comes after the drain: that is watched too. Calls `each` at
    /// every beat.
    pub fn beat<E: Fn() + Send + 'static>(
        &self,
        shutdown: CancellationToken,
        each: E,
    ) -> impl Future<Output = ()> + Send + use<E> + 'static {
        let pulse = Arc::clone(&self.pulse);
        async move {
            let mut ticks = tokio::time::interval(BEAT_PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while !shutdown.is_cancelled() {
                ticks.tick().await;
                pulse.beat.store(pulse.now_ms(), Ordering::Relaxed);
                each();
            }
        }
    }

    fn thread(&self) -> Option<&Thread> {
        self.thread.as_ref().map(JoinHandle::thread)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pulse.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread() {
            thread.unpark();
        }
        if let Some(thread) = self.thread.take() {
            // It runs nothing that could panic, and ends within one look.
            let _ = thread.join();
        }
    }
}

impl Pulse {
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

fn watch(pulse: &Pulse, timeout: Duration, bark: &Bark) {
    let mut silence = Silence::new(timeout, pulse.now_ms());
    while !pulse.stopped.load(Ordering::Relaxed) {
        thread::park_timeout(LOOK_PERIOD);
        let looked = silence.look(pulse.now_ms(), pulse.beat.load(Ordering::Relaxed));
        if let Some(silent_ms) = looked {
            bark(Duration::from_millis(silent_ms));
            return;
        }
    }
}

/// What the thread concludes from its looks; all times are milliseconds of one clock.
#[derive(Debug)]
struct Silence {
    timeout_ms: u64,
    looked: u64,
    since: u64,
}

impl Silence {
    fn new(timeout: Duration, now: u64) -> Self {
        Self { timeout_ms: timeout.as_millis() as u64, looked: now, since: now }
    }

    /// How long the runtime has been silent, once that is too long.
    fn look(&mut self, now: u64, beat: u64) -> Option<u64> {
        // Where this thread itself did not run (a stopped process, a starved machine), the
        // runtime had no chance to beat either: the count begins anew.
        if now.saturating_sub(self.looked) > self.timeout_ms / 2 {
            self.since = now;
        }
        self.looked = now;
        self.since = self.since.max(beat);
        let silent = now.saturating_sub(self.since);
        (silent > self.timeout_ms).then_some(silent)
    }
}

fn abort(stderr: &Arc<std::fs::File>, silent: Duration) {
    let stderr = Arc::clone(stderr);
    let (said, waits) = std::sync::mpsc::channel();
    let words = format!(
        "longshore-agent: watchdog: runtime silent for {} ms, aborting\n",
        silent.as_millis()
    );
    let speaker = thread::Builder::new().spawn(move || {
        let _ = (&*stderr).write_all(words.as_bytes());
        let _ = said.send(());
    });
    if speaker.is_ok() {
        let _ = waits.recv_timeout(LAST_WORDS);
    }
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn watchdog(timeout: Duration) -> (Watchdog, mpsc::Receiver<Duration>) {
        let (barks, heard) = mpsc::channel();
        let bark: Bark = Box::new(move |silent| barks.send(silent).unwrap());
        (Watchdog::start_with(timeout, bark).unwrap(), heard)
    }

    #[test]
    fn a_time_in_which_the_watcher_did_not_run_either_does_not_count() {
        let mut silence = Silence::new(Duration::from_secs(2), 0);
        assert_eq!(silence.look(100, 50), None);
        // An hour of suspend; the runtime's next beat is still to come.
        assert_eq!(silence.look(3_600_100, 50), None);
        let mut looks = (3_600_200..).step_by(100).map(|now| silence.look(now, 50));
        let barked = looks.by_ref().position(|silent| silent.is_some());
        assert_eq!(barked, Some(20), "it counts from the awakening on");
    }

    #[test]
    fn late_beats_keep_it_quiet() {
        let mut silence = Silence::new(Duration::from_secs(2), 0);
        let barks =
            (100..60_000).step_by(100).filter_map(|now| silence.look(now, now / 1900 * 1900));
        assert_eq!(barks.count(), 0);
    }

    #[test]
    fn barks_when_all_workers_are_blocked() {
        let (watchdog, heard) = watchdog(Duration::from_millis(600));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.unwrap();
        runtime.spawn(watchdog.beat(CancellationToken::new(), || ()));
        let release = Arc::new(std::sync::Barrier::new(3));
        for _ in 0..2 {
            let release = Arc::clone(&release);
            runtime.spawn(async move { release.wait() });
        }
        let silent = heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(silent > Duration::from_millis(600) && silent < Duration::from_secs(5));
        release.wait();
    }

    #[test]
    fn stays_quiet_while_the_runtime_runs() {
        let (watchdog, heard) = watchdog(Duration::from_millis(1500));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let beats = Arc::new(AtomicU64::new(0));
        let (counted, enough) = (Arc::clone(&beats), shutdown.clone());
        runtime.block_on(watchdog.beat(shutdown, move || {
            if counted.fetch_add(1, Ordering::Relaxed) > 10 {
                enough.cancel();
            }
        }));
        drop(watchdog);
        assert!(heard.try_recv().is_err());
    }
}
