//! A client's message, command by command, in either encoding.
//!
//! A reader that has to stop between two commands keeps [`Commands::rest`] and goes on with it later, so
//! the bytes are all the state there is: each command is read from its own bytes only.

use super::{BadCommand, Command, Encoding, json, protobuf};
use crate::limits::COMMANDS_PER_MESSAGE_MAX;

/// The commands of one message, in their order. After the first error there are no more.
///
/// A message of more than [`COMMANDS_PER_MESSAGE_MAX`] commands is refused before its first one.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    encoding: Encoding,
    rest: &'a [u8],
    /// Nothing has been read: an empty rest is an empty message and not the end of one.
    fresh: bool,
}

impl<'a> Commands<'a> {
    /// Reads `message`, or what [`Self::rest`] left of one when that is not empty.
    pub fn new(encoding: Encoding, message: &'a [u8]) -> Self {
        Self {
            encoding,
            rest: message,
            fresh: true,
        }
    }

    /// The bytes that have not been read; empty at the end and after an error.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, first: bool) -> Result<Command<'a>, BadCommand> {
        if self.rest.is_empty() {
            return Err(BadCommand::Empty);
        }
        if first && too_many(self.encoding, self.rest) {
            return Err(BadCommand::TooMany);
        }
        match self.encoding {
            Encoding::Json => json::take_command(&mut self.rest),
            Encoding::Protobuf => protobuf::take_command(&mut self.rest),
        }
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>, BadCommand>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = std::mem::take(&mut self.fresh);
        if self.rest.is_empty() && !first {
            return None;
        }
        let command = self.take(first);
        if command.is_err() {
            self.rest = &[];
        }
        Some(command)
    }
}

/// Whether the message has too many commands. No command is shorter than one byte, so the count is
/// looked at in long messages only.
fn too_many(encoding: Encoding, message: &[u8]) -> bool {
    message.len() > COMMANDS_PER_MESSAGE_MAX
        && match encoding {
            Encoding::Json => json::count(message) > COMMANDS_PER_MESSAGE_MAX,
            Encoding::Protobuf => protobuf::count(message) > COMMANDS_PER_MESSAGE_MAX,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::Request;

    fn all(encoding: Encoding, message: &[u8]) -> Vec<Result<Command<'_>, BadCommand>> {
        Commands::new(encoding, message).collect()
    }

    fn pong() -> Result<Command<'static>, BadCommand> {
        Ok(Command {
            id: 0,
            request: Request::Pong,
        })
    }

    #[test]
    fn an_empty_line_is_refused_except_one_at_the_end() {
        let all = |message: &'static str| all(Encoding::Json, message.as_bytes());
        assert_eq!(all(""), [Err(BadCommand::Empty)]);
        assert_eq!(all("\n"), [Err(BadCommand::Empty)]);
        assert_eq!(all("{}\n"), [pong()]);
        assert_eq!(all("{}\n\n"), [pong(), Err(BadCommand::Empty)]);
        assert_eq!(all("{}\n\n{}"), [pong(), Err(BadCommand::Empty)]);
        assert_eq!(all("\n{}"), [Err(BadCommand::Empty)]);
        assert_eq!(all("{}\r\n{}"), [pong(), pong()]);
    }

    #[test]
    fn an_empty_protobuf_message_is_refused_and_length_zero_is_a_pong() {
        assert_eq!(all(Encoding::Protobuf, b""), [Err(BadCommand::Empty)]);
        assert_eq!(all(Encoding::Protobuf, &[0]), [pong()]);
        assert_eq!(all(Encoding::Protobuf, &[0, 0]), [pong(), pong()]);
    }

    #[test]
    fn a_message_holds_a_bounded_number_of_commands() {
        for (encoding, one) in [(Encoding::Json, &b"{}\n"[..]), (Encoding::Protobuf, &[0])] {
            let full = one.repeat(COMMANDS_PER_MESSAGE_MAX);
            let read = all(encoding, &full);
            assert_eq!(read.len(), COMMANDS_PER_MESSAGE_MAX);
            assert!(read.iter().all(Result::is_ok));
            let over = one.repeat(COMMANDS_PER_MESSAGE_MAX + 1);
            assert_eq!(all(encoding, &over), [Err(BadCommand::TooMany)]);
        }
    }

    #[test]
    fn what_is_left_is_read_as_if_without_a_pause() {
        let lines = b"{}\n{\"id\":1,\"rpc\":{}}\n{\"id\":2,\"ping\":{}}\n";
        for trailing in 0..=1 {
            let message = &lines[..lines.len() - trailing];
            let at_once = all(Encoding::Json, message);
            let (mut rest, mut paused) = (message, Vec::new());
            while !rest.is_empty() {
                let mut commands = Commands::new(Encoding::Json, rest);
                paused.extend(commands.next());
                rest = commands.rest();
            }
            assert_eq!(paused, at_once);
            assert_eq!(paused.len(), 3);
        }
    }

    #[test]
    fn nothing_is_left_after_an_error() {
        let mut commands = Commands::new(Encoding::Json, b"{}\n[]\n{}");
        assert!(commands.next().is_some_and(|command| command.is_ok()));
        assert_eq!(commands.rest(), b"[]\n{}");
        assert_eq!(commands.next(), Some(Err(BadCommand::NotJson)));
        assert_eq!(commands.rest(), b"");
        assert_eq!(commands.next(), None);
    }
}
