//! Who may use the server API: those who know a key.
//!
//! Keys are kept and compared as digests, all of them each time, so that the time of a comparison says
//! nothing about a key.

use hyper::header::{AUTHORIZATION, HeaderMap, ORIGIN};
use sha2::{Digest, Sha256};

type Fingerprint = [u8; 32];

/// Accepted keys.
pub(super) struct Keys {
    accepted: Vec<Fingerprint>,
    /// Everybody may, except pages in browsers.
    insecure: bool,
}

impl Keys {
    /// Without keys and not insecure, nobody may. An empty key is none.
    pub(super) fn new(keys: &[String], insecure: bool) -> Self {
        let keys = keys.iter().filter(|key| !key.is_empty());
        Self {
            accepted: keys.map(|key| fingerprint(key.as_bytes())).collect(),
            insecure,
        }
    }

    /// Whether a request with these fields and this query may. A key may come as `X-API-Key: K`, as
    /// `Authorization: apikey K` or as `?api_key=K`.
    pub(super) fn admit(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        // Any page that an operator looks at can post to a loopback address; it says where it is from.
        self.insecure && !headers.contains_key(ORIGIN)
            || headers
                .get_all("x-api-key")
                .iter()
                .any(|value| self.is_accepted(value.as_bytes()))
            || headers
                .get_all(AUTHORIZATION)
                .iter()
                .filter_map(|value| key_of_authorization(value.as_bytes()))
                .any(|key| self.is_accepted(key))
            || form_urlencoded::parse(query.unwrap_or_default().as_bytes())
                .filter(|(name, _)| name == "api_key")
                .any(|(_, key)| self.is_accepted(key.as_bytes()))
    }

    fn is_accepted(&self, key: &[u8]) -> bool {
        let given = fingerprint(key);
        let differing = self.accepted.iter().map(|accepted| {
            let pairs = accepted.iter().zip(&given);
            pairs.fold(0, |bits, (a, b)| bits | (a ^ b))
        });
        differing.fold(false, |found, bits| found | (bits == 0))
    }
}

fn fingerprint(key: &[u8]) -> Fingerprint {
    Sha256::digest(key).into()
}

fn key_of_authorization(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    let is_ours = scheme.eq_ignore_ascii_case(b"apikey") && rest.first() == Some(&b' ');
    is_ours.then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &[&str], insecure: bool) -> Keys {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        Keys::new(&keys, insecure)
    }

    fn fields(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn each_of_several_keys_is_accepted_in_each_of_three_places() {
        let keys = keys(&["one", "t w+o"], false);
        for (key, encoded) in [("one", "one"), ("t w+o", "t%20w%2Bo")] {
            assert!(keys.admit(&fields("x-api-key", key), None));
            assert!(keys.admit(&fields("authorization", &format!("apikey {key}")), None));
            assert!(keys.admit(&fields("authorization", &format!("ApiKey  {key} ")), None));
            let query = format!("a=b&api_key={encoded}");
            assert!(keys.admit(&HeaderMap::new(), Some(&query)));
        }
    }

    #[test]
    fn whatever_is_not_a_key_is_refused() {
        let keys = keys(&["one", ""], false);
        for value in ["", "on", "one1", "ONE"] {
            assert!(!keys.admit(&fields("x-api-key", value), None), "{value}");
        }
        for value in ["", "apikey", "apikey ", "apikeyone", "Bearer one", "one"] {
            assert!(
                !keys.admit(&fields("authorization", value), None),
                "{value}"
            );
        }
        for query in [None, Some(""), Some("api_key"), Some("api_key=two&key=one")] {
            assert!(!keys.admit(&HeaderMap::new(), query), "{query:?}");
        }
    }

    #[test]
    fn without_keys_nobody_may_unless_everybody_may() {
        assert!(!keys(&[], false).admit(&fields("x-api-key", ""), Some("api_key=")));
        assert!(!keys(&[""], false).admit(&fields("x-api-key", ""), Some("api_key=")));
        assert!(keys(&[], true).admit(&HeaderMap::new(), None));
    }

    #[test]
    fn a_page_in_a_browser_needs_a_key_even_where_nobody_else_does() {
        let mut headers = fields("origin", "http://elsewhere.example");
        assert!(!keys(&["one"], true).admit(&headers, None));
        headers.insert("x-api-key", "one".parse().unwrap());
        assert!(keys(&["one"], true).admit(&headers, None));
    }
}
