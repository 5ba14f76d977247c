//! stub
#![allow(missing_docs)]
use crate::base::Content;
#[derive(Clone, Copy, Debug)]
pub enum HookKind {
    Connect,
    Subscribe,
    Publish,
    Rpc,
    Refresh,
    SubRefresh,
}
#[derive(Clone, Copy, Default)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_recovery: Option<bool>,
    pub force_positioning: Option<bool>,
}
#[derive(Default)]
pub struct SubOptions {
    pub info: (Content, Vec<u8>),
    pub data: (Content, Vec<u8>),
    pub overrides: Overrides,
}
#[derive(Default)]
pub struct HookResult {
    pub user: Option<String>,
    pub expire_at_s: Option<u64>,
    pub expired: bool,
    pub info: (Content, Vec<u8>),
    pub data: (Content, Vec<u8>),
    pub channels: Vec<String>,
    pub subs: Vec<(String, SubOptions)>,
    pub skip_history: bool,
    pub tags: Vec<u8>,
    pub key: Option<[u8; 16]>,
    pub delta: bool,
    pub overrides: Overrides,
}
pub struct BadHook;
pub fn parse(_: HookKind, _: &[u8]) -> Result<HookResult, BadHook> {
    Ok(HookResult::default())
}
