//! A test event: whether a destination takes what is sent to it, tried on request.

use jiff::Timestamp;

use crate::{
    destination::{Destination, Receiver},
    failure::Ending,
    http::{Client, Pool},
    request::{Unfit, webhook},
};

/// Sends a `chatpulse.test` to a webhook, signed as events are, and says what came of it. Nothing is
/// recorded.
///
/// # Errors
/// [`Unfit`] for the other kinds: GA4 answers 2xx whatever is sent, and Meta counts it; use their own tools
/// (GA4: DebugView; Meta: `test_event_code`).
pub async fn send_test(client: &Client, destination: &Destination) -> Result<Ending, Unfit> {
    let Receiver::Webhook { url, keys } = &destination.receiver else {
        return Err(Unfit(
            "only webhooks have a test event; GA4 has DebugView, and Meta test_event_code"
                .to_owned(),
        ));
    };
    let at = Timestamp::now();
    // Every test is another one, so that receivers do not drop it as a repeat.
    let id = destination.delivery_id("chatpulse", &at.to_string());
    let body = webhook::test_payload(&destination.tenant, at);
    let request = webhook::signed((url, keys), &id, body, at);
    let limits = (destination.timeout, judge(destination));
    Ok(client.send(&Pool::default(), &request, limits).await)
}

/// How an answer of this kind of receiver is read.
pub(crate) fn judge(destination: &Destination) -> crate::http::Judge {
    match destination.receiver {
        Receiver::Webhook { .. } | Receiver::Ga4 { .. } => |failure, _| failure,
        Receiver::Meta { .. } => crate::request::meta::judge,
    }
}
