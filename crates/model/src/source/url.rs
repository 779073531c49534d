//! Links ─► what of them is not personal: scheme, host, path.

use std::borrow::Cow;

use super::mask;

/// Schemes whose address is a person's: only the scheme itself is kept, e.g. `mailto:`.
const CONTACT_SCHEMES: &[&str] = &[
    "mailto", "tel", "sms", "callto", "facetime", "skype", "viber", "whatsapp", "tg",
];

/// Hosts whose path is a phone number.
const CONTACT_HOSTS: &[&str] = &["wa.me"];

/// Cuts user info, path parameters, query and fragment of a web link, absolute or relative, and
/// masks what is left of it; keeps the scheme alone of a contact link; `None` for every other
/// scheme (`javascript:`, `data:`, `file:`, …), which are code or content rather than a place.
///
/// Not a URL parser: what it cannot read as host and path, it masks as text.
pub(super) fn cut(link: &str) -> Option<Cow<'_, str>> {
    let link = link.trim();
    let (scheme, rest) = match link.split_once(':') {
        Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme.to_ascii_lowercase()), rest),
        _ => (None, link),
    };
    match scheme.as_deref() {
        None | Some("http" | "https") => {}
        Some(contact) if CONTACT_SCHEMES.contains(&contact) => {
            return Some(Cow::Owned(format!("{contact}:")));
        }
        Some(_) => return None,
    }
    // Browsers take a backslash for a slash.
    let rest = rest.replace('\\', "/");
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();

    let mut cut = String::with_capacity(link.len());
    if let Some(scheme) = &scheme {
        cut.push_str(scheme);
        cut.push(':');
    }
    if rest.starts_with("//") {
        cut.push_str("//");
        cut.push_str(&mask::token(host));
    }
    if !CONTACT_HOSTS.contains(&host) {
        let names = path.split('/').map(|segment| segment.split(';').next());
        let names: Vec<&str> = names.map(Option::unwrap_or_default).collect();
        let path = names.join("/");
        // Without a host, two slashes at the start would make one of what follows.
        let doubled = cut.is_empty() && path.starts_with("//");
        let path = if doubled {
            &path[path.len() - path.trim_start_matches('/').len() - 1..]
        } else {
            &path
        };
        cut.push_str(&mask::path(path));
    }
    cut.truncate(cut.trim_end().len());
    Some(if cut == link {
        Cow::Borrowed(link)
    } else {
        Cow::Owned(cut)
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn web_links_keep_scheme_host_and_path() {
        for (from, to) in [
            ("https://shop.example/a/b", "https://shop.example/a/b"),
            ("HTTPS://shop.example/a?email=x#y", "https://shop.example/a"),
            ("https://shop.example?x", "https://shop.example"),
            ("https://jane:pw@shop.example/a", "https://shop.example/a"),
            ("https:\\\\jane@shop.example\\a", "https://shop.example/a"),
            ("//jane@shop.example/a?x", "//shop.example/a"),
            ("/a/b;jsessionid=1234/c?x", "/a/b/c"),
            ("#contact", ""),
            (
                "https://x.example/u/jane@y.example/z",
                "https://x.example/u/[email]/z",
            ),
            (
                "https://x.example/u/jane%40y.example",
                "https://x.example/u/[email]",
            ),
            (
                "https://x.example/tel/+4915123456789",
                "https://x.example/tel/[phone]",
            ),
            (
                "https://x.example/product/123456789",
                "https://x.example/product/123456789",
            ),
            (
                "https://x.example/2026/01/15/",
                "https://x.example/2026/01/15/",
            ),
            ("https://wa.me/4915123456789?text=hi", "https://wa.me"),
            ("jane@example.com", "[email]"),
            ("0664/55512348", "[phone]"),
            (
                "https://x.example/0664/55512348/",
                "https://x.example/[phone]/",
            ),
            (";//x.example", "/x.example"),
        ] {
            assert_eq!(cut(from).as_deref(), Some(to), "{from}");
        }
    }

    #[test]
    fn contact_links_keep_their_scheme_alone() {
        assert_eq!(cut("mailto:jane@example.com").as_deref(), Some("mailto:"));
        assert_eq!(cut("tel:+49 151 23456789").as_deref(), Some("tel:"));
        assert_eq!(cut(" WhatsApp:1 ").as_deref(), Some("whatsapp:"));
    }

    #[test]
    fn code_and_content_are_no_links() {
        for link in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "data:text/html,<b>",
            "file:///home/jane",
            "blob:https://x",
            "x-custom:y",
        ] {
            assert_eq!(cut(link), None, "{link}");
        }
    }

    proptest! {
        #[test]
        fn cutting_twice_is_cutting_once(link in "(https?:|mailto:)?(//)?[a-c@:/?#;.%40\\\\ 0-9+]{0,40}") {
            if let Some(once) = cut(&link) {
                let twice = cut(&once);
                prop_assert_eq!(twice.as_deref(), Some(once.as_ref()));
            }
        }
    }
}
