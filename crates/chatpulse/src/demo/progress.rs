//! The live line: rates and totals of each hop.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::{Probe, Sender};
use crate::{local::Local, output};

/// A line that is written anew once a second; every ten seconds where nobody watches a terminal.
pub(super) struct Progress {
    task: JoinHandle<()>,
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn start(local: &Local, sender: &Sender, events: Option<u64>) -> Self {
        let bar = ProgressBar::no_length();
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        let task = tokio::spawn(tell(bar.clone(), Probe::of(local), sender.clone(), events));
        Self { task, bar }
    }

    pub(super) fn finish(self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

async fn tell(bar: ProgressBar, probe: Probe, sender: Sender, events: Option<u64>) {
    let watched = std::io::stderr().is_terminal();
    let every = if watched {
        Duration::from_secs(1)
    } else {
        Duration::from_secs(10)
    };
    let read = || {
        [
            sender.acknowledged(),
            probe.enricher.confirmed(),
            probe.sink.stored(),
        ]
    };
    let mut tick = tokio::time::interval(every);
    tick.tick().await;
    let (mut before, mut since) = (read(), Instant::now());
    loop {
        tick.tick().await;
        let now = read();
        let seconds = since.elapsed().as_secs_f64();
        let rate = |hop: usize| (now[hop] - before[hop]) as f64 / seconds;
        let of = events
            .map(|events| format!(" of {events}"))
            .unwrap_or_default();
        let line = format!(
            "acknowledged {}{of} ({:.0}/s) · enriched {} ({:.0}/s) · stored {} ({:.0}/s)",
            now[0],
            rate(0),
            now[1],
            rate(1),
            now[2],
            rate(2),
        );
        if watched {
            bar.set_message(line);
            bar.tick();
        } else {
            output::note(&line);
        }
        (before, since) = (now, Instant::now());
    }
}
