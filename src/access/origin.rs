//! Which web pages may open a connection: the answer to cross-site WebSocket hijacking.

/// Allowed values of the `Origin` header, as patterns.
///
/// A request without `Origin` does not come from a browser's page and is allowed. With one, the
/// whole value, lower-cased, must match a pattern; no pattern means that no page is allowed. `*`
/// alone allows all; elsewhere a `*` stands for one or more characters of a host label boundary's
/// inside: it never matches `/`, `:` or `@`.
#[derive(Clone, Debug, Default)]
pub struct Origins {
    patterns: Vec<String>,
}

impl Origins {
    /// The origins that match one of `patterns`.
    pub fn new(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut origins = Self::default();
        origins.add(patterns);
        origins
    }

    /// Allows what matches one of `patterns`, too.
    pub fn add(&mut self, patterns: impl IntoIterator<Item = impl AsRef<str>>) {
        let patterns = patterns.into_iter();
        self.patterns
            .extend(patterns.map(|pattern| pattern.as_ref().to_ascii_lowercase()));
    }

    /// Whether a request with this `Origin` header may connect.
    pub fn allow(&self, origin: Option<&str>) -> bool {
        let Some(origin) = origin else { return true };
        let origin = origin.to_ascii_lowercase();
        self.patterns
            .iter()
            .any(|pattern| pattern == "*" || matches(pattern, &origin))
    }
}

/// Whether `text` matches a pattern in which `*` stands for any characters.
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = pieces.next_back() else {
        return rest.is_empty();
    };
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Glob match with a linear bound on retries: on a mismatch only the last `*` takes one more.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            if !within_host(text[t]) {
                return false;
            }
            (p, t) = (p + 1, t + 1);
            star = Some((p, t));
        } else if p < pattern.len() && pattern[p] == text[t] {
            (p, t) = (p + 1, t + 1);
        } else if let Some((after, taken)) = star {
            if !within_host(text[taken]) {
                return false;
            }
            star = Some((after, taken + 1));
            (p, t) = (after, taken + 1);
        } else {
            return false;
        }
    }
    p == pattern.len()
}

fn within_host(byte: u8) -> bool {
    !matches!(byte, b'/' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_a_pattern_and_a_native_client_does_not() {
        let none = Origins::default();
        assert!(none.allow(None));
        assert!(!none.allow(Some("https://app.example.com")) && !none.allow(Some("null")));
        let origins = Origins::new(["https://app.example.com", "http://127.0.0.1:8000"]);
        assert!(origins.allow(Some("HTTPS://App.Example.com")));
        for other in [
            "https://app.example.com.evil.net",
            "http://app.example.com",
            "https://app.example.com:444",
            "null",
            "",
        ] {
            assert!(!origins.allow(Some(other)), "{other}");
        }
        assert!(Origins::new(["*"]).allow(Some("null")));
    }

    #[test]
    fn a_glob_matches_whole_names() {
        for (pattern, text) in [
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*b*c", "a--b--bc"),
            ("*", ""),
        ] {
            assert!(glob_matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*b", "a"), ("ab*b", "ab"), ("*x*", "abc")] {
            assert!(!glob_matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn a_wildcard_stays_within_the_host() {
        let origins = Origins::new(["https://*.example.com"]);
        assert!(
            origins.allow(Some("https://a.example.com"))
                && origins.allow(Some("https://a.b.example.com"))
        );
        for evil in [
            "https://example.com",
            "https://.example.com.evil.net",
            "https://evil.net/.example.com",
            "https://evil.net:1.example.com",
            "https://me@evil.example.com",
        ] {
            assert!(!origins.allow(Some(evil)), "{evil}");
        }
        assert!(Origins::new(["http://localhost:*"]).allow(Some("http://localhost:3000")));
    }
}
