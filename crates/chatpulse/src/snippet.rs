//! `chatpulse snippet`: what a website owner pastes.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use chatpulse_model::source::Catalog;
use chatpulse_producer::{Snippet, Tenants};
use clap::Args;
use reqwest::Url;
use serde::Serialize;

use crate::output;

/// What stands for the write key where it is not given: only its hash is known here.
const KEY_PLACE: &str = "WRITE_KEY";

#[derive(Debug, Args)]
#[command(after_help = "Example:
  chatpulse snippet --tenant acme --url https://collect.acme.example --write-key cpw_…

The write key is shown once, when it is made; without it the lines have WRITE_KEY in its place.")]
pub(crate) struct SnippetArgs {
    /// Tenant whose pages these are.
    #[arg(long)]
    tenant: String,
    /// Public address of the producer, where browsers reach it (default: where it listens).
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The tenant's write key, to stand in the lines.
    #[arg(
        long,
        value_name = "KEY",
        env = "CHATPULSE_WRITE_KEY",
        hide_env_values = true
    )]
    write_key: Option<String>,
    /// Tenants file, instead of the configured one.
    #[arg(long, value_name = "FILE")]
    tenants: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The lines.
#[derive(Debug, Serialize)]
struct Lines {
    /// The line for a page's head.
    tag: String,
    /// The same for one version of the script, with its integrity hash.
    pinned_tag: String,
    /// For a tag of the type Custom HTML of Google Tag Manager.
    gtm: String,
    /// Subresource Integrity of the version that is pinned.
    integrity: String,
    /// What a Content-Security-Policy must let through.
    csp: String,
}

/// Prints the lines for a tenant's pages.
pub(crate) fn run(
    args: &SnippetArgs,
    catalog: &Catalog,
    config: &chatpulse_producer::ProducerConfig,
) -> anyhow::Result<()> {
    let file = args.tenants.as_ref().unwrap_or(&config.tenants_file);
    let tenants = Tenants::load(file)?.snapshot();
    let tenant = tenants
        .get(&args.tenant)
        .with_context(|| format!("no tenant {} in {}", args.tenant, file.display()))?;
    if let Some(key) = &args.write_key {
        match tenants.authenticate(key) {
            Ok(grant) if grant.tenant.id == tenant.id => {}
            Ok(_) => bail!("--write-key is another tenant's; give one of {}", tenant.id),
            Err(_) => bail!(
                "--write-key is unknown or revoked; give a good one of {}",
                tenant.id
            ),
        }
    }
    let base = match &args.url {
        Some(url) => url.clone(),
        None => Url::parse(&format!("http://{}", config.listen))?,
    };
    let snippet = Snippet::new(catalog, tenant.snippet);
    let lines = Lines::new(&snippet, &base, args.write_key.as_deref())?;
    if args.json {
        output::result(&serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    output::result(&lines.text());
    if args.write_key.is_none() {
        output::note(&format!(
            "put the tenant's write key in the place of {KEY_PLACE}, or give --write-key"
        ));
    }
    if args.url.is_none() {
        output::note("give --url with the address under which browsers reach the producer");
    }
    Ok(())
}

impl Lines {
    fn new(snippet: &Snippet, base: &Url, write_key: Option<&str>) -> anyhow::Result<Self> {
        if !matches!(base.scheme(), "http" | "https")
            || base.query().is_some()
            || base.fragment().is_some()
        {
            bail!("--url must be http:// or https://, a host and perhaps a path");
        }
        let address = |path: &str| {
            let mut url = base.clone();
            url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
            url.query_pairs_mut()
                .append_pair("write_key", write_key.unwrap_or(KEY_PLACE));
            // URLs leave the apostrophe and the ampersand as they are; attributes are quoted with ".
            url.as_str().replace('&', "&amp;")
        };
        let integrity = snippet.integrity().to_owned();
        let (newest, pinned) = (address(Snippet::path()), address(&snippet.pinned_path()));
        let origin = base.origin().ascii_serialization();
        Ok(Self {
            tag: format!(r#"<script async src="{newest}"></script>"#),
            pinned_tag: format!(
                r#"<script async src="{pinned}" integrity="{integrity}" crossorigin="anonymous"></script>"#
            ),
            // Tag Manager rewrites script tags and drops attributes; a script that is made keeps its own.
            gtm: format!(
                "<script>\n\
                 (function () {{\n\
                 \x20 var script = document.createElement('script');\n\
                 \x20 script.async = true;\n\
                 \x20 script.src = {};\n\
                 \x20 document.head.appendChild(script);\n\
                 }})();\n\
                 </script>",
                serde_json::to_string(&newest)?
            ),
            integrity,
            csp: format!("script-src {origin}; connect-src {origin}"),
        })
    }

    fn text(&self) -> String {
        format!(
            "Into the <head> of every page, before the chat widget:\n\n{}\n\n\
             Or pinned to the version of today by Subresource Integrity. When chatpulse, its sources or the\n\
             tenant's settings change, its pages load nothing until they have the new line:\n\n{}\n\n\
             Or with Google Tag Manager, a tag of the type Custom HTML that fires on Initialization - All Pages:\n\n{}\n\n\
             A Content-Security-Policy must let through (a nonce on the script tag does for script-src):\n\n{}",
            self.tag, self.pinned_tag, self.gtm, self.csp
        )
    }
}

#[cfg(test)]
mod tests {
    use chatpulse_producer::tenants::SnippetEntry;

    use super::*;

    fn lines(base: &str, key: Option<&str>) -> anyhow::Result<Lines> {
        let snippet = Snippet::new(Catalog::builtin(), SnippetEntry::default());
        Lines::new(&snippet, &base.parse().unwrap(), key)
    }

    #[test]
    fn the_lines_name_the_producer_and_the_key() {
        let lines = lines("https://collect.acme.example/chat/", Some("cpw_1")).unwrap();
        assert_eq!(
            lines.tag,
            r#"<script async src="https://collect.acme.example/chat/v1/chatpulse.js?write_key=cpw_1"></script>"#
        );
        assert!(
            lines.pinned_tag.contains("/chat/v1/chatpulse/"),
            "{}",
            lines.pinned_tag
        );
        assert!(lines.pinned_tag.contains(&lines.integrity));
        assert!(
            lines
                .gtm
                .contains("\"https://collect.acme.example/chat/v1/chatpulse.js?write_key=cpw_1\"")
        );
        assert_eq!(
            lines.csp,
            "script-src https://collect.acme.example; connect-src https://collect.acme.example"
        );
    }

    #[test]
    fn nothing_breaks_out_of_the_attribute() {
        let lines = lines("https://collect.example/\"><b", Some("a\"b<c>&d'")).unwrap();
        let attribute = lines.tag.split('"').nth(1).unwrap();
        assert!(
            attribute.ends_with("write_key=a%22b%3Cc%3E%26d%27"),
            "{}",
            lines.tag
        );
        assert_eq!(lines.tag.matches('<').count(), 2, "{}", lines.tag);
    }

    #[test]
    fn an_address_that_is_no_producer_is_refused() {
        for base in [
            "ftp://x.example",
            "https://x.example/?a=b",
            "https://x.example/#c",
        ] {
            assert!(lines(base, None).is_err(), "{base}");
        }
    }
}
