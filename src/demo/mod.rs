//! The demo page: live comments in a browser, served by the broker itself.
//!
//! It uses the official JavaScript SDK as any application does: `centrifuge.js` is the unmodified build
//! of the npm package centrifuge 5.8.0 (`dist/centrifuge.js`), under the MIT licence beside it.

use crate::shard::settings::Page;

/// Room in which the broker publishes its own figures once a second while the demo is on.
pub const FIGURES_ROOM: &str = "demo:figures";

/// The page and what it loads. Nothing comes from elsewhere.
pub const PAGES: &[Page] = &[
    Page {
        path: "/",
        content_type: "text/html; charset=utf-8",
        body: include_bytes!("page.html"),
    },
    Page {
        path: "/centrifuge.js",
        content_type: "text/javascript; charset=utf-8",
        body: include_bytes!("centrifuge.js"),
    },
];

#[cfg(test)]
mod tests {
    use super::PAGES;

    #[test]
    fn pages_load_nothing_from_elsewhere() {
        for page in PAGES {
            let text = std::str::from_utf8(page.body).expect("UTF-8");
            for scheme in ["http://", "https://"] {
                let places = text.match_indices(scheme);
                let foreign = places
                    .map(|(at, _)| text.get(at..at + 40).unwrap_or_default())
                    // The name of the SVG namespace is no address.
                    .find(|url| !url.starts_with("http://www.w3.org/2000/svg"));
                assert_eq!(foreign, None, "{}", page.path);
            }
        }
    }
}
