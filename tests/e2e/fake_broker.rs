//! A broker that agrees to everything but what a test has it do, for what a real one cannot be brought to do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use amq_protocol::frame::AMQPFrame;
use anyhow::Result;
use support::scripted_broker::ScriptedBroker;

/// What comes of a frame.
pub(crate) enum Reply {
    /// What a broker that agrees says.
    Obvious,
    /// These bytes.
    Bytes(Vec<u8>),
    /// FIN.
    HangUp,
}

/// Serves until the test program ends.
pub(crate) fn listen(
    reply: impl Fn(&mut ScriptedBroker, &AMQPFrame) -> Reply + Send + Sync + 'static,
) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, reply) = (listener.local_addr()?, Arc::new(reply));
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let reply = reply.clone();
            thread::spawn(move || converse(connection, &*reply));
        }
    });
    Ok(address)
}

fn converse(
    mut connection: TcpStream,
    reply: &impl Fn(&mut ScriptedBroker, &AMQPFrame) -> Reply,
) -> std::io::Result<()> {
    let (mut broker, mut buffer) = (ScriptedBroker::default(), [0; 4096]);
    while let size @ 1.. = connection.read(&mut buffer)? {
        broker.hear(&buffer[..size]);
        while let Some(frame) = broker.next_frame() {
            match reply(&mut broker, &frame) {
                Reply::Obvious => connection.write_all(&broker.obvious_answer(&frame))?,
                Reply::Bytes(bytes) => connection.write_all(&bytes)?,
                Reply::HangUp => connection.shutdown(Shutdown::Write)?,
            }
        }
    }
    Ok(())
}
