//! One sequence of what clients do, done by bridges and by the reference.

use crate::reference::{Connect, Id, Limits, Message, Reference};
use crate::world::{End, Heard, LinkId, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use support::packets;

/// What clients do until all is quiet again.
#[derive(Clone)]
pub(crate) enum Step {
    /// One thing, alone.
    Alone(Act),
    /// Several things at the same time.
    Together(Vec<Act>),
}

/// What a client does, or what happens to it. Without a connection, only the first makes sense; the others are passed over.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Connect {
        client: Id,
        is_kept: bool,
        will: Option<(&'static str, u8)>,
        holds_acks: bool,
        keep_alive: bool,
    },
    Subscribe {
        client: Id,
        filters: Vec<(&'static str, u8)>,
    },
    Unsubscribe {
        client: Id,
        filters: Vec<&'static str>,
    },
    Publish {
        client: Id,
        topic: &'static str,
        qos: u8,
        size: usize,
        resent: Resent,
    },
    Acknowledge {
        client: Id,
        which: usize,
    },
    HoldAcks {
        client: Id,
        hold: bool,
    },
    Disconnect {
        client: Id,
    },
    End {
        client: Id,
        end: End,
    },
    Elapse {
        millis: u64,
    },
    /// A publisher of another protocol.
    FromElsewhere {
        topic: &'static str,
        qos: u8,
    },
}

/// Whether a PUBLISH at QoS 2 comes again, which is to make no difference. [MQTT-4.3.3-2]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Resent {
    Never,
    AtOnce,
    AfterPubrec,
}

/// A run: the bridges' world, and the reference's.
struct Run {
    world: World,
    reference: Reference,
    links: Vec<LinkId>,
    packet: u16,
    published: usize,
}

/// Does a sequence both ways.
///
/// # Errors
/// What the clients heard, where the reference does not agree.
pub(crate) fn run(steps: &[Step], seed: u64) -> Result<(), String> {
    let mut run = Run {
        world: World::new(CONFIG, seed),
        reference: Reference::new(LIMITS, CLIENTS),
        links: Vec::new(),
        packet: 0,
        published: 0,
    };
    let farewell = farewell(steps);
    for step in steps.iter().chain(&farewell) {
        run.step(step).map_err(|wrong| format!("{wrong}\n{}", run.world.trace.join("\n")))?;
    }
    let left = run.world.broker.queue_names();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("left at the broker: {left:?}\n{}", run.world.trace.join("\n")))
    }
}

impl Run {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        self.world.trace.push(format!("    {step:?}"));
        match step {
            Step::Alone(act) => self.act(act, &[]),
            Step::Together(acts) => self.act_together(acts),
        }
        self.world.settle();
        let heard: BTreeMap<LinkId, Vec<Heard>> =
            self.links.iter().map(|&link| (link, self.world.take_heard(link))).collect();
        for (link, heard) in heard.iter().filter(|(_, heard)| !heard.is_empty()) {
            self.world.trace.push(format!("        {link:?} hears {heard:?}"));
        }
        let closed: Vec<LinkId> =
            self.links.iter().copied().filter(|&link| self.world.is_closed(link)).collect();
        self.reference.judge(&heard, &closed)
    }

    /// Acts whose outcome nobody could tell are passed over.
    fn act_together(&mut self, acts: &[Act]) {
        let mut racing: BTreeMap<Id, Vec<(LinkId, Connect)>> = BTreeMap::new();
        let mut came = BTreeSet::new();
        for (i, act) in acts.iter().enumerate() {
            let later = &acts[i + 1..];
            let Some(client) = act.client() else {
                self.act(act, later);
                continue;
            };
            let is_last = !later.iter().any(|act| act.client() == Some(client) && act.is_coming_or_going());
            let comes = |act: &&Act| act.client() == Some(client) && matches!(act, Act::Connect { .. });
            match act {
                Act::Connect { .. } if acts.iter().filter(comes).count() > 1 => {
                    let is_kept = acts.iter().find(comes).is_some_and(Act::keeps_session);
                    let newcomer = self.connects(client, act, is_kept);
                    racing.entry(client).or_default().push(newcomer);
                }
                Act::Connect { .. } => {
                    came.insert(client);
                    self.act(act, later);
                }
                _ if racing.contains_key(&client) => {}
                Act::Disconnect { .. } | Act::End { .. } if came.contains(&client) => {}
                Act::Subscribe { .. } | Act::Unsubscribe { .. } | Act::Acknowledge { .. } if !is_last => {}
                _ => self.act(act, later),
            }
        }
        for (client, newcomers) in racing {
            self.reference.race(client, newcomers);
        }
    }

    fn connects(&mut self, client: Id, act: &Act, is_kept: bool) -> (LinkId, Connect) {
        let &Act::Connect { will, holds_acks, keep_alive, .. } = act else { unreachable!("a CONNECT") };
        let will = will.map(|(topic, qos)| Message { is_will: true, ..self.message(client, topic, qos, 0) });
        let keep_alive = if keep_alive { KEEP_ALIVE } else { 0 };
        let bytes = connect_packet(client, is_kept, will.as_ref(), keep_alive);
        let link = self.world.connect(bytes, keep_alive.into(), holds_acks);
        let will = will.map(|will| Message { way: Some(link), ..will });
        self.links.push(link);
        (link, Connect { is_kept, will, holds_acks, keep_alive: keep_alive.into() })
    }

    /// Does one thing; `later` comes at the same time.
    fn act(&mut self, act: &Act, later: &[Act]) {
        match act {
            &Act::Connect { client, is_kept, .. } => {
                let (link, connect) = self.connects(client, act, is_kept);
                self.reference.connect(client, link, connect);
            }
            &Act::FromElsewhere { topic, qos } => {
                let message = self.message(CLIENTS, topic, qos, 0);
                self.world.broker.publish_directly(
                    "amq.topic",
                    &topic.replace('/', "."),
                    qos + 1,
                    &message.payload,
                );
                self.reference.publish_from_elsewhere(message);
            }
            &Act::Elapse { millis } => {
                self.reference.elapse(millis);
                self.world.elapse(millis);
            }
            Act::Subscribe { client, .. }
            | Act::Unsubscribe { client, .. }
            | Act::Publish { client, .. }
            | Act::Acknowledge { client, .. }
            | Act::HoldAcks { client, .. }
            | Act::Disconnect { client }
            | Act::End { client, .. } => {
                if let Some(link) = self.reference.link(*client) {
                    self.act_online(*client, link, act, later);
                }
            }
        }
    }

    fn act_online(&mut self, client: Id, link: LinkId, act: &Act, later: &[Act]) {
        let returns =
            later.iter().any(|act| act.client() == Some(client) && matches!(act, Act::Connect { .. }));
        match act {
            Act::Subscribe { filters, .. } => {
                let packet = self.next_packet();
                self.world.send(link, packets::subscribe(packet, filters));
                let filters: Vec<_> = filters.iter().map(|&(filter, qos)| (filter.to_owned(), qos)).collect();
                self.reference.subscribe(client, packet, &filters);
            }
            Act::Unsubscribe { filters, .. } => {
                let packet = self.next_packet();
                self.world.send(link, packets::unsubscribe(packet, filters));
                let filters: Vec<_> = filters.iter().map(|&filter| filter.to_owned()).collect();
                self.reference.unsubscribe(client, packet, &filters);
            }
            &Act::Publish { topic, qos, size, resent, .. } => {
                let packet = self.next_packet();
                let message = Message { way: Some(link), ..self.message(client, topic, qos, size) };
                self.world.send(link, packets::publish(qos, packet, topic, &message.payload));
                let again = packets::publish_flags(0x0c, packet, topic, &message.payload);
                match resent {
                    Resent::AtOnce if qos == 2 => self.world.send(link, again),
                    Resent::AfterPubrec if qos == 2 => self.world.send_after_pubrec(link, packet, again),
                    Resent::Never | Resent::AtOnce | Resent::AfterPubrec => {}
                }
                self.reference.publish(packet, message);
            }
            &Act::Acknowledge { which, .. } => {
                if let Some(packet) = self.world.acknowledge(link, which) {
                    self.reference.acknowledge(client, packet);
                }
            }
            &Act::HoldAcks { hold, .. } => {
                self.world.hold_acks(link, hold);
                self.reference.hold_acks(client, hold);
            }
            Act::Disconnect { .. } => {
                self.world.send(link, packets::DISCONNECT);
                self.reference.disconnect(client, returns);
            }
            &Act::End { end, .. } => {
                self.world.end(link, end);
                match end {
                    // What was sent before is done, if nobody cuts in.
                    End::Fin | End::Malformed => self.reference.breaks(client, returns),
                    End::Reset => self.reference.breaks(client, true),
                    End::Unplugged => self.reference.is_unplugged(client),
                    End::HostGone => self.reference.loses_host(client),
                }
            }
            Act::Connect { .. } | Act::Elapse { .. } | Act::FromElsewhere { .. } => {}
        }
    }

    fn message(&mut self, publisher: Id, topic: &str, qos: u8, size: usize) -> Message {
        self.published += 1;
        let mut payload = format!("{}:", self.published).into_bytes();
        payload.resize(payload.len() + size, b'x');
        let is_in_turn = self.world.is_patient;
        Message { topic: topic.to_owned(), qos, payload, publisher, is_will: false, way: None, is_in_turn }
    }

    const fn next_packet(&mut self) -> u16 {
        self.packet += 1;
        self.packet
    }
}

impl Act {
    /// Whose act it is.
    const fn client(&self) -> Option<Id> {
        match self {
            Self::Connect { client, .. }
            | Self::Subscribe { client, .. }
            | Self::Unsubscribe { client, .. }
            | Self::Publish { client, .. }
            | Self::Acknowledge { client, .. }
            | Self::HoldAcks { client, .. }
            | Self::Disconnect { client }
            | Self::End { client, .. } => Some(*client),
            Self::Elapse { .. } | Self::FromElsewhere { .. } => None,
        }
    }

    const fn is_coming_or_going(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Disconnect { .. } | Self::End { .. })
    }

    const fn keeps_session(&self) -> bool {
        matches!(self, Self::Connect { is_kept: true, .. })
    }
}

/// Every session is ended for good, by its client or by time: nothing is to be left at the broker.
fn farewell(steps: &[Step]) -> Vec<Step> {
    let clients = (0..CLIENTS).flat_map(|client| {
        let connect =
            Act::Connect { client, is_kept: false, will: None, holds_acks: false, keep_alive: false };
        [connect, Act::Disconnect { client }]
    });
    // Who has gone unnoticed, and what a will leaves behind for a while.
    let notice = [Act::Elapse { millis: 100_000 }, Act::Elapse { millis: 15_000 }];
    // Groups are kept like sessions, for whoever comes back.
    let has_groups = steps.iter().any(|step| format!("{step:?}").contains("$share/"));
    let expiry = has_groups.then_some(Act::Elapse { millis: 6_000_000 });
    clients.chain(notice).chain(expiry).map(Step::Alone).collect()
}

fn connect_packet(client: Id, is_kept: bool, will: Option<&Message>, keep_alive: u16) -> Vec<u8> {
    let mut flags = 0xc0 | if is_kept { 0 } else { 2 };
    let id = format!("c{client}");
    let mut fields = vec![id];
    if let Some(will) = will {
        flags |= 4 | will.qos << 3;
        fields.extend([will.topic.clone(), String::from_utf8_lossy(&will.payload).into_owned()]);
    }
    fields.extend(["u".to_owned(), "p".to_owned()]);
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    packets::connect_with(flags, keep_alive, &fields)
}

impl Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone(act) => write!(f, "{act:?}"),
            Self::Together(acts) => write!(f, "together {acts:?}"),
        }
    }
}

/// How many clients there are.
pub(crate) const CLIENTS: usize = 3;

/// Small, so that limits are met.
const CONFIG: &str = r#"{"prefetch": 3, "qos0_max_length": 4, "subscription_ttl": 5000000, "heartbeat": 30, "will_refresh": 600000, "retained": false}"#;

/// The same as the reference sees it. A broker takes between two and three heartbeats to notice.
const LIMITS: Limits =
    Limits { prefetch: 3, qos0_max_length: 4, session_expiry: 5_000_000, host_timeout: 90_000 };

/// Seconds.
const KEEP_ALIVE: u16 = 10;
