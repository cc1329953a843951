//! The line between Envoy and the broker: it can be slow, and it can be held.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Accepts connections until the test program ends, and passes each on to one address.
pub(crate) struct Link {
    /// Where to connect.
    pub(crate) address: SocketAddr,
    gate: Arc<Gate>,
}

impl Link {
    /// Bytes take `delay` in each direction; connecting takes no time.
    pub(crate) fn open(listen: SocketAddr, to: SocketAddr, delay: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let (address, gate) = (listener.local_addr()?, Arc::new(Gate::default()));
        let line = Line { delay, gate: gate.clone() };
        thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(to)) else { continue };
                line.clone().join(near, far);
            }
        });
        Ok(Self { address, gate })
    }

    /// Passes nothing on until [`Link::release`].
    pub(crate) fn hold(&self) {
        self.gate.set(true);
    }

    /// Passes on what has come meanwhile and what comes.
    pub(crate) fn release(&self) {
        self.gate.set(false);
    }
}

#[derive(Default)]
struct Gate {
    held: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, held: bool) {
        *self.held.lock().unwrap() = held;
        self.changed.notify_all();
    }

    fn pass(&self) {
        drop(self.changed.wait_while(self.held.lock().unwrap(), |held| *held).unwrap());
    }
}

#[derive(Clone)]
struct Line {
    delay: Duration,
    gate: Arc<Gate>,
}

impl Line {
    fn join(self, near: TcpStream, far: TcpStream) {
        for stream in [&near, &far] {
            // Whatever is late here is so on purpose.
            let _ = stream.set_nodelay(true);
        }
        let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) else { return };
        self.clone().one_way(near, far);
        self.one_way(far_too, near_too);
    }

    fn one_way(self, from: TcpStream, to: TcpStream) {
        let (sender, receiver) = sync_channel(PIECES);
        thread::spawn(move || read(from, &sender));
        thread::spawn(move || self.write(to, &receiver));
    }

    fn write(self, mut to: TcpStream, pieces: &Receiver<(Instant, Vec<u8>)>) {
        for (came, piece) in pieces {
            thread::sleep((came + self.delay).saturating_duration_since(Instant::now()));
            self.gate.pass();
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
}

fn read(mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        if pieces.send((Instant::now(), buffer[..size].to_vec())).is_err() {
            return;
        }
    }
}

/// How much is on its way in one direction at most, in pieces of up to 64 KiB.
const PIECES: usize = 4;
