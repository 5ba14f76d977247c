//! URLs as they may be shown: in reports, which are passed on, and in errors.

/// A URL or a path without user, password and the values of its query.
pub(crate) fn hide_secrets(text: &str) -> String {
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let mut shown = match place.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.find('/').unwrap_or(rest.len());
            match rest[..host].rfind('@') {
                Some(at) => format!("{scheme}://…{}", &rest[at..]),
                None => place.to_owned(),
            }
        }
        None => place.to_owned(),
    };
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    for (index, parameter) in parameters.enumerate() {
        shown.push(if index == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            // The place of the room.
            Some((_, "{room}")) => shown.push_str(parameter),
            Some((name, _)) => shown.extend([name, "=…"]),
            None => shown.push('…'),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_password_and_without_the_values_of_its_query() {
        for (text, shown) in [
            ("http://h:80/api", "http://h:80/api"),
            ("http://me:secret@h:80/a@b", "http://…@h:80/a@b"),
            (
                "https://h/pub?key=secret&x&id={room}",
                "https://h/pub?key=…&…&id={room}",
            ),
            ("/ws?token=a?b=c", "/ws?token=…"),
            ("127.0.0.1:4222", "127.0.0.1:4222"),
        ] {
            assert_eq!(hide_secrets(text), shown);
        }
    }
}
