//! One MQTT 3.1.1 connection, packet by packet, as cheap as it can be: it shares the machine with what it measures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use mqttbytes::QoS;
use mqttbytes::v4::{self, ConnectReturnCode, Packet, SubscribeReasonCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Who the clients say they are.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: String,
}

/// A connection that has been accepted.
pub(crate) struct Client {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// Received and not parsed yet.
    inbox: BytesMut,
    /// Encoded and not written yet. Packets gather here, so that a system call carries many.
    pub(crate) outbox: BytesMut,
    /// From the writing of CONNECT to the reading of CONNACK.
    pub(crate) admitted_in: Duration,
}

impl Client {
    /// Connects with a clean session and no keepalive; returns when CONNACK said yes.
    pub(crate) async fn connect(address: SocketAddr, client_id: &str, login: &Login) -> Result<Self> {
        let mut connect = v4::Connect::new(client_id);
        connect.keep_alive = 0;
        connect.set_login(&login.username, &login.password);
        let (client, connack) = Self::open(address, &connect).await?;
        ensure!(connack.code == ConnectReturnCode::Success, "{address} answered CONNECT with {connack:?}");
        Ok(client)
    }

    /// Sends this CONNECT; returns when CONNACK has come, whatever it says.
    pub(crate) async fn open(address: SocketAddr, connect: &v4::Connect) -> Result<(Self, v4::ConnAck)> {
        let stream =
            TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (from, to) = stream.into_split();
        let (inbox, outbox) = (BytesMut::with_capacity(INBOX), BytesMut::new());
        let mut client = Self { from, to, inbox, outbox, admitted_in: Duration::ZERO };

        connect.write(&mut client.outbox).map_err(unencodable)?;
        let start = Instant::now();
        client.flush().await?;
        let packet = client.packet().await?;
        client.admitted_in = start.elapsed();
        match packet {
            Packet::ConnAck(connack) => Ok((client, connack)),
            other => bail!("{address} answered CONNECT with {other:?}"),
        }
    }

    /// Subscribes; anything less than the asked QoS is an error, for it would measure something else.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) -> Result<()> {
        let mut subscribe = v4::Subscribe::new(filter, qos);
        subscribe.pkid = 1;
        subscribe.write(&mut self.outbox).map_err(unencodable)?;
        self.flush().await?;
        match self.packet().await? {
            Packet::SubAck(suback) => {
                ensure!(
                    suback.return_codes == [SubscribeReasonCode::Success(qos)],
                    "SUBSCRIBE at {qos:?} was answered with {:?}",
                    suback.return_codes
                );
                Ok(())
            }
            other => bail!("SUBSCRIBE was answered with {other:?}"),
        }
    }

    /// The next packet that is already here.
    pub(crate) fn parse(&mut self) -> Result<Option<Packet>> {
        match v4::read(&mut self.inbox, usize::MAX) {
            Ok(packet) => Ok(Some(packet)),
            Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
            Err(malformed) => bail!("malformed packet from the broker: {malformed:?}"),
        }
    }

    /// The next packet.
    pub(crate) async fn packet(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.parse()? {
                return Ok(packet);
            }
            self.receive().await?;
        }
    }

    /// Waits for bytes and takes all that one read gives. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Result<()> {
        receive(&mut self.from, &mut self.inbox).await
    }

    /// Writes what waits in the outbox.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        Ok(self.to.write_all_buf(&mut self.outbox).await?)
    }

    /// Moves bytes whichever way they will go first: in, or out if anything waits. Cancel-safe.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        tokio::select! {
            // Out first: what is due should not wait for what has come.
            biased;
            written = self.to.write_buf(&mut self.outbox), if !self.outbox.is_empty() => Ok(written.map(|_| ())?),
            received = receive(&mut self.from, &mut self.inbox) => received,
        }
    }

    /// Says that nothing more will be sent (FIN), and goes on receiving.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        Ok(self.to.shutdown().await?)
    }

    /// Ends as a crash does: RST, and what was not sent yet is not sent.
    pub(crate) fn reset(self) -> Result<()> {
        Ok(self.from.reunite(self.to)?.set_zero_linger()?)
    }

    /// Leaves as a polite client does.
    pub(crate) async fn disconnect(mut self) -> Result<()> {
        v4::Disconnect.write(&mut self.outbox).map_err(unencodable)?;
        self.flush().await
    }
}

async fn receive(from: &mut OwnedReadHalf, inbox: &mut BytesMut) -> Result<()> {
    // A little room would make a little read of a busy socket.
    inbox.reserve(INBOX / 2);
    ensure!(from.read_buf(inbox).await? > 0, "the broker closed the connection");
    Ok(())
}

/// An encoder's refusal: a mistake of ours.
pub(crate) fn unencodable(error: mqttbytes::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot encode: {error:?}")
}

/// What one read may take.
const INBOX: usize = 64 * 1024;
