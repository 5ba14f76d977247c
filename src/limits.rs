//! Every bound of the broker in one place.
//!
//! A bound that an operator may change is a default here and a field of
//! [`crate::config::Config`]; a bound that the design rests on is fixed here. Relations between
//! bounds are asserted at compile time at the end of the file, each with the reason.

/// Bytes of an HTTP upgrade request up to and including the empty line.
pub const UPGRADE_BYTES_MAX: usize = 8 * 1024;
/// Header fields of an HTTP upgrade request.
pub const UPGRADE_HEADERS_MAX: usize = 64;
/// Subprotocols that an upgrade request may offer.
pub const UPGRADE_PROTOCOLS_MAX: usize = 16;
/// Seconds in `Retry-After` of an answer that refuses for want of room.
pub const REFUSAL_RETRY_AFTER_S: u32 = 5;
/// Milliseconds from accept to a complete upgrade request: one absolute deadline, not per read.
pub const UPGRADE_DEADLINE_MS: u64 = 5_000;
/// Milliseconds from the upgrade to a successful `connect` command (close 3502).
pub const STALE_DEADLINE_MS: u64 = 10_000;
/// Milliseconds that a closing connection has to take our close frame and answer it.
pub const CLOSE_DEADLINE_MS: u64 = 5_000;
/// Milliseconds for which a refused or broken connection is still read, so that unread bytes do not
/// reset it before it has read why. Nothing it sends can shorten that.
pub const LINGER_MS: u64 = 1_000;

/// Payload bytes of one incoming WebSocket message, all fragments together (close 1009).
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Fragments of one incoming message, empty ones included.
pub const MESSAGE_FRAGMENTS_MAX: u32 = 1_024;
/// Payload bytes of a control frame (RFC 6455 section 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;
/// Bytes of a server-to-client WebSocket header: two bytes and a 64-bit length, never a mask.
pub const SERVER_HEADER_MAX: usize = 10;
/// Nesting of arrays and objects in a JSON payload; parsers in SDKs give up at about 1,000.
pub const JSON_DEPTH_MAX: usize = 128;
/// Commands in one client message.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 1_024;

/// Bytes of a room name.
pub const ROOM_NAME_MAX: usize = 255;
/// Bytes of a user's name, and of a connection's public client id.
pub const USER_NAME_MAX: usize = 255;
/// Different filters by tags that subscribers of one room on one shard may have: each is asked once for a
/// publication.
pub const FILTERS_PER_VIEW_MAX: usize = 128;
/// Bytes of what publishers call the count that their versions are of.
pub const VERSION_EPOCH_MAX: usize = 255;
/// Bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Seconds by which the clocks of who signs tokens and of this host may differ at most.
pub const TOKEN_LEEWAY_S_MAX: u64 = 30;
/// Keys that tokens of one kind are verified with.
pub const TOKEN_KEYS_MAX: usize = 32;
/// Keys that a token which names none is tried with: a check takes up to a millisecond of a shard.
pub const TOKEN_KEYS_TRIED_MAX: usize = 4;
/// Subscription tokens that nobody here has signed, of one connection, before it is closed.
pub const BAD_TOKENS_MAX: u8 = 16;
/// Bits of an RSA key at least: shorter ones are not safe any more.
pub const RSA_BITS_MIN: usize = 2_048;
/// Bits of an RSA key at most: the time of a check grows with their square.
pub const RSA_BITS_MAX: usize = 4_096;
/// Bytes of what a token or a service says of a connection, and of one subscription of it.
pub const INFO_BYTES_MAX: usize = 2 * 1024;
/// Bytes of what a token or a service has kept of a connection for services only.
pub const META_BYTES_MAX: usize = 2 * 1024;
/// Bytes of a client's info in its flat form.
pub const FLAT_INFO_MAX: usize = 2 * (USER_NAME_MAX + INFO_BYTES_MAX) + 14;
/// Bytes of a publication's tags in their flat form.
pub const TAGS_BYTES_MAX: usize = 2 * 1024;
/// Nodes of a filter by tags.
pub const FILTER_NODES_MAX: usize = 32;
/// Nodes of a filter that lie within each other, the outermost included.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Bytes of all keys and values of a filter, each counted with [`FILTER_TEXT_OVERHEAD`] more.
pub const FILTER_BYTES_MAX: usize = 4 * 1024;
/// What a text takes besides its bytes: where it is and how long.
pub const FILTER_TEXT_OVERHEAD: usize = 16;
/// Bytes of a number in a tag or a filter; what is longer is no number.
pub const FILTER_NUMBER_MAX: usize = 200;
/// Digits of such a number behind the point; with more it is no number.
pub const FILTER_FRACTION_MAX: usize = 19;
/// Rooms that one connection may be subscribed to (error 106).
pub const SUBSCRIPTIONS_PER_CONN_MAX: usize = 128;
/// Milliseconds between server pings.
pub const PING_INTERVAL_MS: u64 = 25_000;
/// Bytes of messages that wait while a command of their connection waits (close 3013).
pub const HELD_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// Milliseconds that a client has to answer a ping (close 3012).
pub const PONG_DEADLINE_MS: u64 = 8_000;
/// Milliseconds that a send may stay in flight before its connection is closed as slow.
pub const WRITE_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds that an expired connection has for its refresh (close 3005).
pub const EXPIRED_CLOSE_MS: u64 = 25_000;
/// Milliseconds that an expired subscription has for its refresh (unsubscribe 2501).
pub const EXPIRED_SUB_CLOSE_MS: u64 = 25_000;
/// Connections that one user may be limited to.
pub const USER_CONNECTIONS_MAX: u64 = 1_000_000;
/// Milliseconds that a service has to answer a hook.
pub const HOOK_TIMEOUT_MS: u64 = 1_000;
/// Milliseconds that it may be given.
pub const HOOK_TIMEOUT_MS_MAX: u64 = 5_000;
/// Namespaces of channels.
pub const NAMESPACES_MAX: usize = 1_024;

/// Bytes of an upstream frame: `length` field excluded, everything after it included.
pub const UPSTREAM_FRAME_MAX: usize = 1024 * 1024;
/// Bytes of a service name, a node name or a key id of the upstream protocol.
pub const UPSTREAM_NAME_MAX: usize = 255;
/// Milliseconds that an upstream connection has for challenge, hello and welcome together.
pub const UPSTREAM_OPENING_MS: u64 = 5_000;
/// Rooms of one BROADCAST.
pub const BROADCAST_ROOMS_MAX: usize = 1_024;
/// Bytes of a frame that the broker sends to an upstream, `length` field excluded: clients read into a
/// buffer of fixed size.
pub const UPSTREAM_ANSWER_MAX: usize = 4 * 1024;
/// Payload bytes of an upstream PING.
pub const UPSTREAM_PING_MAX: usize = 64;
/// Bytes of PUBLISH and BROADCAST frames that an upstream connection may have outstanding.
pub const UPSTREAM_CREDIT_WINDOW: u64 = 4 * 1024 * 1024;
/// Upstream connections at one time.
pub const UPSTREAM_CONNS_MAX: usize = 1_024;
/// Connections beyond that limit which are told so at one time; the others are closed without a word.
pub const UPSTREAM_GOODBYES_MAX: usize = 64;

/// Bytes of the largest frame that the broker sends to an upstream, a RESULT: as much as crosses cores in
/// one frame.
pub const UPSTREAM_RESULT_MAX: usize = LANE_FRAME_MAX;
/// Questions of one upstream connection that may wait for their answers, each of them possibly large.
pub const UPSTREAM_QUERIES_MAX: usize = 16;
/// Names in each list of a REGISTER.
pub const HOOK_NAMES_MAX: usize = 256;
/// Events of one upstream connection that may wait for its answers.
pub const EVENTS_PENDING_PER_CONN_MAX: usize = 16 * 1024;
/// Events of all upstream connections together that may wait for answers.
pub const EVENTS_PENDING_MAX: usize = 256 * 1024;

/// Bytes of encoded frames that the upstream client gathers before it writes them.
pub const CLIENT_BUFFER_BYTES: usize = 64 * 1024;
/// Milliseconds that the upstream client waits for an answer, for credit or for the broker to read.
pub const CLIENT_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds after which a write that makes no progress looks whether answers have come in.
pub const CLIENT_WRITE_SLICE_MS: u64 = 20;

/// Bytes of the largest frame before an upstream connection is welcome.
pub const UPSTREAM_OPENING_BYTES: usize = 1024;
/// Bytes that one read from an upstream connection may take: a batch of frames.
pub const UPSTREAM_READ_BYTES: usize = 256 * 1024;
/// Bytes of answers that may wait for an upstream's socket before nothing more is read from it.
pub const UPSTREAM_OUTPUT_BYTES: usize = 256 * 1024;
/// Acknowledged requests of one upstream connection that may wait for their answers.
pub const UPSTREAM_PENDING_MAX: usize = 64 * 1024;
/// Microseconds of the first pause of an upstream connection before a full lane.
pub const UPSTREAM_PAUSE_US_MIN: u64 = 100;
/// Microseconds of its longest pause.
pub const UPSTREAM_PAUSE_US_MAX: u64 = 5_000;
/// Milliseconds for which an upstream has to be silent before the drain takes it to have sent everything.
pub const UPSTREAM_QUIET_MS: u64 = 5;
/// Milliseconds for which a closed upstream connection is read to its end, so that it gets the reason.
pub const UPSTREAM_LINGER_MS: u64 = 1_000;

/// Connections to one admin listener at one time.
pub const ADMIN_CONNS_MAX: usize = 128;
/// Connections to it above which none is kept for another request, so that probes find a place.
pub const ADMIN_CONNS_CROWDED: usize = ADMIN_CONNS_MAX / 2;
/// Milliseconds for one admin request and its answer; for one of the server API, for each of head, body
/// and answer.
pub const ADMIN_DEADLINE_MS: u64 = 10_000;
/// Milliseconds for which a connection that was answered may be silent before the next request.
pub const ADMIN_IDLE_MS: u64 = 30_000;
/// Bytes of the head of an admin request.
pub const ADMIN_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Milliseconds from a request of the server API to its answer, when a shard gives none.
pub const API_DEADLINE_MS: u64 = 5_000;
/// Bytes of the body of a request of the server API.
pub const API_BODY_MAX: usize = 4 * 1024 * 1024;
/// Payload bytes of a publication through the server API: with its tags it fits the largest answer to
/// a question for history.
pub const API_PAYLOAD_MAX: usize = UPSTREAM_FRAME_MAX - LANE_FRAME_OVERHEAD;
/// Questions of the server API that may wait for shards at one time.
pub const API_TASKS_MAX: usize = 64 * 1024;
/// Fields of one JSON object of the server API, and tags of one publication.
pub const API_FIELDS_MAX: usize = 128;
/// Channels of one `broadcast`.
pub const API_CHANNELS_MAX: usize = BROADCAST_ROOMS_MAX;
/// Commands of one `batch`.
pub const API_COMMANDS_MAX: usize = 1_024;
/// Client ids that one `disconnect` may spare.
pub const API_SPARED_MAX: usize = 64;
/// Bytes of the answer to a `batch`; commands beyond it are not carried out.
pub const API_ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Milliseconds of the service thread's heartbeat: how late it sees the shutdown flag at most.
pub const SERVICE_TICK_MS: u64 = 100;
/// Milliseconds that a drain may take.
pub const DRAIN_MS: u64 = 10_000;

/// Publications of history that a room keeps.
pub const HISTORY_COUNT: usize = 64;
/// Publications of history that a room may be configured to keep.
pub const HISTORY_COUNT_MAX: usize = 1_000_000;
/// Milliseconds that a publication stays in the history.
pub const HISTORY_AGE_MS: u64 = 120_000;
/// Bytes of history that a room keeps: payloads, publishers and tags.
pub const HISTORY_BYTES: usize = 64 * 1024;
/// Milliseconds for which the position of a room outlives its last use (30 days).
pub const HISTORY_META_MS: u64 = 720 * 3_600_000;
/// Bytes of them, in their flat form.
pub const READ_BYTES_MAX: usize = UPSTREAM_FRAME_MAX;
/// Homes looked at for one to give up when the table is full.
pub const EVICTION_LOOKS: usize = 64;
/// Bytes of all histories of one shard; above it a room that is published to loses its history.
pub const HISTORIES_BYTES_PER_SHARD: usize = 512 * 1024 * 1024;
/// Publications of one answer to `history`, however many were asked for.
pub const HISTORY_PUBLICATIONS: usize = 300;
/// Publications that a recovery may have to give back; when more are missing it fails.
pub const RECOVERY_PUBLICATIONS: usize = 300;
/// Publications that either may be configured to.
pub const ANSWER_PUBLICATIONS_MAX: usize = 10_000;
/// Idempotency keys that a room remembers.
pub const IDEMPOTENCY_KEYS_MAX: usize = 256;
/// Milliseconds that a room remembers an idempotency key.
pub const IDEMPOTENCY_AGE_MS: u64 = 300_000;
/// Rooms whose home one shard is, with or without subscribers.
pub const HOMES_PER_SHARD_MAX: usize = 1 << 20;
/// Milliseconds after which a home without subscribers, history and keys is forgotten.
pub const HOME_IDLE_MS: u64 = 300_000;

/// Offsets of a room end here: above 2^53 the SDKs in JavaScript cannot tell one from the next.
pub const OFFSET_MAX: u64 = 1 << 53;

/// Join and leave pushes of a room that may go out at once.
pub const MEMBERSHIP_BURST: u64 = 256;
/// Join and leave pushes of a room in a second, over time.
pub const MEMBERSHIP_PER_S: u64 = 2_000;
/// Join and leave pushes of a room that wait for their turn; beyond it the oldest is dropped.
pub const MEMBERSHIP_WAITING_MAX: usize = 16 * 1024;

/// Bytes that a room's tail may hold for subscribers that lag.
pub const TAIL_BYTES: usize = 1024 * 1024;
/// Milliseconds that the tail holds for subscribers that lag.
pub const TAIL_AGE_MS: u64 = 10_000;
/// Bytes of all tails of one shard; above it a room keeps only its newest chunk.
pub const TAILS_BYTES_PER_SHARD: usize = 256 * 1024 * 1024;
/// Bytes of the smallest and the largest pooled tail chunk. A larger publication has a chunk of its own.
pub const CHUNK_BYTES_MIN: usize = 256;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Bytes of free chunks that one shard keeps for reuse.
pub const CHUNK_POOL_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of replies and pushes for one connection only that may wait for its socket (close 3008).
/// A whole recovery fits, base64 and fields included.
pub const CONTROL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of them on all connections of a shard; above it a connection may have no more than
/// [`CONTROL_BYTES_CROWDED`].
pub const CONTROLS_BYTES_PER_SHARD: usize = 256 * 1024 * 1024;
/// See [`CONTROLS_BYTES_PER_SHARD`].
pub const CONTROL_BYTES_CROWDED: usize = 64 * 1024;
/// Ranges that one send covers; what a connection has beyond them follows in its next send.
pub const SEND_PARTS_MAX: usize = 16;

/// Shards of one process.
pub const SHARDS_MAX: usize = 255;
/// Bytes of one lane. Address space until used: an empty lane restarts at its first page.
pub const LANE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a lap after which an empty lane goes back to its first page.
pub const LANE_RESTART_BYTES: usize = 16 * 1024;
/// Bytes by which a frame between cores may exceed its payload: names, info, tags, key, archive.
pub const LANE_FRAME_OVERHEAD: usize = 8 * 1024;
/// Bytes of the largest frame between cores.
pub const LANE_FRAME_MAX: usize = UPSTREAM_FRAME_MAX + LANE_FRAME_OVERHEAD;
/// Frames that a shard takes from one lane in one turn before it looks after its sockets.
pub const LANE_FRAMES_PER_TURN: usize = 1_024;
/// Payload bytes after which it takes no more frames from that lane in the turn.
pub const LANE_BYTES_PER_TURN: usize = LANE_BYTES;

/// Slots of one ring's file table, when the descriptor limit allows as many.
pub const SLOTS_PER_SHARD_MAX: usize = 1 << 20;
/// Slots kept free above the connection limit, to say 503 instead of leaving a client waiting.
pub const REFUSAL_SLOTS: usize = 64;
/// One-shot accepts armed at one time, each with an address of its own.
pub const ACCEPTS_ARMED: usize = 64;
/// Entries of a shard's submission queue.
pub const SUBMISSION_ENTRIES: u32 = 4_096;
/// Entries of a shard's completion queue.
pub const COMPLETION_ENTRIES: u32 = 16_384;
/// Receive buffers of one shard, loaned to the kernel (a power of two, at most 32,768).
pub const RECV_BUFFERS: usize = 1_024;
/// Bytes of one receive buffer.
pub const RECV_BUFFER_BYTES: usize = 2 * 1024;
/// Completions reaped in one turn before lanes and timers have theirs.
pub const COMPLETIONS_PER_TURN: usize = 4_096;
/// Connections that wait for an accept on one listener; the kernel caps it at net.core.somaxconn.
pub const LISTEN_BACKLOG: i32 = 4_096;
/// Milliseconds of one timer wheel tick.
pub const TICK_MS: u64 = 32;
/// Milliseconds that an idle shard sleeps at most, so that its liveness shows in `/health`.
pub const IDLE_WAIT_MS: u64 = 250;
/// Milliseconds without a turn after which a shard is reported as stalled.
pub const STALL_MS: u64 = 1_000;

/// Bytes that handling one client command may put into one lane: its data, the client's info, and an
/// event for the service thread beside a frame for the room's home.
pub const COMMAND_OUTPUT_MAX: usize = 128 * 1024;

const _: () = assert!(
    COMPLETION_ENTRIES >= 4 * SUBMISSION_ENTRIES,
    "a turn's sends complete at once"
);
const _: () = assert!(
    LANE_BYTES >= 2 * LANE_FRAME_MAX,
    "a frame must fit on either side of the wrap"
);
const _: () = assert!(
    LANE_BYTES >= 4 * LANE_RESTART_BYTES && LANE_BYTES.is_power_of_two(),
    "an empty lane restarts before it has used up much of its lap"
);
const _: () = assert!(
    LANE_BYTES >= 2 * COMMAND_OUTPUT_MAX,
    "one command must fit an empty lane"
);
const _: () = assert!(
    COMMAND_OUTPUT_MAX >= MESSAGE_BYTES_MAX + 4 * LANE_FRAME_OVERHEAD,
    "what one command leads to fits the room that is asked for"
);
const _: () = assert!(
    RECV_BUFFERS.is_power_of_two() && RECV_BUFFERS <= 32_768,
    "kernel limit"
);
const _: () = assert!(
    PONG_DEADLINE_MS < PING_INTERVAL_MS,
    "one ping outstanding at a time"
);
const _: () = assert!(
    HOOK_TIMEOUT_MS_MAX < PONG_DEADLINE_MS,
    "a client that waits for a hook is not late with its pong"
);
const _: () = assert!(
    CONTROL_BYTES_MAX >= 2 * MESSAGE_BYTES_MAX,
    "a full message's replies fit"
);
const _: () = assert!(
    UPSTREAM_CREDIT_WINDOW as usize >= 2 * UPSTREAM_FRAME_MAX,
    "credit covers a frame"
);
const _: () = assert!(
    UPSTREAM_ANSWER_MAX >= 16 + UPSTREAM_NAME_MAX + UPSTREAM_PING_MAX,
    "every answer but a long error text fits by itself"
);
const _: () = assert!(
    UPSTREAM_OPENING_BYTES >= 2 * UPSTREAM_NAME_MAX + 128,
    "the longest HELLO fits the opening"
);
const _: () = assert!(
    CONTROL_BYTES_MAX >= 3 * READ_BYTES_MAX,
    "the largest recovery fits a reply in either encoding"
);
const _: () = assert!(
    MEMBERSHIP_PER_S <= 1_000_000 && MEMBERSHIP_BURST >= 1,
    "the pace is kept in whole microseconds"
);
const _: () = assert!(
    ADMIN_IDLE_MS >= 3 * ADMIN_DEADLINE_MS,
    "a connection's deadline is only ever moved to a later time"
);
const _: () = assert!(
    API_DEADLINE_MS < ADMIN_DEADLINE_MS,
    "a request whose shard is silent is answered before its connection ends"
);
const _: () = assert!(CHUNK_BYTES_MIN.is_power_of_two() && CHUNK_BYTES_MAX.is_power_of_two());
const _: () = assert!(
    TAIL_BYTES >= 2 * CHUNK_BYTES_MAX,
    "a tail holds more than its newest chunk"
);
const _: () = assert!(
    ROOM_NAME_MAX + FLAT_INFO_MAX + TAGS_BYTES_MAX + 256 <= LANE_FRAME_OVERHEAD,
    "names, info and tags fit a frame's overhead"
);
const _: () = assert!(
    ROOM_NAME_MAX + FLAT_INFO_MAX + META_BYTES_MAX + CONTROL_PAYLOAD_MAX + 256
        <= LANE_FRAME_OVERHEAD,
    "name, info, meta and reason of an event fit a frame's overhead"
);
