//! Destinations on their way from the tenants file to the deliverer.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use chatpulse_deliverer::destination::{Destination, DestinationsError, load};
use chatpulse_producer::tenants::Fingerprint;
use tokio::sync::watch;

/// Keeps the destinations as the tenants file has them, with their secrets.
pub(crate) struct DestinationWatch {
    file: PathBuf,
    current: watch::Sender<Vec<Destination>>,
}

/// The enabled destinations; none where there is no file.
pub(crate) fn destinations(file: &Path) -> Result<Vec<Destination>, DestinationsError> {
    match file.exists() {
        true => load(file),
        false => Ok(Vec::new()),
    }
}

/// How often secrets are read again.
const SECRETS: Duration = match cfg!(test) {
    true => Duration::from_millis(50),
    false => Duration::from_secs(30),
};

impl DestinationWatch {
    /// Reads the file.
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            current: watch::Sender::new(destinations(file)?),
            file: file.to_owned(),
        })
    }

    /// The destinations in force, always the newest.
    pub(crate) fn destinations(&self) -> watch::Receiver<Vec<Destination>> {
        self.current.subscribe()
    }

    /// Looks at the file every `interval`, for ever, and reads it where it changed; and now and then in any
    /// case, since a secret may change while the file does not. What cannot be used changes nothing, and is
    /// told once.
    pub(crate) async fn run(self, interval: Duration) -> Infallible {
        let mut told = String::new();
        let mut seen = None;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Fingerprint::of(&self.file).ok();
            let is_known = |(was, at): &(_, Instant)| *was == now && at.elapsed() < SECRETS;
            if seen.as_ref().is_some_and(is_known) {
                continue;
            }
            seen = Some((now, Instant::now()));
            let file = self.file.clone();
            match tokio::task::spawn_blocking(move || destinations(&file)).await {
                Ok(Ok(now)) => {
                    told.clear();
                    self.current.send_if_modified(|current| {
                        let is_new = *current != now;
                        if is_new {
                            *current = now;
                        }
                        is_new
                    });
                }
                Ok(Err(error)) => {
                    let text = error.to_string();
                    if told != text {
                        tracing::error!(%error, "the destinations changed and are refused; the old ones stay");
                        told = text;
                    }
                }
                // A panic while reading, or the runtime's end; the next look shows which.
                Err(error) => tracing::error!(%error, "looking at the destinations failed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[tokio::test]
    async fn destinations_and_their_secrets_are_in_force_once_they_are_there_and_faults_change_nothing()
     {
        let folder = tempfile::tempdir().unwrap();
        let (file, key) = (
            folder.path().join("tenants.toml"),
            folder.path().join("key"),
        );
        let watch = DestinationWatch::open(&file).unwrap();
        let mut now = watch.destinations();
        assert!(now.borrow().is_empty());
        let running = tokio::spawn(watch.run(Duration::from_millis(5)));
        std::fs::write(&key, KEY).unwrap();
        let text = format!(
            "[[tenant]]\nid = \"acme\"\n[[tenant.destinations]]\nid = \"crm\"\nkind = \"webhook\"\n\
             url = \"https://crm.acme.example/\"\nsecrets = [{{ file = {key:?} }}]\n"
        );
        let next = async |now: &mut watch::Receiver<Vec<Destination>>| {
            let changed = tokio::time::timeout(Duration::from_secs(30), now.changed());
            changed.await.unwrap().unwrap();
            now.borrow_and_update().clone()
        };
        std::fs::write(&file, &text).unwrap();
        let first = next(&mut now).await;
        assert_eq!(&*first[0].id, "crm");
        std::fs::write(&file, text.replace("https", "ftp")).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!now.has_changed().unwrap(), "a fault changes nothing");
        // The file is as it was, and the secret is not.
        std::fs::write(&file, &text).unwrap();
        std::fs::write(&key, KEY.replace('q', "r")).unwrap();
        let second = next(&mut now).await;
        assert_ne!(first, second);
        running.abort();
    }
}
