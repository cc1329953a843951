//! Free ports on loopback, for programs that cannot be told "any port".

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// `N` different free ports on 127.0.0.1.
///
/// Each is left in TIME_WAIT: the kernel gives such a port to nobody who asks for "any" one, but lets a server
/// with SO_REUSEADDR (all of ours) bind it. So tests that run side by side do not take each other's ports.
pub fn free<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = reserve()?;
    }
    Ok(ports)
}

fn reserve() -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address)?;
    // The side that closes first keeps the TIME_WAIT.
    drop(listener.accept()?);
    client.read_to_end(&mut Vec::new())?;
    Ok(address.port())
}
