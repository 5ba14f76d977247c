//! The demo page: live comments in a browser, served by the broker itself.

use crate::shard::settings::Page;

/// Room in which the broker publishes its own figures once a second while the demo is on.
pub const FIGURES_ROOM: &str = "demo:figures";

/// The page and what it loads. Nothing comes from elsewhere.
pub const PAGES: &[Page] = &[Page {
    path: "/",
    content_type: "text/html; charset=utf-8",
    body: include_bytes!("page.html"),
}];
