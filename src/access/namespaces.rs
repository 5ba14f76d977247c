//! What may be done in a channel: its name says its namespace, its namespace says the options.
//!
//! A name without its leading `$` belongs to the namespace before its first `:`; without `:` the options
//! for channels without a namespace apply. Everything is denied unless an option grants it.

use super::pattern::NamePattern;
use crate::limits;

/// Index of a namespace in [`Namespaces`]; 0 is that of channels without one.
pub type NamespaceIndex = u16;

/// Whom an option grants something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// Every client with a user.
    pub client: bool,
    /// Subscribers of the channel.
    pub subscriber: bool,
    /// With `client`: also clients without a user.
    pub anonymous: bool,
}

impl Grant {
    /// Whether a client may.
    pub fn allows(self, is_anonymous: bool, is_subscribed: bool) -> bool {
        self.client && (!is_anonymous || self.anonymous) || self.subscriber && is_subscribed
    }
}

/// What clients may publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataFormat {
    /// JSON goes as JSON; what is no JSON (Protobuf clients only) goes as bytes.
    #[default]
    Any,
    /// JSON only; else error 107.
    Json,
    /// JSON objects only; else error 107.
    JsonObject,
    /// Always bytes, whatever they look like.
    Binary,
}

/// Options of the channels of one namespace. The defaults grant nothing and keep nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    /// Who is there can be asked for.
    pub presence: bool,
    /// Joins and leaves are pushed to subscribers that asked for them.
    pub join_leave: bool,
    /// Joins and leaves are pushed to all subscribers.
    pub force_push_join_leave: bool,
    /// Publications kept; 0 for none.
    pub history_count: usize,
    /// Milliseconds that a publication is kept.
    pub history_age_ms: u64,
    /// Bytes of publications kept.
    pub history_bytes: usize,
    /// Milliseconds for which the position of a channel outlives its last use.
    pub history_meta_ms: u64,
    /// All subscriptions are positioned.
    pub force_positioning: bool,
    /// Clients may ask for positioned subscriptions.
    pub allow_positioning: bool,
    /// All subscriptions are recoverable.
    pub force_recovery: bool,
    /// Clients may ask for recoverable subscriptions.
    pub allow_recovery: bool,
    /// Recovery gives the newest publication instead of all missed ones.
    pub cache_recovery: bool,
    /// With `cache_recovery`: a fresh subscription is given it as well.
    pub auto_cache_recover: bool,
    /// Clients may ask for fossil deltas.
    pub allow_delta: bool,
    /// Clients may ask for the publications only whose tags match a filter.
    pub allow_filter: bool,
    /// Every publication may be sent as a delta, not only those that say so.
    pub delta_publish: bool,
    /// Who may subscribe; `subscriber` has no meaning here.
    pub allow_subscribe: Grant,
    /// Who may publish.
    pub allow_publish: Grant,
    /// Who may ask for history.
    pub allow_history: Grant,
    /// Who may ask for presence.
    pub allow_presence: Grant,
    /// Channels `name#user,user` are for these users.
    pub allow_user_limited: bool,
    /// An upstream service decides on subscriptions.
    pub subscribe_hook: bool,
    /// An upstream service decides on publications of clients.
    pub publish_hook: bool,
    /// An upstream service refreshes subscriptions.
    pub sub_refresh_hook: bool,
    /// An upstream service is told when a subscription ends.
    pub unsubscribe_events: bool,
    /// What clients may publish.
    pub data_format: DataFormat,
    /// What names look like that clients use; `None` for anything.
    pub name_pattern: Option<NamePattern>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self {
            presence: false,
            join_leave: false,
            force_push_join_leave: false,
            history_count: 0,
            history_age_ms: 0,
            history_bytes: limits::HISTORY_BYTES,
            history_meta_ms: limits::HISTORY_META_MS,
            force_positioning: false,
            allow_positioning: false,
            force_recovery: false,
            allow_recovery: false,
            cache_recovery: false,
            auto_cache_recover: false,
            allow_delta: false,
            allow_filter: false,
            delta_publish: false,
            allow_subscribe: Grant::default(),
            allow_publish: Grant::default(),
            allow_history: Grant::default(),
            allow_presence: Grant::default(),
            allow_user_limited: false,
            subscribe_hook: false,
            publish_hook: false,
            sub_refresh_hook: false,
            unsubscribe_events: false,
            data_format: DataFormat::Any,
            name_pattern: None,
        }
    }
}

impl ChannelOptions {
    /// Everybody may do everything, and histories have the default bounds.
    pub fn everything() -> Self {
        let everybody = Grant {
            client: true,
            subscriber: false,
            anonymous: true,
        };
        Self {
            presence: true,
            join_leave: true,
            history_count: limits::HISTORY_COUNT,
            history_age_ms: limits::HISTORY_AGE_MS,
            allow_positioning: true,
            allow_recovery: true,
            allow_delta: true,
            allow_filter: true,
            allow_subscribe: everybody,
            allow_publish: everybody,
            allow_history: everybody,
            allow_presence: everybody,
            ..Self::default()
        }
    }

    /// Whether the channel keeps a history.
    pub fn has_history(&self) -> bool {
        self.history_count > 0 && self.history_age_ms > 0
    }
}

/// All namespaces of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// Options of channels without a namespace.
    without: ChannelOptions,
    /// Names, sorted, with their options.
    named: Vec<(Box<str>, ChannelOptions)>,
    /// Names of channels are not asked for a namespace.
    is_open: bool,
}

impl Namespaces {
    /// `without` for channels without a namespace; `named` must not hold a name twice.
    pub fn new(without: ChannelOptions, named: Vec<(String, ChannelOptions)>) -> Self {
        let mut named: Vec<_> = named
            .into_iter()
            .map(|(name, options)| (name.into_boxed_str(), options))
            .collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            without,
            named,
            is_open: false,
        }
    }

    /// One set of options for all channels, whatever their names say of a namespace.
    pub fn open(options: ChannelOptions) -> Self {
        Self {
            without: options,
            named: Vec::new(),
            is_open: true,
        }
    }

    /// The namespace of a channel; `None` when the name has one that is not configured.
    pub fn find(&self, channel: &str) -> Option<NamespaceIndex> {
        if self.is_open {
            return Some(0);
        }
        let bare = channel.strip_prefix('$').unwrap_or(channel);
        let Some((name, _)) = bare.split_once(':') else {
            return Some(0);
        };
        let index = self.named.binary_search_by(|entry| (*entry.0).cmp(name));
        index.ok().map(|index| index as NamespaceIndex + 1)
    }

    /// The options of a namespace that [`Namespaces::find`] returned.
    pub fn options(&self, index: NamespaceIndex) -> &ChannelOptions {
        match usize::from(index).checked_sub(1) {
            None => &self.without,
            Some(index) => &self.named[index].1,
        }
    }

    /// Whether a client may use the name of a channel of this namespace. A pattern is for what follows
    /// the namespace, or for the whole name of a channel without one.
    pub fn is_name(&self, index: NamespaceIndex, channel: &str) -> bool {
        let Some(pattern) = &self.options(index).name_pattern else {
            return true;
        };
        let name = match index {
            0 => channel,
            _ => channel.split_once(':').map_or("", |(_, name)| name),
        };
        pattern.is_match(name)
    }

    /// Names with their options, in the order of their indices from 1 on.
    pub fn named(&self) -> impl Iterator<Item = (&str, &ChannelOptions)> {
        self.named.iter().map(|(name, options)| (&**name, options))
    }

    /// All options, by index.
    pub fn iter(&self) -> impl Iterator<Item = &ChannelOptions> {
        std::iter::once(&self.without).chain(self.named.iter().map(|(_, options)| options))
    }
}

/// What a channel's name says of who may subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privacy<'a> {
    /// Nothing.
    Open,
    /// `$…`: needs a subscription token.
    Private,
    /// `…#user,user`: the users.
    UserLimited(&'a str),
}

impl<'a> Privacy<'a> {
    /// Reads a channel's name. A private channel with `#` is private.
    pub fn of(channel: &'a str) -> Self {
        if channel.starts_with('$') {
            return Self::Private;
        }
        match channel.split_once('#') {
            Some((_, users)) => Self::UserLimited(users),
            None => Self::Open,
        }
    }
}

/// Whether `user` is in the list behind the `#` of a user-limited channel.
pub fn is_listed(users: &str, user: &str) -> bool {
    !user.is_empty() && users.split(',').any(|listed| listed == user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_says_the_namespace() {
        let chat = ChannelOptions {
            presence: true,
            ..ChannelOptions::default()
        };
        let named = vec![
            ("news".to_owned(), ChannelOptions::default()),
            ("chat".into(), chat),
        ];
        let namespaces = Namespaces::new(ChannelOptions::default(), named);
        for (channel, index) in [
            ("plain", Some(0)),
            ("$plain", Some(0)),
            ("chat:1:2", Some(1)),
            ("$chat:1", Some(1)),
            ("news:x#42", Some(2)),
            ("other:1", None),
            (":1", None),
        ] {
            assert_eq!(namespaces.find(channel), index, "{channel}");
        }
        assert!(namespaces.options(1).presence && !namespaces.options(0).presence);
        assert_eq!(namespaces.iter().count(), 3);
    }

    #[test]
    fn a_pattern_is_for_the_name_behind_the_namespace() {
        let with = |pattern| ChannelOptions {
            name_pattern: NamePattern::new(pattern),
            ..ChannelOptions::default()
        };
        let named = vec![("chat".to_owned(), with("^[0-9]+$"))];
        let namespaces = Namespaces::new(with("^[a-z]+$"), named);
        for (channel, is_name) in [
            ("news", true),
            ("$news", false),
            ("7", false),
            ("chat:7", true),
            ("$chat:7", true),
            ("chat:", false),
            ("chat:7:8", false),
        ] {
            let index = namespaces.find(channel).expect("configured");
            assert_eq!(namespaces.is_name(index, channel), is_name, "{channel}");
        }
        assert!(Namespaces::default().is_name(0, ""));
    }

    #[test]
    fn without_namespaces_every_name_is_as_good_as_another() {
        let namespaces = Namespaces::open(ChannelOptions::default());
        for channel in ["plain", "other:1", ":1", "$a:b"] {
            assert_eq!(namespaces.find(channel), Some(0), "{channel}");
        }
    }

    #[test]
    fn the_name_says_whom_it_is_for() {
        assert_eq!(Privacy::of("a"), Privacy::Open);
        assert_eq!(Privacy::of("$a#1"), Privacy::Private);
        assert_eq!(Privacy::of("a#1,2"), Privacy::UserLimited("1,2"));
        assert!(is_listed("1,2", "2") && !is_listed("1,2", "12"));
        assert!(!is_listed("", ""), "nobody is not a user");
    }

    #[test]
    fn anonymous_clients_need_a_grant_of_their_own() {
        let grant = |client, subscriber, anonymous| Grant {
            client,
            subscriber,
            anonymous,
        };
        assert!(!grant(false, false, true).allows(true, true));
        assert!(grant(true, false, false).allows(false, false));
        assert!(!grant(true, false, false).allows(true, false));
        assert!(grant(true, false, true).allows(true, false));
        assert!(grant(false, true, false).allows(true, true));
    }
}
