//! Which provider makes the channels of a transport.

use crate::via::{Provider, Transport};

/// The provider, or why there is none.
pub fn provider(transport: Transport) -> Result<&'static dyn Provider, String> {
    match transport {
        Transport::Tcp => Ok(&crate::via::tcp::TcpProvider),
        Transport::Shm => Ok(&crate::via::shm::Shm),
        Transport::Rdma => Ok(&crate::via::rdma::Rdma),
        Transport::Plain => Ok(&super::plain::PlainProvider),
    }
}
