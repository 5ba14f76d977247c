//! What a token or a service says of one subscription instead of its namespace.

/// Channel options for one subscription; `None` where the namespace decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Who is there can be asked for.
    pub presence: Option<bool>,
    /// Joins and leaves are announced.
    pub join_leave: Option<bool>,
    /// The subscriber is told of them without asking.
    pub force_push_join_leave: Option<bool>,
    /// The subscription is recoverable.
    pub force_recovery: Option<bool>,
    /// The subscription is positioned.
    pub force_positioning: Option<bool>,
}
