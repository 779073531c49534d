//! People with a browser.
//!
//! ```text
//! request ─ from another site? ─ session cookie? ─ this machine? ─► Viewer
//!                 │ 403                                 │ no
//!                 ▼                                     ▼
//!              refused                        /sign-in (pages) or 401 (all else)
//! ```
//!
//! Where only this machine can connect, who is on it is the operator. Two things could make others
//! pass for it, and are looked for: a page of another site whose name was made to point here (DNS
//! rebinding, told by the Host header), and a proxy that speaks for the world (told by its headers).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use axum::{
    Extension, Form, Router,
    extract::{ConnectInfo, DefaultBodyLimit, Query, Request, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header,
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use maud::{Markup, html};
use serde::Deserialize;

use super::{Access, TokenError, Viewer, sessions::LIFETIME};
use crate::pages;

/// Cookie with the id of a session.
const COOKIE: &str = "chatpulse_session";
/// Largest form that is read; bytes.
const MAX_FORM: usize = 4_096;
/// Longest path that one returns to after signing in; bytes.
const MAX_NEXT: usize = 1_024;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What a proxy adds when it speaks for another.
const OF_PROXIES: [HeaderName; 5] = [
    header::FORWARDED,
    header::VIA,
    FORWARDED_FOR,
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-real-ip"),
];
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Attempts to sign in, per network address.
pub(super) struct SignInLimit(DefaultKeyedRateLimiter<IpAddr>);

/// Attempts at once, and then one every [`SIGN_IN_PAUSE`].
const SIGN_INS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const SIGN_IN_PAUSE: Duration = Duration::from_secs(6);
/// Addresses that are remembered, before those that have been quiet are forgotten.
const MAX_ADDRESSES: usize = 10_000;

impl Default for SignInLimit {
    fn default() -> Self {
        let quota = Quota::with_period(SIGN_IN_PAUSE)
            .unwrap_or(Quota::per_minute(SIGN_INS))
            .allow_burst(SIGN_INS);
        Self(RateLimiter::keyed(quota))
    }
}

impl SignInLimit {
    fn take(&self, address: IpAddr) -> Result<(), Duration> {
        if self.0.len() >= MAX_ADDRESSES {
            self.0.retain_recent();
        }
        // Still so many: whoever commands them all shares one bucket.
        let address = match self.0.len() < MAX_ADDRESSES {
            true => address,
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        let clock = DefaultClock::default();
        (self.0.check_key(&address)).map_err(|until| until.wait_time_from(clock.now()))
    }
}

/// The check before every page: puts the [`Viewer`] into the request, or answers in the page's place.
pub(crate) async fn guard(
    State(access): State<Access>,
    mut request: Request,
    next: Next,
) -> Response {
    if !of_this_site(request.method(), request.headers()) {
        return refusal(StatusCode::FORBIDDEN, OF_ANOTHER_SITE);
    }
    match access.reader(&request) {
        Ok(viewer) => {
            request.extensions_mut().insert(viewer);
            next.run(request).await
        }
        Err(Unread::Misdirected) => refusal(StatusCode::MISDIRECTED_REQUEST, MISDIRECTED),
        Err(Unread::SignIn) => ask_to_sign_in(&request),
    }
}

const MISDIRECTED: &str = "These pages are for this machine alone: open them as localhost or 127.0.0.1.
To read them under another name, put a proxy that sets X-Forwarded-For before them, or let reports.listen
be another address than loopback; they then ask for a token.
";

const OF_ANOTHER_SITE: &str = "This was asked for by a page of another site, which may not.\n";

/// Why there is no viewer.
#[derive(Debug, PartialEq, Eq)]
enum Unread {
    /// This machine was asked under a name that is not its own.
    Misdirected,
    /// Nobody has signed in.
    SignIn,
}

impl Access {
    fn reader(&self, request: &Request) -> Result<Viewer, Unread> {
        let headers = request.headers();
        if let Some(viewer) = self.signed_in(headers) {
            return Ok(viewer);
        }
        // Browsers left HTTP/1.0 behind; proxies that add no header often speak it.
        let proxied = OF_PROXIES.iter().any(|name| headers.contains_key(name))
            || request.version() < Version::HTTP_11;
        if !self.0.loopback || proxied {
            return Err(Unread::SignIn);
        }
        match names_this_machine(request.uri(), headers) {
            true => Ok(Viewer::Operator),
            false => Err(Unread::Misdirected),
        }
    }

    fn signed_in(&self, headers: &HeaderMap) -> Option<Viewer> {
        let token = self
            .0
            .sessions
            .token(session_id(headers)?, Instant::now())?;
        self.viewer_of(&token).ok()
    }
}

/// Whether the name by which the request asks is one of loopback.
fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = (host.to_str().ok()).and_then(|host| host.parse::<Authority>().ok());
    let named = |authority: &Authority| {
        let name = authority.host();
        let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
        match address.unwrap_or(name).parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    };
    host.as_ref().is_some_and(named) && uri.authority().is_none_or(named)
}

/// False for what a page of another site asks for. A click on a link from elsewhere is none of it:
/// it reads, and the other site does not see what.
fn of_this_site(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &HeaderName, what: &str| headers.get(name).is_some_and(|value| value == what);
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let known = headers.contains_key(&FETCH_SITE);
    let own = is(&FETCH_SITE, "same-origin") || is(&FETCH_SITE, "none");
    let link = reads && is(&FETCH_MODE, "navigate");
    // Browsers of before 2023 do not tell the site, but tell the origin of what changes something.
    let origin = match headers.get(header::ORIGIN) {
        Some(origin) => same_origin(origin, headers),
        None => true,
    };
    (!known || own || link) && (origin || link)
}

/// Whether an origin has the name and port by which we were asked.
fn same_origin(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), headers.get(header::HOST)) else {
        return false;
    };
    let named = origin.split_once("://").map(|(_, authority)| authority);
    named.is_some_and(|authority| host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()))
}

/// The way to the form for a page, and 401 for what a page loads.
fn ask_to_sign_in(request: &Request) -> Response {
    let wants_page = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if !wants_page || !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refusal(
            StatusCode::UNAUTHORIZED,
            "Not signed in, or no longer: open /sign-in.\n",
        );
    }
    let back = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("next", local_path(back))
        .finish();
    see_other(&format!("/sign-in?{query}"))
}

/// The form to sign in, the way in, and the way out. Nobody needs to be signed in for them.
pub(crate) fn sign_in_routes(access: Access) -> Router {
    Router::new()
        .route("/sign-in", get(show_form).post(sign_in))
        .route("/sign-out", post(sign_out))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .with_state(access)
}

#[derive(Debug, Default, Deserialize)]
struct Where {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Credentials {
    token: String,
    #[serde(default)]
    next: String,
}

async fn show_form(back: Result<Query<Where>, QueryRejection>) -> Response {
    let Query(back) = back.unwrap_or_default();
    form_page(&back.next, None)
}

async fn sign_in(
    State(access): State<Access>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    Form(given): Form<Credentials>,
) -> Response {
    if !of_this_site(&Method::POST, &headers) {
        return refusal(StatusCode::FORBIDDEN, OF_ANOTHER_SITE);
    }
    let again = |status: StatusCode, fault: &str| {
        (status, form_page(&given.next, Some(fault))).into_response()
    };
    let peer = peer.map(|Extension(ConnectInfo(address))| address.ip());
    if let Err(wait) = access.0.sign_ins.take(asker(peer, &headers)) {
        let seconds = wait.as_secs() + 1;
        let fault = format!("Too many attempts from your address. Try again in {seconds} s.");
        let mut response = again(StatusCode::TOO_MANY_REQUESTS, &fault);
        let wait = HeaderValue::from(seconds);
        response.headers_mut().insert(header::RETRY_AFTER, wait);
        return response;
    }
    let token = match access.identify(given.token.trim()) {
        Ok((_, token)) => token,
        Err(TokenError::Revoked) => {
            return again(StatusCode::UNAUTHORIZED, "This token was revoked.");
        }
        Err(TokenError::Unknown) if given.token.trim().starts_with("cpw_") => {
            return again(
                StatusCode::UNAUTHORIZED,
                "This is a write key: it sends events and reads nothing. A read token begins with cpr_.",
            );
        }
        Err(TokenError::Unknown) => {
            return again(StatusCode::UNAUTHORIZED, "This token is not known.");
        }
    };
    let id = match access.0.sessions.begin(token, Instant::now()) {
        Ok(id) => id,
        Err(error) => {
            tracing::error!(%error, "no random bytes for a session");
            return again(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Signing in failed; the log of the server says why.",
            );
        }
    };
    let mut response = see_other(local_path(&given.next));
    set_cookie(&mut response, &headers, (&id, LIFETIME));
    response
}

async fn sign_out(State(access): State<Access>, headers: HeaderMap) -> Response {
    if !of_this_site(&Method::POST, &headers) {
        return refusal(StatusCode::FORBIDDEN, OF_ANOTHER_SITE);
    }
    if let Some(id) = session_id(&headers) {
        access.0.sessions.end(id);
    }
    let mut response = see_other("/sign-in");
    set_cookie(&mut response, &headers, ("", Duration::ZERO));
    response
}

/// Whose attempt it is: the peer or, where that is a proxy on this machine, whom it speaks for. Of
/// IPv6 the network, of which everyone has plenty of addresses.
fn asker(peer: Option<IpAddr>, headers: &HeaderMap) -> IpAddr {
    let peer = peer.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let last_hop = || {
        let hops = headers.get_all(FORWARDED_FOR).iter().next_back()?;
        hops.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    };
    let address = match peer.is_loopback() {
        true => last_hop().unwrap_or(peer),
        false => peer,
    };
    match address {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

/// Whether the reader has a session that can be ended.
pub(crate) fn has_session(headers: &HeaderMap) -> bool {
    session_id(headers).is_some()
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, id)| (name == COOKIE).then_some(id))
}

/// Scripts cannot read it, other sites cannot use it, and behind a proxy with TLS it never leaves in
/// plain text.
fn set_cookie(response: &mut Response, headers: &HeaderMap, (id, age): (&str, Duration)) {
    let https = headers
        .get(&FORWARDED_PROTO)
        .is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    let secure = if https { "; Secure" } else { "" };
    let seconds = age.as_secs();
    let cookie =
        format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
}

/// A path of ours to return to; the start page for anything else.
fn local_path(next: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    match next.as_bytes() {
        [b'/', rest @ ..]
            if rest.first() != Some(&b'/')
                && next.len() <= MAX_NEXT
                && rest.iter().all(|byte| plain(*byte)) =>
        {
            next
        }
        _ => "/",
    }
}

fn see_other(to: &str) -> Response {
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    let headers = [
        (header::LOCATION, to),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SEE_OTHER, headers).into_response()
}

fn refusal(status: StatusCode, text: &'static str) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (status, headers, text).into_response()
}

/// The form, to stand in a page.
fn sign_in_form(next: &str, fault: Option<&str>) -> Markup {
    html! {
        form.fields method="post" action="/sign-in" {
            @if let Some(fault) = fault { p.fault role="alert" { (fault) } }
            input type="hidden" name="next" value=(local_path(next));
            p {
                label for="token" { "Read token" }
                input id="token" name="token" type="password" required maxlength="256"
                    autocomplete="current-password" autocapitalize="off" spellcheck="false";
            }
            p { button type="submit" { "Sign in" } }
            p { "A read token begins with cpr_ and is made by " code { "chatpulse tenant token add" } "." }
        }
    }
}

fn form_page(next: &str, fault: Option<&str>) -> Response {
    let content = html! { section.card.narrow { h1 { "Sign in" } (sign_in_form(next, fault)) } };
    pages::outside("Sign in", &content)
}
