//! Has a conversation with a server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep};

use super::conversation::{self, CLIENTS, Conversation, EVERYBODY, End, Packet, Pipeline, Round};
use super::line::{self, Line, Message};
use super::outcome::{Memory, Part, Phase};
use crate::packets;

/// How it is known that all has come that will.
pub(crate) enum Until<'a> {
    /// The judge says it: everybody has an answer to the last that was said, and then there is silence.
    Answered,
    /// It is as the judge has it; or nothing more comes for so long. What comes at once, comes at once, unless it waits.
    Same { as_judged: &'a [Phase], patience: Duration, waits: bool },
}

/// What came of it, phase by phase, up to the first that went wrong, and what was wrong then.
pub(crate) struct Outcome {
    pub(crate) phases: Vec<Phase>,
    pub(crate) wrong: Vec<String>,
}

/// A conversation under way.
struct Run<'a> {
    address: SocketAddr,
    root: &'a str,
    /// The last is open unless the client has ended it.
    lines: [Vec<Spoken>; EVERYBODY],
    observer: Spoken,
}

/// A connection, and what has been looked at of what came.
struct Spoken {
    line: Line,
    answers: BTreeMap<&'static str, usize>,
    messages: usize,
    scripts: usize,
    pings: usize,
    /// The client has ended it.
    ended: bool,
    /// Another connection of the client's has begun.
    replaced: bool,
    /// In a phase before this one.
    over: bool,
}

impl Spoken {
    fn new(line: Line) -> Self {
        let answers = BTreeMap::new();
        Self { line, answers, messages: 0, scripts: 0, pings: 0, ended: false, replaced: false, over: false }
    }

    /// What came in this phase.
    fn part(&self, root: &str) -> Part {
        let heard = self.line.heard();
        let answers = heard.answers.iter().map(|(kind, all)| {
            let seen = self.answers.get(kind).copied().unwrap_or(0);
            (*kind, all[seen..].to_vec())
        });
        let answers = answers.filter(|(_, all)| !all.is_empty()).collect();
        let short = |message: &Message| {
            let topic = message.topic.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
            Message { topic: topic.unwrap_or(&message.topic).to_owned(), ..message.clone() }
        };
        let messages = heard.messages[self.messages..].iter().map(short).collect();
        Part { answers, messages, end: heard.end, ended: self.ended, replaced: self.replaced }
    }

    fn looked_at(&mut self) {
        let heard = self.line.heard();
        self.answers = heard.answers.iter().map(|(kind, all)| (*kind, all.len())).collect();
        self.messages = heard.messages.len();
        drop(heard);
        self.over = self.ended || self.replaced;
    }
}

/// Has this conversation with a server. Nothing of it is left there but what could not be taken away.
pub(crate) async fn run(
    address: SocketAddr,
    conversation: &Conversation,
    root: &str,
    until: &Until<'_>,
) -> Result<Outcome> {
    let observer = Spoken::new(Line::open(address).await?);
    let mut run = Run { address, root, lines: Default::default(), observer };
    run.watch().await?;
    let outcome = run.converse(conversation, until).await;
    clean(address, root).await?;
    outcome
}

impl Run<'_> {
    async fn watch(&mut self) -> Result<()> {
        let filter = format!("{}/#", self.root);
        let connect = packets::connect_with(2, 0, &[&format!("{}-observer", self.root)]);
        self.observer.line.say(vec![connect, packets::subscribe(1, &[(&filter, 1)])], &[], false);
        let deadline = Instant::now() + ANSWER;
        while self.observer.line.heard().count("SUBACK") == 0 {
            ensure!(Instant::now() < deadline, "{}: SUBSCRIBE is not answered", self.address);
            sleep(POLL).await;
        }
        self.observer.looked_at();
        Ok(())
    }

    async fn converse(&mut self, conversation: &Conversation, until: &Until<'_>) -> Result<Outcome> {
        let mut outcome = Outcome { phases: Vec::new(), wrong: Vec::new() };
        let mut memory = Memory::default();
        for (index, rounds) in conversation.phases().enumerate() {
            for round in rounds {
                self.say(round).await?;
                match until {
                    // A mosquitto reads one packet of a connection, then one of the next: who connects at once overtakes what the old
                    // connection has said. So the judge is told of it when that is done.
                    Until::Answered | Until::Same { waits: true, .. } => self.quiet().await?,
                    Until::Same { .. } => self.written().await?,
                }
            }
            if let Until::Same { as_judged, patience, .. } = until {
                let Some(judged) = as_judged.get(index) else { break };
                let (wrong, after) = self.same(judged, rounds, &memory, *patience).await;
                memory = after;
                if !wrong.is_empty() {
                    outcome.wrong = wrong.into_iter().map(|it| format!("phase {index}: {it}")).collect();
                    return Ok(outcome);
                }
            }
            outcome.phases.push(self.phase());
            self.all().for_each(Spoken::looked_at);
        }
        if let Until::Same { .. } = until {
            sleep(SILENCE).await;
            outcome.wrong = memory.unpaid();
            let late = self.phase();
            let parts = late.clients.iter().flatten().chain([&late.observer]);
            let superfluous = parts.flat_map(|part| &part.messages).filter(|message| !message.dup);
            outcome.wrong.extend(superfluous.map(|message| format!("in the end, too much: {message:?}")));
        }
        Ok(outcome)
    }

    async fn say(&mut self, round: &Round) -> Result<()> {
        for pipeline in &round.pipelines {
            self.speak(pipeline).await?;
        }
        Ok(())
    }

    async fn speak(&mut self, pipeline: &Pipeline) -> Result<()> {
        let lines = &mut self.lines[pipeline.client];
        if pipeline.connect.is_some() {
            if let Some(old) = lines.last_mut() {
                old.replaced = !old.ended;
            }
            lines.push(Spoken::new(Line::open(self.address).await?));
        }
        let Some(spoken) = lines.last_mut() else { return Ok(()) };
        spoken.line.say(
            pipeline.bytes(self.root),
            &pipeline.cuts,
            matches!(pipeline.end, Some(End::Fin | End::DisconnectAndFin)),
        );
        spoken.scripts += 1;
        spoken.pings += pipeline.packets.iter().filter(|packet| **packet == Packet::Ping).count();
        spoken.ended = pipeline.end.is_some();
        Ok(())
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Spoken> {
        self.lines.iter_mut().flatten().chain([&mut self.observer])
    }

    fn everything(&self) -> impl Iterator<Item = &Spoken> {
        self.lines.iter().flatten().chain([&self.observer])
    }

    fn last_heard(&self) -> Instant {
        self.everything().map(|spoken| spoken.line.heard().last).max().unwrap_or_else(Instant::now)
    }

    fn phase(&self) -> Phase {
        let parts = |lines: &Vec<Spoken>| {
            lines.iter().filter(|it| !it.over).map(|spoken| spoken.part(self.root)).collect()
        };
        Phase { clients: self.lines.each_ref().map(parts), observer: self.observer.part(self.root) }
    }

    /// All that was to be said is written.
    async fn written(&self) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        while self.lines.iter().flatten().any(|it| it.line.heard().scripts_written < it.scripts) {
            ensure!(Instant::now() < deadline, "{}: nothing is read", self.address);
            sleep(POLL / 10).await;
        }
        Ok(())
    }

    /// All is answered, and nothing comes any more.
    async fn quiet(&self) -> Result<()> {
        self.written().await?;
        let is_answered = |spoken: &Spoken| {
            let heard = spoken.line.heard();
            let ends = spoken.ended || spoken.replaced;
            heard.end != line::End::Open
                || (!ends && heard.count("CONNACK") > 0 && heard.count("PINGRESP") >= spoken.pings)
        };
        let start = Instant::now();
        let deadline = start + ANSWER;
        while !self.lines.iter().flatten().all(is_answered)
            || self.last_heard().max(start).elapsed() < SILENCE
        {
            ensure!(Instant::now() < deadline, "{}: not all is answered", self.address);
            sleep(POLL).await;
        }
        Ok(())
    }

    /// What is wrong when nothing comes any more: nothing, as soon as all is as judged.
    async fn same(
        &self,
        judged: &Phase,
        rounds: &[Round],
        memory: &Memory,
        patience: Duration,
    ) -> (Vec<String>, Memory) {
        let start = Instant::now();
        loop {
            let mut after = memory.clone();
            let wrong = after.compare(judged, &self.phase(), rounds);
            let waited = self.last_heard().max(start).elapsed();
            if wrong.is_empty() || waited > patience {
                return (wrong, after);
            }
            sleep(POLL).await;
        }
    }
}

/// Ends the sessions and clears the topics.
async fn clean(address: SocketAddr, root: &str) -> Result<()> {
    let mut lines = Vec::new();
    for client in 0..=CLIENTS {
        let line = Line::open(address).await?;
        let mut said = vec![packets::connect_with(2, 0, &[&conversation::client_id(root, client)])];
        if client == CLIENTS {
            let clear = |(topic, id)| packets::publish_flags(3, id, &format!("{root}/{topic}"), b"");
            said.extend(conversation::topics().zip(1..).map(clear));
        }
        let acknowledged = said.len() - 1;
        line.say(said, &[], false);
        lines.push((line, acknowledged));
    }
    let is_done = |(line, acknowledged): &(Line, usize)| {
        let heard = line.heard();
        heard.end != line::End::Open || (heard.count("CONNACK") > 0 && heard.count("PUBACK") >= *acknowledged)
    };
    // All is judged already; what cannot be taken away has a name of its own.
    let deadline = Instant::now() + ANSWER;
    while !lines.iter().all(is_done) && Instant::now() < deadline {
        sleep(POLL).await;
    }
    for (line, _) in &lines {
        line.say(vec![packets::DISCONNECT.to_vec()], &[], true);
    }
    sleep(POLL).await;
    Ok(())
}

const POLL: Duration = Duration::from_millis(10);
/// The judge writes what follows from a packet before it reads the next.
const SILENCE: Duration = Duration::from_millis(60);
/// For everything that takes an instant on an idle machine.
const ANSWER: Duration = Duration::from_secs(30);
