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

/// How publications to `rooms` rooms get to the server; `clients` are those of the run, where there are any.
pub(crate) fn outlet(
    publications: &Publications,
    rooms: u32,
    clients: Option<&Clients>,
) -> Result<Box<dyn Outlet>, String> {
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
        PublishBy::WebSocket => Box::new(websocket(clients)?),
    })
}

fn websocket(clients: Option<&Clients>) -> Result<WebSocketOutlet, String> {
    match clients {
        Some(clients) if clients.protocol == Protocol::Echo => {
            Err("an echo server has no publisher: use `chat`".to_owned())
        }
        Some(clients) => {
            WebSocketOutlet::connect(clients.target, dialect(clients), clients.rooms())
        }
        None => Err("--publish-by websocket: this scenario has no WebSocket clients".to_owned()),
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
