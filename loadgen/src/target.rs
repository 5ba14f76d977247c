//! Which server is driven: the words of the command line to a dialect and an outlet.

use crate::dialect::{CentrifugoJson, CentrifugoProtobuf, Dialect, Mqtt, Nats, SocketIo, Topic};
use crate::options::{Clients, Protocol, Publications, PublishBy};
use crate::outlet::{
    HttpApi, MqttOutlet, NatsOutlet, Nchan, Outlet, UpstreamOutlet, WebSocketOutlet,
};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the clients speak.
pub(crate) fn dialect(clients: &Clients) -> Arc<dyn Dialect> {
    let path = |default: &'static str| clients.path.as_deref().unwrap_or(default);
    match clients.protocol {
        Protocol::CentrifugoJson => Arc::new(CentrifugoJson::new(path("/connection/websocket"))),
        Protocol::CentrifugoProtobuf => {
            Arc::new(CentrifugoProtobuf::new(path("/connection/websocket")))
        }
        Protocol::Topic => Arc::new(Topic::new(path("/"))),
        Protocol::Echo => Arc::new(Topic::echo(path("/"))),
        Protocol::Nats => Arc::new(Nats::new(path("/"))),
        Protocol::Mqtt => Arc::new(Mqtt::new(path("/mqtt"))),
        Protocol::SocketIo => Arc::new(SocketIo::new(path("/socket.io/"))),
    }
}

/// Whom publications are for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience<'a> {
    /// So many rooms, without clients of ours.
    Rooms(u32),
    /// The rooms of clients.
    Clients(&'a Clients),
}

impl From<u32> for Audience<'_> {
    fn from(rooms: u32) -> Self {
        Self::Rooms(rooms)
    }
}

impl<'a> From<&'a Clients> for Audience<'a> {
    fn from(clients: &'a Clients) -> Self {
        Self::Clients(clients)
    }
}

/// How publications get to the server.
pub(crate) fn outlet<'a>(
    publications: &Publications,
    audience: impl Into<Audience<'a>>,
) -> Result<Box<dyn Outlet>, String> {
    let audience = audience.into();
    let rooms = match audience {
        Audience::Rooms(rooms) => rooms,
        Audience::Clients(clients) => clients.rooms(),
    };
    Ok(match publications.publish_by {
        PublishBy::Upstream => Box::new(UpstreamOutlet::connect(
            publications.upstream,
            publications.key(),
            rooms,
        )?),
        PublishBy::HttpApi => Box::new(HttpApi::connect(
            publications.publish_to()?,
            publications.api_key.as_deref(),
        )?),
        PublishBy::Nats => Box::new(NatsOutlet::connect(publications.publish_addr()?)?),
        PublishBy::Mqtt => Box::new(MqttOutlet::connect(publications.publish_addr()?)?),
        PublishBy::Nchan => Box::new(Nchan::connect(publications.publish_to()?)?),
        PublishBy::WebSocket => Box::new(websocket(audience)?),
    })
}

fn websocket(audience: Audience<'_>) -> Result<WebSocketOutlet, String> {
    match audience {
        Audience::Clients(clients) if clients.protocol == Protocol::Echo => {
            Err("an echo server has no publisher: use `chat`".to_owned())
        }
        Audience::Clients(clients) => {
            WebSocketOutlet::connect(clients.target, dialect(clients), clients.rooms())
        }
        Audience::Rooms(_) => Err(
            "--publish-by websocket is for scenarios with clients, which say --target and --protocol"
                .to_owned(),
        ),
    }
}

/// Finds out before the run whether anybody listens.
pub(crate) fn check(target: SocketAddrV4) -> Result<(), String> {
    let target = SocketAddr::from(target);
    match TcpStream::connect_timeout(&target, CHECK_TIMEOUT) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!(
            "nobody listens for clients at {target}: {error}\n\
             start a broker with `ringcast serve --listen {target} --allow-anonymous`, or name another \
             address with --target"
        )),
    }
}
