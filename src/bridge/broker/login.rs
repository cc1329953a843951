//! The AMQP connection itself: how it is opened, in one flight or step by step, and closed in good order.

use super::super::channel::Role;
use super::{BrokerSide, Notice};
use crate::amqp::{self, BrokerMethod, ClientMethod, ShortStr};
use crate::config::{Config, Login};
use crate::error::{BrokerMisbehaved, Error, LoginRefusal};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Starting,
    Tuning,
    Opening,
    Open,
    /// connection.close is sent, close-ok is awaited.
    Closing,
    /// Nothing more is said or heard.
    Closed,
}

/// What a login that goes step by step still has to send.
pub(super) struct Sequential {
    start_ok: Vec<u8>,
    open: Vec<u8>,
    /// The `frame_max` to propose.
    frame_max: u32,
    /// Written ahead of the login's end.
    pub(super) held: Vec<u8>,
    pub(super) held_max: usize,
    /// Whether connection.close is among it.
    closes: bool,
}

impl BrokerSide {
    /// Writes the login; with [`Login::Pipelined`] all of it, so that it takes one round trip.
    pub(in crate::bridge) fn log_in(
        &mut self,
        config: &Config,
        start_ok: ClientMethod<'_>,
        vhost: ShortStr<'_>,
    ) {
        self.greet();
        match config.login {
            Login::Pipelined => {
                start_ok.encode(&mut self.out, 0);
                self.tune_ok();
                ClientMethod::Open { vhost }.encode(&mut self.out, 0);
            }
            Login::Sequential => {
                let mut steps = Sequential {
                    start_ok: Vec::new(),
                    open: Vec::new(),
                    frame_max: self.frame_max,
                    held: Vec::new(),
                    // The will of the CONNECT is among it.
                    held_max: 2 * config.limits.max_packet_size_unauthenticated as usize,
                    closes: false,
                };
                start_ok.encode(&mut steps.start_ok, 0);
                ClientMethod::Open { vhost }.encode(&mut steps.open, 0);
                self.sequential = Some(steps);
                // Not negotiated yet; every broker takes frames of this size.
                self.frame_max = amqp::FRAME_MIN_SIZE;
            }
        }
    }

    /// Writes the protocol header alone. Whatever answers it, a broker or an echo, lets bytes go to the client.
    pub(in crate::bridge) fn greet(&mut self) {
        self.phase = Phase::Starting;
        self.out.extend_from_slice(amqp::PROTOCOL_HEADER);
    }

    /// One byte that no broker makes sense of, but an echo sends back.
    pub(in crate::bridge) fn nudge(&mut self) {
        self.out.push(0);
    }

    fn tune_ok(&mut self) {
        let (frame_max, heartbeat) = (self.frame_max, self.heartbeat);
        ClientMethod::TuneOk { channel_max: CHANNELS, frame_max, heartbeat }.encode(&mut self.out, 0);
    }

    /// Closes in good order: the broker handles all that was sent before, then answers [`Notice::Closed`].
    pub(in crate::bridge) fn close(&mut self) {
        self.publishing = None;
        if matches!(self.phase, Phase::Closing | Phase::Closed) {
            return;
        }
        if self.phase != Phase::Idle {
            if let Some(steps) = &mut self.sequential
                && core::mem::replace(&mut steps.closes, true)
            {
                return;
            }
            let reply_text = ShortStr::literal("Goodbye");
            ClientMethod::Close { reply_code: amqp::reply_code::REPLY_SUCCESS, reply_text }
                .encode(self.behind_login(), 0);
        }
        // A login that goes step by step goes on, so that what was sent behind it is handled.
        if self.sequential.is_none() {
            self.phase = Phase::Closing;
        }
    }

    pub(super) fn connection_method<'a>(
        &mut self,
        method: BrokerMethod<'a>,
    ) -> Result<Option<Notice<'a>>, Error> {
        match (self.phase, method) {
            (Phase::Starting, BrokerMethod::Start { server_properties, mechanisms }) => {
                if !mechanisms.split(|&b| b == b' ').any(|m| m == b"PLAIN") {
                    return Err(Error::Login(LoginRefusal::NoPlain));
                }
                self.wants_mqtt_headers = is_rabbitmq_before_3_13(server_properties);
                if let Some(steps) = &mut self.sequential {
                    self.out.append(&mut steps.start_ok);
                }
                self.phase = Phase::Tuning;
            }
            (Phase::Tuning, BrokerMethod::Tune { channel_max, frame_max }) => {
                self.tune(channel_max, frame_max)?;
                self.phase = Phase::Opening;
            }
            (Phase::Opening, BrokerMethod::OpenOk) => {
                self.phase = Phase::Open;
                if let Some(mut steps) = self.sequential.take() {
                    self.out.append(&mut steps.held);
                    if steps.closes {
                        self.phase = Phase::Closing;
                        return Ok(None);
                    }
                }
                return Ok(Some(Notice::Open));
            }
            (Phase::Starting | Phase::Tuning | Phase::Opening, BrokerMethod::Close(reason)) => {
                return Err(Error::Login(LoginRefusal::from_close(reason.code, reason.text)));
            }
            (_, BrokerMethod::Close(reason)) => {
                let was_closing = self.phase == Phase::Closing;
                self.phase = Phase::Closed;
                if was_closing {
                    self.close_ok();
                    return Ok(Some(Notice::Closed));
                }
                return Err(Error::BrokerClosed { code: reason.code, method: reason.method });
            }
            (Phase::Closing, BrokerMethod::CloseOk) => return Ok(Some(Notice::Closed)),
            (Phase::Closing, _) => {}
            (Phase::Open, BrokerMethod::Blocked) => self.is_blocked = true,
            (Phase::Open, BrokerMethod::Unblocked) => {
                self.is_blocked = false;
                return Ok(Some(Notice::Unblocked));
            }
            _ => return Err(Error::BrokerMisbehaved(BrokerMisbehaved::Unexpected)),
        }
        Ok(None)
    }

    /// The broker says what it allows; 0 is no limit. It closes a connection that wants more.
    fn tune(&mut self, channel_max: u16, broker_frame_max: u32) -> Result<(), Error> {
        if (1..CHANNELS).contains(&channel_max) {
            return Err(Error::Login(LoginRefusal::ChannelMax(channel_max)));
        }
        let Some(steps) = &mut self.sequential else {
            // It was proposed ahead of this.
            return match (1..self.frame_max).contains(&broker_frame_max) {
                true => Err(Error::Login(LoginRefusal::FrameMax(broker_frame_max))),
                false => Ok(()),
            };
        };
        self.frame_max = match broker_frame_max {
            0 => steps.frame_max,
            limit => steps.frame_max.min(limit).max(amqp::FRAME_MIN_SIZE),
        };
        let mut open = core::mem::take(&mut steps.open);
        self.tune_ok();
        self.out.append(&mut open);
        Ok(())
    }
}

/// Channels that a connection may come to open.
const CHANNELS: u16 = Role::ALL.len() as u16;

/// RabbitMQ's MQTT plugin took the QoS of a message from a header until 3.13 brought message containers.
fn is_rabbitmq_before_3_13(server_properties: amqp::Table<'_>) -> bool {
    let text = |key: &[u8]| match server_properties.find(key) {
        Ok(Some(amqp::Value::Bytes(text))) => core::str::from_utf8(text).unwrap_or_default(),
        Ok(_) | Err(_) => "",
    };
    let mut version = text(b"version").split('.').map_while(|part| part.parse::<u32>().ok());
    text(b"product") == "RabbitMQ"
        && matches!((version.next(), version.next()), (Some(major), Some(minor)) if (major, minor) < (3, 13))
}
