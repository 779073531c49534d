//! Read tokens on their way from the tenants file to the reports: stages do not know each other.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use chatpulse_producer::{Tenants, tenants::Snapshot};
use chatpulse_reports::{ReadToken, ReadTokens};
use tokio::sync::watch;

/// Keeps the read tokens as the tenants file has them.
pub(crate) struct TokenWatch {
    tenants: Arc<Tenants>,
    tokens: watch::Sender<Arc<ReadTokens>>,
}

impl TokenWatch {
    /// Reads the file. Where it is not there, nobody has a token until it is.
    pub(crate) fn open(file: &Path) -> anyhow::Result<Self> {
        let tenants = Arc::new(Tenants::load_if_there(file)?);
        let tokens = watch::Sender::new(Arc::new(read_tokens(&tenants.snapshot())));
        Ok(Self { tenants, tokens })
    }

    /// The tokens in force, always the newest.
    pub(crate) fn tokens(&self) -> watch::Receiver<Arc<ReadTokens>> {
        self.tokens.subscribe()
    }

    /// Looks at the file every `interval`, for ever. A broken new one changes nothing.
    pub(crate) async fn run(self, interval: Duration) -> Infallible {
        let report = |result| match result {
            Ok(()) => {
                let tokens = read_tokens(&self.tenants.snapshot());
                self.tokens.send_replace(Arc::new(tokens));
                tracing::info!("the tenants file changed; its read tokens are in force");
            }
            Err(error) => {
                tracing::error!(%error, "the tenants file changed and is refused; the read tokens stay");
            }
        };
        self.tenants.watch(interval, report).await
    }
}

fn read_tokens(snapshot: &Snapshot) -> ReadTokens {
    let token = |grant: &chatpulse_producer::tenants::ReadGrant| ReadToken {
        tenant: Arc::clone(&grant.tenant),
        sha256: grant.sha256,
        revoked: grant.revoked,
    };
    snapshot.read_tokens().map(token).collect()
}

#[cfg(test)]
mod tests {
    use chatpulse_producer::tenants::{TenantsFile, new_tenant};

    use super::*;

    #[tokio::test]
    async fn a_token_is_in_force_once_it_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tenants.toml");
        let watch = TokenWatch::open(&file).unwrap();
        let mut tokens = watch.tokens();
        assert_eq!(tokens.borrow_and_update().tenants().count(), 0);
        let running = tokio::spawn(watch.run(Duration::from_millis(5)));
        TenantsFile::append(&file, &new_tenant("acme").unwrap().0).unwrap();
        TenantsFile::add_read_token(&file, "acme", None).unwrap();
        let known = tokens.wait_for(|tokens| tokens.tenants().any(|tenant| tenant == "acme"));
        let known = tokio::time::timeout(Duration::from_secs(30), known).await;
        known.unwrap().unwrap();
        running.abort();
    }
}
