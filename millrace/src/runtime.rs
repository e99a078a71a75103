//! What commands that talk over a network share.

use std::net::SocketAddr;

use crate::failure::{Failure, Outcome};

/// A runtime for network clients and the server.
///
/// # Errors
/// A system without threads to spare.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("the runtime does not start: {e}")))
}

/// An address of the command line.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = text.replace("localhost", "127.0.0.1");
    text.parse()
        .map_err(|_| format!("'{text}' is not an address: write 127.0.0.1:7077"))
}
