//! Which web origins may send for a tenant (RFC 6454; the `Origin` header of the Fetch standard).

use url::{Host, Url};

/// One entry of a tenant's `allowed_origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OriginPattern {
    /// `*`: every origin, also the opaque `null`.
    Any,
    /// `https://www.example.com`, with a port where it is not the scheme's own.
    Exact(String),
    /// `https://*.example.com`: every host below, not the domain itself.
    Below { scheme: String, suffix: String },
}

impl OriginPattern {
    /// Reads an entry; the error says what it must look like.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let form = "must be `*`, `https://host[:port]` or `https://*.domain[:port]`";
        let url = Url::parse(text).map_err(|error| format!("{text:?} {form}: {error}"))?;
        let web = matches!(url.scheme(), "http" | "https");
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        if !web || !bare || !anonymous || text.ends_with('/') {
            return Err(format!("{text:?} {form}, without path, query or user"));
        }
        let origin = url.origin().ascii_serialization();
        match url.host() {
            Some(Host::Domain(host)) if host.contains('*') => {
                let wild = format!("{}://*.", url.scheme());
                let suffix = origin
                    .strip_prefix(&wild)
                    .filter(|rest| !rest.contains('*'));
                let suffix = suffix.ok_or_else(|| format!("{text:?} {form}"))?;
                Ok(Self::Below {
                    scheme: url.scheme().into(),
                    suffix: format!(".{suffix}"),
                })
            }
            _ => Ok(Self::Exact(origin)),
        }
    }

    /// Whether an `Origin` header's value is covered. Browsers send it normalised, so bytes are
    /// compared; a value that is not normalised was not made by a browser.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => origin == exact,
            Self::Below { scheme, suffix } => origin
                .strip_prefix(scheme.as_str())
                .and_then(|rest| rest.strip_prefix("://"))
                .and_then(|rest| rest.strip_suffix(suffix.as_str()))
                .is_some_and(|labels| {
                    !labels.is_empty()
                        && labels
                            .bytes()
                            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
                }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, origin: &str) -> bool {
        OriginPattern::parse(pattern).unwrap().allows(origin)
    }

    #[test]
    fn an_exact_origin_is_scheme_host_and_port() {
        assert!(allows(
            "https://www.acme.example",
            "https://www.acme.example"
        ));
        assert!(allows(
            "https://www.acme.example:443",
            "https://www.acme.example"
        ));
        assert!(allows(
            "https://WWW.acme.example",
            "https://www.acme.example"
        ));
        assert!(allows("http://localhost:8080", "http://localhost:8080"));
        for forged in [
            "http://www.acme.example",
            "https://www.acme.example:8443",
            "https://www.acme.example.evil.example",
            "https://acme.example",
            "https://www.acme.example/",
            "null",
            "",
        ] {
            assert!(!allows("https://www.acme.example", forged), "{forged}");
        }
    }

    #[test]
    fn a_wildcard_covers_hosts_below_and_nothing_else() {
        let pattern = "https://*.acme.example";
        assert!(allows(pattern, "https://shop.acme.example"));
        assert!(allows(pattern, "https://a.b.acme.example"));
        assert!(allows(
            "https://*.acme.example:8443",
            "https://a.acme.example:8443"
        ));
        for forged in [
            "https://acme.example",
            "https://.acme.example",
            "http://shop.acme.example",
            "https://evil.example/.acme.example",
            "https://evil.example:1.acme.example",
            "https://evil.example#.acme.example",
            "https://user@x.acme.example",
            "https://shop.acme.example:8443",
            "https://evilacme.example",
        ] {
            assert!(!allows(pattern, forged), "{forged}");
        }
    }

    #[test]
    fn any_covers_even_opaque_origins() {
        assert!(allows("*", "null"));
        assert!(allows("*", "https://anything.example"));
    }

    #[test]
    fn a_malformed_entry_is_refused_with_the_form() {
        for bad in [
            "",
            "www.acme.example",
            "ftp://acme.example",
            "https://acme.example/path",
            "https://acme.example/",
            "https://acme.example?x",
            "https://user@acme.example",
            "https://*",
            "https://a.*.example",
            "https://*.*.example",
            "https://w*.acme.example",
            "null",
        ] {
            let error = OriginPattern::parse(bad).unwrap_err();
            assert!(error.contains("https://host"), "{bad}: {error}");
        }
    }
}
