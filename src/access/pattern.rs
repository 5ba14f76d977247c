//! What names of channels have to look like, as an operator says it.

use regex::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take: one that is larger repeats something far too often.
const COMPILED_BYTES_MAX: usize = 256 * 1024;

/// A regular expression that names match somewhere, unless it begins with `^` and ends with `$`. The
/// time of a match grows with the length of the name, whatever the expression.
///
/// A clone has working memory of its own, so shards that each have one share nothing when they match.
#[derive(Clone, Debug)]
pub struct NamePattern(Regex);

impl NamePattern {
    /// The pattern of a regular expression; `None` when it is none, or too large.
    pub fn new(expression: &str) -> Option<Self> {
        let mut builder = RegexBuilder::new(expression);
        let regex = builder.size_limit(COMPILED_BYTES_MAX).build().ok()?;
        Some(Self(regex))
    }

    /// Whether a name, without its namespace, is as it has to be.
    pub fn is_match(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for NamePattern {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_what_its_expression_says() {
        let pattern = NamePattern::new("^[a-z]{2,8}$").expect("an expression");
        assert!(pattern.is_match("news"));
        assert!(!pattern.is_match("News") && !pattern.is_match("n") && !pattern.is_match(""));
        assert!(NamePattern::new("news").is_some_and(|part| part.is_match("old-news-1")));
    }

    #[test]
    fn what_is_no_expression_or_too_large_a_one_is_none() {
        for wrong in ["(", "[z-a]", "(a{1000}){1000}"] {
            assert_eq!(NamePattern::new(wrong), None, "{wrong}");
        }
    }
}
