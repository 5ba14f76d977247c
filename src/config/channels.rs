//! What `[channels]` and each `[namespaces.NAME]` say: the options of channels.

use super::reader::{Reader, Section};
use crate::access::{ChannelOptions, DataFormat, Grant, NamePattern, Namespaces};
use crate::limits;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;

/// What channels are like where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    /// There is a file: it grants what it says.
    Denied,
    /// There is no file: everybody who may connect may subscribe, to any name, with a history.
    Open,
    /// The demo: everybody may do everything.
    Demo,
}

/// The namespaces, and whether names are not asked for one.
pub(super) fn namespaces(reader: &mut Reader<'_>, basis: Basis) -> (Namespaces, bool) {
    let defaults = match basis {
        Basis::Denied => ChannelOptions::default(),
        Basis::Open | Basis::Demo => unconfigured(),
    };
    let without = options(&mut reader.section("channels"), &defaults);
    let mut named = Vec::new();
    let names = reader.namespaces();
    if names.len() > limits::NAMESPACES_MAX {
        let expected = format!("at most {} namespaces", limits::NAMESPACES_MAX);
        reader.section("namespaces").refuse_all(&expected);
    }
    for name in names {
        let mut section = reader.section(&format!("namespaces.{name}"));
        if !is_name(&name) {
            section.refuse_all(NAME_RULE);
        }
        let options = options(&mut section, &ChannelOptions::default());
        named.push((name, options));
    }
    match basis {
        Basis::Demo => (Namespaces::open(everything(without)), true),
        Basis::Open if named.is_empty() => (Namespaces::open(without), true),
        _ => (Namespaces::new(without, named), false),
    }
}

const NAME_RULE: &str = "a name of 1 to 64 letters, digits, `_`, `-` and `.`";

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Options without a file: anybody may subscribe, and every channel has a history.
fn unconfigured() -> ChannelOptions {
    ChannelOptions {
        history_count: limits::HISTORY_COUNT,
        history_age_ms: limits::HISTORY_AGE_MS,
        allow_subscribe: EVERYBODY,
        ..ChannelOptions::default()
    }
}

const EVERYBODY: Grant = Grant {
    client: true,
    subscriber: false,
    anonymous: true,
};

/// The demo's options; the history is the configured one, if there is one.
fn everything(base: ChannelOptions) -> ChannelOptions {
    let history = match base.has_history() {
        true => base,
        false => unconfigured(),
    };
    ChannelOptions {
        history_count: history.history_count,
        history_age_ms: history.history_age_ms,
        history_bytes: history.history_bytes,
        history_meta_ms: history.history_meta_ms,
        ..ChannelOptions::everything()
    }
}

fn options(section: &mut Section<'_, '_>, defaults: &ChannelOptions) -> ChannelOptions {
    let history_count = section.integer(
        "history_size",
        0..=limits::HISTORY_COUNT_MAX as u64,
        defaults.history_count as u64,
    );
    let age_default = match history_count {
        0 => 0,
        _ => defaults.history_age_ms,
    };
    let delta: Vec<String> =
        section.strings("allowed_delta_types", "list of delta types: \"fossil\"");
    if delta.iter().any(|kind| kind != "fossil") {
        section.refuse("allowed_delta_types", "only \"fossil\"");
    }
    let options = ChannelOptions {
        presence: section.boolean("presence", false),
        join_leave: section.boolean("join_leave", false),
        force_push_join_leave: section.boolean("force_push_join_leave", false),
        history_count: history_count as usize,
        history_age_ms: section.duration("history_ttl", 0..=YEAR_MS, age_default),
        history_bytes: section.size("history_bytes", 0..=1 << 30, defaults.history_bytes as u64)
            as usize,
        history_meta_ms: section.duration(
            "history_meta_ttl",
            1_000..=YEAR_MS,
            defaults.history_meta_ms,
        ),
        force_positioning: section.boolean("force_positioning", false),
        allow_positioning: section.boolean("allow_positioning", false),
        force_recovery: section.boolean("force_recovery", false),
        allow_recovery: section.boolean("allow_recovery", false),
        cache_recovery: section.choice("recovery_mode", [("stream", false), ("cache", true)]),
        auto_cache_recover: section.boolean("auto_cache_recover", false),
        allow_delta: !delta.is_empty(),
        allow_filter: section.boolean("allow_tags_filter", false),
        delta_publish: section.boolean("delta_publish", false),
        allow_subscribe: Grant {
            subscriber: false,
            ..grant(section, "subscribe", defaults.allow_subscribe)
        },
        allow_publish: grant(section, "publish", defaults.allow_publish),
        allow_history: grant(section, "history", defaults.allow_history),
        allow_presence: grant(section, "presence", defaults.allow_presence),
        allow_user_limited: section.boolean("allow_user_limited_channels", false),
        subscribe_hook: section.boolean("subscribe_hook", false),
        publish_hook: section.boolean("publish_hook", false),
        sub_refresh_hook: section.boolean("sub_refresh_hook", false),
        unsubscribe_events: section.boolean("unsubscribe_events", false),
        data_format: section.choice(
            "publication_data_format",
            [
                ("", DataFormat::Any),
                ("json", DataFormat::Json),
                ("json_object", DataFormat::JsonObject),
                ("binary", DataFormat::Binary),
            ],
        ),
        name_pattern: name_pattern(section),
    };
    check_history(section, &options);
    check_combinations(section, &options);
    options
}

fn name_pattern(section: &mut Section<'_, '_>) -> Option<NamePattern> {
    let is_right = |text: &str| text.is_empty() || NamePattern::new(text).is_some();
    let expected = "regular expression of moderate size";
    let text = section.string("channel_regex", expected, "none", is_right)?;
    NamePattern::new(&text).filter(|_| !text.is_empty())
}

/// `allow_WHAT_for_client`, `_subscriber` and `_anonymous`.
fn grant(section: &mut Section<'_, '_>, what: &str, default: Grant) -> Grant {
    let anonymous_key = format!("allow_{what}_for_anonymous");
    let grant = Grant {
        client: section.boolean(&format!("allow_{what}_for_client"), default.client),
        // A subscriber may subscribe already.
        subscriber: what != "subscribe"
            && section.boolean(&format!("allow_{what}_for_subscriber"), default.subscriber),
        anonymous: section.boolean(&anonymous_key, default.anonymous),
    };
    if grant.anonymous && !grant.client {
        let expected = format!("false, or allow_{what}_for_client = true beside it");
        section.refuse(&anonymous_key, &expected);
    }
    grant
}

fn check_history(section: &mut Section<'_, '_>, options: &ChannelOptions) {
    let (count, age_ms) = (options.history_count, options.history_age_ms);
    if count > 0 && age_ms == 0 {
        let expected = format!("more than 0s, because history_size is {count}");
        section.refuse("history_ttl", &expected);
    }
    if count == 0 && age_ms > 0 {
        section.refuse("history_size", "more than 0, because history_ttl is set");
    }
    if age_ms > options.history_meta_ms {
        section.refuse("history_meta_ttl", "at least history_ttl");
    }
    if options.has_history() {
        return;
    }
    for (key, is_on) in [
        ("force_positioning", options.force_positioning),
        ("allow_positioning", options.allow_positioning),
        ("force_recovery", options.force_recovery),
        ("allow_recovery", options.allow_recovery),
    ] {
        if is_on {
            section.refuse(key, "false, or history_size and history_ttl above 0");
        }
    }
}

fn check_combinations(section: &mut Section<'_, '_>, options: &ChannelOptions) {
    let recovers = options.force_recovery || options.allow_recovery;
    if options.cache_recovery && !recovers {
        let expected = "\"stream\", or force_recovery or allow_recovery = true";
        section.refuse("recovery_mode", expected);
    }
    if options.auto_cache_recover && !options.cache_recovery {
        let expected = "false, or recovery_mode = \"cache\"";
        section.refuse("auto_cache_recover", expected);
    }
    if options.delta_publish && !options.allow_delta {
        let expected = "false, or allowed_delta_types = [\"fossil\"]";
        section.refuse("delta_publish", expected);
    }
    if options.force_push_join_leave && !options.join_leave {
        section.refuse("force_push_join_leave", "false, or join_leave = true");
    }
}
