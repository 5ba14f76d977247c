//! Which server is driven: the words of the command line to a dialect and an outlet.

use crate::dialect::{CentrifugoJson, Dialect};
use crate::options::{Clients, Protocol, Publications, PublishBy};
use crate::outlet::{Outlet, UpstreamOutlet};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What the clients speak.
pub(crate) fn dialect(clients: &Clients) -> Arc<dyn Dialect> {
    let path = |default: &'static str| clients.path.as_deref().unwrap_or(default);
    match clients.protocol {
        Protocol::CentrifugoJson => Arc::new(CentrifugoJson::new(path("/connection/websocket"))),
    }
}

/// How publications get to the server.
pub(crate) fn outlet(
    publications: &Publications,
    clients: &Clients,
) -> Result<Box<dyn Outlet>, String> {
    let rooms = clients.rooms();
    Ok(match publications.publish_by {
        PublishBy::Upstream => Box::new(UpstreamOutlet::connect(
            publications.upstream,
            publications.key(),
            rooms,
        )?),
    })
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
