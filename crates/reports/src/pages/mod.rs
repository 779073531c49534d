//! The pages: HTML made on the server from the same values that the API answers with.
//!
//! ```text
//! request ─► period, filter ─► Reports ─► content of one page ─► shell ─► HTML, ETag
//!                                              └─► standalone: one file with its style inside
//! ```
//!
//! maud escapes every value; texts of unknown origin are cut besides, and lose what turns the direction
//! of writing. Every list has a limit and says so. No page needs a script; the one there is asks for the
//! same page again and changes what differs.

mod assets;
mod conversations;
mod deliveries;
mod delivery;
mod failures;
mod health;
mod overview;
mod parts;
mod routes;
mod shell;
mod sources;
mod time;
mod working;

use maud::html;

pub(crate) use assets::router as assets;
pub(crate) use deliveries::classes;
pub(crate) use routes::{not_found, outside, router};

use crate::conversations::Conversations;
use crate::health::TenantHealth;

impl TenantHealth {
    /// As one HTML file that needs nothing else.
    pub fn to_html(&self) -> String {
        let title = format!("Health of {}", parts::foreign(&self.tenant));
        let about = html! { (health::about(self)) };
        shell::standalone(
            &title,
            &html! {
                (shell::head(&html! { (title) }, &about, &html! {}))
                (health::content(self, false))
            },
        )
    }
}

impl Conversations {
    /// As one HTML file that needs nothing else.
    pub fn to_html(&self) -> String {
        let title = format!("Conversations of {}", parts::foreign(&self.tenant));
        let about = html! { "Started from " (time::window(self.window)) " UTC" };
        shell::standalone(
            &title,
            &html! {
                (shell::head(&html! { (title) }, &about, &html! {}))
                (conversations::content(self))
            },
        )
    }
}
